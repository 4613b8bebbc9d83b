//! A kernel network interface as a port, over packet sockets (packet(7)).
//!
//! DPDK's `net_af_packet` puts its sockets into a fanout group that reassembles, always: IPv4 fragments come in as one frame,
//! which is longer than its ring takes, and is lost. These sockets take frames as they are on the wire. The kernel copies
//! into and out of packet buffers directly, a burst with each call.
//!
//! A tag that the kernel took out of a frame is put back. What is sent is not received again.

use std::ffi::CString;
use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{c_int, c_void, socklen_t};
use thiserror::Error;

use crate::burst::Burst;
use crate::mbuf::Mbuf;
use crate::mempool::Mempool;

/// Frames that one call moves at most.
const BATCH: usize = 32;
/// Bytes that may wait in the kernel: some milliseconds of a fast port.
const WAITING: c_int = 8 << 20;
/// Pieces of a burst that one call sends; a frame in more pieces waits for the next call.
const PIECES: usize = 4 * BATCH;
/// Bytes of a control message with a tag: a header and `tpacket_auxdata`, with room.
const CONTROL: usize = 64;
/// Both MACs: what stands before a tag.
const MACS: usize = 12;

/// Why an interface cannot be used.
#[derive(Debug, Error)]
pub enum InterfaceError {
    /// No interface has this name.
    #[error("no interface `{0}` in this network namespace: see `ip link`")]
    NotFound(String),
    /// A step that the kernel refused.
    #[error("interface {name}: cannot {what}; root or CAP_NET_RAW and CAP_NET_ADMIN are needed")]
    Refused {
        /// Name of the interface.
        name: String,
        /// The step, after "cannot": for example `open a packet socket`.
        what: &'static str,
        /// The error of the system call.
        source: io::Error,
    },
}

/// Frames that were lost before anybody saw them.
#[derive(Debug, Default)]
struct Lost {
    /// There was no room in the kernel.
    crowded: AtomicU64,
    /// Longer than a packet buffer.
    long: AtomicU64,
    /// There was no packet buffer.
    unbuffered: AtomicU64,
}

/// What of an interface's frames was lost before anybody saw them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterfaceLoss {
    /// There was no room in the kernel: the worker was too slow.
    pub crowded: u64,
    /// Longer than a packet buffer: segments that the kernel put together.
    pub long: u64,
    /// There was no packet buffer.
    pub unbuffered: u64,
}

/// An interface of the kernel, used through packet sockets with one receiver.
#[derive(Debug)]
pub struct Interface {
    name: String,
    socket: Arc<OwnedFd>,
    lost: Arc<Lost>,
    mtu: u16,
}

/// Where its frames come from. One thread takes them.
#[derive(Debug)]
pub struct Receiver {
    socket: Arc<OwnedFd>,
    lost: Arc<Lost>,
    pool: Mempool,
    /// Empty packets that the next call fills.
    empty: Vec<Mbuf>,
}

/// Where frames go out. Each thread has one of its own.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
}

impl Interface {
    /// Opens an interface of this thread's network namespace: its frames are received into packets of `pool`, and sent by as
    /// many senders as are wanted. `mtu` is set when given.
    ///
    /// # Errors
    /// See [`InterfaceError`].
    pub fn open(
        name: &str,
        pool: &Mempool,
        senders: usize,
        mtu: Option<u16>,
    ) -> Result<(Interface, Receiver, Vec<Sender>), InterfaceError> {
        let not_found = || InterfaceError::NotFound(name.to_owned());
        let text = CString::new(name).map_err(|_| not_found())?;
        // SAFETY: `text` is a C string.
        let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
        let index = c_int::try_from(index).ok().filter(|index| *index > 0);
        let index = index.ok_or_else(not_found)?;
        let refused = |what| {
            let name = name.to_owned();
            move |source| InterfaceError::Refused { name, what, source }
        };
        let socket = packet_socket().map_err(refused("open a packet socket"))?;
        let on: c_int = 1;
        for (option, what) in [
            (libc::PACKET_AUXDATA, "ask for the tags of frames"),
            (libc::PACKET_IGNORE_OUTGOING, "leave out what is sent"),
        ] {
            set(&socket, libc::SOL_PACKET, option, &on).map_err(refused(what))?;
        }
        if set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &WAITING).is_err() {
            // Without CAP_NET_ADMIN as much as the system allows.
            set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &WAITING).map_err(refused("set aside memory"))?;
        }
        if let Some(mtu) = mtu {
            set_mtu(&socket, name, mtu).map_err(refused("set its MTU"))?;
        }
        let mtu = get_mtu(&socket, name).map_err(refused("read its MTU"))?;
        // SAFETY: the struct is numbers, for which zero is a value.
        let mut membership: libc::packet_mreq = unsafe { zeroed() };
        membership.mr_ifindex = index;
        membership.mr_type = libc::PACKET_MR_PROMISC as u16;
        set(
            &socket,
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            &membership,
        )
        .map_err(refused("take frames for others (promiscuous mode)"))?;
        let senders: io::Result<Vec<Sender>> = (0..senders).map(|_| sender(index)).collect();
        let senders = senders.map_err(refused("open a packet socket to send by"))?;
        // From here on frames come in.
        bind(&socket, index, libc::ETH_P_ALL).map_err(refused("take its frames"))?;
        let (socket, lost) = (Arc::new(socket), Arc::new(Lost::default()));
        let receiver = Receiver {
            socket: Arc::clone(&socket),
            lost: Arc::clone(&lost),
            pool: pool.clone(),
            empty: Vec::with_capacity(BATCH),
        };
        let interface = Interface {
            name: name.to_owned(),
            socket,
            lost,
            mtu,
        };
        Ok((interface, receiver, senders))
    }

    /// Name of the interface.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of a frame behind its Ethernet header.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Whether its link is up; unknown when the kernel does not say, as for one that is gone.
    #[must_use]
    pub fn up(&self) -> Option<bool> {
        let mut request = request(&self.name);
        ioctl(&self.socket, libc::SIOCGIFFLAGS, &mut request).ok()?;
        // SAFETY: the kernel has filled in the flags.
        let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        Some(flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0)
    }

    /// What was lost so far.
    #[must_use]
    pub fn loss(&self) -> InterfaceLoss {
        // SAFETY: the struct is numbers, for which zero is a value.
        let mut told: libc::tpacket_stats = unsafe { zeroed() };
        let mut length = size_of_val(&told) as socklen_t;
        // SAFETY: `told` is as long as `length` says. The kernel counts from 0 again after each question.
        let status = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut told).cast(),
                &raw mut length,
            )
        };
        let new = if status == 0 { u64::from(told.tp_drops) } else { 0 };
        let crowded = self.lost.crowded.fetch_add(new, Ordering::Relaxed) + new;
        InterfaceLoss {
            crowded,
            long: self.lost.long.load(Ordering::Relaxed),
            unbuffered: self.lost.unbuffered.load(Ordering::Relaxed),
        }
    }
}

impl Receiver {
    /// Adds what has arrived to `burst`, as far as it fits, without waiting; how many that were.
    pub fn receive<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        let wanted = burst.room().min(BATCH);
        while self.empty.len() < wanted {
            match self.pool.alloc() {
                Some(packet) => self.empty.push(packet),
                None => break,
            }
        }
        if self.empty.is_empty() {
            if wanted > 0 {
                self.discard();
            }
            return 0;
        }
        self.fill(burst, wanted)
    }

    /// Receives into the empty packets, at most `wanted`.
    fn fill<const N: usize>(&mut self, burst: &mut Burst<N>, wanted: usize) -> usize {
        let mut pieces = [libc::iovec {
            iov_base: null_mut(),
            iov_len: 0,
        }; BATCH];
        let mut control = [[0u64; CONTROL / 8]; BATCH];
        // SAFETY: the struct is numbers and pointers, for which zero is a value.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let mut count = 0;
        for (packet, ((message, piece), control)) in self
            .empty
            .iter_mut()
            .take(wanted)
            .zip(messages.iter_mut().zip(&mut pieces).zip(&mut control))
        {
            let (start, room) = packet.tail();
            piece.iov_base = start.cast();
            piece.iov_len = room;
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = CONTROL as _;
            count += 1;
        }
        // SAFETY: `count` messages are filled in, with memory that lives through the call: buffers of packets that nobody
        // else has, and control memory.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                null_mut(),
            )
        };
        // An error is that nothing is there, or that the interface is down or gone: nothing to receive.
        let received = usize::try_from(received).unwrap_or(0);
        let mut added = 0;
        for (mut packet, message) in self.empty.drain(..received).zip(&messages) {
            let length = u16::try_from(message.msg_len).unwrap_or(u16::MAX);
            if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                self.lost.long.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // SAFETY: the kernel has written `length` bytes behind those that were there, none.
            unsafe { packet.filled(length) };
            if let Some(tag) = tag_of(&message.msg_hdr)
                && put_back(&mut packet, tag).is_none()
            {
                self.lost.long.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // There is room for all that were wanted.
            if burst.push(packet).is_ok() {
                added += 1;
            }
        }
        added
    }

    /// Takes frames for which there is no packet buffer, so that they are counted and newer ones do not wait behind them.
    fn discard(&self) {
        let mut byte = 0u8;
        for _ in 0..BATCH {
            // SAFETY: `byte` has room for the one byte that is asked for.
            let length = unsafe {
                libc::recv(
                    self.socket.as_raw_fd(),
                    (&raw mut byte).cast::<c_void>(),
                    1,
                    libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                )
            };
            if length < 0 {
                return;
            }
            self.lost.unbuffered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Sender {
    /// Sends from the start of `burst` what the kernel takes, without waiting; how many that were. The rest stays in the
    /// burst, in order.
    pub fn send<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        let mut pieces = [libc::iovec {
            iov_base: null_mut(),
            iov_len: 0,
        }; PIECES];
        // SAFETY: the struct is numbers and pointers, for which zero is a value.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let (mut count, mut used) = (0, 0);
        for (packet, message) in burst.iter().zip(&mut messages) {
            let begin = used;
            for segment in packet.segments() {
                let Some(piece) = pieces.get_mut(used) else { break };
                piece.iov_base = segment.as_ptr().cast_mut().cast();
                piece.iov_len = segment.len();
                used += 1;
            }
            let whole: usize = pieces[begin..used].iter().map(|piece| piece.iov_len).sum();
            if whole < packet.len() {
                break;
            }
            message.msg_hdr.msg_iov = pieces[begin..used].as_mut_ptr();
            message.msg_hdr.msg_iovlen = (used - begin) as _;
            count += 1;
        }
        // SAFETY: `count` messages are filled in, with bytes of packets that live through the call and are only read.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
            )
        };
        let sent = usize::try_from(sent).unwrap_or(0);
        burst.free_first(sent);
        sent
    }
}

fn packet_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers. Protocol 0: nothing comes in before it is bound.
    let socket = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// A socket that sends to an interface and receives nothing.
fn sender(index: c_int) -> io::Result<Sender> {
    let socket = packet_socket()?;
    let on: c_int = 1;
    set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &on)?;
    bind(&socket, index, 0)?;
    Ok(Sender { socket })
}

fn set<T>(socket: &OwnedFd, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as socklen_t;
    // SAFETY: `value` is as long as `length` says, and is only read.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast(),
            length,
        )
    };
    done(status)
}

fn bind(socket: &OwnedFd, index: c_int, protocol: c_int) -> io::Result<()> {
    // SAFETY: the struct is numbers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (protocol as u16).to_be();
    address.sll_ifindex = index;
    let length = size_of_val(&address) as socklen_t;
    // SAFETY: `address` is as long as `length` says, and is only read.
    done(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })
}

fn done(status: c_int) -> io::Result<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A question about an interface; names that are too long are cut, and then there is none.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: the struct is numbers and a union of such, for which zero is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    let last = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..last].iter_mut().zip(name.bytes()) {
        *to = from as _;
    }
    request
}

fn ioctl(socket: &OwnedFd, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: these questions take a pointer to an `ifreq`, which is readable and writable.
    done(unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut *request) })
}

fn get_mtu(socket: &OwnedFd, name: &str) -> io::Result<u16> {
    let mut request = request(name);
    ioctl(socket, libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: the kernel has filled in the MTU.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

fn set_mtu(socket: &OwnedFd, name: &str, mtu: u16) -> io::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_mtu = c_int::from(mtu);
    ioctl(socket, libc::SIOCSIFMTU, &mut request)
}

/// The tag that the kernel took out of a frame: its EtherType and what it says.
fn tag_of(message: &libc::msghdr) -> Option<[u8; 4]> {
    // SAFETY: the kernel has filled in the message, and says how much of the control memory it used.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if header.cmsg_level != libc::SOL_PACKET || header.cmsg_type != libc::PACKET_AUXDATA {
        return None;
    }
    // SAFETY: behind a header of this kind is a `tpacket_auxdata`; it need not be aligned.
    let told: libc::tpacket_auxdata = unsafe {
        libc::CMSG_DATA(header)
            .cast::<libc::tpacket_auxdata>()
            .read_unaligned()
    };
    if told.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    // Kernels that do not tell the EtherType know one only.
    let ether_type = if told.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
        told.tp_vlan_tpid
    } else {
        0x8100
    };
    let ([a, b], [c, d]) = (ether_type.to_be_bytes(), told.tp_vlan_tci.to_be_bytes());
    Some([a, b, c, d])
}

/// Puts a tag behind the MACs.
fn put_back(packet: &mut Mbuf, tag: [u8; 4]) -> Option<()> {
    let mut macs = [0u8; MACS];
    macs.copy_from_slice(packet.data().get(..MACS)?);
    packet.prepend(&tag).ok()?;
    let data = packet.data_mut().ok()?;
    data.get_mut(..MACS)?.copy_from_slice(&macs);
    data.get_mut(MACS..MACS + 4)?.copy_from_slice(&tag);
    Some(())
}
