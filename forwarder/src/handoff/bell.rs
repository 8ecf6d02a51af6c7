//! The order in which a crossing's ends touch its queue and its bell, so that no wake-up is lost.
//!
//! Who hands over puts the message into the queue first and rings then. Who takes waits for the
//! bell, silences it, and takes until the queue is empty, in that order: what comes later rings again.

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

    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::*;

    /// A queue and an eventfd, of which loom tries every order of accesses.
    #[derive(Default)]
    struct Model {
        queue: Mutex<VecDeque<u32>>,
        rung: Mutex<u64>,
        changed: Condvar,
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
            *self.rung.lock().unwrap() += 1;
            self.changed.notify_one();
        }
    }

    impl Model {
        fn wait(&self) {
            let mut rung = self.rung.lock().unwrap();
            while *rung == 0 {
                rung = self.changed.wait(rung).unwrap();
            }
        }

        fn silence(&self) {
            *self.rung.lock().unwrap() = 0;
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

    /// Two hand a message over each, and one waits for both. Loom fails where nobody can go on.
    fn try_every_order(hand_over: fn(&Model, u32), take: fn(&Model, &mut Vec<u32>)) {
        loom::model(move || {
            let model = Arc::new(Model::default());
            let senders = [1, 2].map(|message| {
                let model = Arc::clone(&model);
                thread::spawn(move || hand_over(&model, message))
            });
            let mut taken = Vec::new();
            while taken.len() < senders.len() {
                model.wait();
                take(&model, &mut taken);
            }
            senders.map(|sender| sender.join().unwrap());
            taken.sort_unstable();
            assert_eq!(taken, [1, 2]);
        });
    }

    fn in_order(model: &Model, message: u32) {
        hand_over(model, model, message).unwrap();
    }

    fn silence_and_take(model: &Model, taken: &mut Vec<u32>) {
        model.silence();
        model.take_all(taken);
    }

    /// Whatever the order of events, every message is taken, and nobody sleeps over one.
    #[test]
    fn no_order_of_events_loses_a_wake_up() {
        try_every_order(in_order, silence_and_take);
    }

    /// The control: whoever rings before the message is there is found out.
    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_bell_before_the_message_loses_it() {
        let too_early = |model: &Model, message| {
            model.ring();
            model.push(message).unwrap();
        };
        try_every_order(too_early, silence_and_take);
    }

    /// The control: whoever silences the bell after having taken is found out.
    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_bell_that_is_silenced_too_late_loses_a_message() {
        let too_late = |model: &Model, taken: &mut Vec<u32>| {
            model.take_all(taken);
            model.silence();
        };
        try_every_order(in_order, too_late);
    }
}
