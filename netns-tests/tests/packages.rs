//! What is packed: the Debian packages hold what they say, and the images' daemons run where a
//! container's filter lets io_uring through, and nowhere else.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use adit::key::PrivateKey;
use netns_tests::{LabError, SHORT, binaries, image, packages, preflight, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Who runs in an image: nobody else's number on the host.
const CONTAINED_USER: u32 = 65_532;

/// What the rule of a filter names that lets io_uring through.
const IO_URING: [&str; 3] = ["io_uring_enter", "io_uring_register", "io_uring_setup"];

fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn package(name: &str) -> Result<PathBuf, LabError> {
    let folder = packages()?;
    let mut found = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let begin = format!("{name}_{}-1_", env!("CARGO_PKG_VERSION"));
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&begin);
    Ok(found.find(is_it).unwrap_or_else(|| panic!("no {begin}*.deb in {}", folder.display())))
}

fn field(package: &Path, name: &str) -> String {
    done(Command::new("dpkg-deb").arg("-f").arg(package).arg(name)).trim().to_owned()
}

/// Each package has its programs, a manual page for each command, completions for each shell, its unit and its
/// configuration, under the names where they are looked for, all of them the superuser's.
#[test]
#[ignore = "packs release builds; .ci/release has it run"]
fn packages_hold_what_they_say() -> Result<(), LabError> {
    let common = |name: &str| {
        [
            format!("./usr/share/man/man1/{name}.1.gz"),
            format!("./usr/share/bash-completion/completions/{name}"),
            format!("./usr/share/zsh/vendor-completions/_{name}"),
            format!("./usr/share/fish/vendor_completions.d/{name}.fish"),
            format!("./usr/share/doc/{name}/changelog.Debian.gz"),
            format!("./usr/share/doc/{name}/copyright"),
        ]
    };
    for (name, own) in [
        (
            "adit",
            &[
                "-rwxr-xr-x ./usr/bin/adit",
                "-rw-r--r-- ./usr/lib/systemd/system/adit.service",
                "-rw-r--r-- ./etc/adit/adit.toml",
                "-rw-r--r-- ./usr/share/man/man1/adit-run.1.gz",
                "-rw-r--r-- ./usr/share/doc/adit/configuration.md",
                "-rw-r--r-- ./usr/share/doc/adit/examples/seccomp.json",
                "-rw-r--r-- ./usr/share/doc/adit/examples/alerts.yml",
            ][..],
        ),
        (
            "adit-relay",
            &[
                "-rwxr-xr-x ./usr/bin/adit-relay",
                "-rw-r--r-- ./usr/lib/systemd/system/adit-relay.service",
                "-rw-r--r-- ./etc/adit/relay.toml",
                "-rw-r--r-- ./usr/share/man/man1/adit-relay-invite.1.gz",
                "-rw-r--r-- ./usr/share/doc/adit-relay/configuration.md",
                "-rw-r--r-- ./usr/share/doc/adit-relay/examples/adit.json",
            ],
        ),
        (
            "adit-lab",
            &[
                "-rwxr-xr-x ./usr/lib/adit-lab/adit-lab",
                "-rwxr-xr-x ./usr/lib/adit-lab/lab-peer",
                "lrwxrwxrwx ./usr/bin/adit-lab",
            ],
        ),
    ] {
        let listing = done(Command::new("dpkg-deb").arg("-c").arg(package(name)?));
        let files: Vec<(&str, &str, &str)> = listing.lines().map(entry).collect();
        for (mode, owner, path) in &files {
            assert_eq!(*owner, "0/0", "{path}");
            assert!(!mode.contains("rwxrwxrwx") || mode.starts_with('l'), "{mode} {path}");
        }
        let has = |wanted: &str| files.iter().any(|(_, _, path)| *path == wanted);
        for wanted in common(name) {
            assert!(has(&wanted), "no {wanted} in:\n{listing}");
        }
        for wanted in own {
            let (mode, path) = wanted.split_once(' ').unwrap();
            assert!(files.iter().any(|file| file.0 == mode && file.2 == path), "no {wanted}");
        }
    }
    Ok(())
}

/// Mode, owner and path of a line of `dpkg-deb -c`.
fn entry(line: &str) -> (&str, &str, &str) {
    let words: Vec<_> = line.split_whitespace().collect();
    (words[0], words[1], words[5])
}

/// What is to be edited is kept by dpkg, nothing starts or is enabled by being installed, the packages need
/// only what each Debian has, and what is installed beside the lab are the tools that it looks for.
#[test]
#[ignore = "packs release builds; .ci/release has it run"]
fn packages_start_nothing_and_need_little() -> Result<(), LabError> {
    for (name, config) in [("adit", "/etc/adit/adit.toml"), ("adit-relay", "/etc/adit/relay.toml")]
    {
        let package = package(name)?;
        let control = |file: &str| done(Command::new("dpkg-deb").arg("-I").arg(&package).arg(file));
        assert_eq!(control("conffiles").trim(), config);
        let script = control("postinst");
        assert!(script.contains("adduser --quiet --system --group"), "{script}");
        assert!(!script.contains("deb-systemd-invoke start"), "{script}");
        // A newer package takes over from what runs, and cuts nothing off.
        assert!(!script.contains("restart >") && !script.contains("try-restart"), "{script}");
        assert!(script.contains(&format!("{name} upgrade")), "{script}");
        let depends = field(&package, "Depends");
        for depend in depends.split(", ") {
            let known = ["libc6 ", "libgcc-s1 ", "adduser"];
            assert!(known.iter().any(|known| depend.starts_with(known)), "{depend} in {depends}");
        }
        assert_eq!(field(&package, "Package"), name);
    }
    let recommends = field(&package("adit-lab")?, "Recommends");
    let everywhere = ["coreutils", "util-linux"];
    let wanted: Vec<_> =
        preflight::packages().into_iter().filter(|name| !everywhere.contains(name)).collect();
    assert_eq!(recommends, wanted.join(", "));
    Ok(())
}

/// Debian's own checker finds no error in them.
#[test]
#[ignore = "packs release builds; .ci/release has it run"]
fn lintian_finds_no_error() -> Result<(), LabError> {
    let paths = ["adit", "adit-relay", "adit-lab"].map(package);
    let paths: Vec<_> = paths.into_iter().collect::<Result<_, _>>()?;
    let said = done(Command::new("lintian").args(["--fail-on", "error"]).args(paths));
    println!("{said}");
    Ok(())
}

/// A container's folder: the files of an image, and a configuration for crun with this filter.
fn bundle(folder: &Path, layout: &Path, filter: &Value, command: &[&str]) {
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
        layout.join("blobs").join(digest)
    };
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let manifest = read(blob(&read(layout.join("index.json"))["manifests"][0]));
    let files = folder.join("rootfs");
    fs::create_dir_all(&files).unwrap();
    done(Command::new("tar").arg("-xzf").arg(blob(&manifest["layers"][0])).arg("-C").arg(&files));
    let config = read(blob(&manifest["config"]))["config"].clone();
    let (user, _group) = config["User"].as_str().unwrap().split_once(':').unwrap();
    let user: u32 = user.parse().unwrap();
    let entry = config["Entrypoint"][0].as_str().unwrap();
    let arguments: Vec<_> = [&[entry], command].concat();
    let mount = |kind: &str, at: &str| json!({ "destination": at, "type": kind, "source": kind });
    let spaces = ["pid", "mount", "network", "ipc", "uts"].map(|kind| json!({ "type": kind }));
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": user, "gid": user }, "args": arguments, "cwd": "/",
            "env": ["PATH=/usr/bin"], "noNewPrivileges": true,
            "capabilities": {},
        },
        "root": { "path": "rootfs", "readonly": false },
        "mounts": [mount("proc", "/proc"), mount("tmpfs", "/tmp")],
        "linux": { "namespaces": spaces, "seccomp": filter },
    });
    fs::write(folder.join("config.json"), spec.to_string()).unwrap();
}

/// The command that runs a bundle.
fn crun(folder: &Path) -> Command {
    let name = format!("adit-{}", folder.file_name().unwrap().to_string_lossy());
    // crun wants one tree of control groups, or none, which is not what every machine has.
    let script = "mount -t cgroup2 cgroup2 /sys/fs/cgroup; \
        exec crun --cgroup-manager=disabled --root \"$0/state\" run --bundle \"$0\" \"$1\"";
    let mut crun = Command::new("unshare");
    crun.args(["--mount", "sh", "-e", "-c", script]).arg(folder).arg(name);
    crun
}

fn contained(layout: &Path, filter: &Value, command: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    bundle(folder.path(), layout, filter, command);
    crun(folder.path()).output().unwrap()
}

/// Writes a file of the daemon's own into a bundle, as whoever runs in it.
fn own(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    chown(path, Some(CONTAINED_USER), Some(CONTAINED_USER)).unwrap();
}

/// An image's daemon with a configuration that leaves everything but the needful as it is answers at its
/// socket, and ends well when it is asked to.
fn serves_with_its_defaults(layout: &Path, filter: &Value, program: &str) -> Result<(), LabError> {
    let programs = binaries()?;
    let asked = if program == "adit" { programs.adit } else { programs.relay };
    let folder = tempfile::tempdir().unwrap();
    bundle(folder.path(), layout, filter, &["run"]);
    let files = folder.path().join("rootfs");
    let (key, config, socket) = match program {
        "adit" => ("adit.key", "adit.toml", "run/adit/adit.sock"),
        _ => ("relay.key", "relay.toml", "run/adit-relay/relay.sock"),
    };
    let pair = PrivateKey::generate().unwrap();
    let kept = folder.path().join("key");
    pair.save(&kept).unwrap();
    own(&files.join("etc/adit").join(key), &fs::read_to_string(kept).unwrap());
    let text = match program {
        "adit" => format!(
            "key = \"{key}\"\nrelay = \"192.0.2.1:443\"\nrelay_key = \"{}\"\n",
            pair.public()
        ),
        _ => format!("key = \"{key}\"\nlisten = \"0.0.0.0:4430\"\n"),
    };
    own(&files.join("etc/adit").join(config), &text);
    let log = folder.path().join("log");
    let (out, err) =
        (File::create(&log).unwrap(), File::options().append(true).open(&log).unwrap());
    let mut running = crun(folder.path()).stdout(out).stderr(err).spawn().unwrap();
    let answers = || {
        let mut ask = Command::new(&asked);
        ask.args(["status", "--socket"]).arg(files.join(socket)).output().unwrap().status.success()
    };
    let is_there = wait_until(SHORT, "a contained daemon to answer at its socket", answers);
    // It passes signals on.
    kill(Pid::from_raw(running.id().try_into().unwrap()), Signal::SIGTERM).ok();
    let has_ended = wait_until(SHORT, "the end of a contained daemon", || {
        running.try_wait().unwrap().is_some()
    });
    // What is left of it does not outlive the test.
    running.kill().ok();
    let ended = running.wait().unwrap();
    let said = fs::read_to_string(&log).unwrap();
    has_ended?;
    is_there?;
    assert!(ended.success() && !said.contains("ERROR"), "{program}: {ended}\n{said}");
    Ok(())
}

/// Both images hold a program that runs as nobody of this host and uses io_uring under the filter
/// that comes with it, and whose daemon has its socket where it is by default; without the three calls it
/// says what is missing.
#[test]
#[ignore = "packs release builds; .ci/release has it run"]
fn images_use_io_uring_under_their_filter_alone() -> Result<(), LabError> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let filter = fs::read(workspace.join("forwarder/dist/seccomp.json")).unwrap();
    let filter: Value = serde_json::from_slice(&filter).unwrap();
    let mut usual = filter.clone();
    usual["syscalls"].as_array_mut().unwrap().retain(|rule| rule["names"] != json!(IO_URING));
    let folder = tempfile::tempdir().unwrap();
    for program in ["adit", "adit-relay"] {
        let layout = image(program, folder.path().join(program))?;
        let shown = format!("oci:{}", layout.display());
        let inspected = done(Command::new("skopeo").args(["inspect", &shown]));
        assert!(inspected.contains("\"Architecture\""), "{inspected}");
        serves_with_its_defaults(&layout, &filter, program)?;
        for (filter, kernel) in [
            (&filter, "kernel: io_uring usable"),
            (&usual, "seccomp profile: allow io_uring_setup"),
        ] {
            let version = contained(&layout, filter, &["--version"]);
            let said = String::from_utf8_lossy(&version.stdout);
            assert!(version.status.success() && said.contains(kernel), "{version:?}");
        }
    }
    Ok(())
}
