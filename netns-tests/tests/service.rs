//! Both daemons as services: they read their files again while connections run, and give up root.

use std::fs;

use nix::sys::signal::Signal;

use netns_tests::{Daemon, Host, Lab, LabError, Peer, SHORT, Topology, Tunnel, wait_until};

type Outcome = Result<(), LabError>;

/// A user that every host has.
const USER: &str = "nobody";
const USER_ID: &str = "65534";
/// `CAP_NET_BIND_SERVICE` alone, as `/proc/PID/status` shows it.
const BIND_ALONE: &str = "0000000000000400";

fn works(ext: &Host<'_>, contact: &str) -> bool {
    ext.play("half-close", contact, &["1000"]).is_ok()
}

fn peer(name: &str, target: &str, port: u16) -> Peer {
    let (name, target) = (name.to_owned(), target.to_owned());
    Peer { name, target, protocol: "tcp", port }
}

/// What a daemon's `reload` prints, once it has done so.
fn reloaded(tunnel: &Tunnel<'_>, daemon: Daemon) -> Result<String, LabError> {
    let output = tunnel.ask(daemon, &["reload"])?;
    assert!(output.success(), "{}", output.stderr);
    Ok(output.stdout)
}

/// A file that is wrong is refused in words, by the command and by HUP, and nothing else happens.
fn refuses_a_bad_file(lab: &Lab, tunnel: &mut Tunnel<'_>, daemon: Daemon, file: &str) -> Outcome {
    let file = lab.path().join(file);
    let good = fs::read_to_string(&file).expect("a file of the lab");
    fs::write(&file, format!("sokket = \"x\"\n{good}")).expect("a file of the lab");
    let output = tunnel.ask(daemon, &["reload"])?;
    assert_eq!(output.status.code(), Some(1), "{}", output.stdout);
    let said = "nothing is changed: ";
    assert!(output.stderr.contains(said) && output.stderr.contains(":1: unknown key \"sokket\""));
    let process = tunnel.process_mut(daemon)?;
    let before = process.log().matches(said).count();
    process.signal(Signal::SIGHUP)?;
    wait_until(SHORT, "HUP to be refused", || process.log().matches(said).count() > before)?;
    fs::write(&file, good).expect("a file of the lab");
    Ok(())
}

/// While one peer is added, another changed and removed, and its file is wrong for a while, a connection
/// to a third runs on without a gap.
#[test]
fn a_forwarder_reloads_under_a_running_flow() -> Outcome {
    let lab = Topology::STANDARD.build("reload-forwarder")?;
    let _echoes =
        [lab.host("peer3").serve("echo", 7, &[])?, lab.host("peer4").serve("echo", 7, &[])?];
    let builder = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003);
    let mut tunnel = builder.peer("other", "192.168.50.3:9", 8005).start(&lab)?;
    let ext = lab.host("ext");
    let other = tunnel.contact(8005);
    assert!(!works(&ext, &other), "the control: nothing serves at the old place");
    let mut pulse = ext.play_on("pulse", &tunnel.contact(8003), &[])?;
    pulse.wait_for_log("beating", SHORT)?;

    tunnel.peers_mut().retain(|peer| peer.name == "echo");
    tunnel.peers_mut().push(peer("other", "192.168.50.4:7", 8005));
    tunnel.peers_mut().push(peer("added", "192.168.50.4:7", 8006));
    tunnel.write_configurations()?;
    let said = reloaded(&tunnel, Daemon::Forwarder)?;
    assert!(said.contains("adit.toml: added: added; changed: other"), "{said}");
    let added = tunnel.contact(8006);
    wait_until(SHORT, "both to serve", || works(&ext, &other) && works(&ext, &added))?;

    refuses_a_bad_file(&lab, &mut tunnel, Daemon::Forwarder, "adit.toml")?;
    assert!(works(&ext, &added));
    tunnel.peers_mut().retain(|peer| peer.name != "added");
    tunnel.write_configurations()?;
    let said = reloaded(&tunnel, Daemon::Forwarder)?;
    assert!(said.contains("removed: added"), "{said}");
    wait_until(SHORT, "the removed one to go", || !works(&ext, &added))?;
    pulse.finish(SHORT)?;
    Ok(())
}

/// While a key is added, changed and removed at the relay, and its file is wrong for a while, a connection
/// to another forwarder's peer runs on without a gap; the removed key's tunnel ends.
#[test]
fn a_relay_reloads_under_a_running_flow() -> Outcome {
    let lab = Topology::STANDARD.build("reload-relay")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let builder = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003);
    let mut tunnel = builder.rival("rival", "ports = [\"9003\"]\n").start(&lab)?;
    let ext = lab.host("ext");
    let lines = "[[peer]]\nname = \"r\"\ntcp = \"192.168.50.3:7\"\ncontact = \"public:9003\"";
    let (mut rival, _) = tunnel.start_rival_of(&lab.host("peer5"), "rival", lines)?;
    rival.wait_for_log("registered", SHORT)?;
    let (contact, rivals) = (tunnel.contact(8003), tunnel.contact(9003));
    let mut pulse = ext.play_on("pulse", &contact, &[])?;
    pulse.wait_for_log("beating", SHORT)?;
    assert!(works(&ext, &rivals));

    let file = lab.path().join("relay.toml");
    let good = fs::read_to_string(&file).expect("a file of the lab");
    let write = |text: &str| fs::write(&file, text).expect("a file of the lab");
    write(&good.replace("ports = [\"9003\"]", "ports = [\"9004\"]"));
    let said = reloaded(&tunnel, Daemon::Relay)?;
    assert!(said.contains("relay.toml: changed: rival"), "{said}");
    rival.wait_for_log("port 9003 is not allowed", SHORT)?;
    assert!(!works(&ext, &rivals));

    refuses_a_bad_file(&lab, &mut tunnel, Daemon::Relay, "relay.toml")?;
    let table = good.find("[[forwarder]]\nname = \"rival\"").expect("its table");
    write(&good[..table]);
    let said = reloaded(&tunnel, Daemon::Relay)?;
    assert!(said.contains("removed: rival"), "{said}");
    rival.wait_for_log("no longer accepts this key", SHORT)?;
    write(&good);
    assert!(reloaded(&tunnel, Daemon::Relay)?.contains("added: rival"));
    pulse.finish(SHORT)?;
    Ok(())
}

/// Who is the relay's successor is known by `relay_key` alone: with the key that it proved to have taken
/// out of the file, the tunnel ends; the control is a second key beside it, which ends nothing.
#[test]
fn a_tunnel_ends_with_the_key_that_it_was_trusted_for() -> Outcome {
    let lab = Topology::STANDARD.build("relay-key")?;
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let mut tunnel = Tunnel::builder().peer("echo", "192.168.50.3:7", 8003).start(&lab)?;
    let file = lab.path().join("adit.toml");
    let good = fs::read_to_string(&file).expect("a file of the lab");
    let (old, next) =
        (format!("\"{}\"", tunnel.relay_key), format!("\"{}\"", tunnel.forwarder_key));
    let session = tunnel.session()?;
    let keys =
        |keys: String| fs::write(&file, good.replace(&old, &keys)).expect("a file of the lab");
    keys(format!("[{old}, {next}]"));
    assert!(reloaded(&tunnel, Daemon::Forwarder)?.contains("in force: relay_key"));
    assert!(works(&lab.host("ext"), &tunnel.contact(8003)));
    assert_eq!(tunnel.session()?, session);
    keys(next.clone());
    reloaded(&tunnel, Daemon::Forwarder)?;
    let forwarder = tunnel.process_mut(Daemon::Forwarder)?;
    forwarder.wait_for_log("is not in relay_key any more", SHORT)?;
    forwarder.wait_for_log("no connection: ", SHORT)?;
    assert!(tunnel.session().is_err(), "the strange relay's session goes on");
    keys(old.clone());
    reloaded(&tunnel, Daemon::Forwarder)?;
    let contact = tunnel.contact(8003);
    wait_until(SHORT, "the tunnel to be back", || works(&lab.host("ext"), &contact))
}

/// The lines of `/proc/PID/status` of each thread of a daemon that say who it is.
fn identities(pid: i32) -> Vec<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process of the lab");
    let wanted = ["Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];
    let lines = |status: String| -> Vec<String> {
        let is_wanted = |line: &&str| {
            wanted.iter().chain(&["NoNewPrivs:"]).any(|start| line.starts_with(start))
        };
        status.lines().filter(is_wanted).map(|line| line.replace(['\t', ' '], "")).collect()
    };
    let read = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    tasks.flatten().filter_map(read).map(lines).collect()
}

/// Daemons that are started as root and told another user are that user, in every thread, with one
/// capability and no way to more; ports below 1024 are theirs to bind, the relay's even later, and a
/// reload works.
#[test]
fn daemons_give_up_root_and_keep_low_ports() -> Outcome {
    let lab = Topology::STANDARD.build("drop-root")?;
    if lab.rootless() {
        println!("skipped: a lab without root has no second user");
        return Ok(());
    }
    let _echo = lab.host("peer3").serve("echo", 7, &[])?;
    let user = format!("user = \"{USER}\"\n");
    let state = lab.path().join("deep/relay-state");
    let builder = Tunnel::builder().allow(&["80", "8003"]).peer("echo", "192.168.50.3:7", 8003);
    let mut tunnel =
        builder.extra(&user, &format!("{user}state = \"deep/relay-state\"\n")).prepare(&lab)?;
    let (folder, relay) = (lab.path().display(), lab.host("relay"));
    refuses_low_ports_without_the_capability(&relay, &folder.to_string())?;
    refuses_a_folder_of_others(&relay, &folder.to_string())?;
    // The sockets stand beside the keys, which stay root's.
    relay.shell(&format!("chmod 777 {folder}; chmod 644 {folder}/*.toml"))?;
    tunnel.start_relay()?;
    tunnel.start_forwarder()?;
    tunnel.wait_registered()?;
    for daemon in [Daemon::Forwarder, Daemon::Relay] {
        let threads = identities(tunnel.process_mut(daemon)?.pid());
        assert!(threads.len() > 2, "{threads:?}");
        for lines in threads {
            let ids = format!("{USER_ID}{USER_ID}{USER_ID}{USER_ID}");
            let wanted = [format!("Uid:{ids}"), format!("Gid:{ids}"), format!("Groups:{USER_ID}")];
            assert!(wanted.iter().all(|line| lines.contains(line)), "{daemon:?}: {lines:?}");
            let sets = lines.iter().filter(|line| line.starts_with("Cap"));
            assert_eq!(sets.filter(|line| line.ends_with(BIND_ALONE)).count(), 5, "{lines:?}");
            assert!(lines.contains(&"NoNewPrivs:1".to_owned()), "{lines:?}");
        }
    }
    let owners = format!("stat -c %U:%a {0} {0}/..", state.display());
    let owners = relay.shell(&owners)?.stdout;
    assert_eq!(owners.lines().collect::<Vec<_>>(), [&format!("{USER}:700"), "root:755"]);
    let words = ["register", "low", "tcp", "192.168.50.3:7", "--contact", "public:80"];
    let registered = tunnel.ask(Daemon::Forwarder, &words)?;
    assert!(registered.success(), "{}", registered.stderr);
    assert!(works(&lab.host("ext"), &tunnel.contact(80)));
    for daemon in [Daemon::Forwarder, Daemon::Relay] {
        assert!(reloaded(&tunnel, daemon)?.contains("nothing has changed"));
    }
    Ok(())
}

/// In a folder that is not the user's no socket is made, and nobody is told to give away what others have in
/// it before another way is named.
fn refuses_a_folder_of_others(relay: &Host<'_>, folder: &str) -> Outcome {
    let program = netns_tests::binaries()?.relay;
    let script = format!(
        "chmod 644 {folder}/relay.toml; exec {} run -c {folder}/relay.toml",
        program.display()
    );
    let output = relay.run(["sh", "-c", &script])?;
    let said = format!("{USER} may not write in {folder}: name a folder of its own");
    assert!(!output.success() && output.stderr.contains(&said), "{}", output.stderr);
    Ok(())
}

/// The control: the same user without the capability does not listen at the tunnel's port.
fn refuses_low_ports_without_the_capability(relay: &Host<'_>, folder: &str) -> Outcome {
    let program = netns_tests::binaries()?.relay;
    let output = relay.run([
        "sh",
        "-c",
        &format!(
            "mkdir {folder}/bare; cp {folder}/relay.toml {folder}/relay.key {folder}/bare/
         sed -i 's/relay.sock/bare\\/&/' {folder}/bare/relay.toml; chown -R {USER} {folder}/bare
         chmod 755 {folder}
         exec setpriv --reuid={USER} --regid=nogroup --clear-groups --bounding-set=-all \
              --inh-caps=-all {} run -c {folder}/bare/relay.toml",
            program.display()
        ),
    ])?;
    assert!(
        !output.success() && output.stderr.contains("CAP_NET_BIND_SERVICE"),
        "{}",
        output.stderr
    );
    Ok(())
}
