//! The tests over network interfaces of the kernel in one binary, which is linked once. They need root.

mod real_af_packet;
mod real_interface;
mod real_tap;
mod rig;
