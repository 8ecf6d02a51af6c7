//! What a seed stands for.

use std::time::Duration;

use adit_proto::limits::GRACE_MAX;

use crate::random::Random;

/// What may happen in one run. Percentages are out of a hundred.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Prints what happens.
    pub(crate) is_told: bool,
    pub(crate) is_faulty: bool,
    /// Many flows move much on fast lines.
    pub(crate) is_heavy: bool,
    /// How long faults go on.
    pub(crate) faults_for: Duration,
    /// The longest pause between two of them, in microseconds.
    pub(crate) fault_pause: u64,
    pub(crate) act_pause: u64,
    pub(crate) grace: Duration,
    pub(crate) crashes: bool,
    pub(crate) jump_max: Duration,
    pub(crate) dial_fails: usize,
    pub(crate) born_hung: usize,
    /// The most bytes that a peer writes at once.
    pub(crate) burst: usize,
    pub(crate) flows_max: usize,
    /// How many of a flow's ends are resets.
    pub(crate) resets: usize,
    pub(crate) bytes_left: usize,
}

impl Plan {
    pub(crate) fn draw(random: &mut Random) -> Self {
        // In half of the runs no session may end at all.
        let is_mild = random.chance(50);
        let grace = Duration::from_secs(random.between(2, 60) as u64);
        let drawn = Self {
            is_told: false,
            is_faulty: true,
            is_heavy: false,
            faults_for: random.micros(500_000, 120_000_000),
            fault_pause: random.between(20_000, 4_000_000) as u64,
            act_pause: random.between(2_000, 400_000) as u64,
            grace: if is_mild { GRACE_MAX } else { grace },
            crashes: !is_mild && random.chance(60),
            jump_max: Duration::from_secs(if is_mild { 120 } else { 3_600 }),
            dial_fails: random.between(0, 60),
            born_hung: random.between(0, 30),
            burst: 1 << random.between(4, 19),
            flows_max: random.between(1, 40),
            resets: random.between(0, 30),
            bytes_left: random.between(50_000, 1_500_000),
        };
        if random.below(200) == 0 { drawn.heavy() } else { drawn }
    }

    fn heavy(self) -> Self {
        Self {
            is_heavy: true,
            faults_for: Duration::from_secs(30),
            fault_pause: 5_000_000,
            act_pause: 10_000,
            burst: 1 << 21,
            flows_max: 400,
            resets: self.resets / 4,
            bytes_left: 90 << 20,
            ..self
        }
    }

    /// Nothing breaks, and nobody does anything.
    pub(crate) fn quiet() -> Self {
        let drawn = Self::draw(&mut Random::new(0));
        Self { is_faulty: false, resets: 0, grace: GRACE_MAX, ..drawn }
    }
}
