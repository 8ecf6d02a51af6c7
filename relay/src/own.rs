//! The addresses of the relay's host, as they were a moment ago: the kernel lists all interfaces for
//! each answer, and a forwarder may have many addresses judged.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How old what is known may be: an address that the host gets has to be guarded soon.
const AGE_MAX: Duration = Duration::from_secs(1);

/// What is known of the addresses, if anything is.
#[derive(Debug, Default)]
pub(crate) struct OwnAddresses(Option<(Instant, BTreeSet<IpAddr>)>);

impl OwnAddresses {
    /// The addresses; `read` says them when what is known is too old.
    pub(crate) fn at(
        &mut self,
        now: Instant,
        read: impl FnOnce() -> io::Result<BTreeSet<IpAddr>>,
    ) -> io::Result<&BTreeSet<IpAddr>> {
        let is_fresh = |(read_at, _): &(Instant, _)| now.duration_since(*read_at) < AGE_MAX;
        let known = match self.0.take().filter(is_fresh) {
            Some(known) => known,
            None => (now, read()?),
        };
        Ok(&self.0.insert(known).1)
    }

    /// Takes that the configuration has changed.
    pub(crate) fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are read once in a while, and never taken from before a failure or a change.
    #[test]
    fn they_are_read_again_when_they_are_old() {
        let (mut own, start) = (OwnAddresses::default(), Instant::now());
        let one = |last| move || Ok(BTreeSet::from([IpAddr::from([192, 0, 2, last])]));
        let never = || panic!("read again too soon");
        let first = one(1)().unwrap();
        assert_eq!(*own.at(start, one(1)).unwrap(), first);
        let almost = start + AGE_MAX - Duration::from_millis(1);
        assert_eq!(*own.at(almost, never).unwrap(), first);
        assert_ne!(*own.at(start + AGE_MAX, one(2)).unwrap(), first);
        assert!(own.at(start + 2 * AGE_MAX, || Err(io::ErrorKind::Other.into())).is_err());
        assert_eq!(*own.at(start + 2 * AGE_MAX, one(1)).unwrap(), first);
        own.forget();
        assert_ne!(*own.at(start + 2 * AGE_MAX, one(2)).unwrap(), first);
    }
}
