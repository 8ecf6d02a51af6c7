//! The configuration that a new forwarder, or a new external peer, begins with.

use std::path::Path;

use serde::Serialize;

use super::site::{CONFIG_NAME, KEY_NAME};
use crate::config::{FORWARDER_FOLDER, Place, ProxyText};
use crate::invitation::{Grant, Invitation};

const SOCKET_NAME: &str = "adit.sock";

/// What is not commented out.
#[derive(Serialize)]
struct Top<'a> {
    key: &'static str,
    relay: Vec<String>,
    relay_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<Table<'a>>,
}

/// `[gateway]`, behind all that stands at the top.
#[derive(Serialize)]
struct Table<'a> {
    proxy: &'a str,
}

/// The file's text. Paths in it are relative to the file.
pub(super) fn text(
    invitation: &Invitation,
    grant: &Grant,
    dir: &Path,
    proxy: Option<&ProxyText>,
) -> String {
    // In the usual place the usual socket will do; elsewhere it need not be ours to make.
    let is_usual = dir == Path::new(FORWARDER_FOLDER);
    let top = Top {
        key: KEY_NAME,
        relay: invitation.relay.iter().map(ToString::to_string).collect(),
        relay_key: invitation.relay_key.to_string(),
        socket: (!is_usual).then_some(SOCKET_NAME),
        gateway: proxy.map(|proxy| Table { proxy: proxy.as_written() }),
    };
    // Plain strings into TOML: nothing to fail with.
    let top = toml::to_string(&top).unwrap_or_default();
    let name = &grant.name;
    let examples = match invitation.relay.first() {
        Some(relay) if grant.external => external(grant, relay, &dir.join(CONFIG_NAME)),
        _ => forwarder(grant),
    };
    format!(
        "# Written by `adit join`; it is yours to edit.\n{top}\n\
         # At the relay this is \"{name}\", which may have there: {grant}.\n\n{examples}"
    )
}

/// The first of a list that is not a pattern, or something that shows what one looks like.
fn example<'a>(items: &'a [String], otherwise: &'a str) -> &'a str {
    let first = items.iter().map(String::as_str).find(|item| !item.contains('*'));
    first.unwrap_or(otherwise)
}

fn forwarder(grant: &Grant) -> String {
    let ports = example(&grant.ports, "8080");
    let port = ports.split('-').next().unwrap_or(ports);
    format!(
        "# Internal peers: each has a contact point at the relay. SIGHUP reads them again.\n\
         # [[peer]]\n\
         # name = \"web\"\n\
         # tcp = \"192.168.50.3:80\"\n\
         # contact = \"public:{port}\"\n"
    )
}

fn external(grant: &Grant, relay: &Place, file: &Path) -> String {
    let (call, serve) = (example(&grant.calls, "db"), example(&grant.names, "laptop-web"));
    let file = file.display();
    format!(
        "# Reach a private name through the relay, or offer one:\n\
         #   adit connect {relay} {call} -c {file} --listen 127.0.0.1:2222\n\
         #   adit connect {relay} -c {file} --serve {serve}=127.0.0.1:9000\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ForwarderConfig;
    use crate::invitation::{Request, UnixTime};
    use crate::key::PrivateKey;

    fn invitation() -> Invitation {
        Invitation {
            relay: vec!["relay.example.net:443".parse().unwrap(), "[::1]:443".parse().unwrap()]
                .into(),
            relay_key: PrivateKey::generate().unwrap().public(),
            request: Request::generate().unwrap(),
            issued_at: UnixTime::new(0),
            expires_at: UnixTime::new(1),
        }
    }

    fn load(dir: &Path, text: &str) -> ForwarderConfig {
        std::fs::write(dir.join(CONFIG_NAME), text).unwrap();
        ForwarderConfig::load(&dir.join(CONFIG_NAME)).unwrap()
    }

    /// What is written loads, and so do its examples once the comment signs are gone.
    #[test]
    fn what_is_written_is_a_configuration_and_so_are_its_examples() {
        let dir = tempfile::tempdir().unwrap();
        let invitation = invitation();
        let ports = vec!["2222".to_owned(), "8000-8100".to_owned()];
        let grant = Grant { name: "office".into(), ports, ..Grant::default() };
        let text = text(&invitation, &grant, dir.path(), None);
        let config = load(dir.path(), &text);
        assert_eq!(config.relay, invitation.relay);
        assert_eq!(config.relay_keys, invitation.relay_key.into());
        assert_eq!(config.key, dir.path().join(KEY_NAME));
        assert_eq!(config.socket, dir.path().join(SOCKET_NAME));
        assert!(
            text.contains("\"office\", which may have there: ports 2222, 8000-8100."),
            "{text}"
        );
        let (top, examples) = text.split_once("# [[peer]]").unwrap();
        let examples = format!("[[peer]]{}", examples.replace("\n# ", "\n"));
        let config = load(dir.path(), &format!("{top}{examples}"));
        assert_eq!(config.peers.first().unwrap().contact.to_string(), "public:2222");
    }

    /// The proxy that led to the relay once leads there again.
    #[test]
    fn the_proxy_is_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let proxy: ProxyText = "socks5://jo:p%22@192.0.2.1:1080".parse().unwrap();
        let grant = Grant { name: "office".into(), ..Grant::default() };
        let text = text(&invitation(), &grant, dir.path(), Some(&proxy));
        assert_eq!(load(dir.path(), &text).gateway.proxy, *proxy.choice());
    }

    /// In the usual folder the socket is the usual one; an external peer is told what it can do.
    #[test]
    fn the_file_fits_its_folder_and_its_owner() {
        let calls = vec!["office-*".to_owned(), "db".to_owned()];
        let grant = Grant { name: "laptop".into(), external: true, calls, ..Grant::default() };
        let text = text(&invitation(), &grant, Path::new("/etc/adit"), None);
        assert!(!text.contains("socket"), "{text}");
        let call = "adit connect relay.example.net:443 db -c /etc/adit/adit.toml --listen";
        assert!(text.contains(call), "{text}");
        assert!(!text.contains("[[peer]]"), "{text}");
    }
}
