//! One endpoint: a network namespace whose `eth0` is an interface of the private switch.

use crate::capture::Capture;
use crate::error::{Result, TestbedError};
use crate::probe::{self, Service, TcpOutcome, UdpOutcome};
use crate::sys;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// What an endpoint shall be like.
#[derive(Debug, Clone, Default)]
pub struct EndpointSpec {
    /// Name of the OVS interface; also names the namespace.
    pub name: String,
    /// MAC of its `eth0`, as text; the kernel chooses one when `None`.
    pub mac: Option<String>,
    /// Addresses with their prefix length, IPv4 or IPv6: `192.0.2.10/24`.
    pub addresses: Vec<String>,
    /// Default gateways, one for each IP version at most.
    pub gateways: Vec<IpAddr>,
    /// VLAN of the port, which is then an access port.
    pub tag: Option<u16>,
    /// `external_ids:iface-id` of the interface.
    pub iface_id: Option<String>,
    /// Bridge to plug into; the sandbox's own when `None`.
    pub bridge: Option<String>,
    /// Make the namespace and leave the port out of the switch until [`Sandbox::plug`](crate::Sandbox::plug).
    pub unplugged: bool,
}

impl EndpointSpec {
    /// Endpoint number `n` (1 to 254) of a common network: `192.0.2.n/24`, `2001:db8::n/64` (in hexadecimal),
    /// MAC `02:00:00:00:00:n`.
    pub fn numbered(name: &str, n: u8) -> Self {
        Self {
            name: name.to_owned(),
            mac: Some(format!("02:00:00:00:00:{n:02x}")),
            addresses: vec![format!("192.0.2.{n}/24"), format!("2001:db8::{n:x}/64")],
            ..Self::default()
        }
    }

    /// The options of `hack/sandbox endpoint`.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut push = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        self.mac.iter().for_each(|mac| push("--mac", mac.clone()));
        self.addresses
            .iter()
            .for_each(|address| push("--addr", address.clone()));
        self.gateways
            .iter()
            .for_each(|gateway| push("--gw", gateway.to_string()));
        self.tag.iter().for_each(|tag| push("--tag", tag.to_string()));
        self.iface_id.iter().for_each(|id| push("--iface-id", id.clone()));
        self.bridge
            .iter()
            .for_each(|bridge| push("--bridge", bridge.clone()));
        if self.unplugged {
            arguments.push("--no-plug".to_owned());
        }
        arguments
    }
}

/// A host behind one port of the private switch. Sockets are opened inside its namespace and stay there, whichever
/// thread uses them. The namespace itself lives as long as the sandbox, or until
/// [`Sandbox::remove_endpoint`](crate::Sandbox::remove_endpoint).
#[derive(Debug, Clone)]
pub struct NetnsHost {
    name: String,
    namespace: String,
    addresses: Vec<IpAddr>,
    mac: Option<[u8; 6]>,
}

impl NetnsHost {
    pub(crate) fn new(spec: &EndpointSpec, namespace: String) -> Self {
        let address = |text: &String| text.split('/').next().and_then(|address| address.parse().ok());
        Self {
            name: spec.name.clone(),
            namespace,
            addresses: spec.addresses.iter().filter_map(address).collect(),
            mac: spec.mac.as_deref().and_then(parse_mac),
        }
    }

    /// Name of the OVS interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the namespace, for `ip netns exec`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The MAC it was made with.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    /// The first IPv4 address it was made with.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// The first IPv6 address it was made with.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        })
    }

    /// Every address it was made with, IPv4 and IPv6.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Runs `work` on a thread inside the namespace and returns what it returns.
    pub fn inside<T: Send>(
        &self,
        action: &'static str,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> Result<T> {
        let path = PathBuf::from("/run/netns").join(&self.namespace);
        let namespace = OwnedFd::from(File::open(&path).map_err(|source| TestbedError::File {
            path: path.clone(),
            source,
        })?);
        let done = thread::scope(|scope| {
            scope
                .spawn(|| sys::enter_network_namespace(&namespace).and_then(|()| work()))
                .join()
        });
        match done {
            Ok(result) => result.map_err(|source| TestbedError::Namespace {
                namespace: self.namespace.clone(),
                action,
                source,
            }),
            Err(panicked) => std::panic::resume_unwind(panicked),
        }
    }

    /// Starts to capture the frames that arrive at `eth0`, in promiscuous mode. Start it before what is to be seen.
    pub fn capture(&self) -> Result<Capture> {
        let socket = self.inside("opening a packet socket", || sys::packet_socket(c"eth0"))?;
        Ok(Capture {
            socket,
            namespace: self.namespace.clone(),
        })
    }

    /// Sends whole Ethernet frames out of `eth0`, as they are.
    pub fn send_frames<'a>(&self, frames: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
        let socket = self.inside("opening a packet socket", || sys::packet_socket(c"eth0"))?;
        frames.into_iter().try_for_each(|frame| {
            sys::send_frame(&socket, frame).map_err(|source| TestbedError::Namespace {
                namespace: self.namespace.clone(),
                action: "sending a frame",
                source,
            })
        })
    }

    /// Sends one whole Ethernet frame out of `eth0`, as it is.
    pub fn send_frame(&self, frame: &[u8]) -> Result<()> {
        self.send_frames([frame])
    }

    /// Every frame that arrives within `timeout` from now.
    pub fn frames(&self, timeout: Duration) -> Result<Vec<Vec<u8>>> {
        self.capture()?.all(timeout)
    }

    /// Listens on TCP `port` of every address, IPv4 and IPv6; 0 lets the kernel choose.
    pub fn tcp_listen(&self, port: u16) -> Result<TcpListener> {
        self.inside("listening on TCP", || {
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        })
    }

    /// Serves TCP `port`, IPv4 and IPv6, returning every byte, until the service is dropped.
    pub fn tcp_echo(&self, port: u16) -> Result<Service> {
        self.inside("serving TCP", || {
            Service::tcp_echo(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?)
        })
    }

    /// Tries to connect from this host.
    pub fn tcp_connect(&self, to: SocketAddr, timeout: Duration) -> Result<TcpOutcome> {
        self.inside("connecting", || probe::tcp_connect(to, timeout))
    }

    /// A UDP socket on `port` of every address, IPv4 and IPv6; 0 lets the kernel choose. IPv4 peers are written
    /// `::ffff:192.0.2.1`.
    pub fn udp_socket(&self, port: u16) -> Result<UdpSocket> {
        self.inside("opening a UDP socket", || {
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        })
    }

    /// Sends one datagram from a port of the kernel's choice.
    pub fn udp_send(&self, to: SocketAddr, payload: &[u8]) -> Result<()> {
        self.inside("sending UDP", || {
            UdpSocket::bind(any_port(to))?.send_to(payload, to).map(drop)
        })
    }

    /// Sends one datagram and waits for the answer.
    pub fn udp_ask(&self, to: SocketAddr, payload: &[u8], timeout: Duration) -> Result<UdpOutcome> {
        self.inside("asking over UDP", || {
            probe::udp_ask(&UdpSocket::bind(any_port(to))?, to, payload, timeout)
        })
    }

    /// Returns every datagram that arrives at UDP `port`, IPv4 and IPv6, until the service is dropped.
    pub fn udp_echo(&self, port: u16) -> Result<Service> {
        self.inside("serving UDP", || {
            Service::udp_echo(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?)
        })
    }
}

fn any_port(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_endpoints_differ_in_every_address() {
        let host = NetnsHost::new(&EndpointSpec::numbered("web1", 10), "ns".to_owned());
        assert_eq!(host.mac(), Some([2, 0, 0, 0, 0, 10]));
        assert_eq!(host.ipv4(), Some(Ipv4Addr::new(192, 0, 2, 10)));
        assert_eq!(host.ipv6(), Some("2001:db8::a".parse().unwrap()));
    }
}
