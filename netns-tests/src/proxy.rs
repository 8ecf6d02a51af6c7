//! Proxies as networks have them: tinyproxy for HTTP's `CONNECT`, microsocks for SOCKS5.

use std::fs;

use crate::services::listening;
use crate::{Host, LabError, Process};

/// Where [`connect_proxy`] listens.
pub const CONNECT_PORT: u16 = 3128;
/// Where [`socks_proxy`] listens.
pub const SOCKS_PORT: u16 = 1080;

/// A user and a password.
pub type Login<'a> = (&'a str, &'a str);

/// An HTTP proxy on `host`, at port [`CONNECT_PORT`], which allows `CONNECT` to port 443 (403
/// otherwise), with `login` to those who have it (407 to others).
///
/// # Errors
/// When it does not start.
pub fn connect_proxy(host: &Host<'_>, login: Option<Login<'_>>) -> Result<Process, LabError> {
    let (name, address) = (host.name(), host.address());
    let login = login.map(|(user, password)| format!("BasicAuth {user} {password}\n"));
    let configuration = format!(
        "Port {CONNECT_PORT}\nListen {address}\nTimeout 600\nMaxClients 100\nLogLevel Connect\n\
         ConnectPort 443\n{}",
        login.unwrap_or_default()
    );
    let file = host.lab().path().join(format!("{name}-tinyproxy.conf"));
    fs::write(&file, configuration).map_err(LabError::io("writing tinyproxy's configuration"))?;
    let arguments = ["tinyproxy".as_ref(), "-d".as_ref(), "-c".as_ref(), file.as_os_str()];
    let mut process = host.spawn(arguments)?;
    listening(host, CONNECT_PORT, &mut process)?;
    Ok(process)
}

/// A SOCKS5 proxy on `host`, at port [`SOCKS_PORT`]; with `login`, for those who have it.
///
/// # Errors
/// When it does not start.
pub fn socks_proxy(host: &Host<'_>, login: Option<Login<'_>>) -> Result<Process, LabError> {
    let port = SOCKS_PORT.to_string();
    let mut arguments = vec!["microsocks", "-i", host.address(), "-p", &port];
    if let Some((user, password)) = login {
        arguments.extend(["-u", user, "-P", password]);
    }
    let mut process = host.spawn(arguments)?;
    listening(host, SOCKS_PORT, &mut process)?;
    Ok(process)
}
