//! A session whose records do not arrive as they were sent: the oracle has to find it out.

use adit_proto::frame::{Frame, Frames};
use adit_proto::id::Side;

/// What happens to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    Drop,
    Duplicate,
    /// It arrives after the one behind it.
    Swap,
}

/// Mutates one record that brings data to the forwarder.
#[derive(Debug, Default)]
pub(crate) struct Mutator {
    /// What to do to which of them.
    plan: Option<(Mutation, usize)>,
    seen: usize,
    held: Option<Vec<u8>>,
    pub(crate) has_struck: bool,
}

impl Mutator {
    pub(crate) fn new(mutation: Mutation, number: usize) -> Self {
        Self { plan: Some((mutation, number)), ..Self::default() }
    }

    /// What arrives in place of `content`.
    pub(crate) fn mutate(&mut self, side: Side, content: Vec<u8>) -> Vec<Vec<u8>> {
        let Some((mutation, number)) = self.plan else { return vec![content] };
        if side != Side::Forwarder || !is_data(&content) {
            return vec![content];
        }
        if let Some(held) = self.held.take() {
            return vec![content, held];
        }
        self.seen += 1;
        if self.seen != number {
            return vec![content];
        }
        self.has_struck = true;
        match mutation {
            Mutation::Drop => vec![],
            Mutation::Duplicate => vec![content.clone(), content],
            Mutation::Swap => {
                self.held = Some(content);
                vec![]
            }
        }
    }
}

fn is_data(content: &[u8]) -> bool {
    matches!(Frames::new(content).next(), Some(Ok(Frame::Data(..))))
}
