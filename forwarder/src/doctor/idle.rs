//! How long the gateway remembers what is idle. For each of some times a connection and a UDP socket of
//! their own are left alone for as long; all wait at once, so that the longest is what it costs.

use std::net::IpAddr;
use std::time::Duration;

use adit_proto::limits::{PATH_PROBE_IDLE, PING_IDLE};
use futures_util::future::{join, join_all};
use tokio::time::{Instant, sleep_until};

use super::cause::Cause;
use super::datagrams::{Ear, Ends};
use super::shake::Way;
use super::sheet::Sheet;
use super::visit::{Visit, VisitError};

/// The times, in seconds.
const RUNGS_S: [u64; 14] = [3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 600];
/// The number of the first rung's datagrams.
const NUMBER: u16 = 100;
/// The connection that the relay is asked over must not be forgotten itself.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// One time, and what waits that long.
struct Rung {
    seconds: u64,
    connection: Option<Visit>,
    ear: Option<(Ear, u16)>,
}

/// What is known of one protocol: alive after so many seconds, and dead after so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Memory {
    alive_s: u64,
    dead_s: Option<u64>,
}

impl Memory {
    fn note(&mut self, seconds: u64, is_alive: Option<bool>) {
        match is_alive {
            Some(true) if self.dead_s.is_none() => self.alive_s = seconds,
            Some(false) if self.dead_s.is_none() => self.dead_s = Some(seconds),
            _ => {}
        }
    }
}

/// Finds it out, up to `longest`.
pub(super) async fn examine(
    sheet: &mut Sheet<'_>,
    visit: &mut Visit,
    (way, ends, local): (&Way, Option<&Ends>, IpAddr),
    longest: Duration,
) -> Result<(), VisitError> {
    let rungs = (NUMBER..).zip(RUNGS_S).filter(|(_, seconds)| *seconds <= longest.as_secs());
    let rungs = join_all(rungs.map(|(number, seconds)| async move {
        let (connection, ear) = join(way.dial(), opened(ends, local, number)).await;
        let mut connection = connection.ok().map(Visit::new);
        // The relay may have refused it: that would look as if it had been forgotten.
        if let Some(visit) = &mut connection
            && visit.still().await.is_err()
        {
            connection = None;
        }
        Rung { seconds, connection, ear: ear.map(|ear| (ear, number)) }
    }))
    .await;
    let start = Instant::now();
    let (mut tcp, mut udp) = (Memory::default(), Memory::default());
    for Rung { seconds, connection, ear } in rungs {
        wait(visit, start + Duration::from_secs(seconds)).await?;
        let is_carried = async {
            let mut connection = connection?;
            Some(connection.still().await.is_ok())
        };
        let is_reached = async {
            let (ear, number) = ear.as_ref()?;
            Some(ear.is_reached(visit, ends?, *number).await)
        };
        let (is_carried, is_reached) = join(is_carried, is_reached).await;
        tcp.note(seconds, is_carried);
        udp.note(seconds, is_reached.transpose()?);
        if tcp.dead_s.is_some() && udp.dead_s.is_some() {
            break;
        }
    }
    say(sheet, "TCP connections", tcp, PING_IDLE);
    say(sheet, "UDP flows", udp, PATH_PROBE_IDLE);
    Ok(())
}

async fn opened(ends: Option<&Ends>, local: IpAddr, number: u16) -> Option<Ear> {
    let ear = Ear::open(local).await.ok()?;
    ear.greet(ends?, number).await.then_some(ear)
}

async fn wait(visit: &mut Visit, until: Instant) -> Result<(), VisitError> {
    while Instant::now() < until {
        sleep_until(until.min(Instant::now() + SIGN_OF_LIFE)).await;
        visit.still().await?;
    }
    Ok(())
}

fn say(sheet: &mut Sheet<'_>, what: &'static str, memory: Memory, every: Duration) {
    let Memory { alive_s, dead_s } = memory;
    let Some(dead_s) = dead_s else {
        if alive_s > 0 {
            sheet.ok("idle", format!("{what} are remembered for {alive_s} s and longer"));
        } else {
            sheet.ok("idle", format!("{what}: not measured, as none could be had to wait with"));
        }
        return;
    };
    let every_s = every.as_secs();
    let text = format!("{what} are forgotten after {alive_s} to {dead_s} s");
    if alive_s >= every_s {
        let text = format!("{text}; Adit sends something every {every_s} s");
        return sheet.ok("idle", text);
    }
    sheet.warn("idle", text, Cause::Idle { what, after_s: (alive_s, dead_s), every_s });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first time at which nothing was there counts, and what was not measured says nothing.
    #[test]
    fn the_first_silence_counts() {
        let mut memory = Memory::default();
        for (seconds, is_alive) in
            [(3, Some(true)), (5, None), (10, Some(false)), (15, Some(true)), (20, Some(false))]
        {
            memory.note(seconds, is_alive);
        }
        assert_eq!(memory, Memory { alive_s: 3, dead_s: Some(10) });
    }

    /// What is forgotten later than Adit speaks is no trouble.
    #[test]
    fn only_what_is_too_short_is_a_warning() {
        let shown = |alive_s, dead_s| {
            let mut nothing = |_: &crate::doctor::Step| {};
            let mut sheet = Sheet::new(&mut nothing);
            let memory = Memory { alive_s, dead_s };
            say(&mut sheet, "TCP connections", memory, Duration::from_secs(5));
            sheet.report()
        };
        assert!(shown(3, Some(5)).diagnosis.contains("between 3 and 5 s"));
        assert!(!shown(20, Some(30)).diagnosis.contains("forget"));
        assert!(shown(600, None).steps[0].what.contains("600 s and longer"));
        assert!(shown(0, None).steps[0].what.contains("not measured"));
    }
}
