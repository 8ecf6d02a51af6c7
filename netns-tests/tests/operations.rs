//! Whoever follows `docs/operations.md` gets what it promises: its commands are run here, verbatim.
//!
//! A block of the page says where it belongs:
//!
//! | block | what is done |
//! |---|---|
//! | `sh HOST` | run to its good end |
//! | `sh HOST install` | run where the host is a bare Debian; elsewhere the programs are on `PATH` |
//! | `sh HOST daemon` | started, and left running; one that ran there before has to end first |
//! | `sh HOST invite` | run; the line that it prints is kept |
//! | `sh HOST join` | run with that line as its input |
//! | `sh HOST token` | run with the token that the page has made as `$TOKEN` |
//! | `text HOST` | each line is found in what the host's last command printed, in this order |
//! | `text HOST log` | each line appears in the log of the host's last daemon |
//! | `toml HOST check` | the daemon's `check` accepts it, beside what the host's file already says |
//! | `sh gateway …` | tried elsewhere, by `gateway_mode.rs` |

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use netns_tests::page::{self, Block};
use netns_tests::{
    Host, Lab, LabError, Process, SHORT, Topology, bare_debian, binaries, nginx, packages, sshd,
    wait_until,
};

/// The hosts on which the page installs packages, by their names there.
const INSTALLED: [&str; 2] = ["relay", "inside"];
/// Where such a host has its own root.
const BARE_ROOT: &str = "/run/bare/root";
/// And its `PATH`: that of a bare Debian.
const BARE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a tester knows besides the page: that these hosts have a web server, an sshd, and a user
/// whose key the latter knows.
fn furnish(lab: &Lab) -> Result<Vec<Process>, LabError> {
    let mut servers = Vec::new();
    for (host, port, text) in
        [("peer3", 80, "the web server inside"), ("ext", 8080, "the web server outside")]
    {
        let root = lab.path().join(format!("www-{host}"));
        let written = fs::create_dir_all(&root).and_then(|()| {
            let mut index = fs::File::create(root.join("index.html"))?;
            writeln!(index, "{text}")
        });
        written.expect("a file of the test");
        servers.push(nginx(&lab.host(host), port, &root)?);
    }
    let (server, key) = sshd(&lab.host("icp"), 22)?;
    servers.push(server);
    lab.host("ext").shell(&format!(
        "cp {key} /root/.ssh/id_ed25519
         echo 'StrictHostKeyChecking accept-new' > /root/.ssh/config"
    ))?;
    Ok(servers)
}

/// Somebody who follows the page.
struct Reader<'a> {
    lab: &'a Lab,
    path: String,
    /// The last daemon of each host, by the host's name on the page.
    daemons: HashMap<String, Process>,
    /// What each host's last command printed.
    printed: HashMap<String, String>,
    /// The last invitation.
    line: String,
    /// Whether the hosts of [`INSTALLED`] have a root of their own, without the programs.
    bare: bool,
}

impl<'a> Reader<'a> {
    fn new(lab: &'a Lab) -> Result<Self, LabError> {
        let folder = binaries()?.adit.parent().expect("a folder").display().to_string();
        let path = format!("{folder}:{}", netns_tests::preflight::search_path());
        let (daemons, printed) = (HashMap::new(), HashMap::new());
        Ok(Self { lab, path, daemons, printed, line: String::new(), bare: false })
    }

    /// Puts a bare Debian in place of the machine's files where packages are installed, with the
    /// packages in root's home and nothing else.
    fn strip(&mut self) -> Result<(), LabError> {
        let (debian, packages) = (bare_debian()?, packages()?);
        for name in INSTALLED {
            self.host(name).shell(&bare_root(&debian, &packages))?;
            let found = self.host(name).command(["chroot", BARE_ROOT, "which", "adit"]).output();
            assert!(!found.expect("which").status.success(), "the Debian is not bare");
        }
        self.bare = true;
        Ok(())
    }

    /// What runs `script` on the host called `name`.
    fn shell(&self, name: &str, script: &str) -> Vec<String> {
        let shell = |words: &[&str], path, script| {
            let script = format!("PATH={path}\ncd /root\n{script}");
            [words, &["sh", "-e", "-c", &script]].concat().into_iter().map(str::to_owned).collect()
        };
        if self.bare && INSTALLED.contains(&name) {
            return shell(&["chroot", BARE_ROOT, "env", "-i", "HOME=/root"], BARE_PATH, script);
        }
        shell(&[], &self.path, script)
    }

    fn host(&self, name: &str) -> Host<'a> {
        self.lab.host(match name {
            "client" => "ext",
            "inside" => "icp",
            "peer" => "peer3",
            other => other,
        })
    }

    fn follow(&mut self, block: &Block) -> Result<(), LabError> {
        let (name, what) = block.place.split_once(' ').unwrap_or((&block.place, ""));
        let script = &block.text;
        match (block.language.as_str(), what) {
            ("sh", "install") if !self.bare => {}
            ("sh", "" | "install") => self.run(name, script, "")?,
            ("sh", "invite") => {
                self.run(name, script, "")?;
                self.line.clone_from(&self.printed[name]);
            }
            ("sh", "join") => self.run(name, script, &self.line.clone())?,
            ("sh", "token") => {
                self.run("inside", "grep ^adit- /etc/adit/*.token", "")?;
                let token = self.printed["inside"].clone();
                self.run(name, &format!("TOKEN={token}{script}"), "")?;
            }
            ("sh", "daemon") => self.start(name, script)?,
            ("text", "") => found(&self.printed[name], &block.text),
            ("text", "log") => {
                let daemon = self.daemons.get_mut(name).expect("a daemon");
                for line in block.text.lines() {
                    daemon.wait_for_log(line, SHORT)?;
                }
            }
            ("toml", "check") => self.check(name, &block.text)?,
            _ => panic!("nobody knows what to do with it"),
        }
        Ok(())
    }

    fn run(&mut self, name: &str, script: &str, input: &str) -> Result<(), LabError> {
        let mut command = self.host(name).command(self.shell(name, script));
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).expect("an input that is read");
        drop(stdin);
        let output = child.wait_with_output().expect("an end");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", output.status);
        self.printed.insert(name.to_owned(), String::from_utf8_lossy(&output.stdout).into_owned());
        Ok(())
    }

    fn start(&mut self, name: &str, script: &str) -> Result<(), LabError> {
        if let Some(mut before) = self.daemons.remove(name) {
            before.finish(SHORT)?;
        }
        let mut daemon = self.host(name).spawn(self.shell(name, script))?;
        if name == "relay" {
            // The page has no word of its log, and the next command wants it there.
            daemon.wait_for_log("listening", SHORT)?;
        }
        self.daemons.insert(name.to_owned(), daemon);
        Ok(())
    }

    fn check(&mut self, name: &str, tables: &str) -> Result<(), LabError> {
        let (program, file) = match name {
            "relay" => ("adit-relay", "/etc/adit/relay.toml"),
            _ => ("adit", "/etc/adit/adit.toml"),
        };
        let script = format!(
            "cp {file} /etc/adit/checked.toml; cat >> /etc/adit/checked.toml\n\
             {program} check -c /etc/adit/checked.toml"
        );
        self.run(name, &script, &format!("\n{tables}"))
    }
}

/// Lays `debian` under a root of its own, writable, with the packages of a folder in it.
fn bare_root(debian: &Path, packages: &Path) -> String {
    let (debian, packages) = (debian.display(), packages.display());
    format!(
        "mkdir -p /run/bare/upper /run/bare/work {BARE_ROOT}
         mount -t overlay -o lowerdir={debian},upperdir=/run/bare/upper,workdir=/run/bare/work \
             bare {BARE_ROOT}
         mount -t proc proc {BARE_ROOT}/proc
         mount -t tmpfs tmpfs {BARE_ROOT}/run
         mount --rbind /dev {BARE_ROOT}/dev
         mount --rbind /sys {BARE_ROOT}/sys
         cp {packages}/adit*.deb {BARE_ROOT}/root"
    )
}

/// Every line of `wanted` is part of a line of `printed`, in this order.
fn found(printed: &str, wanted: &str) {
    let mut lines = printed.lines();
    for line in wanted.lines() {
        assert!(lines.any(|printed| printed.contains(line)), "no '{line}' in:\n{printed}");
    }
}

/// From two bare hosts to ssh, and all else that the page does, by the page's own commands.
#[test]
fn the_page_leads_where_it_says() -> Result<(), LabError> {
    follow_page("operations", false)
}

/// The same where relay and forwarder are Debian 12 with nothing but what each Debian has, by the
/// packages: what they bring is all that is needed.
#[test]
#[ignore = "packs release builds and fetches a Debian; .ci/release has it run"]
fn the_packages_on_a_bare_debian_lead_there_too() -> Result<(), LabError> {
    follow_page("operations-bare", true)
}

fn follow_page(name: &str, bare: bool) -> Result<(), LabError> {
    let mut lab = Topology::STANDARD.draw(name).paced().own_everything().build()?;
    lab.verify_nat("icp", "ext", "relay")?;
    let outcome = follow_blocks(&lab, bare);
    if outcome.is_err() {
        lab.keep();
    }
    outcome
}

fn follow_blocks(lab: &Lab, bare: bool) -> Result<(), LabError> {
    let _servers = furnish(lab)?;
    let mut reader = Reader::new(lab)?;
    if bare {
        reader.strip()?;
    }
    let blocks = page::blocks("operations.md")?;
    let elsewhere = |block: &&Block| !block.place.starts_with("gateway ");
    for block in blocks.iter().filter(elsewhere) {
        println!("operations.md:{}: {} {}", block.line, block.language, block.place);
        reader.follow(block)?;
    }
    // Both ways in crossed the gateway on the forwarder's one connection, of which there is a new one
    // since the daemons were upgraded.
    wait_until(SHORT, "one connection through the gateway", || {
        lab.gateway().crossing_connections().is_ok_and(|crossing| crossing.len() == 1)
    })
}
