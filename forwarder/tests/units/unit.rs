//! A unit file of systemd, read as systemd reads it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where packages put programs.
const PROGRAMS: &str = "/usr/bin";
/// Whose count of what is left the page has.
const COUNTED_BY: &[u8] = b"systemd 252 ";
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
        // The manual is not installed here.
        let text = fs::read_to_string(&self.path).unwrap().replace("Documentation=man:", "#");
        let Some(wrong) = self.complaints(&text) else {
            println!("skipped: there is no systemd-analyze here");
            return;
        };
        assert!(wrong.is_empty(), "{wrong:#?}");
        let strange = format!("{text}\n[Service]\nFrobnicate=yes\n");
        let wrong = self.complaints(&strange).unwrap();
        assert!(wrong.iter().any(|line| line.contains("Frobnicate")), "the control: {wrong:#?}");
    }

    /// What systemd says of the unit, were `text` its file.
    fn complaints(&self, text: &str) -> Option<Vec<String>> {
        let root = tempfile::tempdir().unwrap();
        let programs = root.path().join("usr/bin");
        fs::create_dir_all(&programs).unwrap();
        fs::copy(&self.built, programs.join(self.program)).unwrap();
        let units = root.path().join("etc/systemd/system");
        fs::create_dir_all(&units).unwrap();
        let unit = self.path.file_name().unwrap();
        fs::write(units.join(unit), text).unwrap();
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "--recursive-errors=no", "--root"]).arg(root.path());
        let output = command.arg(unit).output().ok()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let is_of_ours = |line: &&str| line.contains(&*unit.to_string_lossy());
        let is_newer = |line: &str| NEWER.iter().any(|key| line.contains(&format!("'{key}'")));
        let wrong = said.lines().filter(is_of_ours).filter(|line| !is_newer(line));
        Some(wrong.map(str::to_owned).collect())
    }

    /// The page has what the systemd that it names finds left to do for who takes the service over.
    pub(crate) fn is_as_exposed_as_said(&self) {
        let version = Command::new("systemd-analyze").arg("--version").output();
        if !version.is_ok_and(|output| output.stdout.starts_with(COUNTED_BY)) {
            println!("skipped: the version of systemd-analyze that the page names is not here");
            return;
        }
        let mut command = Command::new("systemd-analyze");
        let output = command.args(["security", "--offline=true"]).arg(&self.path).output().unwrap();
        let (unit, said) =
            (self.path.file_name().unwrap(), String::from_utf8_lossy(&output.stdout));
        let line = format!("Overall exposure level for {}: ", unit.to_string_lossy());
        let (_, counted) = said.split_once(&line).unwrap_or_else(|| panic!("{said}"));
        let counted = counted.split_whitespace().next().unwrap();
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let page = fs::read_to_string(page.join("docs/operations.md")).unwrap();
        let row = format!("| `{}` | {counted} |", unit.to_string_lossy());
        assert!(page.contains(&row), "docs/operations.md has no {row}");
    }
}
