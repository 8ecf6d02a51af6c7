//! A slab whose keys carry a generation, so that a late completion cannot find a new tenant, and
//! the packing of such a key, with what was asked, into the ring's token.

use adit_ring::Token;
use slab::Slab;

/// What an operation was for; with the slot it names the owner of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Purpose {
    CarrierReceive = 1,
    CarrierSend,
    FlowConnect,
    FlowReceive,
    FlowSend,
    FlowWritable,
    Accept,
    InletReceive,
    AssociationReceive,
    AssociationSend,
    PathReceive,
    PathSend,
}

impl Purpose {
    fn from_bits(bits: u64) -> Option<Self> {
        [
            Self::CarrierReceive,
            Self::CarrierSend,
            Self::FlowConnect,
            Self::FlowReceive,
            Self::FlowSend,
            Self::FlowWritable,
            Self::Accept,
            Self::InletReceive,
            Self::AssociationReceive,
            Self::AssociationSend,
            Self::PathReceive,
            Self::PathSend,
        ]
        .into_iter()
        .find(|purpose| *purpose as u64 == bits)
    }
}

/// Where a tenant of [`Slots`] lives, and which tenant it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    index: u32,
    generation: u32,
}

const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

impl Slot {
    /// Where nobody ever lives.
    pub(crate) const NOWHERE: Self = Self { index: u32::MAX, generation: 0 };

    /// The token: purpose 8 bits, generation 24, index 32.
    pub(crate) fn token(self, purpose: Purpose) -> Token {
        let purpose = (purpose as u64) << 56;
        Token(purpose | u64::from(self.generation) << 32 | u64::from(self.index))
    }

    /// The reverse of [`Slot::token`].
    #[expect(clippy::cast_possible_truncation, reason = "the fields are cut out by width")]
    pub(crate) fn from_token(token: Token) -> Option<(Purpose, Self)> {
        let purpose = Purpose::from_bits(token.0 >> 56)?;
        let generation = (token.0 >> 32) as u32 & GENERATION_MASK;
        Some((purpose, Self { index: token.0 as u32, generation }))
    }
}

/// Tenants by slot.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    tenants: Slab<(u32, T)>,
    generation: u32,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { tenants: Slab::new(), generation: 0 }
    }
}

impl<T> Slots<T> {
    pub(crate) fn insert(&mut self, tenant: T) -> Slot {
        self.generation = self.generation.wrapping_add(1) & GENERATION_MASK;
        let index = self.tenants.insert((self.generation, tenant));
        let index = u32::try_from(index).expect("invariant: fewer than 2^32 tenants");
        Slot { index, generation: self.generation }
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&T> {
        let (generation, tenant) = self.tenants.get(slot.index as usize)?;
        (*generation == slot.generation).then_some(tenant)
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let (generation, tenant) = self.tenants.get_mut(slot.index as usize)?;
        (*generation == slot.generation).then_some(tenant)
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
        self.get(slot)?;
        Some(self.tenants.remove(slot.index as usize).1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        self.tenants.iter().map(|(index, (generation, tenant))| {
            let index = u32::try_from(index).expect("invariant: fewer than 2^32 tenants");
            (Slot { index, generation: *generation }, tenant)
        })
    }

    pub(crate) fn tenants_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.tenants.iter_mut().map(|(_, (_, tenant))| tenant)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A completion that comes after its owner has gone finds nobody, even when the place is let.
    #[test]
    fn a_late_completion_finds_no_new_tenant() {
        let mut slots = Slots::default();
        let first = slots.insert("first");
        let token = first.token(Purpose::FlowSend);
        slots.remove(first);
        let second = slots.insert("second");
        let (purpose, slot) = Slot::from_token(token).unwrap();
        assert_eq!(purpose, Purpose::FlowSend);
        assert_eq!(slots.get(slot), None);
        assert_eq!(slots.get(second), Some(&"second"));
    }
}
