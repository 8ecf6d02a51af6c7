//! Since when what has come for a socket waits for it.

use adit_proto::id::Time;
use adit_proto::limits::ARRIVALS_MAX;

/// What has come for one socket and it has yet to take. While nothing waits, as with a flow that is
/// idle, it is a pointer's size.
#[derive(Debug, Default)]
pub(in crate::pump) struct Arrivals(Option<Box<Marks>>);

/// Where each receive's part of what waits ends, and when that was. Of fixed size: a socket that
/// stalls costs nothing more.
#[derive(Debug, Default)]
pub(super) struct Marks {
    marks: [(u64, Time); ARRIVALS_MAX],
    first: usize,
    len: usize,
    come: u64,
    taken: u64,
}

/// Memory for those whose bytes will wait: a busy flow must not allocate each time. Each goes to a
/// flow and comes back without being moved.
pub(super) type Spare = Vec<Box<Marks>>;

impl Arrivals {
    /// So many more units, bytes or sends, have come. `spare` is memory to be used again.
    pub(super) fn handle_come(&mut self, units: usize, now: Time, spare: &mut Spare) {
        let marks = self.0.get_or_insert_with(|| spare.pop().unwrap_or_default());
        marks.handle_come(units, now);
    }

    /// So many more were taken; `whole` is told since when each part that is gone had waited. Returns
    /// the memory, ready to be used again, when nothing waits any more.
    pub(super) fn handle_taken(
        &mut self,
        units: usize,
        whole: impl FnMut(Time),
    ) -> Option<Box<Marks>> {
        let marks = self.0.as_mut()?;
        marks.handle_taken(units, whole);
        let mut emptied = self.0.take_if(|marks| marks.len == 0)?;
        *emptied = Marks::default();
        Some(emptied)
    }
}

impl Marks {
    /// Those of one turn count as one; so does what finds no room, with what came last, and is as old
    /// as that.
    fn handle_come(&mut self, units: usize, now: Time) {
        self.come += units as u64;
        let last = (self.first + self.len.saturating_sub(1)) % ARRIVALS_MAX;
        let next = (self.first + self.len) % ARRIVALS_MAX;
        let is_same = |mark: &(u64, Time)| mark.1 == now;
        let joins =
            self.len == ARRIVALS_MAX || self.len > 0 && self.marks.get(last).is_some_and(is_same);
        if let Some(mark) = self.marks.get_mut(if joins { last } else { next }) {
            *mark = (self.come, if joins { mark.1 } else { now });
        }
        self.len += usize::from(!joins);
    }

    /// So many more were taken; `whole` is told since when each part that is gone had waited.
    fn handle_taken(&mut self, units: usize, mut whole: impl FnMut(Time)) {
        self.taken += units as u64;
        while self.len > 0
            && let Some((end, since)) = self.marks.get(self.first)
            && *end <= self.taken
        {
            whole(*since);
            self.first = (self.first + 1) % ARRIVALS_MAX;
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(time: u64) -> Time {
        Time(time * 1_000_000)
    }

    /// A socket that stalls while much comes keeps a bounded number of marks, and all is measured
    /// with the age of something no younger.
    #[test]
    fn a_stalled_socket_keeps_few_marks() {
        let (mut arrivals, mut spare) = (Arrivals::default(), Vec::new());
        (1..=100).for_each(|time| arrivals.handle_come(10, ms(time), &mut spare));
        let mut since = Vec::new();
        spare.extend(arrivals.handle_taken(1_000, |time| since.push(time)));
        let marks: Vec<_> = (1..=ARRIVALS_MAX as u64).map(ms).collect();
        assert_eq!(since, marks);
        arrivals.handle_come(1, ms(200), &mut spare);
        assert!(spare.is_empty(), "the memory is used again");
        assert!(arrivals.handle_taken(1, |time| assert_eq!(time, ms(200))).is_some());
    }

    /// A flow for whose socket nothing waits has a pointer for this; one whose bytes wait, the
    /// control, has more.
    #[test]
    fn an_idle_flow_has_no_marks() {
        let (mut arrivals, mut spare) = (Arrivals::default(), Vec::new());
        assert_eq!(size_of::<Arrivals>(), size_of::<usize>());
        arrivals.handle_come(10, ms(1), &mut spare);
        assert!(arrivals.handle_taken(9, |_| ()).is_none() && arrivals.0.is_some());
        assert!(arrivals.handle_taken(1, |_| ()).is_some() && arrivals.0.is_none());
        assert!(arrivals.handle_taken(1, |_| ()).is_none());
    }
}
