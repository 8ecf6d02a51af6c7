//! The proxy that each place of the relay is reached through: the file's, or the environment's.

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use crate::config::{BadProxy, GatewayConfig, Place, Proxy, ProxyChoice};

/// Where a system names its proxies, in the order in which they count.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// Where it names what is reached without.
const EXCEPT_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// A proxy of the environment that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the environment's {variable}: {source}; or set `proxy` in [gateway], where \"none\" ignores the \
     environment"
)]
pub struct BadEnvironment {
    /// Where it was found.
    pub variable: &'static str,
    /// What is wrong with it.
    pub source: BadProxy,
}

/// What one place is reached through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Through {
    /// The proxy.
    pub proxy: Proxy,
    /// The environment's variable that names it; none when the configuration does.
    pub variable: Option<&'static str>,
}

/// The proxy for each of `places`, in their order. `variable` is the environment's value of a name.
///
/// # Errors
/// When the environment names a proxy that cannot be used.
pub fn proxies(
    config: &GatewayConfig,
    places: &[Place],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Option<Through>>, BadEnvironment> {
    let through = match &config.proxy {
        ProxyChoice::Direct => None,
        ProxyChoice::Proxy(proxy) => {
            let through = Through { proxy: proxy.clone(), variable: None };
            return Ok(vec![Some(through); places.len()]);
        }
        ProxyChoice::Environment => {
            let found = |name| Some((name, variable(name).filter(|value| !value.is_empty())?));
            PROXY_VARIABLES.into_iter().find_map(found)
        }
    };
    let Some((variable_name, value)) = through else { return Ok(vec![None; places.len()]) };
    let except = EXCEPT_VARIABLES.into_iter().find_map(&variable).unwrap_or_default();
    // The matcher takes the asterisk to mean names alone.
    if except.split(',').any(|item| item.trim() == "*") {
        return Ok(vec![None; places.len()]);
    }
    // Any proxy will do to ask who is reached without.
    let matcher = Matcher::builder().all("http://proxy:1").no(except).build();
    let is_wanted = |place: &Place| {
        // As everywhere: a proxy has another host's loopback.
        let is_own = place.literal().is_some_and(|address| address.ip().is_loopback());
        if is_own || place.host == "localhost" {
            return false;
        }
        let uri = format!("https://{place}/").parse::<Uri>();
        uri.is_ok_and(|uri| matcher.intercept(&uri).is_some())
    };
    if !places.iter().any(is_wanted) {
        return Ok(vec![None; places.len()]);
    }
    let bad = |source| BadEnvironment { variable: variable_name, source };
    let proxy: Proxy = value.parse().map_err(bad)?;
    let through = Through { proxy, variable: Some(variable_name) };
    Ok(places.iter().map(|place| is_wanted(place).then(|| through.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(proxy: &str, environment: &[(&str, &str)]) -> Result<Vec<String>, BadEnvironment> {
        let proxy = if proxy.is_empty() { ProxyChoice::default() } else { proxy.parse().unwrap() };
        let config = GatewayConfig { proxy, ..GatewayConfig::default() };
        let places = ["relay.example.net:443", "192.0.2.7:443", "[2001:db8::7]:443"];
        let places = places.map(|place| place.parse().unwrap());
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let found = proxies(&config, &places, variable)?;
        let shown = |through: Option<Through>| match through {
            Some(Through { proxy, variable }) => format!("{proxy} {}", variable.unwrap_or("file")),
            None => "direct".to_owned(),
        };
        Ok(found.into_iter().map(shown).collect())
    }

    /// The file decides; then HTTPS_PROXY, then ALL_PROXY; what is empty is not there.
    #[test]
    fn the_file_comes_before_the_environment() {
        let all = ("ALL_PROXY", "socks5://192.0.2.1:1080");
        let https = ("https_proxy", "http://192.0.2.2:3128");
        let first = |proxy, environment: &[_]| chosen(proxy, environment).unwrap().remove(0);
        assert_eq!(first("", &[all, https]), "http://192.0.2.2:3128 https_proxy");
        assert_eq!(first("", &[all, ("HTTPS_PROXY", "")]), "socks5://192.0.2.1:1080 ALL_PROXY");
        assert_eq!(first("http://192.0.2.3:1", &[all]), "http://192.0.2.3:1 file");
        assert_eq!(first("none", &[all, https]), "direct");
        assert_eq!(first("", &[]), "direct");
    }

    /// Who is excepted by name, address or network is reached without the environment's proxy, and
    /// with the file's all the same.
    #[test]
    fn exceptions_of_the_environment_are_honoured() {
        let all = ("ALL_PROXY", "http://192.0.2.1:3128");
        let through = "http://192.0.2.1:3128 ALL_PROXY";
        let with = |no: &'static str| chosen("", &[all, ("no_proxy", no)]).unwrap();
        assert_eq!(with("example.net"), ["direct", through, through]);
        assert_eq!(with("192.0.2.0/24, 2001:db8::7"), [through, "direct", "direct"]);
        assert_eq!(with("*"), ["direct"; 3]);
        assert_eq!(with(""), [through; 3]);
        let file = chosen("http://192.0.2.3:1", &[all, ("no_proxy", "*")]).unwrap();
        assert_eq!(file, ["http://192.0.2.3:1 file"; 3]);
    }

    /// A proxy that cannot be used is named by its variable, and only if it were used.
    #[test]
    fn a_bad_proxy_of_the_environment_is_named_without_its_value() {
        let bad = ("ALL_PROXY", "https://jo:secret@192.0.2.1:443");
        let error = chosen("", &[bad]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("ALL_PROXY") && !text.contains("secret"), "{text}");
        assert_eq!(chosen("", &[bad, ("NO_PROXY", "*")]).unwrap(), ["direct"; 3]);
        assert_eq!(chosen("none", &[bad]).unwrap(), ["direct"; 3]);
    }
}
