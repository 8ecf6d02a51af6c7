//! Who asks, and what they may ask for.
//!
//! On the daemon's own socket everything; on the LAN what the token is good for: one peer name, some
//! contact points, and the asker's own address.

use std::convert::Infallible;
use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::{Caller, Refusal};
use crate::config::{Address, Peer, Sha256, Token};

/// The hash of a token, by which alone it is known.
///
/// # Panics
/// Never: a SHA-256 has 32 bytes.
pub fn hash(token: &str) -> Sha256 {
    let digest = digest(&SHA256, token.as_bytes());
    Sha256(digest.as_ref().try_into().expect("invariant: a SHA-256 has 32 bytes"))
}

/// Who asks, and the hash of the token that came along. The token itself goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Where the request comes from.
    pub caller: Caller,
    /// What its token hashes to.
    pub token: Option<Sha256>,
}

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|header| {
            let (scheme, token) = header.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| hash(token.trim()))
        });
        Ok(Self { caller, token })
    }
}

/// What an asker may do.
#[derive(Clone, Copy, Debug)]
pub enum Access<'a> {
    /// Everything.
    All,
    /// What this token is good for, from this address.
    Own(&'a Token, IpAddr),
}

impl Asker {
    /// What this asker may do.
    ///
    /// # Errors
    /// To somebody on the LAN without a token that is known.
    pub fn access(self, tokens: &[Token]) -> Result<Access<'_>, Refusal> {
        let Caller::Remote(from) = self.caller else { return Ok(Access::All) };
        let refused = |text| Err(Refusal::new(StatusCode::UNAUTHORIZED, text));
        let Some(Sha256(asked)) = self.token else {
            return refused("a token is needed: Authorization: Bearer TOKEN");
        };
        // With each of them, and each in constant time: how long it takes says nothing.
        let is_it = |token: &Token| verify_slices_are_equal(&token.sha256.0, &asked).is_ok();
        let or = |found, token| if is_it(token) { Some(token) } else { found };
        match tokens.iter().fold(None, or) {
            Some(token) => Ok(Access::Own(token, from.ip().to_canonical())),
            None => {
                refused("this token is not known: see [[token]] in the forwarder's configuration")
            }
        }
    }
}

impl Access<'_> {
    /// The token that gives it.
    pub fn token(&self) -> Option<Sha256> {
        match self {
            Self::All => None,
            Self::Own(token, _) => Some(token.sha256),
        }
    }

    /// Whether the peer of that name is any of the asker's business.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Own(token, _) => token.peer == name,
        }
    }

    /// Refuses what is no business of the asker's.
    ///
    /// # Errors
    /// When the name is not the token's.
    pub fn check_name(&self, name: &str) -> Result<(), Refusal> {
        match self {
            Self::Own(token, _) if !self.covers(name) => {
                Err(forbidden(format!("this token is for the peer {} alone", token.peer)))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a peer that the asker may not register.
    ///
    /// # Errors
    /// When its name, its contact point or its address is not the token's.
    pub fn check_peer(&self, peer: &Peer) -> Result<(), Refusal> {
        self.check_name(&peer.name)?;
        let Self::Own(token, from) = self else { return Ok(()) };
        if !token.contacts.contain(peer.contact) {
            let text = format!(
                "this token is not good for {}: add it to contacts of its [[token]]",
                peer.contact
            );
            return Err(forbidden(text));
        }
        let own = match &peer.address {
            Address::Tcp(place) | Address::Udp(place) => {
                place.literal().map(|address| address.ip().to_canonical())
            }
            Address::Unix(_) => None,
        };
        if own == Some(*from) {
            return Ok(());
        }
        let text = format!(
            "{} is not where this comes from: a token registers its own address, {from}",
            peer.address
        );
        Err(forbidden(text))
    }
}

fn forbidden(text: String) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "the token of the printer";

    fn tokens() -> Vec<Token> {
        let contacts = |ports: &str| crate::config::Contacts {
            ports: [ports.parse().unwrap()].into_iter().collect(),
            are_private: false,
        };
        let token = |peer: &str, text: &str| Token {
            peer: peer.to_owned(),
            sha256: hash(text),
            contacts: contacts("8000-8010"),
        };
        vec![token("printer", TOKEN), token("camera", "the camera's")]
    }

    fn asker(token: Option<&str>) -> Asker {
        let caller = Caller::Remote("[::ffff:192.168.50.7]:40000".parse().unwrap());
        Asker { caller, token: token.map(hash) }
    }

    fn peer(name: &str, address: &str, contact: &str) -> Peer {
        let address = match address.strip_prefix("unix:") {
            Some(path) => Address::unix(path.into()).unwrap(),
            None => Address::Tcp(address.parse().unwrap()),
        };
        Peer::new(name.to_owned(), address, contact.parse().unwrap())
    }

    /// Without a token that is known, nothing is answered; locally none is needed.
    #[test]
    fn strangers_are_turned_away() {
        let tokens = tokens();
        for token in [None, Some(""), Some("the token of the printeR"), Some("the camera'")] {
            let refusal = asker(token).access(&tokens).unwrap_err();
            assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
        }
        assert!(asker(Some(TOKEN)).access(&[]).is_err());
        let local = Asker { caller: Caller::Local, token: None };
        assert!(matches!(local.access(&[]), Ok(Access::All)));
    }

    /// A token is good for one name, some contact points, and the asker's own address.
    #[test]
    fn a_token_is_good_for_its_own_peer_alone() {
        let tokens = tokens();
        let access = asker(Some(TOKEN)).access(&tokens).unwrap();
        let refused = [
            (peer("camera", "192.168.50.7:80", "public:8000"), "for the peer printer alone"),
            (peer("printer", "192.168.50.7:80", "public:8011"), "not good for public:8011"),
            (peer("printer", "192.168.50.7:80", "private"), "not good for private"),
            (peer("printer", "192.168.50.8:80", "public:8000"), "its own address, 192.168.50.7"),
            (peer("printer", "127.0.0.1:80", "public:8000"), "its own address"),
            (peer("printer", "printer.lan:80", "public:8000"), "its own address"),
            (peer("printer", "unix:/run/x.sock", "public:8000"), "its own address"),
        ];
        for (peer, said) in refused {
            let refusal = access.check_peer(&peer).unwrap_err();
            assert_eq!(refusal.status, StatusCode::FORBIDDEN);
            assert!(refusal.text.contains(said), "{}", refusal.text);
        }
        for address in ["192.168.50.7:80", "192.168.50.7:9100", "[::ffff:192.168.50.7]:80"] {
            access.check_peer(&peer("printer", address, "public:8010")).unwrap();
        }
        assert!(access.covers("printer") && !access.covers("camera"));
        assert_eq!(access.check_name("camera").unwrap_err().status, StatusCode::FORBIDDEN);
    }

    /// What is logged and sent on does not have the token in it.
    #[test]
    fn a_token_is_not_shown() {
        assert!(!format!("{:?}", asker(Some(TOKEN))).contains("printer"));
    }
}
