//! `[audit]`, which both files may have.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::beside;

pub(super) const AUDIT_KEYS: &[&str] = &["file"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAudit {
    file: String,
}

impl RawAudit {
    /// Where the audit log is to be, as seen from the file.
    pub(super) fn checked(&self, path: &Path) -> PathBuf {
        beside(path, &self.file)
    }
}
