//! What both ends insist on, once for all handshakes of a process.

use std::fmt;
use std::sync::Arc;

use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::CertificateDer;
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::verify::{AnyKey, PinnedKey};
use super::{HandshakeError, Purpose};
use crate::key::{Pins, PrivateKey, PublicKey};

/// Says which keys a relay lets in.
pub trait Trust: Send + Sync {
    /// Whether `key` may have a session. Asked once a peer has proven that it holds the key.
    fn accepts(&self, key: &PublicKey) -> bool;
}

/// What a forwarder makes its handshakes with.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    relay: Pins,
}

impl ClientTls {
    /// A forwarder with `key`, which talks to nobody but a relay with a key of `relay`.
    pub fn new(key: &PrivateKey, relay: impl Into<Pins>) -> Result<Self, HandshakeError> {
        Self::with_alpn(key, relay.into(), vec![Purpose::Tunnel.alpn().to_vec()])
    }

    /// The same for somebody who is not admitted yet and has an invitation.
    pub fn joining(key: &PrivateKey, relay: impl Into<Pins>) -> Result<Self, HandshakeError> {
        Self::with_alpn(key, relay.into(), vec![Purpose::Join.alpn().to_vec()])
    }

    /// The same for a look at the way, which leaves the key's session alone.
    pub fn probing(key: &PrivateKey, relay: impl Into<Pins>) -> Result<Self, HandshakeError> {
        Self::with_alpn(key, relay.into(), vec![Purpose::Probe.alpn().to_vec()])
    }

    pub(super) fn with_alpn(
        key: &PrivateKey,
        relay: Pins,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Self, HandshakeError> {
        let provider = Arc::new(provider());
        let verifier = Arc::new(PinnedKey::new(relay, &provider));
        let own = AlwaysResolvesClientRawPublicKeys::new(raw_key(key)?);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(HandshakeError::Setup)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(own));
        config.alpn_protocols = alpn;
        config.resumption = Resumption::disabled();
        config.enable_secret_extraction = true;
        Ok(Self { config: Arc::new(config), relay })
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("relay", &self.relay).finish_non_exhaustive()
    }
}

/// What a relay makes its handshakes with.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    trust: Arc<dyn Trust>,
}

impl ServerTls {
    /// A relay with `key`, which lets in whom `trust` accepts.
    pub fn new(key: &PrivateKey, trust: Arc<dyn Trust>) -> Result<Self, HandshakeError> {
        Self::with_alpn(key, trust, vec![Purpose::Tunnel.alpn().to_vec()])
    }

    /// The same, open to joiners and to probes too: whoever says that it came to join
    /// ([`Purpose::Join`]) is let in whatever its key, for the one request that its invitation is good
    /// for; a probe ([`Purpose::Probe`]) only with a key that may have a session.
    pub fn with_joiners(key: &PrivateKey, trust: Arc<dyn Trust>) -> Result<Self, HandshakeError> {
        let purposes = [Purpose::Tunnel, Purpose::Join, Purpose::Probe];
        Self::with_alpn(key, trust, purposes.map(|purpose| purpose.alpn().to_vec()).into())
    }

    pub(super) fn with_alpn(
        key: &PrivateKey,
        trust: Arc<dyn Trust>,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Self, HandshakeError> {
        let provider = Arc::new(provider());
        let verifier = Arc::new(AnyKey::new(&provider));
        let own = AlwaysResolvesServerRawPublicKeys::new(raw_key(key)?);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(HandshakeError::Setup)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(own));
        config.alpn_protocols = alpn;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = true;
        Ok(Self { config: Arc::new(config), trust })
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    pub(super) fn trust(&self) -> Arc<dyn Trust> {
        self.trust.clone()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// The forwarder's order of ciphers decides: it offers first what its CPU does fast.
fn provider() -> CryptoProvider {
    let (aes_128, aes_256) = (TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384);
    let chacha = TLS13_CHACHA20_POLY1305_SHA256;
    let cipher_suites =
        if cpu_has_aes() { vec![aes_128, aes_256, chacha] } else { vec![chacha, aes_128, aes_256] };
    CryptoProvider {
        cipher_suites,
        kx_groups: vec![kx_group::X25519MLKEM768],
        ..default_provider()
    }
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
pub(crate) fn cpu_has_aes() -> bool {
    std::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
pub(crate) fn cpu_has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn cpu_has_aes() -> bool {
    false
}

/// A raw public key stands where TLS otherwise has a certificate (RFC 7250 §3).
fn raw_key(key: &PrivateKey) -> Result<Arc<CertifiedKey>, HandshakeError> {
    let spki = CertificateDer::from(key.public().spki().to_vec());
    Ok(Arc::new(CertifiedKey::new(vec![spki], key.signing_key()?)))
}
