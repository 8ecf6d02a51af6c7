//! How the gateway is left: through which proxy, by which way out, under which name.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use toml::Spanned;

use super::file::File;
use super::{ConfigError, Place, Problem};

/// What a user's name, or a password, may have in SOCKS5 (RFC 1929 §2).
const LOGIN_BYTES_MAX: usize = 255;
/// What the kernel takes as the name of a device (`IFNAMSIZ`, without the final zero).
const DEVICE_BYTES_MAX: usize = 15;

pub(super) const GATEWAY_KEYS: &[&str] = &["proxy", "sni", "bind", "family"];

/// The table `[gateway]`; all of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayConfig {
    /// What stands between us and the relay on purpose.
    pub proxy: ProxyChoice,
    /// The name in the TLS handshake, in place of the relay's host.
    pub sni: Option<String>,
    /// The way out.
    pub bind: Option<Bind>,
    /// Which addresses of the relay, or of the proxy, are dialled.
    pub family: Family,
}

/// Which proxy the relay is reached through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyChoice {
    /// The one that the environment names, if it does.
    #[default]
    Environment,
    /// None, whatever the environment says.
    Direct,
    /// This one, whatever the environment says.
    Proxy(Proxy),
}

impl FromStr for ProxyChoice {
    type Err = BadProxy;

    fn from_str(text: &str) -> Result<Self, BadProxy> {
        if text == "none" { Ok(Self::Direct) } else { text.parse().map(Self::Proxy) }
    }
}

/// What a command line says of the proxy, for a file that says the same. Not shown: it may hold a
/// password.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyText {
    text: String,
    choice: ProxyChoice,
}

impl ProxyText {
    /// What it means.
    pub fn choice(&self) -> &ProxyChoice {
        &self.choice
    }

    /// As it was written.
    pub fn as_written(&self) -> &str {
        &self.text
    }

    /// Whether it holds a secret.
    pub fn has_login(&self) -> bool {
        matches!(&self.choice, ProxyChoice::Proxy(proxy) if proxy.has_login())
    }
}

impl FromStr for ProxyText {
    type Err = BadProxy;

    fn from_str(text: &str) -> Result<Self, BadProxy> {
        Ok(Self { text: text.to_owned(), choice: text.parse()? })
    }
}

impl fmt::Debug for ProxyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.choice.fmt(f)
    }
}

/// A proxy. Shown without its login, which is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Where it listens.
    pub place: Place,
    pub(crate) kind: ProxyKind,
}

/// What a proxy speaks, and who we are to it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum ProxyKind {
    /// HTTP's `CONNECT`, with the value of `Proxy-Authorization`.
    Connect(Option<HeaderValue>),
    /// SOCKS5, with a user and a password.
    Socks5(Option<(String, String)>),
}

impl Proxy {
    /// Whether it is told a user and a password.
    pub fn has_login(&self) -> bool {
        match &self.kind {
            ProxyKind::Connect(login) => login.is_some(),
            ProxyKind::Socks5(login) => login.is_some(),
        }
    }

    /// How addresses of its kind begin.
    pub fn scheme(&self) -> &'static str {
        match self.kind {
            ProxyKind::Connect(_) => "http",
            ProxyKind::Socks5(_) => "socks5",
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.place)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// Why a text names no proxy. None of these shows the text: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadProxy {
    /// It is none at all.
    #[error(
        "this is no proxy: write http://HOST:PORT or socks5://HOST:PORT, with USER:PASSWORD@ before \
         HOST if it wants a login (@, :, / and % in these as %40, %3A, %2F and %25), or none"
    )]
    Shape,
    /// It says no place.
    #[error("the proxy needs a host and a port, such as http://192.168.50.9:3128")]
    Place,
    /// It speaks what we do not.
    #[error("Adit speaks to http:// and socks5:// proxies, not to this kind")]
    Kind,
    /// The login does not fit.
    #[error("the proxy's user must have 1 to 255 bytes, and its password 255 at most")]
    Login,
}

impl FromStr for Proxy {
    type Err = BadProxy;

    fn from_str(text: &str) -> Result<Self, BadProxy> {
        let anywhere = Uri::from_static("https://relay/");
        let matcher = Matcher::builder().all(text.to_owned()).build();
        let intercept = matcher.intercept(&anywhere).ok_or(BadProxy::Shape)?;
        let authority = intercept.uri().authority().ok_or(BadProxy::Shape)?.as_str();
        let kind = match intercept.uri().scheme_str() {
            Some("http") => ProxyKind::Connect(intercept.basic_auth().cloned()),
            // Either way the relay's name goes to the proxy as it is.
            Some("socks5" | "socks5h") => {
                let login = intercept.raw_auth();
                ProxyKind::Socks5(login.map(|(user, pass)| (user.to_owned(), pass.to_owned())))
            }
            _ => return Err(BadProxy::Kind),
        };
        if let ProxyKind::Socks5(Some((user, password))) = &kind
            && (user.is_empty() || user.len().max(password.len()) > LOGIN_BYTES_MAX)
        {
            return Err(BadProxy::Login);
        }
        let Ok(place) = authority.parse() else { return Err(BadProxy::Place) };
        Ok(Self { place, kind })
    }
}

/// By which way connections leave this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// From this address of ours.
    Address(IpAddr),
    /// By this device, whatever the routes say.
    Device(String),
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        // "192.168.50.300" is a slip, not a device.
        let is_numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b".:".contains(&byte));
        let is_device = (1..=DEVICE_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if is_numeric || !is_device {
            return Err(format!(
                "{text:?} is neither an address of this host, such as 192.168.50.2, nor a device, such \
                 as eth1"
            ));
        }
        Ok(Self::Device(text.to_owned()))
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Device(device) => device.fmt(f),
        }
    }
}

/// Families of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Both, which race each other.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Family {
    /// Whether `address` is of it.
    pub fn has(self, address: &SocketAddr) -> bool {
        let is_v4 = address.ip().to_canonical().is_ipv4();
        match self {
            Self::Any => true,
            Self::Ipv4 => is_v4,
            Self::Ipv6 => !is_v4,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            "ipv4" => Ok(Self::Ipv4),
            "ipv6" => Ok(Self::Ipv6),
            _ => Err(format!("{text:?} is no family of addresses: write any, ipv4 or ipv6")),
        }
    }
}

impl GatewayConfig {
    /// The family that is left when the way out has its say, too.
    pub fn family(&self) -> Family {
        match (&self.bind, self.family) {
            (Some(Bind::Address(IpAddr::V4(_))), Family::Any) => Family::Ipv4,
            (Some(Bind::Address(IpAddr::V6(_))), Family::Any) => Family::Ipv6,
            (_, family) => family,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGateway {
    proxy: Option<Spanned<String>>,
    sni: Option<Spanned<String>>,
    bind: Option<Spanned<String>>,
    family: Option<Spanned<String>>,
}

/// A name that TLS can send.
struct Sni(String);

impl FromStr for Sni {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match ServerName::try_from(text) {
            Ok(ServerName::DnsName(_)) => Ok(Self(text.to_owned())),
            _ => Err(format!("{text:?} is no host name, such as www.example.org")),
        }
    }
}

/// What the table says, if it is there.
pub(super) fn gateway(file: &File, raw: Option<&RawGateway>) -> Result<GatewayConfig, ConfigError> {
    let Some(raw) = raw else { return Ok(GatewayConfig::default()) };
    let proxy = raw.proxy.as_ref().map(|text| file.value("proxy", text)).transpose()?;
    let sni = raw.sni.as_ref().map(|text| file.value("sni", text)).transpose()?;
    let bind = raw.bind.as_ref().map(|text| file.value("bind", text)).transpose()?;
    let family = raw.family.as_ref().map(|text| file.value("family", text)).transpose()?;
    let family: Family = family.unwrap_or_default();
    if let (Some(Bind::Address(address)), Some(text)) = (&bind, &raw.bind)
        && !family.has(&SocketAddr::new(*address, 0))
    {
        let reason = format!("{address} is no {family} address, and `family` wants no other");
        return Err(file.error(text.span(), Problem::Value { key: "bind", reason }));
    }
    Ok(GatewayConfig {
        proxy: proxy.unwrap_or_default(),
        sni: sni.map(|Sni(name)| name),
        bind,
        family,
    })
}

#[cfg(test)]
mod tests;
