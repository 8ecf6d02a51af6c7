//! What the registrar wants done, and what is written into the audit log.

use std::io;

use super::{Daemon, Input};
use crate::audit::{Entry, Event};
use crate::exit::Failed;
use crate::handoff::Down;
use crate::net;
use crate::registrar::Action;

impl Daemon {
    /// Does all that the registrar wants done.
    pub(super) fn act_all(&mut self) -> Result<(), Failed> {
        while let Some(action) = self.registrar.poll_action() {
            self.act(action)?;
        }
        Ok(())
    }

    fn act(&self, action: Action) -> Result<(), Failed> {
        match action {
            Action::Tell(command) => return self.tell(command),
            Action::Resolve(id, place) => {
                let inbox = self.inbox.clone();
                net::spawn(async move {
                    let resolved = net::resolve(place).await.and_then(|addresses| {
                        addresses.first().copied().ok_or_else(|| io::ErrorKind::NotFound.into())
                    });
                    // The loop has ended: nobody needs the address.
                    inbox.send(Input::Resolved(id, resolved)).await.ok();
                });
            }
            Action::Check(id, address) => {
                let inbox = self.inbox.clone();
                net::spawn(async move {
                    let checked = net::check(&address).await;
                    inbox.send(Input::Checked(id, checked)).await.ok();
                });
            }
        }
        Ok(())
    }

    /// Writes down what has happened to the peers.
    pub(super) fn record_peers(&mut self) {
        while let Some(entry) = self.registrar.poll_entry() {
            self.audit.record(&entry);
        }
    }

    pub(super) fn record_up(&self) {
        let mut entry = Entry::new(Event::TunnelUp).with("relay", &self.name);
        if let (Some(remote), Some(id)) = (self.tunnel.remote(), self.tunnel.id()) {
            entry = entry.with("remote", remote).with("session", id);
        }
        self.audit.record(&entry);
    }

    /// A tunnel that never was does not end.
    pub(super) fn record_down(&self, was_up: bool, why: &Down) {
        if was_up {
            let entry = Entry::new(Event::TunnelDown).with("relay", &self.name);
            self.audit.record(&entry.with("why", why));
        }
    }
}
