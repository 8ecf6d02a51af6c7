//! What the registrar wants done.

use std::io;

use super::{Daemon, Input};
use crate::exit::Failed;
use crate::net;
use crate::registrar::Action;

impl Daemon {
    pub(super) fn act(&self, action: Action) -> Result<(), Failed> {
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
}
