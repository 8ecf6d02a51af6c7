//! Another process takes over from this one, or this one from another.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit::exit::{Exit, Failed};
use adit::handoff::{Command, ContactSocket, EventReceiver, SessionKey};
use adit::invitation::UnixTime;
use adit::key::PublicKey;
use adit::net::{self, Signal};
use adit::upgrade::{
    self, Deed, Holdable, Packer, Parcel, Predecessor, Unpacker, UpgradeStep, Wait,
};
use adit_proto::id::SessionId;
use serde::{Deserialize, Serialize};

use super::{Daemon, Input, Session};
use crate::contact::Contact;
use crate::registrar::LeaseLeft;
use crate::volumes::Volumes;

/// How long flows may stand still for the disk.
const WRITE_MAX: Duration = Duration::from_secs(1);

/// What the relay's control plane leaves; contact points follow, each as a [`LeaseLeft`]. The first
/// sockets are those of the datagram paths.
#[derive(Debug, Serialize, Deserialize)]
struct Left {
    /// That the carriers know this relay by.
    key: PublicKey,
    last_session: u64,
    sessions: Vec<SessionLeft>,
    sessions_by_key: Vec<(PublicKey, u64)>,
    path_port: Option<u16>,
    path_sockets: usize,
    contact_address: Option<IpAddr>,
    leases: usize,
}

/// What has been taken over, and is made known to the pumps.
struct Restored {
    /// To forwarders this is the relay that they know.
    keeps_carriers: bool,
    contacts: Contacts,
}

/// What is made known to the pumps once this process goes on.
struct Contacts {
    /// Where they have been until now.
    address: Option<IpAddr>,
    all: Vec<Contact>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SessionLeft {
    session: u64,
    key: PublicKey,
    name: String,
    pump: usize,
    remote: SocketAddr,
    local: IpAddr,
    id: Option<SessionId>,
    is_carried: bool,
}

impl From<UpgradeStep> for Input {
    fn from(step: UpgradeStep) -> Self {
        Self::Upgrade(step)
    }
}

impl Holdable for Input {
    fn waits(&self) -> Wait {
        match self {
            Self::Upgrade(_) | Self::Event(_) => Wait::Never,
            Self::Reload(None) => Wait::Always(Some(Signal::Reload)),
            Self::Reload(Some(_)) | Self::Enrol(_) => Wait::Always(None),
            Self::Terminate => Wait::Always(Some(Signal::Terminate)),
            _ => Wait::WhenHeld,
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Failed {
    Failed::new(Exit::Failure, error)
}

impl Daemon {
    /// Brings an upgrade on its way.
    pub(super) fn handle_upgrade(&mut self, step: UpgradeStep, now: Instant) -> Result<(), Failed> {
        let deed = match step {
            UpgradeStep::Asked(_, reply) if self.ending.is_some() => {
                upgrade::refuse(reply, "the relay is ending");
                None
            }
            step => self.upgrade.handle_step(step, now),
        };
        self.perform(deed, now)
    }

    /// Does what the upgrade wants done.
    pub(super) fn perform(&mut self, deed: Option<Deed>, now: Instant) -> Result<(), Failed> {
        match deed {
            None => Ok(()),
            Some(Deed::Freeze) => self.tell_all(|| Command::Freeze),
            Some(Deed::Pack) => {
                // What has moved is counted here: nobody who takes over knows of it.
                self.tell_all(|| Command::Moved)?;
                let mut pumps = 0..self.pumps.len();
                pumps.try_for_each(|pump| self.tell(pump, Command::Pack(pump)))
            }
            Some(Deed::Pass) => {
                // The heir goes on with the file, or nobody takes over.
                let written = self.volumes.write_now(WRITE_MAX, now);
                let own = written.and_then(|()| self.pack(now));
                let deed = self.upgrade.pass(own);
                self.perform(deed, now)
            }
            Some(Deed::Thaw) => {
                self.tell_all(|| Command::Thaw)?;
                self.upgrade.release().into_iter().try_for_each(|input| self.handle(input, now))
            }
            Some(Deed::Leave(heir)) => self.upgrade.leave(heir),
        }
    }

    fn pack(&self, now: Instant) -> io::Result<Parcel> {
        let mut packer = Packer::new()?;
        let session = |(key, state): (&SessionKey, &Session)| SessionLeft {
            session: key.0,
            key: state.key,
            name: state.name.to_string(),
            pump: state.pump,
            remote: state.remote,
            local: state.local,
            id: state.id,
            is_carried: state.is_carried,
        };
        packer.put(&Left {
            key: self.key,
            last_session: self.last_session,
            sessions: self.sessions.iter().map(session).collect(),
            sessions_by_key: self.sessions_by_key.iter().map(|(key, at)| (*key, at.0)).collect(),
            path_port: self.path_port,
            path_sockets: self.path_sockets.len(),
            contact_address: self.config.contact_address,
            leases: self.registrar.leases().count(),
        })?;
        self.path_sockets.iter().try_for_each(|socket| packer.put_socket(socket))?;
        for lease in self.registrar.leases() {
            packer.put(&lease.leave(now))?;
            lease.listener.iter().try_for_each(|listener| packer.put_socket(listener))?;
        }
        packer.finish()
    }

    /// Takes over from another process; nothing is touched before that says so.
    pub(super) fn take_over(
        &mut self,
        predecessor: Predecessor,
        events: &EventReceiver,
    ) -> Result<(), Failed> {
        let now = Instant::now();
        upgrade::freeze(&self.pumps, events)?;
        let (mut control, parcels) = predecessor.receive()?;
        // Sessions go on with their paths, so the pumps have those first.
        let restored = self.restore(&mut control, now).and_then(|restored| {
            let Restored { keeps_carriers, contacts } = restored;
            Ok((contacts, upgrade::restore(&self.pumps, parcels, keeps_carriers, events)?))
        });
        let (contacts, early) = restored.map_err(|error| predecessor.refuse(error))?;
        predecessor.commit()?;
        self.service.taken_over();
        self.move_contacts(contacts.address)?;
        for contact in contacts.all {
            // The others are no reason to end with.
            if let Err(error) = self.listen_at(&contact)? {
                tracing::error!(%contact, "nobody listens where the process before did: {error}");
            }
        }
        let sessions: Vec<_> = self.sessions.keys().copied().collect();
        sessions.into_iter().try_for_each(|session| self.limit(session))?;
        self.judge_volumes(UnixTime::now())?;
        // The configuration may be another by now.
        self.revoke()?;
        self.close_removed()?;
        net::forget_inherited();
        net::resume_accepting();
        tracing::info!(sessions = self.sessions.len(), "taken over from another process");
        self.tell_all(|| Command::Thaw)?;
        early.into_iter().try_for_each(|event| self.handle(Input::Event(event), now))
    }

    /// Goes on with what the other control plane has left; returns what the pumps are to know.
    fn restore(&mut self, control: &mut Unpacker, now: Instant) -> Result<Restored, Failed> {
        let left: Left = control.take().map_err(failed)?;
        // It was written since this process began.
        self.volumes = Volumes::load(&self.config.state, UnixTime::now(), now).map_err(failed)?;
        self.last_session = left.last_session;
        let sockets = (0..left.path_sockets).map(|_| control.take_socket().map(UdpSocket::from));
        let sockets: Vec<_> = sockets.collect::<Result<_, _>>().map_err(failed)?;
        if sockets.is_empty() {
            self.offer_paths()?;
        } else if self.config.datagram_path {
            (self.path_port, self.path_sockets) = (left.path_port, sockets);
            self.hand_out_paths()?;
        }
        for left in left.sessions {
            let SessionLeft { session, key, name, pump, remote, local, id, is_carried } = left;
            let name = Arc::from(name);
            let state = Session { key, name, pump, remote, local, id, is_carried };
            self.sessions.insert(SessionKey(session), state);
        }
        let newest = left.sessions_by_key.into_iter();
        self.sessions_by_key = newest.map(|(key, session)| (key, SessionKey(session))).collect();
        let mut contacts = Contacts { address: left.contact_address, all: Vec::new() };
        for _ in 0..left.leases {
            let left: LeaseLeft = control.take().map_err(failed)?;
            let listener = left.has_listener.then(|| control.take_socket()).transpose();
            let protocol = left.protocol;
            let listener =
                listener.map_err(failed)?.map(|socket| ContactSocket::from((protocol, socket)));
            contacts.all.push(left.contact.clone());
            self.registrar.take_over(left, listener, now);
        }
        Ok(Restored { keeps_carriers: left.key == self.key, contacts })
    }
}
