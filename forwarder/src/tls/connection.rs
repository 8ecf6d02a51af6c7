//! rustls' unbuffered connections, client's and server's alike.

use std::sync::Arc;

use adit_proto::id::Side;
use adit_proto::record::RecordLayer;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use super::HandshakeError;
use crate::key::PublicKey;

pub(super) enum Connection {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// Whether rustls has more to do before it needs more bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Again,
    Wait,
}

impl Connection {
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, HandshakeError> {
        let connection = UnbufferedClientConnection::new(config, name);
        Ok(Self::Client(Box::new(connection.map_err(HandshakeError::Setup)?)))
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, HandshakeError> {
        let connection = UnbufferedServerConnection::new(config);
        Ok(Self::Server(Box::new(connection.map_err(HandshakeError::Setup)?)))
    }

    pub(super) fn side(&self) -> Side {
        match self {
            Self::Client(_) => Side::Forwarder,
            Self::Server(_) => Side::Relay,
        }
    }

    fn state(&self) -> &CommonState {
        match self {
            Self::Client(connection) => connection,
            Self::Server(connection) => connection,
        }
    }

    /// Lets rustls read `input`, from which what it is done with is removed, and appends what it
    /// wants to send to `output`.
    pub(super) fn advance(
        &mut self,
        input: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<(), Error> {
        loop {
            let (discard, step) = self.step(input, output);
            input.drain(..discard.min(input.len()));
            if step? == Step::Wait {
                return Ok(());
            }
        }
    }

    /// Appends what rustls still wants to send after an error: the alert. It is asked for no
    /// longer than it has any, since it must not meet the error a second time.
    pub(super) fn flush(&mut self, output: &mut Vec<u8>) {
        while self.state().wants_write() {
            let (_, step) = self.step(&mut [], output);
            if !matches!(step, Ok(Step::Again)) {
                return;
            }
        }
    }

    fn step(&mut self, input: &mut [u8], output: &mut Vec<u8>) -> (usize, Result<Step, Error>) {
        match self {
            Self::Client(connection) => settle(connection.process_tls_records(input), output),
            Self::Server(connection) => settle(connection.process_tls_records(input), output),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        !self.state().is_handshaking()
    }

    pub(super) fn alpn(&self) -> Option<&[u8]> {
        self.state().alpn_protocol()
    }

    pub(super) fn peer(&self) -> Option<PublicKey> {
        PublicKey::from_spki(self.state().peer_certificates()?.first()?)
    }

    pub(super) fn into_records(self) -> Result<RecordLayer, HandshakeError> {
        let records = match self {
            Self::Client(connection) => {
                let kernel = connection.dangerous_into_kernel_connection();
                RecordLayer::from_kernel(kernel.map_err(HandshakeError::Setup)?)
            }
            Self::Server(connection) => {
                let kernel = connection.dangerous_into_kernel_connection();
                RecordLayer::from_kernel(kernel.map_err(HandshakeError::Setup)?)
            }
        };
        records.map_err(HandshakeError::Keys)
    }
}

/// Deals with one state of the handshake; says how many bytes rustls is done with.
fn settle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    output: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let step = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::EncodeTlsData(data)) => encode(data, output),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Step::Wait),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
            Err(Error::General("the peer closed in the middle of the handshake".into()))
        }
        // It is shown no record behind the handshake, and early data is not offered.
        Ok(other) => Err(Error::General(format!("{other:?} in the middle of the handshake"))),
    };
    (status.discard, step)
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, output: &mut Vec<u8>) -> Result<Step, Error> {
    let start = output.len();
    // The first try only asks for the size.
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        output.resize(start + size.required_size, 0);
        let room = output.get_mut(start..).unwrap_or_default();
        data.encode(room).map_err(|error| Error::General(error.to_string()))?;
    }
    Ok(Step::Again)
}
