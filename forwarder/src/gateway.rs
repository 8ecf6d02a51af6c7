//! The gateway interface: dials the relay through the gateway, authenticates both ends, and says
//! how long to wait before the next attempt. The tunnel itself then lives on a pump.

mod candidates;
mod egress;
mod error;
mod proxy;
mod race;
mod redial;
pub(crate) mod segments;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::config::{GatewayConfig, Place, Places};
use crate::handoff::Carrier;
use crate::key::{Pins, PrivateKey};
use crate::net::{self, ShakeError, Stream};
use crate::tls::{ClientTls, Handshake, HandshakeError};
use candidates::Candidate;
use race::{Dialler, Memory, Race};
use segments::{Descent, Small, Step, Verdict};

pub use egress::{BadEnvironment, Through, proxies};
pub use error::{DialError, Failure, FarEnd};
pub use proxy::ProxyError;
pub(crate) use proxy::tunnel;
pub use redial::{Ended, Redial};
pub use segments::Stuck;

/// How long one of the relay's addresses may take to answer. The kernel repeats its `SYN` after 1 s
/// and 3 s; were it left to wait longer, a path that comes back would stay unused for as long.
const CONNECT_MAX: Duration = Duration::from_secs(4);

/// How to reach the relay, and who we are to it.
#[derive(Clone, Debug)]
pub struct Gateway {
    relay: Places,
    tls: ClientTls,
    config: GatewayConfig,
    /// What each place is reached through.
    through: Vec<Option<Through>>,
    memory: RefCell<Memory>,
    small: RefCell<Small>,
    /// Behind whose proxy somebody stands, by the proxy's word: from there on silence is not the
    /// proxy's. By the proxy's address and the place; those of one attempt.
    behind: RefCell<BTreeSet<(SocketAddr, usize)>>,
}

/// What became of a connection.
enum Proof {
    Carrier(Carrier),
    Stuck(net::PathSample),
}

impl Gateway {
    /// Dials `relay` at any of its places, where it must have a key of `relay_keys`, as the owner
    /// of `key`.
    ///
    /// # Errors
    /// When TLS cannot be set up with the key.
    pub fn new(
        relay: Places,
        key: &PrivateKey,
        relay_keys: impl Into<Pins>,
    ) -> Result<Self, HandshakeError> {
        Ok(Self::with_tls(relay, ClientTls::new(key, relay_keys)?))
    }

    /// The same for the one request of somebody who has an invitation and is not admitted yet.
    ///
    /// # Errors
    /// When TLS cannot be set up with the key.
    pub fn joining(
        relay: Places,
        key: &PrivateKey,
        relay_keys: impl Into<Pins>,
    ) -> Result<Self, HandshakeError> {
        Ok(Self::with_tls(relay, ClientTls::joining(key, relay_keys)?))
    }

    fn with_tls(relay: Places, tls: ClientTls) -> Self {
        Self {
            through: vec![None; relay.len()],
            relay,
            tls,
            config: GatewayConfig::default(),
            memory: RefCell::default(),
            small: RefCell::default(),
            behind: RefCell::default(),
        }
    }

    /// Leaves as `config` and the environment say: through a proxy, by a way out, under a name.
    ///
    /// # Errors
    /// When the environment names a proxy that cannot be used.
    pub fn through(mut self, config: &GatewayConfig) -> Result<Self, BadEnvironment> {
        self.through = proxies(config, &self.relay, |name| std::env::var(name).ok())?;
        if let Some((place, through)) = self.through_proxies().next() {
            let Through { proxy, variable } = through;
            let named_by = variable.unwrap_or("the configuration");
            tracing::info!(%place, %proxy, "a proxy stands between, named by {named_by}");
        }
        self.config = config.clone();
        Ok(self)
    }

    /// The same where the relay must have one of these keys, as the owner of the same `key`.
    ///
    /// # Errors
    /// As of [`Gateway::new`].
    pub fn with_relay_keys(
        &self,
        key: &PrivateKey,
        relay_keys: impl Into<Pins>,
    ) -> Result<Self, HandshakeError> {
        Ok(Self { tls: ClientTls::new(key, relay_keys)?, ..self.clone() })
    }

    /// The places that are reached through a proxy, each with its own.
    pub fn through_proxies(&self) -> impl Iterator<Item = (&Place, &Through)> {
        let places = self.relay.iter().zip(&self.through);
        places.filter_map(|(place, through)| Some((place, through.as_ref()?)))
    }

    /// Whether datagrams would leave this host by the same way as the tunnel.
    pub fn is_plain(&self) -> bool {
        self.config.bind.is_none() && self.through_proxies().next().is_none()
    }

    /// One attempt: every name is resolved anew, since the relay may have moved, and all addresses
    /// race. It takes 15 s at most, and closes all that it opened when it is dropped.
    ///
    /// # Errors
    /// When no address leads to the relay.
    pub async fn dial(&self) -> Result<Carrier, DialError> {
        let memory = self.memory.borrow().clone();
        self.behind.borrow_mut().clear();
        let mut race = Race::new(self, self.relay.len(), memory);
        let carrier = race.run().await;
        let (failures, failed) = race.into_failures();
        self.memory.borrow_mut().failed = failed;
        for failure in &failures {
            tracing::debug!("{failure}");
        }
        carrier.ok_or(DialError { failures })
    }
}

impl Gateway {
    fn through_of(&self, place: usize) -> Option<&Through> {
        self.through.get(place)?.as_ref()
    }

    async fn open(&self, to: Candidate, segment_bytes: Option<u32>) -> Result<TcpStream, Failure> {
        let bind = self.config.bind.as_ref();
        let opened = net::connect_insisting(to.address, bind, segment_bytes, CONNECT_MAX).await;
        opened.map_err(|source| self.not_opened(to, source))
    }

    fn not_opened(
        &self,
        Candidate { address, place }: Candidate,
        source: std::io::Error,
    ) -> Failure {
        match self.through_of(place) {
            Some(Through { proxy, .. }) => {
                Failure::ProxyUnreachable { proxy: proxy.clone(), address, source }
            }
            None => Failure::Connect { address, source },
        }
    }

    /// Small segments, where large ones have got lost before.
    fn segment_bytes(&self, address: SocketAddr) -> Option<u32> {
        self.small.borrow().segment_bytes(address, Instant::now())
    }

    /// Has the proxy connect, if there is one, and the relay prove who it is.
    async fn prove(&self, at: Candidate, stream: TcpStream) -> Result<Proof, Failure> {
        let Some(place) = self.relay.get(at.place) else { return Err(self.silent(at)) };
        let (stream, early) = match self.through_of(at.place) {
            None => (stream, Vec::new()),
            Some(Through { proxy, .. }) => {
                self.behind.borrow_mut().remove(&(at.address, at.place));
                let asked = tunnel(stream, proxy, place).await;
                let asked =
                    asked.map_err(|source| Failure::Proxy { proxy: proxy.clone(), source })?;
                self.behind.borrow_mut().insert((at.address, at.place));
                asked
            }
        };
        let name = self.config.sni.as_deref().unwrap_or(&place.host);
        let shaken = async {
            let handshake = Handshake::client(&self.tls, name)?;
            let stream = Stream::from_tokio(stream, at.address, early)?;
            let watch = stream.watch()?;
            tokio::select! {
                shaken = net::shake_hands(stream, handshake) => Ok(Proof::Carrier(shaken?.carrier)),
                sample = segments::stuck(&watch) => Ok(Proof::Stuck(sample)),
            }
        };
        let failed = |source: ShakeError| Failure::Handshake { at: self.far_end(at), source };
        shaken.await.map_err(failed)
    }

    /// Who answers there: the proxy leads to the place, if there is one.
    fn far_end(&self, at: Candidate) -> FarEnd {
        match (self.relay.get(at.place), self.through_of(at.place)) {
            (Some(place), Some(Through { proxy, .. })) => {
                FarEnd::Behind { place: place.clone(), proxy: proxy.clone() }
            }
            _ => FarEnd::Address(at.address),
        }
    }

    /// Says that segments of so many bytes passed where longer ones were stuck, and keeps it in mind
    /// where it was their size for sure.
    fn passed(&self, address: SocketAddr, bytes: u32, last: &Stuck) {
        if last.is_of_size() {
            self.small.borrow_mut().insert(address, bytes, Instant::now());
        }
        let (passing, lost) = (segments::packet_bytes(bytes, address), last.packet_bytes());
        // Where nothing small had a chance to arrive, it may have been an outage as well.
        let verb = if last.is_of_size() { "get lost" } else { "seem to get lost" };
        tracing::warn!(
            "{address}: packets larger than {passing} bytes {verb} on the way (those of {lost} did): \
             MTU black hole; the tunnel keeps below that, and would be faster if the gateway let ICMP \
             \"fragmentation needed\" and \"packet too big\" through"
        );
    }

    fn stuck(&self, at: Candidate, descent: &Descent) -> Failure {
        let address = at.address;
        // Smaller segments were of no use: the next attempt may as well begin with large ones.
        self.small.borrow_mut().remove(address);
        match descent.verdict() {
            Verdict::Size(stuck) => {
                let bytes = stuck.packet_bytes().saturating_sub(1);
                Failure::MtuBlackHole { address, bytes, stuck }
            }
            Verdict::Content => Failure::Filtered { address },
            Verdict::Unknown => self.silent(at),
        }
    }
}

impl Dialler for Gateway {
    type Connection = TcpStream;
    type Carrier = Carrier;
    type Failure = Failure;

    async fn look_up(&self, place: usize) -> Result<Vec<SocketAddr>, Failure> {
        let Some(named) = self.relay.get(place) else { return Ok(Vec::new()) };
        let named = self.through_of(place).map_or(named, |through| &through.proxy.place);
        match net::resolve(named.clone()).await {
            Ok(mut addresses) => {
                let family = self.config.family();
                addresses.retain(|address| family.has(address));
                if addresses.is_empty() {
                    return Err(Failure::NoneOfFamily { place: named.clone(), family });
                }
                self.memory.borrow_mut().known.insert(place, addresses.clone());
                Ok(addresses)
            }
            Err(source) => Err(Failure::Resolve { place: named.clone(), source }),
        }
    }

    async fn connect(&self, to: Candidate) -> Result<TcpStream, Failure> {
        self.open(to, self.segment_bytes(to.address)).await
    }

    async fn authenticate(&self, at: Candidate, stream: TcpStream) -> Result<Carrier, Failure> {
        let (mut stream, mut descent) = (stream, Descent::default());
        let mut segment_bytes = self.segment_bytes(at.address);
        loop {
            let sample = match self.prove(at, stream).await? {
                Proof::Carrier(carrier) => {
                    // What passed at the same size the second time was none.
                    if let (Some(bytes), Some(last)) = (segment_bytes, descent.last())
                        && last.sample.segment_bytes > bytes
                    {
                        self.passed(at.address, bytes, &last);
                    }
                    return Ok(carrier);
                }
                Proof::Stuck(sample) => sample,
            };
            let held_to = segment_bytes.map(|bytes| segments::packet_bytes(bytes, at.address));
            let stuck = Stuck { sample, held_to };
            let Some(step) = descent.next(stuck) else {
                return Err(self.stuck(at, &descent));
            };
            tracing::debug!(?sample, ?step, "{}: the handshake is stuck", at.address);
            if let Step::Smaller(smaller) = step {
                segment_bytes = Some(smaller);
                if stuck.is_of_size() {
                    // At once: this attempt may be given up for another before it ends.
                    self.small.borrow_mut().insert(at.address, smaller, Instant::now());
                }
            }
            stream = self.open(at, segment_bytes).await?;
        }
    }

    fn is_through_proxy(&self, place: usize) -> bool {
        self.through_of(place).is_some()
    }

    fn unreachable(&self, at: Candidate) -> Failure {
        self.not_opened(at, std::io::ErrorKind::TimedOut.into())
    }

    fn silent(&self, at: Candidate) -> Failure {
        let is_behind = self.behind.borrow().contains(&(at.address, at.place));
        match self.through_of(at.place) {
            Some(Through { proxy, .. }) if !is_behind => {
                Failure::Proxy { proxy: proxy.clone(), source: ProxyError::Silent }
            }
            _ => Failure::Silent { at: self.far_end(at) },
        }
    }
}
