//! TLS on a connection; and, where it fails, what becomes of it under another name or in smaller
//! packets, which shows what the way objects to.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use adit_proto::id::Side;
use futures_util::future::{join_all, join3};
use tokio::net::TcpStream;

use super::cause::Cause;
use super::reach::Target;
use super::sheet::Sheet;
use crate::config::{Bind, Place};
use crate::gateway::segments::{SMALLER, packet_bytes};
use crate::gateway::{ProxyError, Through, tunnel};
use crate::net::{self, Exchange, ShakeError, Stream};
use crate::tls::{ClientTls, Handshake, HandshakeError};

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(4);
/// How long a handshake may take here. Lost packets are repeated after 1 s and 3 s.
const SHAKE_MAX: Duration = Duration::from_secs(5);
/// A name that no filter has reason to object to; nobody is asked for it.
const OTHER_NAME: &str = "www.example.com";

/// How to dial.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) target: Target,
    pub(super) tls: ClientTls,
    /// The name in the handshake.
    pub(super) name: String,
    pub(super) bind: Option<Bind>,
    /// The longest segment, where longer ones get lost.
    pub(super) segment_bytes: Option<u32>,
}

/// Why there is no exchange.
#[derive(Debug)]
pub(super) enum Trouble {
    Connect(io::Error),
    Proxy(ProxyError),
    Silent,
    Closed,
    Reset,
    Tls(HandshakeError),
}

impl From<ShakeError> for Trouble {
    fn from(error: ShakeError) -> Self {
        match error {
            ShakeError::TooSlow => Self::Silent,
            ShakeError::Closed => Self::Closed,
            ShakeError::Io(error) => match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
                io::ErrorKind::TimedOut => Self::Silent,
                _ => Self::Connect(error),
            },
            ShakeError::Handshake(error) => Self::Tls(error),
        }
    }
}

impl Way {
    /// Dials once more.
    pub(super) async fn dial(&self) -> Result<Exchange, Trouble> {
        self.dial_as(&self.name).await
    }

    async fn dial_as(&self, name: &str) -> Result<Exchange, Trouble> {
        let (address, segment_bytes) = (self.target.address, self.segment_bytes);
        let bind = self.bind.as_ref();
        let stream = net::connect(address, bind, segment_bytes, CONNECT_MAX).await;
        self.shake(stream.map_err(Trouble::Connect)?, name).await
    }

    async fn shake(&self, stream: TcpStream, name: &str) -> Result<Exchange, Trouble> {
        let Target { address, place, through, .. } = &self.target;
        let (stream, early) = match through {
            None => (stream, Vec::new()),
            Some(Through { proxy, .. }) => {
                tunnel(stream, proxy, place).await.map_err(Trouble::Proxy)?
            }
        };
        let stream = Stream::from_tokio(stream, *address, early).map_err(Trouble::Connect)?;
        let handshake = Handshake::client(&self.tls, name).map_err(Trouble::Tls)?;
        let shaken = tokio::time::timeout(SHAKE_MAX, net::shake_hands(stream, handshake)).await;
        let shaken = shaken.unwrap_or(Err(ShakeError::TooSlow))?;
        Ok(Exchange::new(Side::Forwarder, shaken.carrier))
    }

    /// The same in small segments, with a connection for each size, and the longest that `works` first.
    pub(super) async fn smaller<T, F: Future<Output = Option<T>>>(
        &self,
        works: impl Fn(Self) -> F,
    ) -> Option<(Self, T)> {
        let way = |bytes| Self { segment_bytes: Some(bytes), ..self.clone() };
        let tried = join_all(SMALLER.map(|bytes| works(way(bytes)))).await;
        let worked =
            SMALLER.into_iter().zip(tried).find_map(|(bytes, tried)| Some((bytes, tried?)));
        worked.map(|(bytes, tried)| (way(bytes), tried))
    }

    /// Large packets get lost, these do not.
    pub(super) fn black_hole(&self) -> Cause {
        let segment_bytes = self.segment_bytes.unwrap_or_default();
        Cause::BlackHole { passed_bytes: packet_bytes(segment_bytes, self.target.address) }
    }

    /// Makes TLS on `stream`; where that fails, says why.
    pub(super) async fn authenticate(
        &mut self,
        sheet: &mut Sheet<'_>,
        stream: Option<TcpStream>,
    ) -> Option<Exchange> {
        let shaken = match stream {
            Some(stream) => self.shake(stream, &self.name).await,
            None => self.dial().await,
        };
        if let Some(Through { proxy, variable }) = &self.target.through {
            let named_by = variable.unwrap_or("the configuration");
            let place = &self.target.place;
            if let Err(Trouble::Proxy(error)) = &shaken {
                let cause = proxy_cause(&proxy.to_string(), error);
                sheet.fail("proxy", format!("{proxy}: {error}"), cause);
                return None;
            }
            if !matches!(shaken, Err(Trouble::Connect(_))) {
                sheet.ok("proxy", format!("{proxy}, named by {named_by}, connects to {place}"));
            }
        }
        let trouble = match shaken {
            Ok(exchange) => {
                let address = &self.target.place;
                sheet.ok("tls", format!("{address} is the relay: it has the pinned key"));
                return Some(exchange);
            }
            Err(trouble) => trouble,
        };
        let what = said(&trouble);
        match trouble {
            Trouble::Tls(error) => sheet.fail("tls", what, self.stranger(error)),
            Trouble::Proxy(_) => {}
            Trouble::Connect(error) => {
                sheet.fail("tls", what, Cause::Lost { text: error.to_string() });
            }
            Trouble::Silent | Trouble::Closed | Trouble::Reset => {
                return self.look_closer(sheet, &trouble, &what).await;
            }
        }
        None
    }

    /// Tries the same again, and what a filter, or a black hole, would let through.
    async fn look_closer(
        &mut self,
        sheet: &mut Sheet<'_>,
        trouble: &Trouble,
        what: &str,
    ) -> Option<Exchange> {
        let dialled = self.smaller(|way| async move { way.dial().await.ok() });
        let (same, renamed, smaller) = join3(self.dial(), self.dial_as(OTHER_NAME), dialled).await;
        let address = self.target.place.clone();
        let is_silent = matches!(trouble, Trouble::Silent);
        if let Ok(exchange) = same {
            let why = what.to_owned();
            sheet.warn("tls", format!("{what}; tried again, it passes"), Cause::Unsteady { why });
            return Some(exchange);
        }
        // Under another name it was as long: what passes then is not too large.
        if is_silent
            && renamed.is_err()
            && let Some((way, exchange)) = smaller
        {
            *self = way;
            let what = format!("{what}; in small packets it passes");
            sheet.warn("tls", what, self.black_hole());
            return Some(exchange);
        }
        let name = self.name.clone();
        let cause = if renamed.is_ok() {
            let with = OTHER_NAME.to_owned();
            // With an address in its place, no name is sent.
            match name.parse::<IpAddr>() {
                Ok(_) => Cause::NamelessBlocked { with },
                Err(_) => Cause::SniBlocked { name, with },
            }
        } else if is_silent {
            Cause::Silent { address }
        } else {
            Cause::TlsBlocked { is_reset: matches!(trouble, Trouble::Reset) }
        };
        sheet.fail("tls", what, cause);
        None
    }

    fn stranger(&self, error: HandshakeError) -> Cause {
        let address: Place = self.target.place.clone();
        match error {
            HandshakeError::NotTls(greeting) => Cause::NotTls { address, greeting },
            HandshakeError::NotAdit { reason, .. } => Cause::NotAdit { address, reason },
            HandshakeError::WrongRelay { .. } => Cause::WrongRelay { text: error.to_string() },
            error => Cause::NotAdit { address, reason: error.to_string() },
        }
    }
}

/// What the proxy says, and whom to ask.
fn proxy_cause(proxy: &str, error: &ProxyError) -> Cause {
    let cure = match error {
        ProxyError::LoginNeeded { scheme, .. } => {
            format!("write user and password into `proxy` of [gateway]: {scheme}://USER:PASSWORD@HOST:PORT")
        }
        ProxyError::LoginRefused { .. } => "correct user and password in `proxy`".to_owned(),
        ProxyError::Forbidden { .. } => {
            "have the proxy's administrator allow the relay's address and port, or let the relay listen \
             on a port that is allowed, such as 443"
                .to_owned()
        }
        ProxyError::Unreached { .. } => {
            "make sure that the relay runs, and that the proxy may reach it".to_owned()
        }
        _ => "correct `proxy` in [gateway] or the environment: kind, host and port".to_owned(),
    };
    Cause::Proxy { text: format!("the proxy {proxy} does not connect to the relay: {error}"), cure }
}

fn said(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Connect(error) => error.to_string(),
        Trouble::Proxy(error) => error.to_string(),
        Trouble::Silent => {
            format!("no answer to the ClientHello in {} s", SHAKE_MAX.as_secs())
        }
        Trouble::Closed => "the connection is closed after the ClientHello".to_owned(),
        Trouble::Reset => "the connection is reset after the ClientHello".to_owned(),
        Trouble::Tls(error) => error.to_string(),
    }
}
