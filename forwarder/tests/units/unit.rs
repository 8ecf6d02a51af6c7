//! A unit file of systemd, read as systemd reads it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where packages put programs.
const PROGRAMS: &str = "/usr/bin";
/// What systemd of Debian 12 (252) does not know, and passes over with a warning.
const NEWER: [&str; 2] = ["RestartSteps", "RestartMaxDelaySec"];

/// A unit, and the program that it starts.
pub(crate) struct Unit {
    path: PathBuf,
    entries: Vec<(String, String)>,
    program: &'static str,
    built: PathBuf,
}

impl Unit {
    /// Reads `path` of the workspace, which starts `program`, here built as `built`.
    pub(crate) fn read(path: &str, program: &'static str, built: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path);
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '[']));
        let entry = |line: &str| {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line:?}"));
            (key.to_owned(), value.to_owned())
        };
        Self { path, entries: lines.map(entry).collect(), program, built: built.into() }
    }

    /// All values of a key, in their order.
    pub(crate) fn all(&self, key: &str) -> Vec<&str> {
        let of_key = self.entries.iter().filter(|(other, _)| other == key);
        of_key.map(|(_, value)| value.as_str()).collect()
    }

    /// The one value of a key.
    #[track_caller]
    pub(crate) fn value(&self, key: &str) -> &str {
        let values = self.all(key);
        assert_eq!(values.len(), 1, "{key} of {}", self.path.display());
        values[0]
    }

    /// Every command of the unit is one of the program, with options that it has and with its usual
    /// configuration.
    pub(crate) fn commands_exist(&self, file: &str) {
        for (key, command) in self.entries.iter().filter(|(key, _)| key.starts_with("Exec")) {
            let words: Vec<_> = command.split(' ').collect();
            let [program, subcommand, rest @ ..] = &words[..] else { panic!("{key}={command}") };
            assert_eq!(Path::new(program), Path::new(PROGRAMS).join(self.program), "{key}");
            let help = Command::new(&self.built).args([subcommand, "--help"]).output().unwrap();
            assert!(help.status.success(), "{} has no {subcommand}", self.program);
            let help = String::from_utf8(help.stdout).unwrap();
            assert_eq!(rest.len(), 2, "{key}={command}");
            assert!(help.contains(rest[0]), "{subcommand} has no {}", rest[0]);
            assert_eq!(rest[1], file, "{key}={command}");
        }
        assert_eq!(self.value("ConditionPathExists"), file);
    }

    /// What both daemons need to run at all, and what keeps them small.
    pub(crate) fn is_tight(&self) {
        assert_eq!(self.value("Type"), "notify");
        // Another process takes over, and says so itself.
        assert_eq!(self.value("NotifyAccess"), "all");
        assert!(self.value("WatchdogSec").parse::<u32>().unwrap() >= 10);
        assert_eq!(self.value("Restart"), "always");
        let calls = self.all("SystemCallFilter").join(" ");
        for call in ["@system-service", "io_uring_setup", "io_uring_enter", "io_uring_register"] {
            assert!(calls.split([' ', '~']).any(|word| word == call), "{call}");
        }
        let families: BTreeSet<_> = self.value("RestrictAddressFamilies").split(' ').collect();
        assert_eq!(families, BTreeSet::from(["AF_INET", "AF_INET6", "AF_NETLINK", "AF_UNIX"]));
        for key in ["NoNewPrivileges", "PrivateTmp", "MemoryDenyWriteExecute", "RestrictNamespaces"]
        {
            assert_eq!(self.value(key), "yes", "{key}");
        }
        assert_eq!(self.value("ProtectSystem"), "strict");
    }

    /// systemd itself knows every key and every value, where it is installed.
    pub(crate) fn is_known_to_systemd(&self) {
        let root = tempfile::tempdir().unwrap();
        let programs = root.path().join("usr/bin");
        fs::create_dir_all(&programs).unwrap();
        fs::copy(&self.built, programs.join(self.program)).unwrap();
        let units = root.path().join("etc/systemd/system");
        fs::create_dir_all(&units).unwrap();
        let unit = self.path.file_name().unwrap();
        // The manual is not installed here.
        let text = fs::read_to_string(&self.path).unwrap().replace("Documentation=man:", "#");
        fs::write(units.join(unit), text).unwrap();
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "--recursive-errors=no", "--root"]).arg(root.path());
        let Ok(output) = command.arg(unit).output() else {
            println!("skipped: there is no systemd-analyze here");
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        let is_of_ours = |line: &&str| line.contains(&*unit.to_string_lossy());
        let is_newer = |line: &str| NEWER.iter().any(|key| line.contains(&format!("'{key}'")));
        let wrong: Vec<_> =
            said.lines().filter(is_of_ours).filter(|line| !is_newer(line)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
