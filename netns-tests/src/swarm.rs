//! A swarm and its exchange, as a test holds them; what they do is in [`crate::traffic::swarm`].

use std::num::NonZeroU64;
use std::time::Duration;

use serde_json::Value;

use crate::{Host, LabError, Process, SHORT};

/// What a swarm shall be.
#[derive(Debug, Clone)]
pub struct SwarmPlan {
    /// How many flows.
    pub flows: usize,
    /// How fast all of them together send, in each direction.
    pub kbytes_per_second: u64,
    /// How often each flow sends.
    pub slice: Duration,
    /// How many bytes each flow has in each direction; until it is told to end otherwise.
    pub bytes: Option<NonZeroU64>,
}

impl SwarmPlan {
    /// `flows` flows at 8 Mbit/s in each direction.
    #[must_use]
    pub fn new(flows: usize) -> Self {
        let slice = Duration::from_millis(50);
        Self { flows, kbytes_per_second: 1000, slice, bytes: None }
    }

    /// Another rate, of all flows together, in each direction.
    #[must_use]
    pub fn kbytes_per_second(mut self, rate: u64) -> Self {
        self.kbytes_per_second = rate;
        self
    }

    /// Another rhythm: what is missing for longer than this and the way's delay is a stall.
    #[must_use]
    pub fn slice(mut self, slice: Duration) -> Self {
        self.slice = slice;
        self
    }

    /// A length that every flow has in each direction; it ends of itself then.
    #[must_use]
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = NonZeroU64::new(bytes);
        self
    }
}

/// Either end of many flows: the swarm itself, or the exchange that answers it.
#[derive(Debug)]
pub struct Swarm {
    process: Process,
    marks: u32,
}

/// How the flows of one end stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// All flows there were.
    pub flows: u64,
    /// Ended with both sums right.
    pub right: u64,
    /// Ended by a reset.
    pub resets: u64,
    /// Ended before the sum came, as if all were said.
    pub early: u64,
    /// Ended with a wrong byte, a wrong sum, or another error.
    pub wrong: u64,
    /// Cut by this end itself.
    pub aborted: u64,
    /// Bytes received, sums included.
    pub received: u64,
    /// Bytes sent, without sums.
    pub sent: u64,
    /// The longest that a flow which goes on has been without a byte at this moment.
    pub open_ms: u64,
    /// The longest time without a byte: of the flow in the middle.
    pub stall_p50_ms: u64,
    /// Of all but one flow in a hundred.
    pub stall_p99_ms: u64,
    /// Of the worst.
    pub stall_max_ms: u64,
}

impl Tally {
    /// How many flows have ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.right + self.resets + self.early + self.wrong + self.aborted
    }

    /// Both together; of times the longer.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            flows: self.flows + other.flows,
            right: self.right + other.right,
            resets: self.resets + other.resets,
            early: self.early + other.early,
            wrong: self.wrong + other.wrong,
            aborted: self.aborted + other.aborted,
            received: self.received + other.received,
            sent: self.sent + other.sent,
            open_ms: self.open_ms.max(other.open_ms),
            stall_p50_ms: self.stall_p50_ms.max(other.stall_p50_ms),
            stall_p99_ms: self.stall_p99_ms.max(other.stall_p99_ms),
            stall_max_ms: self.stall_max_ms.max(other.stall_max_ms),
        }
    }

    fn read(line: &str) -> Result<Self, LabError> {
        let unexpected =
            || LabError::Unexpected { what: "a tally".to_owned(), text: line.to_owned() };
        let json = line.find('{').and_then(|at| line.get(at..)).ok_or_else(unexpected)?;
        let tally: Value = serde_json::from_str(json).map_err(|_parse| unexpected())?;
        let number = |key: &str| tally[key].as_u64().ok_or_else(unexpected);
        Ok(Self {
            flows: number("flows")?,
            right: number("right")?,
            resets: number("resets")?,
            early: number("early")?,
            wrong: number("wrong")?,
            aborted: number("aborted")?,
            received: number("received")?,
            sent: number("sent")?,
            open_ms: number("open_ms")?,
            stall_p50_ms: number("stall_p50_ms")?,
            stall_p99_ms: number("stall_p99_ms")?,
            stall_max_ms: number("stall_max_ms")?,
        })
    }
}

impl Swarm {
    /// Starts a swarm of `plan` on `from` towards the exchanges `to`, and waits until every flow has
    /// heard something.
    ///
    /// # Errors
    /// When one does not.
    pub fn start(from: &Host<'_>, to: &[&str], plan: &SwarmPlan) -> Result<Self, LabError> {
        let mut swarm = Self::launch(from, to, plan)?;
        swarm.wait_begun(SHORT)?;
        Ok(swarm)
    }

    /// Starts a swarm, whose flows may take their time.
    ///
    /// # Errors
    /// When it cannot be started.
    ///
    /// # Panics
    /// When there is no exchange: a mistake in the test.
    pub fn launch(from: &Host<'_>, to: &[&str], plan: &SwarmPlan) -> Result<Self, LabError> {
        let [first, rest @ ..] = to else { panic!("a swarm needs an exchange") };
        let mut more = vec![
            plan.flows.to_string(),
            format!("--kbytes-per-second={}", plan.kbytes_per_second),
            format!("--slice-ms={}", plan.slice.as_millis()),
        ];
        more.extend(plan.bytes.map(|bytes| format!("--bytes={bytes}")));
        more.extend(rest.iter().map(|exchange| format!("--also={exchange}")));
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        Ok(Self { process: from.play_on("swarm", first, &more)?, marks: 0 })
    }

    /// Starts an exchange at `port` of `host`.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn exchange(host: &Host<'_>, port: u16) -> Result<Self, LabError> {
        let at = host.at(port);
        let mut process = host.play_on("exchange", &at, &[])?;
        process.wait_for_log("listening", SHORT)?;
        Ok(Self { process, marks: 0 })
    }

    /// Waits until every flow of a swarm has heard something.
    ///
    /// # Errors
    /// When one does not within `deadline`.
    pub fn wait_begun(&mut self, deadline: Duration) -> Result<(), LabError> {
        self.process.wait_for_log("swarming", deadline).map(|_| ())
    }

    /// How it stands, with the stalls since the mark before.
    ///
    /// # Errors
    /// When it has ended.
    pub fn mark(&mut self) -> Result<Tally, LabError> {
        self.marks += 1;
        let mark = format!("mark {} ", self.marks);
        self.process.say(mark.trim_end())?;
        self.tally(&mark)
    }

    /// Tells the flows to send no more than their sums, and to half-close.
    ///
    /// # Errors
    /// When it has ended.
    pub fn enough(&mut self) -> Result<(), LabError> {
        self.process.say("enough")
    }

    /// Resets every flow.
    ///
    /// # Errors
    /// When it has ended.
    pub fn abort(&mut self) -> Result<(), LabError> {
        self.process.say("abort")
    }

    /// Ends the swarm well: every flow complete, every sum right.
    ///
    /// # Errors
    /// When a flow ended otherwise, or not within `deadline`.
    pub fn finish(&mut self, deadline: Duration) -> Result<Tally, LabError> {
        self.process.finish(deadline)?;
        self.result()
    }

    /// Waits until the swarm has ended of itself, because every one of its flows has, however.
    ///
    /// # Errors
    /// When it has not within `deadline`.
    pub fn wait_ended(&mut self, deadline: Duration) -> Result<Tally, LabError> {
        crate::wait_until(deadline, "every flow to end", || !self.process.runs())?;
        self.result()
    }

    /// The process itself.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    fn result(&mut self) -> Result<Tally, LabError> {
        self.tally("flows ")
    }

    /// The tally in the line that begins with `beginning`.
    fn tally(&mut self, beginning: &str) -> Result<Tally, LabError> {
        // A line that is still being written may be seen in part.
        let whole = |line: &str| line.starts_with(beginning) && line.ends_with('}');
        Tally::read(&self.process.wait_for_line(beginning, SHORT, whole)?)
    }
}
