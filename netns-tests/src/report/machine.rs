//! What a report was made on.

use std::process::Command;
use std::thread;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::{LabError, binaries, preflight};

/// The machine, its tools, and the programs that were tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Of `adit`.
    pub version: String,
    /// The kernel.
    pub kernel: String,
    /// Of iptables, with its variant.
    pub iptables: String,
    /// When the run began.
    pub date: String,
    /// How many processors.
    pub processors: usize,
    /// Whose rights the labs had.
    pub rights: String,
    /// The rules that were added to each gateway.
    pub rules: Option<String>,
}

impl Machine {
    /// This machine, now.
    ///
    /// # Errors
    /// When a program does not tell its version.
    pub fn this(rules: Option<String>) -> Result<Self, LabError> {
        let kernel = nix::sys::utsname::uname()
            .map_err(|error| LabError::io("asking for the kernel's version")(error.into()))?;
        let word = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        let rootless = !nix::unistd::geteuid().is_root();
        Ok(Self {
            version: said(Command::new(binaries()?.adit).arg("--version"))?,
            kernel: [kernel.sysname(), kernel.release(), kernel.machine()].map(word).join(" "),
            iptables: said(Command::new("iptables").arg("-V"))?,
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            processors: thread::available_parallelism().map_or(1, usize::from),
            rights: if rootless { "without root's rights" } else { "as root" }.to_owned(),
            rules,
        })
    }

    pub(super) fn json(&self) -> Value {
        let Self { version, kernel, iptables, date, processors, rights, rules } = self;
        json!({
            "version": version, "kernel": kernel, "iptables": iptables, "date": date,
            "processors": processors, "rights": rights, "rules": rules,
        })
    }

    /// For people.
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("version", self.version.clone()),
            ("date", self.date.clone()),
            ("kernel", self.kernel.clone()),
            ("iptables", self.iptables.clone()),
            ("machine", format!("{} processors, {}", self.processors, self.rights)),
        ];
        facts.extend(self.rules.clone().map(|rules| ("rules added to each gateway", rules)));
        facts
    }
}

fn said(command: &mut Command) -> Result<String, LabError> {
    let doing = format!("running {}", command.get_program().display());
    let output = command.env("PATH", preflight::search_path()).output();
    let output = output.map_err(LabError::io(doing))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
