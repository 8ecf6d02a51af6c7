//! One end ours, the other an ordinary rustls connection; between them only memory.
//!
//! ```text
//!   RecordLayer ◀── bytes ──▶ rustls::Connection
//! ```

use std::io::{Read, Write};
use std::sync::Arc;

use ::aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use adit_proto::record::{ContentType, HEADROOM, Opened, Opener, RecordLayer, TAILROOM};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    AlwaysResolvesClientRawPublicKeys, ClientConnection, UnbufferedClientConnection,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    AlwaysResolvesServerRawPublicKeys, ServerConnection, UnbufferedServerConnection,
};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, Connection, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme, SupportedCipherSuite,
};

/// Which end is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ours {
    Client,
    Server,
}

/// What a record held, copied out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Data(Vec<u8>),
    Other(Opened),
}

pub(crate) struct Pair {
    pub(crate) ours: RecordLayer,
    pub(crate) theirs: Connection,
}

impl Pair {
    pub(crate) fn new(suite: SupportedCipherSuite, ours: Ours) -> Self {
        Self::with_tickets(suite, ours, 0)
    }

    pub(crate) fn with_tickets(suite: SupportedCipherSuite, ours: Ours, tickets: usize) -> Self {
        let (client, server) = configs(suite, tickets);
        let name = ServerName::try_from("relay.example").unwrap();
        match ours {
            Ours::Client => {
                let mut conn = UnbufferedClientConnection::new(client, name).unwrap();
                let mut theirs = ServerConnection::new(server).unwrap().into();
                shake(&mut theirs, |input, out| settle(conn.process_tls_records(input), out));
                let kernel = conn.dangerous_into_kernel_connection().unwrap();
                Self { ours: RecordLayer::from_kernel(kernel).unwrap(), theirs }
            }
            Ours::Server => {
                let mut conn = UnbufferedServerConnection::new(server).unwrap();
                let mut theirs = ClientConnection::new(client, name).unwrap().into();
                shake(&mut theirs, |input, out| settle(conn.process_tls_records(input), out));
                let kernel = conn.dangerous_into_kernel_connection().unwrap();
                Self { ours: RecordLayer::from_kernel(kernel).unwrap(), theirs }
            }
        }
    }

    /// Seals `content` with our end.
    pub(crate) fn seal(&mut self, content_type: ContentType, content: &[u8]) -> Vec<u8> {
        let mut record = laid_out(content);
        let len = self.ours.sealer.seal(content_type, &mut record, content.len()).unwrap();
        assert_eq!(len, record.len());
        record
    }

    /// Lets their end read `bytes`.
    pub(crate) fn deliver(&mut self, bytes: &[u8]) -> Result<(), rustls::Error> {
        deliver(&mut self.theirs, bytes)
    }

    /// What their end has read and not yet given.
    pub(crate) fn their_data(&mut self) -> Vec<u8> {
        let mut data = vec![0; 1 << 20];
        let len = self.theirs.reader().read(&mut data).unwrap_or(0);
        data.truncate(len);
        data
    }

    /// Lets their end send `data`, and returns all it wants to send.
    pub(crate) fn their_records(&mut self, data: &[u8]) -> Vec<u8> {
        self.theirs.writer().write_all(data).unwrap();
        let mut bytes = Vec::new();
        while self.theirs.wants_write() {
            self.theirs.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Opens every record in `bytes` with our end.
    pub(crate) fn open(&mut self, mut bytes: Vec<u8>) -> Vec<Got> {
        let mut got = Vec::new();
        let mut rest = bytes.as_mut_slice();
        while let Some(len) = Opener::record_len(rest).unwrap() {
            let (record, behind) = rest.split_at_mut(len);
            got.push(match self.ours.open(record).unwrap() {
                Opened::Data(range) => Got::Data(record[range].to_vec()),
                other => Got::Other(other),
            });
            rest = behind;
        }
        assert!(rest.is_empty());
        got
    }

    /// Both ends can still send and be understood.
    pub(crate) fn assert_talks(&mut self) {
        let record = self.seal(ContentType::ApplicationData, b"from us");
        self.deliver(&record).unwrap();
        assert_eq!(self.their_data(), b"from us");
        let records = self.their_records(b"from them");
        assert_eq!(self.open(records).last(), Some(&Got::Data(b"from them".to_vec())));
    }
}

/// `content` with room around it, as the session lays it out.
pub(crate) fn laid_out(content: &[u8]) -> Vec<u8> {
    [&[0; HEADROOM], content, &[0; TAILROOM]].concat()
}

fn deliver(theirs: &mut Connection, mut bytes: &[u8]) -> Result<(), rustls::Error> {
    while !bytes.is_empty() {
        theirs.read_tls(&mut bytes).unwrap();
        theirs.process_new_packets()?;
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Step {
    Again,
    Wait,
    Ready,
}

/// Passes bytes until our end may be taken over; what rustls still has to send stays in it.
fn shake(theirs: &mut Connection, mut ours: impl FnMut(&mut [u8], &mut Vec<u8>) -> (usize, Step)) {
    let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
    for _ in 0..16 {
        let step = loop {
            let (discard, step) = ours(&mut incoming, &mut outgoing);
            incoming.drain(..discard);
            if step != Step::Again {
                break step;
            }
        };
        deliver(theirs, &outgoing).unwrap();
        outgoing.clear();
        if step == Step::Ready {
            assert!(!theirs.is_handshaking());
            return;
        }
        while theirs.wants_write() {
            theirs.write_tls(&mut incoming).unwrap();
        }
    }
    panic!("the handshake did not end");
}

fn settle<Data>(status: UnbufferedStatus<'_, '_, Data>, out: &mut Vec<u8>) -> (usize, Step) {
    let step = match status.state.unwrap() {
        ConnectionState::EncodeTlsData(mut data) => {
            let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else {
                panic!("nothing to encode");
            };
            let start = out.len();
            out.resize(start + size.required_size, 0);
            data.encode(&mut out[start..]).unwrap();
            Step::Again
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Step::Again
        }
        ConnectionState::BlockedHandshake => Step::Wait,
        ConnectionState::WriteTraffic(_) => Step::Ready,
        other => panic!("{other:?} in the handshake"),
    };
    (status.discard, step)
}

fn configs(suite: SupportedCipherSuite, tickets: usize) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let provider = CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() };
    let provider = Arc::new(provider);
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(raw_key())));
    client.enable_secret_extraction = true;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Anyone))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(raw_key())));
    server.enable_secret_extraction = true;
    server.send_tls13_tickets = tickets;
    (Arc::new(client), Arc::new(server))
}

fn raw_key() -> Arc<CertifiedKey> {
    let pair = Ed25519KeyPair::generate().unwrap();
    let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let spki = [&prefix, pair.public_key().as_ref()].concat();
    let pkcs8 = pair.to_pkcs8v1().unwrap();
    let key = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_ref())).unwrap();
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key))
}

/// Who the ends are is not what is tested here.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
