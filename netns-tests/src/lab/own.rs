//! Hosts with files and processes of their own, as hosts have.
//!
//! Network namespaces share the machine's files, and the lab its processes' numbers. Where a test
//! follows instructions that write to `/etc` or look for a daemon by its name, each host gets a mount
//! and a process namespace: what it writes is seen by itself alone, and gone with the lab; the
//! machine's own files are never written.

use std::process::Stdio;

use super::Lab;
use crate::sandbox::child_of;
use crate::{LabError, Process, SHORT};

/// The folders that are laid over the machine's, and those that must be empty at first.
const MOUNTS: &str = "
    mount -t proc proc /proc
    mount -t tmpfs tmpfs /run
    mkdir -m 755 /run/sshd
    for folder in /etc /var/lib /root; do
        own=/run/own$folder
        mkdir -p $own/upper $own/work
        mount -t overlay -o lowerdir=$folder,upperdir=$own/upper,workdir=$own/work lab $folder
    done
    for folder in /etc/adit /var/lib/adit-relay /root/.ssh; do
        test ! -e $folder || mount -t tmpfs tmpfs $folder
    done
    mkdir -p -m 700 /root/.ssh
    echo ready
    exec cat";

/// One host's files and processes; they last as long as the process that holds them.
#[derive(Debug)]
pub(crate) struct Own {
    _holder: Process,
    first: i32,
}

impl Own {
    /// Makes them for the host called `name`.
    pub(crate) fn make(lab: &Lab, name: &str) -> Result<Self, LabError> {
        let mut command = lab.sandbox().command(Some(name), None);
        let unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--"];
        command.args(unshare).args(["sh", "-e", "-c", MOUNTS]);
        let name = format!("{name}-own");
        let log = lab.log_path(&name);
        let mut holder = Process::start(name, command, log, Stdio::piped())?;
        holder.wait_for_log("ready", SHORT)?;
        let first = child_of(holder.pid()).ok_or_else(|| LabError::Unexpected {
            what: "the holder of a host's files".to_owned(),
            text: holder.log(),
        })?;
        Ok(Self { _holder: holder, first })
    }

    /// The first process of its namespaces, by its outer number.
    pub(crate) fn first_pid(&self) -> i32 {
        self.first
    }
}
