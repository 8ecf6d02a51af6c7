//! What an examination found, step by step, and what follows from it.

use std::fmt;

use serde::Serialize;

use super::cause::Cause;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// The tunnel works, but not as well as it could.
    Warn,
    /// The tunnel, or a part of it, does not work.
    Fail,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

/// One step of an examination. Shown as a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// How it ended.
    pub state: State,
    /// What was looked at.
    pub step: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:4} {}: {}", self.state, self.step, self.what)
    }
}

/// What an examination found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the tunnel works, with all that the configuration wants of it.
    pub works: bool,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// What is wrong, or what the gateway is.
    pub diagnosis: String,
    /// What to change.
    pub cure: String,
}

/// Where an examination writes down what it finds.
pub(super) struct Sheet<'a> {
    on_step: &'a mut dyn FnMut(&Step),
    steps: Vec<Step>,
    failed: Vec<Cause>,
    warned: Vec<Cause>,
    /// What failed on ways that are not the last: failures only if that fails, too.
    held: Vec<Cause>,
    expects_more: bool,
    gateway: Option<String>,
}

impl<'a> Sheet<'a> {
    /// An empty one; `on_step` sees each step as soon as it is done.
    pub(super) fn new(on_step: &'a mut dyn FnMut(&Step)) -> Self {
        Self {
            on_step,
            steps: Vec::new(),
            failed: Vec::new(),
            warned: Vec::new(),
            held: Vec::new(),
            expects_more: false,
            gateway: None,
        }
    }

    /// Whether there is another way to try, should this one fail.
    pub(super) fn expect_more(&mut self, expects_more: bool) {
        self.expects_more = expects_more;
    }

    /// This way it is.
    pub(super) fn settle(&mut self) {
        self.expects_more = false;
        self.warned.append(&mut self.held);
    }

    fn push(&mut self, state: State, step: &'static str, what: String) {
        let step = Step { state, step, what };
        (self.on_step)(&step);
        self.steps.push(step);
    }

    pub(super) fn ok(&mut self, step: &'static str, what: impl Into<String>) {
        self.push(State::Ok, step, what.into());
    }

    pub(super) fn warn(&mut self, step: &'static str, what: impl Into<String>, cause: Cause) {
        self.push(State::Warn, step, what.into());
        self.warned.push(cause);
    }

    pub(super) fn fail(&mut self, step: &'static str, what: impl Into<String>, cause: Cause) {
        if self.expects_more {
            self.push(State::Warn, step, what.into());
            self.held.push(cause);
            return;
        }
        self.push(State::Fail, step, what.into());
        self.failed.push(cause);
    }

    /// Says what the gateway is.
    pub(super) fn gateway(&mut self, gateway: String) {
        self.gateway = Some(gateway);
    }

    /// What follows. The first failure is the one to mend: what comes after it may be its doing.
    pub(super) fn report(self) -> Report {
        let works = self.failed.is_empty();
        let (diagnosis, cure) = match self.held.first().or(self.failed.first()) {
            Some(cause) => (cause.to_string(), cause.cure()),
            None => {
                let gateway = self.gateway.map(|gateway| format!("; the gateway is {gateway}"));
                let mut diagnosis = format!("the tunnel works{}", gateway.unwrap_or_default());
                let mut cures = Vec::new();
                for cause in &self.warned {
                    diagnosis.push_str(&format!("; but {cause}"));
                    cures.push(cause.cure());
                }
                let nothing = || "nothing has to be changed".to_owned();
                (diagnosis, if cures.is_empty() { nothing() } else { cures.join("; ") })
            }
        };
        Report { works, steps: self.steps, diagnosis, cure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first failure is the diagnosis; warnings are told where there is none; each step is a line.
    #[test]
    fn the_first_failure_is_the_diagnosis() {
        let mut seen = Vec::new();
        let mut on_step = |step: &Step| seen.push(step.to_string());
        let mut sheet = Sheet::new(&mut on_step);
        sheet.ok("dns", "fine");
        sheet.warn("udp", "nothing comes back", Cause::UdpBlocked);
        sheet.fail("key", "unknown", Cause::KeyUnknown { key: "ed25519:A".to_owned() });
        sheet.fail("contact", "forbidden", Cause::Refused { text: "busy".to_owned() });
        let report = sheet.report();
        assert!(!report.works);
        assert!(report.diagnosis.contains("does not know"), "{}", report.diagnosis);
        let lines = ["ok   dns: fine", "warn udp: nothing comes back", "FAIL key: unknown"];
        assert_eq!(seen[..3], lines);

        let mut nothing = |_: &Step| {};
        for is_settled in [false, true] {
            let mut sheet = Sheet::new(&mut nothing);
            sheet.expect_more(true);
            sheet.fail("tls", "reset", Cause::TlsBlocked { is_reset: true });
            sheet.expect_more(false);
            if is_settled {
                sheet.settle();
            } else {
                sheet.fail("key", "unknown", Cause::KeyUnknown { key: "ed25519:A".to_owned() });
            }
            let report = sheet.report();
            assert_eq!(report.works, is_settled);
            assert!(report.diagnosis.contains("as soon as TLS begins"), "{}", report.diagnosis);
        }
        let mut sheet = Sheet::new(&mut nothing);
        sheet.gateway("a symmetric NAT".to_owned());
        sheet.warn("udp", "nothing comes back", Cause::UdpBlocked);
        let report = sheet.report();
        assert!(report.works);
        let expected = "the tunnel works; the gateway is a symmetric NAT; but ";
        assert!(report.diagnosis.starts_with(expected), "{}", report.diagnosis);
    }
}
