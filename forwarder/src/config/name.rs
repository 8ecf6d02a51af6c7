//! Names of peers, of forwarders, and of private contact points.

use adit_proto::frame::is_name;
use adit_proto::limits::NAME_MAX;

/// A text that is no name: names go on the wire, and into logs and terminals of the other side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name: use 1 to {NAME_MAX} letters, digits, '-', '_' and '.'")]
pub struct BadName(String);

/// `text`, if it is a name.
///
/// # Errors
/// When it is none; the text says what one is.
pub fn name(text: &str) -> Result<String, BadName> {
    if is_name(text) { Ok(text.to_owned()) } else { Err(BadName(text.to_owned())) }
}
