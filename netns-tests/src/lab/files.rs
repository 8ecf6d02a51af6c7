//! Hosts with files of their own, as hosts have.
//!
//! Network namespaces share the machine's files. Where a test follows instructions that write to
//! `/etc`, each host gets a mount namespace: what it writes there is seen by itself alone, and gone
//! with the lab; the machine's own files are never written.

use std::process::Stdio;

use super::Lab;
use crate::{LabError, Process, SHORT};

/// The folders that are laid over the machine's, and those that are empty at first.
const MOUNTS: &str = "
    mount -t tmpfs tmpfs /run
    mkdir -m 755 /run/sshd
    for folder in /etc /var/lib /root; do
        own=/run/own$folder
        mkdir -p $own/upper $own/work
        mount -t overlay -o lowerdir=$folder,upperdir=$own/upper,workdir=$own/work lab $folder
    done
    for folder in /etc/adit /var/lib/adit-relay /root/.ssh; do
        mkdir -p $folder
        mount -t tmpfs -o mode=700 tmpfs $folder
    done
    echo ready
    exec cat";

/// One host's files; they last as long as the process that holds them.
#[derive(Debug)]
pub(crate) struct OwnFiles {
    holder: Process,
}

impl OwnFiles {
    /// Mounts them for the host called `name`.
    pub(crate) fn mount(lab: &Lab, name: &str) -> Result<Self, LabError> {
        let mut command = lab.sandbox().command(Some(name), None);
        command.args(["unshare", "--mount", "--", "sh", "-e", "-c", MOUNTS]);
        let name = format!("{name}-files");
        let log = lab.log_path(&name);
        let mut holder = Process::start(name, command, log, Stdio::piped())?;
        holder.wait_for_log("ready", SHORT)?;
        Ok(Self { holder })
    }

    /// Whose mount namespace it is, by its outer number.
    pub(crate) fn holder_pid(&self) -> i32 {
        self.holder.pid()
    }
}
