//! The tests of this crate in one binary, which is linked once. Each module says what it tests.

mod between;
mod flow;
mod packets;
mod pcap;
mod ports;
mod rig;
mod ring;
mod workers;
