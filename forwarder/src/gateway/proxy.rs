//! How a proxy is asked for a connection to the relay. The relay's name goes to it as it is written:
//! whoever is only let out by a proxy often has no resolver that knows the outside.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use fast_socks5::client::{Config, Socks5Stream};
use fast_socks5::{AuthenticationMethod, SocksError};
use http_body_util::Empty;
use hyper::client::conn::http1::{self, Parts};
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::{Place, Proxy, ProxyKind};

/// How long a proxy may take, which dials the relay meanwhile.
const PROXY_MAX: Duration = Duration::from_secs(10);
/// What a proxy's answer may have: bytes (the least that hyper reads by), and headers.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
const ANSWER_HEADERS_MAX: usize = 64;

/// The method's number by which a SOCKS5 server says that none of ours will do (RFC 1928 §3).
const SOCKS_NO_METHOD: u8 = 0xff;
/// A SOCKS5 request and its answer (RFC 1928 §4 to §6).
const SOCKS_VERSION: u8 = 5;
const SOCKS_CONNECT: u8 = 1;
const SOCKS_V4: u8 = 1;
const SOCKS_NAME: u8 = 3;
const SOCKS_V6: u8 = 4;
const SOCKS_SUCCEEDED: u8 = 0;
/// The longest address in an answer, a name without its length, and the port behind it.
const SOCKS_ADDRESS_BYTES_MAX: usize = 255 + 2;

/// Why a proxy does not lead to the relay.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It wants a user and a password, and we have none.
    #[error(
        "it wants a user and a password ({said}): write them into `proxy` of [gateway], as \
         {scheme}://USER:PASSWORD@HOST:PORT"
    )]
    LoginNeeded {
        /// What it said.
        said: String,
        /// How its address begins.
        scheme: &'static str,
    },
    /// It does not know them.
    #[error("it does not accept this user and password ({said}): correct them in `proxy`")]
    LoginRefused {
        /// What it said.
        said: String,
    },
    /// Its rules are against it.
    #[error(
        "it does not allow connections to {place} ({said}): have its administrator allow that, or let \
         the relay listen at a port that is allowed, such as 443"
    )]
    Forbidden {
        /// The relay.
        place: Place,
        /// What it said.
        said: String,
    },
    /// It cannot reach the relay either.
    #[error("it cannot connect to {place} ({said})")]
    Unreached {
        /// The relay.
        place: Place,
        /// What it said.
        said: String,
    },
    /// It does not do what it is asked for.
    #[error("it answers {said} to a request for a connection: is it a proxy of this kind?")]
    Refused {
        /// What it said.
        said: String,
    },
    /// It speaks something else.
    #[error("it does not speak {expected}: is the port right, and the proxy of this kind?")]
    Stranger {
        /// What it should speak.
        expected: &'static str,
    },
    /// It closed the connection.
    #[error("it closed the connection instead of an answer")]
    Closed,
    /// It says nothing.
    #[error("it accepts connections, and does not answer in time")]
    Silent,
    /// The connection to it failed.
    #[error("the connection to it failed: {0}")]
    Io(io::Error),
}

impl ProxyError {
    /// Whether nothing changes until somebody changes a file.
    pub(super) fn is_denial(&self) -> bool {
        matches!(
            self,
            Self::LoginNeeded { .. } | Self::LoginRefused { .. } | Self::Forbidden { .. }
        )
    }
}

/// A connection that leads through a proxy, with what was read of it behind the proxy's answer.
pub(crate) type Tunnelled = (TcpStream, Vec<u8>);

/// Has `proxy`, at the other end of `stream`, connect to `place`.
pub(crate) async fn tunnel(
    stream: TcpStream,
    proxy: &Proxy,
    place: &Place,
) -> Result<Tunnelled, ProxyError> {
    match &proxy.kind {
        ProxyKind::Connect(login) => within(connect(stream, login.as_ref(), place)).await,
        ProxyKind::Socks5(login) => within(socks5(stream, login.as_ref(), place)).await,
    }
}

async fn within(
    talk: impl Future<Output = Result<Tunnelled, ProxyError>>,
) -> Result<Tunnelled, ProxyError> {
    tokio::time::timeout(PROXY_MAX, talk).await.unwrap_or(Err(ProxyError::Silent))
}

async fn connect(
    stream: TcpStream,
    login: Option<&HeaderValue>,
    place: &Place,
) -> Result<Tunnelled, ProxyError> {
    let at = place.to_string();
    let mut request = Request::builder().method(Method::CONNECT).uri(&at).header(HOST, &at);
    if let Some(login) = login {
        request = request.header(PROXY_AUTHORIZATION, login);
    }
    let stranger = |_| ProxyError::Stranger { expected: "HTTP" };
    let request = request.body(Empty::<Bytes>::new()).map_err(stranger)?;
    let mut http = http1::Builder::new();
    http.max_buf_size(ANSWER_BYTES_MAX).max_headers(ANSWER_HEADERS_MAX);
    let (mut sender, connection) =
        http.handshake(TokioIo::new(stream)).await.map_err(|error| of_http(&error))?;
    let mut answer = pin!(sender.send_request(request));
    let mut connection = pin!(connection.without_shutdown());
    let (answer, ended) = tokio::select! {
        biased;
        answer = &mut answer => (answer, None),
        ended = &mut connection => (answer.await, Some(ended)),
    };
    let status = answer.map_err(|error| of_http(&error))?.status();
    if !status.is_success() {
        return Err(of_status(status, login.is_some(), place));
    }
    let ended = match ended {
        Some(ended) => ended,
        None => connection.await,
    };
    let Parts { io, read_buf, .. } = ended.map_err(|error| of_http(&error))?;
    Ok((io.into_inner(), read_buf.into()))
}

fn of_status(status: StatusCode, has_login: bool, place: &Place) -> ProxyError {
    let (place, said) = (place.clone(), status.to_string());
    match status {
        // The second is a server's word; tinyproxy answers a wrong password with it.
        StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED if has_login => {
            ProxyError::LoginRefused { said }
        }
        StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED => {
            ProxyError::LoginNeeded { said, scheme: "http" }
        }
        StatusCode::FORBIDDEN | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => {
            ProxyError::Forbidden { place, said }
        }
        status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
            ProxyError::Unreached { place, said }
        }
        _ => ProxyError::Refused { said },
    }
}

fn of_http(error: &hyper::Error) -> ProxyError {
    if error.is_incomplete_message() {
        return ProxyError::Closed;
    }
    if error.is_parse() {
        return ProxyError::Stranger { expected: "HTTP" };
    }
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    of_io(source.unwrap_or(&io::Error::other(error.to_string())))
}

/// What is lost of an error that cannot be copied is not shown anyway.
fn of_io(error: &io::Error) -> ProxyError {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::UnexpectedEof, _) => ProxyError::Closed,
        (_, Some(code)) => ProxyError::Io(io::Error::from_raw_os_error(code)),
        (kind, None) => ProxyError::Io(io::Error::new(kind, error.to_string())),
    }
}

async fn socks5(
    stream: TcpStream,
    login: Option<&(String, String)>,
    place: &Place,
) -> Result<Tunnelled, ProxyError> {
    let failed = |error| of_socks(error, login.is_some());
    let method = login
        .cloned()
        .map(|(username, password)| AuthenticationMethod::Password { username, password });
    let socks =
        Socks5Stream::use_stream(stream, method, Config::default()).await.map_err(failed)?;
    let mut stream = socks.get_socket();
    stream.write_all(&socks_request(place)?).await.map_err(|error| of_io(&error))?;
    read_reply(&mut stream, place).await?;
    // Answers are read to the byte: nothing of the relay's is left behind.
    Ok((stream, Vec::new()))
}

fn socks_request(place: &Place) -> Result<Vec<u8>, ProxyError> {
    let mut request = vec![SOCKS_VERSION, SOCKS_CONNECT, 0];
    match place.literal().map(|address| address.ip()) {
        Some(IpAddr::V4(ip)) => {
            request.push(SOCKS_V4);
            request.extend(ip.octets());
        }
        Some(IpAddr::V6(ip)) => {
            request.push(SOCKS_V6);
            request.extend(ip.octets());
        }
        None => {
            let too_long =
                |_| io::Error::new(io::ErrorKind::InvalidInput, "SOCKS5 takes names of 255 bytes");
            let len = u8::try_from(place.host.len()).map_err(too_long).map_err(ProxyError::Io)?;
            request.extend([SOCKS_NAME, len]);
            request.extend(place.host.as_bytes());
        }
    }
    request.extend(place.port.to_be_bytes());
    Ok(request)
}

/// Reads the answer to a request. The crate's own reader panics at codes that no RFC names, and the
/// other end chooses them.
async fn read_reply(stream: &mut TcpStream, place: &Place) -> Result<(), ProxyError> {
    const STRANGER: ProxyError = ProxyError::Stranger { expected: "SOCKS5" };
    let failed = |error: io::Error| of_io(&error);
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.map_err(failed)?;
    let [version, code, _, kind] = head;
    if version != SOCKS_VERSION {
        return Err(STRANGER);
    }
    if code != SOCKS_SUCCEEDED {
        return Err(of_reply(code, place));
    }
    let len: usize = match kind {
        SOCKS_V4 => 4,
        SOCKS_V6 => 16,
        SOCKS_NAME => stream.read_u8().await.map_err(failed)?.into(),
        _ => return Err(STRANGER),
    };
    // The address by which the proxy left, which says nothing to us, and its port.
    let mut address = [0; SOCKS_ADDRESS_BYTES_MAX];
    let Some(address) = address.get_mut(..len + 2) else { return Err(STRANGER) };
    stream.read_exact(address).await.map_err(failed)?;
    Ok(())
}

/// Codes above 8 are nobody's, or one make's own: Tor has some of 0xF0 and above.
fn of_reply(code: u8, place: &Place) -> ProxyError {
    let place = place.clone();
    let said = |what: &str| format!("{what}, code {code}");
    match code {
        1 => ProxyError::Unreached { place, said: said("general failure") },
        2 => ProxyError::Forbidden { place, said: said("not allowed by its rules") },
        3 => ProxyError::Unreached { place, said: said("network unreachable") },
        4 => ProxyError::Unreached { place, said: said("host unreachable") },
        5 => ProxyError::Unreached { place, said: said("connection refused") },
        6 => ProxyError::Unreached { place, said: said("TTL expired") },
        7 => ProxyError::Refused { said: said("command not supported") },
        8 => ProxyError::Refused { said: said("address type not supported") },
        _ => ProxyError::Unreached { place, said: format!("a code of its own, {code:#04x}") },
    }
}

fn of_socks(error: SocksError, has_login: bool) -> ProxyError {
    match error {
        SocksError::AuthMethodUnacceptable(methods)
            if methods == [SOCKS_NO_METHOD] && has_login =>
        {
            ProxyError::LoginRefused { said: "it takes no login of this kind".to_owned() }
        }
        SocksError::AuthMethodUnacceptable(_) => ProxyError::LoginNeeded {
            said: "it lets nobody in without".to_owned(),
            scheme: "socks5",
        },
        SocksError::AuthenticationRejected(_) if has_login => {
            ProxyError::LoginRefused { said: "login rejected".to_owned() }
        }
        SocksError::AuthenticationRejected(_) => {
            ProxyError::LoginNeeded { said: "it asks for one".to_owned(), scheme: "socks5" }
        }
        SocksError::Io(error) => of_io(&error),
        SocksError::Other(error) => match error.downcast_ref() {
            Some(error) => of_io(error),
            None => ProxyError::Stranger { expected: "SOCKS5" },
        },
        _ => ProxyError::Stranger { expected: "SOCKS5" },
    }
}

#[cfg(test)]
mod tests;
