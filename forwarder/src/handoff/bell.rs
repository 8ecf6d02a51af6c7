//! The order in which a crossing's ends touch its queue and its bell, so that no wake-up is lost.
//!
//! Who hands over puts the message into the queue first and rings then. Who takes waits for the
//! bell, silences it, and takes until the queue is empty, in that order: what comes later rings again.
//!
//! What hands over is here, and what the tests try every order of. Who takes is elsewhere, because each
//! silences its bell by what it waits with, and is only modelled: the pump's turn (`reap`, then
//! `take_commands`) and [`crate::net::forward_events`].

use crossbeam::channel::{Sender, TrySendError};
use nix::sys::eventfd::EventFd;

use adit_ring::Waker;

/// What messages wait in.
pub(super) trait Queue {
    /// One of them.
    type Message;
    /// One that the queue has no room for, or no reader.
    type Refused;

    /// Puts a message behind the others, if there is room.
    fn push(&self, message: Self::Message) -> Result<(), Self::Refused>;
}

/// What the other end waits for.
pub(super) trait Bell {
    /// Ends the other end's wait, the present one or the next.
    fn ring(&self);
}

/// Hands `message` over, or tells why it cannot be; the other end is woken in either case.
pub(super) fn hand_over<Q: Queue>(
    queue: &Q,
    bell: &impl Bell,
    message: Q::Message,
) -> Result<(), Q::Refused> {
    let pushed = queue.push(message);
    bell.ring();
    pushed
}

impl<M> Queue for Sender<M> {
    type Message = M;
    type Refused = TrySendError<M>;

    fn push(&self, message: M) -> Result<(), TrySendError<M>> {
        self.try_send(message)
    }
}

impl Bell for Waker {
    fn ring(&self) {
        self.wake();
    }
}

impl Bell for EventFd {
    fn ring(&self) {
        // It fails only when the counter is at its end, and then the reader is awake anyway.
        self.write(1).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicBool, Ordering};

    use loom::sync::{Arc, Mutex};
    use loom::thread;

    use super::*;

    /// So often the reader looks while the others are at it.
    const LOOKS: usize = 2;
    /// And so often a thread may be interrupted where it could go on: two lose a wake-up already.
    const PREEMPTIONS_MAX: usize = 3;

    /// A queue and an eventfd, of which loom tries every order of accesses.
    #[derive(Default)]
    struct Model {
        queue: Mutex<VecDeque<u32>>,
        is_rung: Mutex<bool>,
    }

    impl Queue for Model {
        type Message = u32;
        type Refused = Infallible;

        fn push(&self, message: u32) -> Result<(), Infallible> {
            self.queue.lock().unwrap().push_back(message);
            Ok(())
        }
    }

    impl Bell for Model {
        fn ring(&self) {
            *self.is_rung.lock().unwrap() = true;
        }
    }

    impl Model {
        fn is_rung(&self) -> bool {
            *self.is_rung.lock().unwrap()
        }

        fn silence(&self) {
            *self.is_rung.lock().unwrap() = false;
        }

        fn take_all(&self, taken: &mut Vec<u32>) {
            while let Some(message) = self.pop() {
                taken.push(message);
            }
        }

        fn pop(&self) -> Option<u32> {
            self.queue.lock().unwrap().pop_front()
        }
    }

    type HandOver = fn(&Model, u32);
    type Take = fn(&Model, &mut Vec<u32>);

    /// Two hand over a message each beside one that takes whenever the bell has rung. Whether there is
    /// an order of events in which that one sleeps in the end, and has not got both.
    fn can_lose(hand_over: HandOver, take: Take) -> bool {
        static LOST: AtomicBool = AtomicBool::new(false);
        LOST.store(false, Ordering::Relaxed);
        let mut orders = loom::model::Builder::new();
        orders.preemption_bound = Some(PREEMPTIONS_MAX);
        orders.check(move || {
            let model = Arc::new(Model::default());
            let senders = [1, 2].map(|message| {
                let model = Arc::clone(&model);
                thread::spawn(move || hand_over(&model, message))
            });
            let mut taken = Vec::new();
            for _ in 0..LOOKS {
                if model.is_rung() {
                    take(&model, &mut taken);
                }
            }
            for sender in senders {
                sender.join().unwrap();
            }
            // Nobody else rings any more: once it is silent the reader sleeps.
            while model.is_rung() {
                take(&model, &mut taken);
            }
            taken.sort_unstable();
            LOST.fetch_or(taken != [1, 2], Ordering::Relaxed);
        });
        LOST.load(Ordering::Relaxed)
    }

    fn in_order(model: &Model, message: u32) {
        hand_over(model, model, message).unwrap();
    }

    fn too_early(model: &Model, message: u32) {
        model.ring();
        model.push(message).unwrap();
    }

    fn silence_and_take(model: &Model, taken: &mut Vec<u32>) {
        model.silence();
        model.take_all(taken);
    }

    fn silence_too_late(model: &Model, taken: &mut Vec<u32>) {
        model.take_all(taken);
        model.silence();
    }

    /// Whatever the order of events, every message is taken. The controls: who rings before the
    /// message is there loses one, and so does who silences the bell after having taken.
    #[test]
    fn no_order_of_events_loses_a_wake_up() {
        assert!(!can_lose(in_order, silence_and_take));
        assert!(can_lose(too_early, silence_and_take));
        assert!(can_lose(in_order, silence_too_late));
    }
}
