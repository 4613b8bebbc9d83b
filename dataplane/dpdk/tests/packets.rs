//! Packets: one owner, bytes that are written only by that owner, and a pool that gets every one back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod rig;

use portcullis_dpdk::{Burst, HEADROOM, MbufError, Mempool, PoolError};
use rig::{eal, pool, running, unique};
use std::error::Error;

#[test]
fn bytes_are_set_added_and_cut_at_both_ends() {
    let pool = pool(16);
    let mut packet = pool.alloc().unwrap();
    assert!(packet.is_empty() && packet.is_contiguous() && packet.is_writable());
    packet.set_data(b"middle").unwrap();
    packet.append(b"-end").unwrap();
    packet.prepend(b"start-").unwrap();
    assert_eq!(packet.data(), b"start-middle-end");
    assert_eq!(packet.len(), 16);
    packet.data_mut().unwrap()[0] = b'S';
    packet.trim(4).unwrap();
    packet.trim_start(5).unwrap();
    assert_eq!(packet.data(), b"-middle");
    assert_eq!(packet.to_vec(), b"-middle");
    assert_eq!(packet.segments().collect::<Vec<_>>(), [b"-middle"]);
    let too_short = MbufError::TooShort { wanted: 8, length: 7 };
    assert_eq!(packet.trim(8), Err(too_short));
    assert_eq!(packet.trim_start(8), Err(too_short));
    packet.trim(7).unwrap();
    assert!(packet.is_empty());
    assert_eq!(pool.in_use(), 1);
    drop(packet);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_buffer_is_filled_to_the_last_byte_and_no_further() {
    let pool = pool(16);
    let room = usize::from(pool.data_room());
    let mut packet = pool.alloc().unwrap();
    let needed = room + 1;
    assert_eq!(
        packet.set_data(&vec![1; needed]),
        Err(MbufError::NoRoom { needed, room })
    );
    assert_eq!(
        packet.set_data(&vec![1; 1 << 17]),
        Err(MbufError::NoRoom {
            needed: 1 << 17,
            room
        })
    );
    packet.set_data(&vec![2; room]).unwrap();
    assert_eq!(packet.append(&[3]), Err(MbufError::NoRoom { needed: 1, room: 0 }));
    let head = usize::from(HEADROOM);
    packet.prepend(&vec![4; head]).unwrap();
    assert_eq!(
        packet.prepend(&[5]),
        Err(MbufError::NoRoom { needed: 1, room: 0 })
    );
    assert_eq!(packet.len(), head + room);
    assert!(packet.data()[..head].iter().all(|byte| *byte == 4));
    assert!(packet.data()[head..].iter().all(|byte| *byte == 2));
    // The neighbours in the pool are as they were.
    let all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(all.len(), 15);
    assert!(all.iter().all(|other| other.is_empty() && other.is_writable()));
}

#[test]
fn a_used_packet_comes_out_of_the_pool_like_a_new_one() {
    let pool = pool(1);
    let mut packet = pool.alloc().unwrap();
    packet.set_data(b"old").unwrap();
    packet.prepend(b"very ").unwrap();
    drop(packet);
    let mut packet = pool.alloc().unwrap();
    assert!(packet.is_empty());
    packet.append(b"new").unwrap();
    assert_eq!(packet.data(), b"new");
    assert!(pool.alloc().is_none(), "a pool of one gave two");
}

#[test]
fn a_shared_frame_leaves_through_two_ports_and_is_read_only_meanwhile() {
    let pool = pool(64);
    let mut a = running(&unique("net_ring"), &pool);
    let mut b = running(&unique("net_ring"), &pool);
    let mut frame = pool.alloc().unwrap();
    frame.set_data(b"to everybody").unwrap();
    let copy = frame.share(&pool).unwrap();
    for packet in [&frame, &copy] {
        assert!(!packet.is_writable());
        assert_eq!(packet.data(), b"to everybody");
    }
    assert_eq!(frame.data_mut(), Err(MbufError::Shared));
    assert_eq!(frame.append(b"!"), Err(MbufError::Shared));
    assert_eq!(frame.prepend(b"!"), Err(MbufError::Shared));
    assert_eq!(frame.set_data(b"!"), Err(MbufError::Shared));

    let mut burst = Burst::<4>::new();
    burst.push(frame).unwrap();
    assert_eq!(a.tx[0].send(&mut burst), 1);
    burst.push(copy).unwrap();
    assert_eq!(b.tx[0].send(&mut burst), 1);
    assert_eq!(a.rx[0].receive(&mut burst), 1);
    assert_eq!(b.rx[0].receive(&mut burst), 1);
    for packet in burst.iter_mut() {
        assert_eq!(packet.data(), b"to everybody");
        assert_eq!(
            packet.data_mut(),
            Err(MbufError::Shared),
            "written under the eyes of the other port"
        );
    }
    let mut own = burst[0].copy(&pool).unwrap();
    own.data_mut().unwrap()[0] = b'T';
    assert_eq!(own.data(), b"To everybody");
    assert_eq!(burst[0].data(), b"to everybody");
    // With the copy gone, the original is its owner's alone again.
    drop(burst.pop());
    assert!(burst[0].is_writable());
    drop((burst, own));
    assert_eq!(pool.in_use(), 0, "one of the copies was not freed");
}

#[test]
fn cutting_a_copy_leaves_the_original_whole() {
    let pool = pool(8);
    let mut frame = pool.alloc().unwrap();
    frame.set_data(b"0123456789").unwrap();
    let mut copy = frame.share(&pool).unwrap();
    copy.trim_start(2).unwrap();
    copy.trim(3).unwrap();
    assert_eq!(copy.data(), b"23456");
    assert_eq!(frame.data(), b"0123456789");
    // The original goes first; its bytes stay until the copy goes.
    drop(frame);
    assert_eq!(copy.data(), b"23456");
    let again = copy.share(&pool).unwrap();
    assert_eq!(again.data(), b"23456");
    drop((copy, again));
    assert_eq!(pool.in_use(), 0);
    let empty = pool.alloc().unwrap();
    assert!(empty.copy(&pool).unwrap().is_empty());
}

#[test]
fn an_empty_pool_gives_nothing_and_takes_nothing() {
    let pool = pool(4);
    let mut burst = Burst::<32>::new();
    assert!(!pool.alloc_burst(&mut burst, 5), "five of four");
    assert!(burst.is_empty());
    assert!(pool.alloc_burst(&mut burst, 4));
    assert!(pool.alloc().is_none());
    assert!(burst[0].share(&pool).is_none());
    assert!(burst[0].copy(&pool).is_none());
    assert_eq!(pool.available(), 0);
    burst.clear();
    assert_eq!(pool.available(), 4);
    let mut small = Burst::<2>::new();
    assert!(!pool.alloc_burst(&mut small, 3), "three fit a burst of two");
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn bursts_keep_order_and_free_what_is_left_in_them() {
    let pool = pool(64);
    let numbered = |number: u8| {
        let mut packet = pool.alloc().unwrap();
        packet.set_data(&[number]).unwrap();
        packet
    };
    let mut burst = Burst::<4>::new();
    for number in 0..4 {
        burst.push(numbered(number)).unwrap();
    }
    assert!(burst.is_full());
    let refused = burst.push(numbered(9)).unwrap_err();
    assert_eq!(refused.data(), [9]);
    drop(refused);
    assert_eq!(burst.pop().unwrap().data(), [3]);
    assert_eq!((burst.len(), burst.room()), (3, 1));
    let mut drain = burst.drain();
    assert_eq!(drain.len(), 3);
    assert_eq!(drain.next().unwrap().data(), [0]);
    drop(drain);
    assert!(burst.is_empty());
    assert_eq!(pool.in_use(), 0, "what was not drained was not freed");
    burst.push(numbered(1)).unwrap();
    drop(burst);
    assert_eq!(pool.in_use(), 0, "a dropped burst was not freed");
}

#[test]
fn what_a_full_ring_does_not_take_stays_in_order() {
    let pool = pool(4096);
    let mut port = running(&unique("net_ring"), &pool);
    let mut burst = Burst::<32>::new();
    let mut sent = 0_u32;
    loop {
        assert!(pool.alloc_burst(&mut burst, 32));
        for (packet, number) in burst.iter_mut().zip(sent..) {
            packet.set_data(&number.to_be_bytes()).unwrap();
        }
        let taken = port.tx[0].send(&mut burst);
        sent += u32::try_from(taken).unwrap();
        if taken < 32 {
            assert_eq!(burst.len(), 32 - taken);
            break;
        }
    }
    assert_eq!(
        burst[0].data(),
        sent.to_be_bytes(),
        "the first that is left is not the next"
    );
    burst.clear();
    assert_eq!(pool.in_use(), sent);
    let mut received = 0_u32;
    while port.rx[0].receive(&mut burst) > 0 {
        for packet in burst.drain() {
            assert_eq!(packet.data(), received.to_be_bytes());
            received += 1;
        }
    }
    assert_eq!(received, sent);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn pools_that_cannot_be_are_refused_with_what_would_be() {
    let new = |count, cache, room| Mempool::new(eal(), "impossible", count, cache, room).unwrap_err();
    assert!(matches!(new(0, 0, 2048), PoolError::Empty { .. }));
    assert!(matches!(new(300, 250, 2048), PoolError::Cache { most: 200, .. }));
    assert!(matches!(
        new(1 << 20, 513, 64),
        PoolError::Cache { most: 512, .. }
    ));
    assert!(matches!(new(16, 0, u16::MAX), PoolError::DataRoom { .. }));
    let huge = new(4_000_000, 0, 2048);
    assert!(
        // DPDK says ENOMEM or, in newer versions, ENOBUFS.
        matches!(&huge, PoolError::Create { errno, .. } if ["ENOMEM", "ENOBUFS"].contains(&errno.name())),
        "{huge:?}"
    );
    assert!(huge.to_string().contains("MiB"), "{huge}");
    assert!(
        huge.source().unwrap().to_string().contains("memory_mb"),
        "{huge:?}"
    );
}

#[test]
fn pools_give_their_memory_back() {
    // Some 16 times what DPDK has.
    for round in 0..64 {
        let pool = Mempool::new(eal(), "round", 16_384, 0, 2048 + round).unwrap();
        assert_eq!((pool.capacity(), pool.in_use()), (16_384, 0));
    }
}

#[test]
fn a_packet_outlives_its_pool() {
    let pool = pool(32);
    let mut packet = pool.alloc().unwrap();
    packet.set_data(b"still here").unwrap();
    drop(pool);
    // Other pools come and go over what would have been its memory.
    for round in 0..8 {
        let other = Mempool::new(eal(), "other", 32, 0, 2000 + round).unwrap();
        let mut all: Vec<_> = std::iter::from_fn(|| other.alloc()).collect();
        all.iter_mut()
            .for_each(|packet| packet.set_data(&[0xff; 1000]).unwrap());
    }
    assert_eq!(packet.data(), b"still here");
}
