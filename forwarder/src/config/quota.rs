//! Limits, as both files write them: for a key at the relay, for a peer at the forwarder.

use std::fmt::Display;
use std::ops::RangeInclusive;

use adit_proto::limits::FLOWS_MAX;
use toml::Spanned;

use super::file::File;
use super::{ConfigError, Problem};
use crate::handoff::Quota;

/// The most that limits can be: what is faster is no limit.
const FLOWS_PER_S_MAX: u32 = 1_000_000;
const BYTES_PER_S_MAX: u64 = 1 << 40;
const BYTES_PER_MONTH_MAX: u64 = 1 << 60;

/// A limit that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct BadQuota {
    /// The setting.
    pub key: &'static str,
    /// What is wrong with it, and what it should be.
    pub reason: String,
}

/// The limits that were written.
///
/// # Errors
/// When one is out of range.
pub fn quota(
    flows_max: Option<usize>,
    flows_per_s: Option<u32>,
    bytes_per_s: Option<u64>,
) -> Result<Quota, BadQuota> {
    Ok(Quota {
        flows_max: limit("flows_max", flows_max, 1..=FLOWS_MAX)?,
        flows_per_s: limit("flows_per_s", flows_per_s, 1..=FLOWS_PER_S_MAX)?,
        bytes_per_s: limit("bytes_per_s", bytes_per_s, 1..=BYTES_PER_S_MAX)?,
    })
}

/// Those of a file's table.
pub(super) fn in_file(
    file: &File,
    flows_max: Option<&Spanned<usize>>,
    flows_per_s: Option<&Spanned<u32>>,
    bytes_per_s: Option<&Spanned<u64>>,
) -> Result<Quota, ConfigError> {
    let value = (
        flows_max.map(|raw| *raw.get_ref()),
        flows_per_s.map(|raw| *raw.get_ref()),
        bytes_per_s.map(|raw| *raw.get_ref()),
    );
    quota(value.0, value.1, value.2).map_err(|BadQuota { key, reason }| {
        let span = match key {
            "flows_max" => flows_max.map(Spanned::span),
            "flows_per_s" => flows_per_s.map(Spanned::span),
            _ => bytes_per_s.map(Spanned::span),
        };
        file.error(span.unwrap_or_default(), Problem::Value { key, reason })
    })
}

/// The bytes that a key may move in a month.
pub(super) fn volume_in_file(
    file: &File,
    bytes_per_month: Option<&Spanned<u64>>,
) -> Result<Option<u64>, ConfigError> {
    let value = bytes_per_month.map(|raw| *raw.get_ref());
    limit("bytes_per_month", value, 1..=BYTES_PER_MONTH_MAX).map_err(|BadQuota { key, reason }| {
        let span = bytes_per_month.map(Spanned::span).unwrap_or_default();
        file.error(span, Problem::Value { key, reason })
    })
}

fn limit<T: Copy + Display + PartialOrd>(
    key: &'static str,
    value: Option<T>,
    range: RangeInclusive<T>,
) -> Result<Option<T>, BadQuota> {
    match value {
        Some(value) if !range.contains(&value) => {
            let (least, most) = (range.start(), range.end());
            let reason = format!(
                "{value} is out of range: write {least} to {most}, or leave it out for no limit"
            );
            Err(BadQuota { key, reason })
        }
        value => Ok(value),
    }
}
