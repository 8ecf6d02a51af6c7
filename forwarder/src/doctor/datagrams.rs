//! UDP: whether it gets to the relay and back, at the port of the datagram paths and at others, and what
//! the gateway's NAT makes of it.
//!
//! ```text
//!   filtering  one socket ──▶ one port; then the others send to where that came from, and it last:
//!                             what it sends has to arrive, so that silence means something
//!   mapping    another ─────▶ two ports of the relay, another address of it, the paths' port
//! ```
//!
//! In this order: there are gateways that remember who was sent to, and not by which socket.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::cause::Cause;
use super::nat::{self, LetIn, Sighting};
use super::sheet::Sheet;
use super::visit::{Visit, VisitError};
use crate::probe::{Heard, Opened, PING_LEN, Ping};

/// How often a datagram that is not answered is sent, and how long each answer is waited for.
const ROUNDS: u32 = 4;
const ROUND: Duration = Duration::from_millis(300);
/// The datagrams' numbers: by which socket of ours, and to which of the relay's.
const MAPPING: u16 = 1;
const PATH: u16 = 9;
const FILTERING: u16 = 10;

/// Where the relay's sockets are for us.
pub(super) struct Ends {
    pub(super) opened: Opened,
    remote: IpAddr,
}

impl Ends {
    pub(super) fn new(opened: Opened, remote: IpAddr) -> Self {
        Self { opened, remote }
    }

    fn at(&self, index: usize) -> Option<SocketAddr> {
        let place = self.opened.sockets.get(index)?;
        Some(SocketAddr::new(place.ip.unwrap_or(self.remote), place.port))
    }

    fn path(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.remote, self.opened.path?.port))
    }

    fn ping(&self, number: u16) -> Vec<u8> {
        Ping { token: self.opened.token, number }.to_bytes().to_vec()
    }

    /// What the first socket sends when it is asked to: nothing that was ever sent to it.
    fn asked_ping(&self, number: u16) -> Vec<u8> {
        Ping { token: self.opened.token, number }.asked().to_bytes().to_vec()
    }

    fn path_ping(&self) -> Vec<u8> {
        let ping = Ping { token: self.opened.token, number: PATH };
        ping.to_path_bytes(self.opened.path.map_or(0, |path| path.id))
    }
}

/// A socket of ours.
pub(super) struct Ear {
    socket: UdpSocket,
    local: SocketAddr,
}

impl Ear {
    pub(super) async fn open(local: IpAddr) -> std::io::Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::new(local, 0)).await?;
        let local = socket.local_addr()?;
        Ok(Self { socket, local })
    }

    /// Sends what is wanted until each place has answered, a few times at most; who has.
    async fn ask(&self, wanted: &[(SocketAddr, Vec<u8>)]) -> BTreeSet<SocketAddr> {
        let mut answered = BTreeSet::new();
        for _ in 0..ROUNDS {
            for (to, bytes) in wanted.iter().filter(|(to, _)| !answered.contains(to)) {
                // What a gateway rejects is not answered either.
                self.socket.send_to(bytes, to).await.ok();
            }
            let until = Instant::now() + ROUND;
            while answered.len() < wanted.len() {
                let Some((from, bytes)) = self.hear(until).await else { break };
                let is_wanted = |(to, sent): &(SocketAddr, Vec<u8>)| *to == from && *sent == bytes;
                if wanted.iter().any(is_wanted) {
                    answered.insert(from);
                }
            }
            if answered.len() == wanted.len() {
                break;
            }
        }
        answered
    }

    /// The next datagram until then, of whatever source.
    async fn hear(&self, until: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        let mut buffer = [0; PING_LEN + 8];
        loop {
            match timeout_at(until, self.socket.recv_from(&mut buffer)).await {
                Ok(Ok((len, from))) => {
                    return Some((from, buffer.get(..len).unwrap_or_default().to_vec()));
                }
                // An ICMP error of something sent before.
                Ok(Err(_)) => tokio::task::yield_now().await,
                Err(_elapsed) => return None,
            }
        }
    }

    /// Sends the datagram `number` to the relay's first socket until it is answered.
    pub(super) async fn greet(&self, ends: &Ends, number: u16) -> bool {
        let Some(first) = ends.at(0) else { return false };
        !self.ask(&[(first, ends.ping(number))]).await.is_empty()
    }

    /// Whether a datagram that the relay is asked to send arrives.
    pub(super) async fn is_reached(
        &self,
        visit: &mut Visit,
        ends: &Ends,
        number: u16,
    ) -> Result<bool, VisitError> {
        let asked = ends.asked_ping(number);
        for _ in 0..ROUNDS {
            visit.send(0, number).await?;
            let until = Instant::now() + ROUND;
            // Late answers to what was sent long ago say nothing of now.
            while let Some((from, bytes)) = self.hear(until).await {
                if Some(from) == ends.at(0) && bytes == asked {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Examines UDP.
pub(super) async fn examine(
    sheet: &mut Sheet<'_>,
    visit: &mut Visit,
    ends: &Ends,
    local: IpAddr,
) -> Result<(), VisitError> {
    let ear = match Ear::open(local).await {
        Ok(ear) => ear,
        Err(error) => {
            sheet.warn("udp", format!("no socket: {error}"), Cause::UdpBlocked);
            return Ok(());
        }
    };
    let let_in = filtering(visit, ends, local).await?;
    let mut wanted = Vec::new();
    for (index, number) in (0..ends.opened.sockets.len()).zip(MAPPING..) {
        wanted.extend(ends.at(index).map(|to| (to, ends.ping(number))));
    }
    wanted.extend(ends.path().map(|to| (to, ends.path_ping())));
    let answered = ear.ask(&wanted).await;
    let heard = visit.heard().await?;
    let has_answered = |at: Option<SocketAddr>| at.is_some_and(|at| answered.contains(&at));
    let any = (0..ends.opened.sockets.len()).any(|index| has_answered(ends.at(index)));
    let path = ends.path().map(|at| (at.port(), answered.contains(&at)));
    // Where its other address is not reached at all, what it does not send says nothing.
    let mut let_in = let_in;
    if let Some(let_in) = &mut let_in
        && !has_answered(ends.at(2))
    {
        let_in.other_address = None;
    }
    say_path(sheet, path, any, !heard.is_empty());
    if heard.is_empty() {
        if path.is_some_and(|(_, is_open)| is_open) {
            let why = "none of the relay's other ports is reached: its own firewall may close them";
            sheet.ok("nat", format!("unknown: {why}"));
        }
        return Ok(());
    }
    let seen = |number| {
        heard.iter().find(|heard: &&Heard| heard.number == number).map(|heard| heard.source)
    };
    let sighting = Sighting {
        local: ear.local,
        first: seen(MAPPING),
        second: seen(MAPPING + 1),
        elsewhere: seen(MAPPING + 2),
        let_in,
    };
    if let Some(text) = nat::describe(&sighting) {
        sheet.ok("nat", text.clone());
        sheet.gateway(text);
    }
    Ok(())
}

fn say_path(sheet: &mut Sheet<'_>, path: Option<(u16, bool)>, any: bool, is_heard: bool) {
    match path {
        Some((port, true)) => {
            sheet.ok("udp", format!("datagrams reach the relay's port {port} and come back"));
        }
        Some((port, false)) if any => {
            let what = format!("port {port} does not answer; other ports do");
            sheet.warn("udp", what, Cause::PathBlocked { port });
        }
        None if any => {
            sheet.ok("udp", "datagrams get through; the relay offers no path for them");
        }
        // Nobody opens its firewall for ports that nothing uses.
        None => sheet.ok("udp", "the relay offers no path: datagrams ride the carrier"),
        _ if is_heard => {
            sheet.warn("udp", "datagrams reach the relay, its answers are lost", Cause::UdpOneWay);
        }
        _ => sheet.warn("udp", "no datagram reaches the relay", Cause::UdpBlocked),
    }
}

/// Who may send to where a datagram to the relay's first socket came from.
async fn filtering(
    visit: &mut Visit,
    ends: &Ends,
    local: IpAddr,
) -> Result<Option<LetIn>, VisitError> {
    let Ok(ear) = Ear::open(local).await else { return Ok(None) };
    if !ear.greet(ends, FILTERING).await {
        return Ok(None);
    }
    let mut from = BTreeSet::new();
    // Two rounds: in the first, a stray may overtake what is sent last.
    for _ in 0..2 {
        for socket in (0..ends.opened.sockets.len()).rev() {
            visit.send(u8::try_from(socket).unwrap_or(0), FILTERING).await?;
        }
        let until = Instant::now() + ROUND;
        while let Some((source, bytes)) = ear.hear(until).await {
            if bytes != ends.asked_ping(FILTERING) {
                continue;
            }
            from.insert(source);
            if Some(source) == ends.at(0) {
                break;
            }
        }
    }
    let came = |index| ends.at(index).map(|at| from.contains(&at));
    if came(0) != Some(true) {
        return Ok(None);
    }
    let other_port = came(1) == Some(true);
    Ok(Some(LetIn { other_port, other_address: came(2) }))
}
