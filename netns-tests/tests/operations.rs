//! Whoever follows `docs/operations.md` gets what it promises: its commands are run here, verbatim.
//!
//! A block of the page says where it belongs:
//!
//! | block | what is done |
//! |---|---|
//! | `sh HOST` | run to its good end |
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
use std::process::Stdio;

use netns_tests::page::{self, Block};
use netns_tests::{Host, Lab, LabError, Process, SHORT, Topology, binaries, nginx, sshd};

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
}

impl<'a> Reader<'a> {
    fn new(lab: &'a Lab) -> Result<Self, LabError> {
        let folder = binaries()?.adit.parent().expect("a folder").display().to_string();
        let path = format!("{folder}:{}", netns_tests::preflight::search_path());
        let (daemons, printed) = (HashMap::new(), HashMap::new());
        Ok(Self { lab, path, daemons, printed, line: String::new() })
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
        let script = format!("PATH={}\n{}", self.path, block.text);
        match (block.language.as_str(), what) {
            ("sh", "") => self.run(name, &script, "")?,
            ("sh", "invite") => {
                self.run(name, &script, "")?;
                self.line.clone_from(&self.printed[name]);
            }
            ("sh", "join") => self.run(name, &script, &self.line.clone())?,
            ("sh", "token") => {
                let token = self.host("inside").shell("grep ^adit- /etc/adit/*.token")?.stdout;
                self.run(name, &format!("TOKEN={token}{script}"), "")?;
            }
            ("sh", "daemon") => self.start(name, &script)?,
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
        let mut command = self.host(name).command(["sh", "-e", "-c", script]);
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
        let mut daemon = self.host(name).spawn(["sh", "-e", "-c", script])?;
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
            "PATH={}\ncp {file} /etc/adit/checked.toml; cat >> /etc/adit/checked.toml\n\
             {program} check -c /etc/adit/checked.toml",
            self.path
        );
        self.run(name, &script, &format!("\n{tables}"))
    }
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
    let mut lab = Topology::STANDARD.draw("operations").paced().own_everything().build()?;
    lab.verify_nat("icp", "ext", "relay")?;
    let outcome = follow_page(&lab);
    if outcome.is_err() {
        lab.keep();
    }
    outcome
}

fn follow_page(lab: &Lab) -> Result<(), LabError> {
    let _servers = furnish(lab)?;
    let mut reader = Reader::new(lab)?;
    let blocks = page::blocks("operations.md")?;
    let elsewhere = |block: &&Block| !block.place.starts_with("gateway ");
    for block in blocks.iter().filter(elsewhere) {
        println!("operations.md:{}: {} {}", block.line, block.language, block.place);
        reader.follow(block)?;
    }
    // Both ways in crossed the gateway on the forwarder's one connection.
    let crossing = lab.gateway().crossing_connections()?;
    assert_eq!(crossing.len(), 1, "{crossing:#?}");
    Ok(())
}
