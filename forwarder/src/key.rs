//! Who somebody is: an Ed25519 key. Both ends of a tunnel know each other by nothing else.

mod pins;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use pem_rfc7468::LineEnding;
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::SigningKey;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

pub use pins::{PINS_MAX, Pins};

/// The length of an Ed25519 public key.
pub const PUBLIC_KEY_LEN: usize = 32;
/// The length of a public key as DER, wrapped to say that it is Ed25519 (RFC 8410 §4).
pub const SPKI_LEN: usize = SPKI_PREFIX.len() + PUBLIC_KEY_LEN;

/// SEQUENCE { SEQUENCE { OID 1.3.101.112 } BIT STRING (33 bytes, none unused) … }
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What a public key's text begins with.
const SCHEME: &str = "ed25519:";
const PEM_LABEL: &str = "PRIVATE KEY";
/// A key file has about 120 bytes; whatever is longer than this is none.
const KEY_FILE_BYTES_MAX: u64 = 4_096;
/// Enough at once for the file to be read without leaving copies behind in memory.
const KEY_FILE_ROOM: usize = 2 * 4_096;
/// Permissions of group and others.
const EXPOSED: u32 = 0o077;

/// Written without padding, read with or without: other tools print keys with it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key that cannot be read, written or used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// [`PrivateKey::save`] never overwrites.
    #[error("{0} exists already and is not overwritten: name another file, or move this one away")]
    Exists(PathBuf),
    /// Others than the owner may read or write the key.
    #[error(
        "{path} is open to others than its owner (mode {mode:04o}): run `chmod 600 {path}`, and \
         make a new key if anybody else could have read it"
    )]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The environment's fault.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The key file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Not a PEM file with an Ed25519 key.
    #[error(
        "{path} holds no Ed25519 private key in PEM ({reason}): `adit keygen` or \
         `openssl genpkey -algorithm ed25519` makes one"
    )]
    NotAKey {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The text of a public key.
    #[error("{0:?} is no public key: it should read ed25519: and 43 characters of base64")]
    NotAPublicKey(String),
    /// The cryptographic library could not make or encode a key.
    #[error("the cryptographic library failed to {0}")]
    Library(&'static str),
}

/// Both halves of an Ed25519 key. Clones share it; nothing shows it.
#[derive(Clone)]
pub struct PrivateKey(Arc<Ed25519KeyPair>);

impl PrivateKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, KeyError> {
        let failed = |Unspecified| KeyError::Library("generate a key");
        Ok(Self(Arc::new(Ed25519KeyPair::generate().map_err(failed)?)))
    }

    /// Reads a key from a file that nobody but its owner may touch.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let failed = |action| move |source| KeyError::File { action, path: path.into(), source };
        let not_a_key = |reason: String| KeyError::NotAKey { path: path.into(), reason };
        let file = File::open(path).map_err(failed("open"))?;
        // Of the open file, so that what is checked is what is read.
        let metadata = file.metadata().map_err(failed("examine"))?;
        if !metadata.is_file() {
            return Err(not_a_key("it is not a regular file".into()));
        }
        let mode = metadata.mode() & 0o7777;
        if mode & EXPOSED != 0 {
            return Err(KeyError::Exposed { path: path.into(), mode });
        }
        if metadata.len() > KEY_FILE_BYTES_MAX {
            return Err(not_a_key(format!("it is {} bytes long", metadata.len())));
        }
        let mut pem = Zeroizing::new(Vec::with_capacity(KEY_FILE_ROOM));
        file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut pem).map_err(failed("read"))?;
        let (label, der) = pem_rfc7468::decode_vec(&pem).map_err(|e| not_a_key(e.to_string()))?;
        let der = Zeroizing::new(der);
        if label != PEM_LABEL {
            return Err(not_a_key(format!("it holds a {label}")));
        }
        // "Maybe unchecked": as openssl writes it, without the public half.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der)
            .map_err(|rejected: KeyRejected| not_a_key(rejected.to_string()))?;
        Ok(Self(Arc::new(pair)))
    }

    /// Writes the key to a new file that only its owner may read.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let failed = |action| move |source| KeyError::File { action, path: path.into(), source };
        let pem = self.pem()?;
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(KeyError::Exists(path.into()));
            }
            Err(error) => return Err(failed("create")(error)),
        };
        let written = file.write_all(pem.as_bytes()).and_then(|()| file.sync_all());
        if written.is_err() {
            // Half a key would only stand in the way of the next attempt.
            std::fs::remove_file(path).map_err(failed("remove the unfinished"))?;
        }
        written.map_err(failed("write"))
    }

    /// As [`PrivateKey::save`] writes it.
    pub(crate) fn pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let der = self.pkcs8()?;
        match pem_rfc7468::encode_string(PEM_LABEL, LineEnding::LF, &der) {
            Ok(pem) => Ok(Zeroizing::new(pem)),
            Err(_) => Err(KeyError::Library("encode a key as PEM")),
        }
    }

    /// Version 1, which every other tool reads; the public half is derived from the private one.
    fn pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let failed = |Unspecified| KeyError::Library("encode a key as PKCS#8");
        Ok(Zeroizing::new(self.0.to_pkcs8v1().map_err(failed)?.as_ref().to_vec()))
    }

    /// The half that others may know.
    pub fn public(&self) -> PublicKey {
        let mut key = [0; PUBLIC_KEY_LEN];
        // Both are 32 bytes: the type of the key pair says so.
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    /// The key as rustls signs with it.
    pub(crate) fn signing_key(&self) -> Result<Arc<dyn SigningKey>, KeyError> {
        let der = self.pkcs8()?;
        let Ok(key) = any_eddsa_type(&PrivatePkcs8KeyDer::from(der.as_slice())) else {
            return Err(KeyError::Library("load a key for signing"));
        };
        Ok(key)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

/// The half of an Ed25519 key that names somebody. Its text is `ed25519:` and base64.
#[derive(Clone, Copy, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; PUBLIC_KEY_LEN]);

impl PublicKey {
    /// The key as it is.
    pub fn as_bytes(&self) -> &[u8; PUBLIC_KEY_LEN] {
        &self.0
    }

    /// The key as DER that says what it is: a `SubjectPublicKeyInfo`.
    pub fn spki(&self) -> [u8; SPKI_LEN] {
        let mut spki = [0; SPKI_LEN];
        let (prefix, key) = spki.split_at_mut(SPKI_PREFIX.len());
        prefix.copy_from_slice(&SPKI_PREFIX);
        key.copy_from_slice(&self.0);
        spki
    }

    /// The key in a `SubjectPublicKeyInfo`, if that is what `der` is and the key is Ed25519.
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        let key = der.strip_prefix(&SPKI_PREFIX)?;
        Some(Self(key.try_into().ok()?))
    }
}

impl From<[u8; PUBLIC_KEY_LEN]> for PublicKey {
    fn from(key: [u8; PUBLIC_KEY_LEN]) -> Self {
        Self(key)
    }
}

/// In constant time: this is the comparison that authenticates a peer.
impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Hash for PublicKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let key = text.strip_prefix(SCHEME).and_then(|key| BASE64.decode(key).ok());
        let key = key.and_then(|key| <[u8; PUBLIC_KEY_LEN]>::try_from(key).ok());
        key.map(Self).ok_or_else(|| KeyError::NotAPublicKey(text.into()))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A key that exists is worth more than the wish to write another.
    #[test]
    fn saving_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let key = PrivateKey::generate().unwrap();
        key.save(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        let refused = PrivateKey::generate().unwrap().save(&path).unwrap_err();
        assert!(matches!(&refused, KeyError::Exists(named) if *named == path));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    /// A key that others can read is refused, and the error names the cure.
    #[test]
    fn exposed_key_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        PrivateKey::generate().unwrap().save(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o644, 0o610] {
            chmod(&path, mode);
            let refused = PrivateKey::load(&path).unwrap_err();
            assert!(matches!(&refused, KeyError::Exposed { mode: found, .. } if *found == mode));
            let cure = format!("chmod 600 {}", path.display());
            assert!(refused.to_string().contains(&cure), "{refused}");
        }
        chmod(&path, 0o400);
        PrivateKey::load(&path).unwrap();
    }

    /// What is no key is told apart from what cannot be read.
    #[test]
    fn files_without_a_key_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        assert!(matches!(PrivateKey::load(&path), Err(KeyError::File { action: "open", .. })));
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let no_ed25519 = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let long = "x".repeat(5_000);
        for text in ["", "no key", certificate, no_ed25519, &long] {
            std::fs::write(&path, text).unwrap();
            chmod(&path, 0o600);
            assert!(matches!(PrivateKey::load(&path), Err(KeyError::NotAKey { .. })), "{text}");
        }
        assert!(matches!(PrivateKey::load(dir.path()), Err(KeyError::NotAKey { .. })));
    }

    /// What was saved is what is loaded, and only its owner can read it.
    #[test]
    fn saved_keys_load_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let key = PrivateKey::generate().unwrap();
        key.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(PrivateKey::load(&path).unwrap().public(), key.public());
    }

    /// The test key of RFC 8410 §10.3, as openssl writes it, with the public key of §10.1.
    #[test]
    fn keys_of_other_tools_load() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let pem = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                   -----END PRIVATE KEY-----\n";
        std::fs::write(&path, pem).unwrap();
        chmod(&path, 0o600);
        let public = PrivateKey::load(&path).unwrap().public();
        assert_eq!(public.to_string(), "ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE");
    }

    /// A public key's text, its DER and its JSON all lead back to it.
    #[test]
    fn public_keys_survive_every_form() {
        let key = PrivateKey::generate().unwrap().public();
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        assert_eq!(format!("{key}=").parse::<PublicKey>().unwrap(), key);
        assert_eq!(PublicKey::from_spki(&key.spki()), Some(key));
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, format!("\"{key}\""));
        assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), key);
    }

    /// Nothing but 32 bytes behind the right prefix is a public key.
    #[test]
    fn malformed_public_keys_are_refused() {
        let key = PrivateKey::generate().unwrap().public();
        let text = key.to_string();
        let rsa = text.replace("ed25519", "rsa");
        for text in ["", "ed25519:", &text[..text.len() - 1], &text[8..], &rsa, &format!("{text}A")]
        {
            assert!(matches!(text.parse::<PublicKey>(), Err(KeyError::NotAPublicKey(_))), "{text}");
        }
        let spki = key.spki();
        assert_eq!(PublicKey::from_spki(&spki[1..]), None);
        assert_eq!(PublicKey::from_spki(&spki[..SPKI_LEN - 1]), None);
        assert_eq!(PublicKey::from_spki(&[&spki[..], &[0]].concat()), None);
    }

    /// A private key in a log line is a key lost.
    #[test]
    fn debug_shows_only_the_public_half() {
        let key = PrivateKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), format!("PrivateKey(of {})", key.public()));
    }
}
