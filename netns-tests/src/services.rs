//! Real servers inside the lab: nginx, sshd, iperf3; and what keeps processors awake.

use std::fs;
use std::path::Path;
use std::thread;

use crate::{Host, LabError, Process, SHORT, helper};

/// An nginx on `host`, serving (and by `PUT` accepting) the files of `root`.
///
/// # Errors
/// When it does not start.
pub fn nginx(host: &Host<'_>, port: u16, root: &Path) -> Result<Process, LabError> {
    let (name, at) = (host.name(), host.at(port));
    let scratch = host.lab().path().join(format!("{name}-nginx"));
    fs::create_dir_all(&scratch).map_err(LabError::io("making nginx's folder"))?;
    let (root, scratch) = (root.display(), scratch.display());
    let configuration = format!(
        "daemon off; master_process off; pid {scratch}/pid; error_log stderr notice; user root;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
           access_log off; sendfile on; tcp_nopush on; keepalive_timeout 60;\n\
           client_body_temp_path {root}; client_max_body_size 0; proxy_temp_path {scratch}/p;\n\
           fastcgi_temp_path {scratch}/f; uwsgi_temp_path {scratch}/u; scgi_temp_path {scratch}/s;\n\
           server {{ listen {at}; root {root}; dav_methods PUT; }}\n\
         }}\n"
    );
    let file = host.lab().path().join(format!("{name}-nginx.conf"));
    fs::write(&file, configuration).map_err(LabError::io("writing nginx's configuration"))?;
    let mut process = host.spawn([
        "nginx".as_ref(),
        "-e".as_ref(),
        "stderr".as_ref(),
        "-c".as_ref(),
        file.as_os_str(),
    ])?;
    listening(host, port, &mut process)?;
    Ok(process)
}

/// An sshd on `host`, at all of its addresses; returns it and the client's key, which may log in as root.
///
/// # Errors
/// When it does not start; in a rootless lab sshd cannot drop its rights.
pub fn sshd(host: &Host<'_>, port: u16) -> Result<(Process, String), LabError> {
    let folder = host.lab().path().display().to_string();
    host.shell(&format!(
        "ssh-keygen -q -t ed25519 -N '' -f {folder}/ssh-host; \
         ssh-keygen -q -t ed25519 -N '' -f {folder}/ssh-client; \
         cp {folder}/ssh-client.pub {folder}/authorized_keys; chmod 600 {folder}/authorized_keys"
    ))?;
    let sshd = host.shell("command -v sshd")?.stdout.trim().to_owned();
    let options = [
        format!("HostKey={folder}/ssh-host"),
        format!("ListenAddress=0.0.0.0:{port}"),
        format!("AuthorizedKeysFile={folder}/authorized_keys"),
        "PidFile=none".to_owned(),
        "StrictModes=no".to_owned(),
        "UsePAM=no".to_owned(),
        "PermitRootLogin=prohibit-password".to_owned(),
    ];
    let mut arguments = vec![sshd, "-D".into(), "-e".into(), "-f".into(), "/dev/null".into()];
    arguments.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
    let mut process = host.spawn(arguments)?;
    listening(host, port, &mut process)?;
    Ok((process, format!("{folder}/ssh-client")))
}

/// An iperf3 server on `host`.
///
/// # Errors
/// When it does not start.
pub fn iperf3_server(host: &Host<'_>, port: u16) -> Result<Process, LabError> {
    let mut process = host.spawn(["iperf3", "-s", "-p", &port.to_string()])?;
    listening(host, port, &mut process)?;
    Ok(process)
}

/// Waits until `process` listens at `port`.
pub(crate) fn listening(host: &Host<'_>, port: u16, process: &mut Process) -> Result<(), LabError> {
    let filter = format!("sport = :{port}");
    let what = format!("{} to listen on port {port}", process.name());
    let waited = crate::wait_until(SHORT, &what, || {
        let sockets = host.run(["ss", "-Hltn", &filter]);
        !process.runs() || sockets.is_ok_and(|output| !output.stdout.trim().is_empty())
    });
    // A server that died says more than "did not listen".
    if process.runs() { waited } else { process.wait_for_log("(listening)", SHORT).map(|_| ()) }
}

/// One idle-priority spinner per processor: a virtual machine's halted core takes tens of
/// microseconds to wake, which is the hypervisor's time, not the tunnel's.
#[derive(Debug)]
pub struct Spinners {
    _processes: Vec<Process>,
}

impl Spinners {
    /// Starts them; they end when this is dropped.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn start(host: &Host<'_>) -> Result<Self, LabError> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let peer = helper("lab-peer")?.display().to_string();
        let start = |core: usize| {
            host.spawn(["taskset", "-c", &core.to_string(), "chrt", "-i", "0", &peer, "spin"])
        };
        Ok(Self { _processes: (0..cores).map(start).collect::<Result<_, _>>()? })
    }
}
