//! `adit doctor`: what is wrong between this host and a tunnel.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::say;
use crate::config::FORWARDER_FILE;
use crate::doctor::{self, IDLE_S_MAX, Step, Wish};
use crate::exit::{Exit, Failed};

/// How much is examined.
#[derive(Clone, Debug, Args)]
pub(super) struct DoctorArgs {
    /// The configuration.
    #[arg(short, long, value_name = "FILE", default_value = FORWARDER_FILE)]
    config: PathBuf,
    /// Find out how long the gateway remembers what is idle, up to SECONDS, which it then takes.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "120",
        value_parser = clap::value_parser!(u64).range(3..=IDLE_S_MAX)
    )]
    idle: Option<u64>,
    /// Move 2 MiB each way, which shows gateways that cut connections after some bytes.
    #[arg(long)]
    transfer: bool,
    /// Print a JSON object at the end, in place of lines.
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    pub(super) fn run(&self) -> Result<(), Failed> {
        let idle = self.idle.map(Duration::from_secs);
        let wish = Wish { idle, is_long: self.transfer };
        let mut show = |step: &Step| say(&step.to_string());
        let mut hide = |_: &Step| {};
        let on_step: &mut dyn FnMut(&Step) = if self.json { &mut hide } else { &mut show };
        let report = doctor::run(&self.config, wish, on_step);
        if self.json {
            say(&serde_json::to_string_pretty(&report).unwrap_or_default());
        } else {
            say(&format!("diagnosis: {}\ncure: {}", report.diagnosis, report.cure));
        }
        if report.works {
            return Ok(());
        }
        Err(Failed::new(Exit::Failure, "the tunnel does not work as the configuration wants it"))
    }
}
