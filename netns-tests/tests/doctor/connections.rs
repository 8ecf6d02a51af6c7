//! Connections that are made, and spoiled.

use std::fs;

use netns_tests::{SHORT, binaries, nginx};

use crate::ward::{Case, INSERT, play_all};

/// What accepts the connection and is not the relay, or does not let it live, is named.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn spoiled_connections_are_named() {
    play_all(&[
        Case {
            name: "tls-reset",
            spoil: |ward| {
                ward.gateway(&format!(
                    "{INSERT} -p tcp --dport 443 -m length --length 200: -j REJECT --reject-with tcp-reset"
                ))
            },
            diagnosis: &["resets the connection as soon as TLS begins"],
            ..Case::default()
        },
        Case {
            name: "tls-swallowed",
            spoil: |ward| {
                ward.gateway(&format!(
                    "{INSERT} -p tcp --dport 443 -m length --length 200: -j DROP"
                ))
            },
            diagnosis: &["accepts connections and then says nothing"],
            ..Case::default()
        },
        Case {
            name: "portal",
            spoil: |ward| {
                let root = ward.lab.path().join("www");
                fs::create_dir_all(&root).expect("a folder");
                let portal = nginx(&ward.lab.gateway(), 8080, &root)?;
                ward.gateway(
                    "iptables -w -t nat -I PREROUTING -i lan0 -p tcp --dport 443 -j DNAT \
                     --to-destination 203.0.113.1:8080",
                )?;
                Ok(vec![portal])
            },
            diagnosis: &["something else answers", "captive portal"],
            ..Case::default()
        },
        Case {
            name: "other-tls",
            spoil: |ward| {
                let folder = ward.lab.path().display();
                let gateway = ward.lab.gateway();
                gateway.shell(&format!(
                    "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=inspection -days 2 \
                     -keyout {folder}/tls.key -out {folder}/tls.crt 2>/dev/null
                     iptables -w -t nat -I PREROUTING -i lan0 -p tcp --dport 443 -j REDIRECT --to-ports 8443"
                ))?;
                let (key, cert) = (format!("{folder}/tls.key"), format!("{folder}/tls.crt"));
                let server = gateway.spawn([
                    "openssl", "s_server", "-accept", "8443", "-key", &key, "-cert", &cert,
                    "-quiet",
                ])?;
                netns_tests::wait_until(SHORT, "the other server", || {
                    gateway
                        .run(["ss", "-Hltn", "sport = :8443"])
                        .is_ok_and(|o| !o.stdout.is_empty())
                })?;
                Ok(vec![server])
            },
            diagnosis: &["something else answers", "no Adit relay"],
            ..Case::default()
        },
        Case {
            name: "other-relay",
            spoil: |ward| {
                let key = &ward.tunnel.relay_key;
                let forwarder = &ward.tunnel.forwarder_key;
                ward.edit("adit.toml", key, forwarder)?;
                Ok(Vec::new())
            },
            diagnosis: &["another relay answers", "the relay's key is"],
            ..Case::default()
        },
        Case {
            name: "stranger",
            spoil: |ward| {
                let adit = binaries()?.adit.display().to_string();
                let file = ward.lab.path().join("stranger.key").display().to_string();
                ward.icp().run_ok([adit.as_str(), "keygen", "--out", &file])?;
                ward.edit("adit.toml", "adit.key", "stranger.key")?;
                Ok(Vec::new())
            },
            diagnosis: &["does not know this host's key"],
            lines: &["cure: at the relay, add a [[forwarder]]"],
            ..Case::default()
        },
        Case {
            name: "port-not-allowed",
            spoil: |ward| {
                ward.edit("adit.toml", "public:8003", "public:9003")?;
                Ok(Vec::new())
            },
            diagnosis: &["the contact point of echo (public:9003)", "is not allowed"],
            lines: &["ok   udp: "],
            ..Case::default()
        },
        Case {
            name: "port-taken",
            spoil: |ward| Ok(vec![ward.lab.host("relay").serve("echo", 8003, &[])?]),
            diagnosis: &["the contact point of echo (public:8003)", "another program"],
            ..Case::default()
        },
        Case {
            name: "quota",
            spoil: |ward| {
                ward.gateway(
                    "iptables -w -I FORWARD -i wan0 -p tcp -j DROP
                     iptables -w -I FORWARD -i wan0 -p tcp -m quota --quota 300000 -j ACCEPT",
                )
            },
            options: &["--transfer"],
            diagnosis: &["the connection dies after about", "limits how much"],
            ..Case::default()
        },
        Case {
            name: "connbytes",
            spoil: |ward| {
                ward.gateway(
                    "sysctl -qw net.netfilter.nf_conntrack_acct=1
                     iptables -w -I FORWARD -p tcp -m connbytes --connbytes 500000: --connbytes-dir both \
                     --connbytes-mode bytes -j REJECT --reject-with tcp-reset",
                )
            },
            options: &["--transfer"],
            diagnosis: &["the connection dies after about", "limits how much"],
            ..Case::default()
        },
        Case {
            name: "missing-file",
            spoil: |ward| {
                fs::remove_file(ward.lab.path().join("adit.toml")).expect("a file");
                Ok(Vec::new())
            },
            diagnosis: &["adit.toml", "cannot be read"],
            ..Case::default()
        },
    ]);
}
