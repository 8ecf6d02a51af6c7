//! What an invitation grants, as the configuration understands it.

use std::fmt::Display;
use std::str::FromStr;

use adit::config::{self, Admitted, BadName, PortRange, Role};
use adit::invitation::{GRANT_BYTES_MAX, Grant};
use adit::key::PublicKey;

/// Why something cannot be granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadGrant {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("{list}: {reason}")]
    Item { list: &'static str, reason: String },
    #[error("an external peer has no {0}: leave out --{0}, or --external")]
    NotExternal(&'static str),
    #[error("the lists are too long: {GRANT_BYTES_MAX} bytes in all; join ports into ranges")]
    TooLong,
}

/// Who `key` is from now on.
pub(crate) fn admitted(grant: &Grant, key: PublicKey) -> Result<Admitted, BadGrant> {
    config::name(&grant.name)?;
    if !grant.fits() {
        return Err(BadGrant::TooLong);
    }
    for (list, items) in [("ports", &grant.ports), ("dials", &grant.dials)] {
        if grant.external && !items.is_empty() {
            return Err(BadGrant::NotExternal(list));
        }
    }
    let role = if grant.external { Role::External } else { Role::Forwarder };
    Ok(Admitted {
        is_enrolled: true,
        ports: parsed::<PortRange>("ports", &grant.ports)?.into_iter().collect(),
        names: parsed("names", &grant.names)?,
        calls: parsed("calls", &grant.calls)?,
        dials: parsed("dials", &grant.dials)?,
        ..Admitted::new(grant.name.clone(), key, role)
    })
}

/// The grant in the configuration's own spelling, once it is found to be one.
pub(crate) fn checked(grant: &Grant) -> Result<Grant, BadGrant> {
    // Whose it will be is not known yet.
    let admitted = admitted(grant, PublicKey::from([0; 32]))?;
    Ok(Grant {
        ports: texts(admitted.ports.ranges()),
        names: texts(&admitted.names),
        calls: texts(&admitted.calls),
        dials: texts(&admitted.dials),
        ..grant.clone()
    })
}

fn parsed<T: FromStr<Err: Display>>(
    list: &'static str,
    items: &[String],
) -> Result<Vec<T>, BadGrant> {
    let parse = |item: &String| {
        item.trim()
            .parse()
            .map_err(|error: T::Err| BadGrant::Item { list, reason: error.to_string() })
    };
    items.iter().map(parse).collect()
}

fn texts<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant {
            name: "office".into(),
            ports: vec!["2222".into(), "8000 - 8100".into()],
            names: vec!["office-*".into()],
            ..Grant::default()
        }
    }

    /// What the configuration would refuse is refused before a line is made of it.
    #[test]
    fn what_cannot_be_configured_is_not_granted() {
        let one = |text: &str| vec![text.to_owned()];
        let many = (0..2_000).map(|port| format!("{}", 1 + port)).collect();
        let bad = [
            (Grant { name: "the office".into(), ..grant() }, "\"the office\" is no name"),
            (Grant { ports: one("0"), ..grant() }, "ports: port \"0\" is out of range"),
            (Grant { names: one("*-db"), ..grant() }, "names: \"*-db\" is no private name"),
            (Grant { dials: one("nowhere"), ..grant() }, "dials: "),
            (Grant { external: true, ..grant() }, "an external peer has no ports"),
            (Grant { ports: many, ..grant() }, "the lists are too long"),
        ];
        for (grant, expected) in bad {
            let refused = checked(&grant).unwrap_err().to_string();
            assert!(refused.starts_with(expected), "{refused}\nexpected: {expected}");
        }
    }

    /// A grant is kept as the configuration would spell it.
    #[test]
    fn grants_are_spelt_as_the_configuration_spells_them() {
        assert_eq!(checked(&grant()).unwrap().ports, ["2222", "8000-8100"]);
        let laptop = Grant {
            name: "laptop".into(),
            external: true,
            calls: vec!["db".into()],
            ..Grant::default()
        };
        let key = PublicKey::from([7; 32]);
        let admitted = admitted(&laptop, key).unwrap();
        assert_eq!(
            (admitted.role, admitted.key, admitted.is_enrolled),
            (Role::External, key, true)
        );
    }
}
