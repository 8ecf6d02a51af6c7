//! The option `--proxy`, of those that dial a relay without a configuration that names one.

use clap::Args;

use crate::config::ProxyText;
use crate::exit::{Exit, Failed};

/// Through which proxy to dial.
#[derive(Clone, Args)]
pub(super) struct ProxyArgs {
    /// The proxy to the relay, as http://HOST:PORT or socks5://HOST:PORT, with USER:PASSWORD@ before
    /// HOST where it wants a login; "none" dials the relay itself.
    ///
    /// Otherwise HTTPS_PROXY, ALL_PROXY and NO_PROXY of the environment count, which, unlike this,
    /// other users of the host cannot read.
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
}

impl ProxyArgs {
    /// What it means. Read here, since an error of the command line's would show the password.
    pub(super) fn read(&self) -> Result<Option<ProxyText>, Failed> {
        let text = self.proxy.as_ref().map(|text| text.parse()).transpose();
        text.map_err(|error| Failed::new(Exit::Usage, format!("--proxy: {error}")))
    }
}

impl std::fmt::Debug for ProxyArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyArgs").finish_non_exhaustive()
    }
}
