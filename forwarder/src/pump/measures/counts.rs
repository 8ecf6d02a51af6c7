//! What is counted beside the times: flows, bytes, and limits that struck. A reset of the times leaves it
//! alone, since counters that fall would be taken for a restart.

use adit_proto::id::Time;

use super::{Gauge, Measures};
use crate::handoff::{ContactReport, Limit, Way};

/// A contact point's counters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    flows: u64,
    to_tunnel: u64,
    from_tunnel: u64,
    /// In the order of [`Limit::ALL`].
    limited: [u64; Limit::ALL.len()],
}

impl Measures {
    pub(in crate::pump) fn count_flow(&mut self, gauge: Gauge, now: Time) {
        if let Some(times) = self.times(gauge.0, now) {
            times.counts.flows += 1;
        }
    }

    /// So many bytes of a flow have passed this end's socket.
    pub(in crate::pump) fn count_bytes(&mut self, gauge: Gauge, way: Way, bytes: usize, now: Time) {
        let Some(times) = self.times(gauge.0, now) else { return };
        match way {
            Way::ToTunnel => times.counts.to_tunnel += bytes as u64,
            Way::FromTunnel => times.counts.from_tunnel += bytes as u64,
        }
    }

    /// A limit has struck.
    pub(in crate::pump) fn count_limited(&mut self, gauge: Gauge, limit: Limit, now: Time) {
        let at = Limit::ALL.into_iter().position(|one| one == limit);
        if let (Some(at), Some(times)) = (at, self.times(gauge.0, now))
            && let Some(count) = times.counts.limited.get_mut(at)
        {
            *count += 1;
        }
    }

    /// What was counted for each contact point.
    pub(in crate::pump) fn contacts(&self) -> Vec<ContactReport> {
        let report = |times: &super::ContactTimes| {
            let Counts { flows, to_tunnel, from_tunnel, limited } = times.counts;
            let names = Limit::ALL.map(|limit| limit.name().to_owned());
            ContactReport {
                session: times.session.to_string(),
                contact: times.contact.to_string(),
                flows,
                bytes_to_tunnel: to_tunnel,
                bytes_from_tunnel: from_tunnel,
                limited: names.into_iter().zip(limited).collect(),
            }
        };
        self.contacts.iter().map(report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is counted is counted to its own contact point, by way and by limit, and a reset of the
    /// times changes nothing about it.
    #[test]
    fn counters_outlive_a_reset() {
        let (mut measures, now) = (Measures::default(), Time(0));
        let web = measures.contact(&"office".into(), &"web".into(), now);
        let ssh = measures.contact(&"office".into(), &"ssh".into(), now);
        measures.count_flow(web, now);
        measures.count_bytes(web, Way::ToTunnel, 3, now);
        measures.count_bytes(web, Way::FromTunnel, 5, now);
        measures.count_limited(ssh, Limit::FlowsPerS, now);
        measures.reset();
        let [web, ssh] = measures.contacts().try_into().unwrap();
        assert_eq!((web.flows, web.bytes_to_tunnel, web.bytes_from_tunnel), (1, 3, 5));
        assert_eq!((ssh.flows, ssh.limited["flows_per_s"], ssh.limited["flows_max"]), (0, 1, 0));
    }
}
