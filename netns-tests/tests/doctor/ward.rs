//! Where the doctor is called, and what it is asked.

use std::fs;
use std::thread;

use netns_tests::{Host, Lab, LabError, Process, Topology, Tunnel, binaries};

type Outcome = Result<(), LabError>;

/// The beginning of a rule that is the first for what comes from inside.
pub(crate) const INSERT: &str = "iptables -w -I FORWARD -i lan0";

/// What the doctor said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) works: bool,
    pub(crate) text: String,
    pub(crate) diagnosis: String,
}

/// A broken gateway, or a healthy one.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) topology: Topology,
    /// Whether the relay is dialled over IPv6.
    pub(crate) v6: bool,
    /// Breaks it; what it returns lives until the doctor is done.
    pub(crate) spoil: fn(&Ward<'_>) -> Result<Vec<Process>, LabError>,
    /// The doctor's options.
    pub(crate) options: &'static [&'static str],
    /// Whether the tunnel works all the same.
    pub(crate) works: bool,
    /// What the diagnosis says …
    pub(crate) diagnosis: &'static [&'static str],
    /// … and the lines before it.
    pub(crate) lines: &'static [&'static str],
}

impl Default for Case {
    fn default() -> Self {
        Self {
            name: "",
            topology: Topology::STANDARD,
            v6: false,
            spoil: |_| Ok(Vec::new()),
            options: &[],
            works: false,
            diagnosis: &[],
            lines: &[],
        }
    }
}

/// A lab in which the doctor is called.
pub(crate) struct Ward<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) tunnel: Tunnel<'a>,
}

impl Ward<'_> {
    pub(crate) fn icp(&self) -> Host<'_> {
        self.lab.host("icp")
    }

    pub(crate) fn gateway(&self, script: &str) -> Result<Vec<Process>, LabError> {
        self.lab.gateway().shell(script).map(|_| Vec::new())
    }

    /// Changes a file of the lab's folder.
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) -> Outcome {
        let path = self.lab.path().join(file);
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.contains(from), "no '{from}' in {text}");
        fs::write(&path, text.replace(from, to)).expect("a file");
        Ok(())
    }

    /// Asks the doctor; names are resolved by what `resolver` says, if it says anything.
    pub(crate) fn ask(&self, options: &[&str]) -> Result<Said, LabError> {
        let adit = binaries()?.adit.display().to_string();
        let config = self.lab.path().join("adit.toml").display().to_string();
        let resolver = self.lab.path().join("resolv.conf").display().to_string();
        let script = format!(
            "test ! -e {resolver} || mount --bind {resolver} /etc/resolv.conf; exec \"$@\""
        );
        let mut command = vec!["unshare", "-m", "sh", "-e", "-c", &script, "sh"];
        command.extend([adit.as_str(), "doctor", "-c", &config]);
        command.extend(options);
        let output = self.icp().run(command)?;
        let (works, text) = (output.success(), output.stdout);
        let line = text.lines().find_map(|line| line.strip_prefix("diagnosis: "));
        let diagnosis = line.unwrap_or_default().to_owned();
        assert!(text.contains("\ncure: ") && !diagnosis.is_empty(), "{text}{}", output.stderr);
        Ok(Said { works, text, diagnosis })
    }
}

/// Plays one case; the text of what it did not show.
fn play(case: &Case) -> Result<(), String> {
    let name = case.name;
    let failed = |error: LabError| format!("{name}: {error}");
    let lab = case.topology.draw(&format!("doctor-{name}")).paced().build().map_err(failed)?;
    let tunnel = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003);
    let tunnel = tunnel.prepare(&lab).map_err(failed)?;
    let mut ward = Ward { lab: &lab, tunnel };
    if case.v6 {
        ward.edit("relay.toml", "0.0.0.0:443", "[::]:443").map_err(failed)?;
        ward.edit("adit.toml", &ward.tunnel.tunnel_address(), "[2001:db8::20]:443")
            .map_err(failed)?;
    }
    ward.tunnel.start_relay().map_err(failed)?;
    let _processes = (case.spoil)(&ward).map_err(failed)?;
    let said = ward.ask(case.options).map_err(failed)?;
    println!("== {name}\n{}", said.text);
    let mut missing: Vec<_> =
        case.diagnosis.iter().filter(|words| !said.diagnosis.contains(**words)).collect();
    missing.extend(case.lines.iter().filter(|words| !said.text.contains(**words)));
    if !missing.is_empty() || said.works != case.works {
        return Err(format!(
            "{name}: no {missing:?}, or works = {}, in\n{}",
            said.works, said.text
        ));
    }
    Ok(())
}

/// Plays all cases, as many at once as the machine has room for.
pub(crate) fn play_all(cases: &[Case]) {
    let failures: Vec<_> = thread::scope(|scope| {
        let played: Vec<_> = cases.iter().map(|case| scope.spawn(|| play(case))).collect();
        played.into_iter().filter_map(|case| case.join().expect("no panic").err()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
