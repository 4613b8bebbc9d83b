//! Serves and asks over TCP and UDP, for scripts: one line on standard output, and an exit status.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use portcullis_testbed::probe::{Service, TcpOutcome, UdpOutcome, tcp_connect, tcp_echo, udp_ask};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// Real TCP connections and UDP datagrams for scripts, to be run with `ip netns exec`.
#[derive(Parser)]
#[command(name = "portcullis-probe")]
struct Cli {
    #[command(subcommand)]
    command: Probe,
}

#[derive(Subcommand)]
enum Probe {
    /// Echo on these ports of every IPv4 and IPv6 address until killed; prints `ready` once it listens.
    Serve {
        /// TCP port to listen on; may be repeated.
        #[arg(long, value_name = "PORT")]
        tcp: Vec<u16>,
        /// UDP port to listen on; may be repeated.
        #[arg(long, value_name = "PORT")]
        udp: Vec<u16>,
    },
    /// Connect: prints `open`, `refused`, `timeout` or `unreachable`; exit status 0 for `open` only.
    Tcp(To),
    /// Send a datagram: prints `answered`, `refused`, `timeout` or `unreachable`; exit status 0 for `answered` only.
    Udp(To),
    /// Keep one TCP connection busy until standard input ends, and print `SENT sent, ECHOED echoed`; exit status 0
    /// when all came back.
    Flow(To),
}

#[derive(Args)]
struct To {
    /// IPv4 or IPv6 address to ask.
    address: IpAddr,
    /// TCP or UDP port to ask.
    port: u16,
    /// How long to wait for an answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1_000)]
    timeout: u64,
}

impl To {
    fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("portcullis-probe: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether the other side answered.
fn run(command: Probe) -> io::Result<bool> {
    match command {
        Probe::Serve { tcp, udp } => serve(&tcp, &udp),
        Probe::Tcp(to) => {
            let outcome = tcp_connect(to.socket(), to.timeout())?;
            println!("{}", outcome.word());
            Ok(outcome.is_open())
        }
        Probe::Udp(to) => {
            let any: IpAddr = if to.address.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let outcome = udp_ask(
                &UdpSocket::bind((any, 0))?,
                to.socket(),
                b"portcullis",
                to.timeout(),
            )?;
            println!("{}", outcome.word());
            Ok(matches!(outcome, UdpOutcome::Answered(_)))
        }
        Probe::Flow(to) => flow(&to),
    }
}

fn serve(tcp: &[u16], udp: &[u16]) -> io::Result<bool> {
    let mut services = Vec::new();
    for port in tcp {
        services.push(Service::tcp_echo(TcpListener::bind((
            Ipv6Addr::UNSPECIFIED,
            *port,
        ))?)?);
    }
    for port in udp {
        services.push(Service::udp_echo(UdpSocket::bind((
            Ipv6Addr::UNSPECIFIED,
            *port,
        ))?)?);
    }
    println!("ready");
    io::stdout().flush()?;
    loop {
        thread::park();
    }
}

fn flow(to: &To) -> io::Result<bool> {
    let outcome = tcp_connect(to.socket(), to.timeout())?;
    let TcpOutcome::Open(mut stream) = outcome else {
        println!("{}", outcome.word());
        return Ok(false);
    };
    let input = thread::spawn(|| io::copy(&mut io::stdin(), &mut io::sink()));
    let (mut sent, mut echoed) = (0_u32, 0_u32);
    while sent == 0 || (!input.is_finished() && sent == echoed) {
        sent += 1;
        if tcp_echo(&mut stream, &sent.to_be_bytes(), to.timeout())? {
            echoed += 1;
        }
        thread::sleep(Duration::from_millis(10));
    }
    println!("{sent} sent, {echoed} echoed");
    Ok(sent == echoed)
}
