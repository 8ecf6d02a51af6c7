//! The ways from the external to the internal peer that are compared.

use std::fmt;

use clap::ValueEnum;

/// A service of the internal peer, by its port there; each way leads to it from a port of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its name, as a registered peer.
    pub(crate) name: &'static str,
    /// Its port on the internal peer.
    pub(crate) port: u16,
}

/// iperf3.
pub(crate) const BULK: Service = Service { name: "bulk", port: 5201 };
/// Sends back what it gets.
pub(crate) const ECHO: Service = Service { name: "echo", port: 5007 };
/// All of them.
pub(crate) const SERVICES: [Service; 2] = [BULK, ECHO];

/// How far a way's ports lie above the services' own.
const SOCAT_OFFSET: u16 = 10_000;
const ADIT_OFFSET: u16 = 20_000;

/// One of the things compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Way {
    /// DNAT on the gateway, no process in between: the physical limit.
    Kernel,
    /// Two hops of socat, no tunnel, nothing sealed.
    Socat,
    /// The relay and the forwarder.
    Adit,
}

impl Way {
    /// The host of the lab that external peers connect to.
    pub(crate) fn entry_host(self) -> &'static str {
        match self {
            Self::Kernel => "gw",
            Self::Socat | Self::Adit => "relay",
        }
    }

    /// The port there.
    pub(crate) fn entry_port(self, service: Service) -> u16 {
        match self {
            Self::Kernel => service.port,
            Self::Socat => service.port + SOCAT_OFFSET,
            Self::Adit => service.port + ADIT_OFFSET,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel DNAT",
            Self::Socat => "socat, two hops",
            Self::Adit => "Adit",
        })
    }
}
