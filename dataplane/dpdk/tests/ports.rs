//! Ports: what they get, how they go, and what they say when something is not possible.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use portcullis_dpdk::flow::{Action, Eth, FlowErrorKind, Ipv4, Item, Masked, Rule};
use portcullis_dpdk::{Burst, ConfigureError, Device, Mempool, PortConfig, ProbeError, Running};
use rig::{eal, pool, running, unique};
use std::error::Error;
use std::sync::Arc;
use std::thread;

/// Sends `count` packets, at most 32, and receives them again.
fn pass(port: &mut Running, pool: &Mempool, count: usize) {
    let mut burst = Burst::<32>::new();
    assert!(pool.alloc_burst(&mut burst, count));
    burst
        .iter_mut()
        .for_each(|packet| packet.set_data(&[7; 60]).unwrap());
    assert_eq!(port.tx[0].send(&mut burst), count);
    assert_eq!(port.rx[0].receive(&mut burst), count);
    assert!(burst.iter().all(|packet| packet.data() == [7; 60]));
}

#[test]
fn more_than_a_device_has_is_not_granted() {
    let pool = pool(4096);
    let device = Device::probe(eal(), &unique("net_ring")).unwrap();
    let info = device.info().clone();
    assert_eq!(info.driver, "net_ring");
    assert!(info.max_rx_queues >= 1 && info.max_tx_queues >= 1, "{info:?}");
    let config = PortConfig {
        rx_queues: u16::MAX,
        tx_queues: u16::MAX,
        rss: true,
        ..PortConfig::new(&pool)
    };
    let port = device.configure(&config).unwrap();
    let granted = port.granted().clone();
    assert_eq!(
        (granted.rx_queues, granted.tx_queues),
        (info.max_rx_queues, info.max_tx_queues)
    );
    assert_eq!(granted.rss, info.rss && granted.rx_queues > 1);
    let running = port.start().unwrap();
    assert_eq!(running.rx.len(), usize::from(granted.rx_queues));
    assert_eq!(running.tx.len(), usize::from(granted.tx_queues));
    let indices: Vec<u16> = running.rx.iter().map(|queue| queue.index()).collect();
    assert_eq!(indices, (0..granted.rx_queues).collect::<Vec<_>>());
}

#[test]
fn a_device_with_several_queues_gives_them_all() {
    let pool = pool(1024);
    let device = Device::probe(eal(), &unique("net_null")).unwrap();
    let config = PortConfig {
        rx_queues: 2,
        tx_queues: 3,
        ..PortConfig::new(&pool)
    };
    let running = device.configure(&config).unwrap().start().unwrap();
    assert_eq!((running.rx.len(), running.tx.len()), (2, 3));
}

#[test]
fn net_null_makes_packets_of_nothing_and_takes_all() {
    let pool = pool(256);
    let mut port = running(&format!("{},size=100", unique("net_null")), &pool);
    let mut burst = Burst::<32>::new();
    assert_eq!(port.rx[0].receive(&mut burst), 32);
    let id = port.port.id();
    assert!(
        burst
            .iter()
            .all(|packet| packet.len() == 100 && packet.is_writable() && packet.port() == id)
    );
    assert_eq!(pool.in_use(), 32);
    assert_eq!(port.tx[0].send(&mut burst), 32);
    assert!(burst.is_empty());
    assert_eq!(pool.in_use(), 0);
    let stats = port.port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (32, 32));
    let xstats = port.port.xstats().unwrap();
    let value = |name: &str| {
        xstats
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| *value)
    };
    assert_eq!(value("rx_good_packets"), Some(32), "{xstats:?}");
    port.port.reset_stats().unwrap();
    assert_eq!(port.port.stats().unwrap().rx_packets, 0);
}

#[test]
fn a_burst_receives_what_still_fits() {
    let pool = pool(256);
    let mut port = running(&unique("net_null"), &pool);
    let mut burst = Burst::<8>::new();
    burst.push(pool.alloc().unwrap()).unwrap();
    assert_eq!(port.rx[0].receive(&mut burst), 7);
    assert_eq!(port.rx[0].receive(&mut burst), 0);
    assert_eq!(burst.len(), 8);
}

#[test]
fn a_port_goes_in_any_order_and_again() {
    let pool = pool(512);
    let name = unique("net_ring");
    for order in 0..4 {
        let mut port = running(&name, &pool);
        pass(&mut port, &pool, 16);
        let Running { port, rx, tx } = port;
        match order {
            0 => drop((rx, tx, port)),
            1 => drop((port, rx, tx)),
            2 => drop((tx, port, rx)),
            _ => {
                let queues = thread::spawn(move || drop((rx, tx)));
                drop(port);
                queues.join().unwrap();
            }
        }
        assert_eq!(pool.in_use(), 0, "order {order}");
    }
    Device::probe(eal(), &name).unwrap();
}

#[test]
fn a_queue_alone_keeps_its_port_running() {
    let pool = pool(512);
    let Running { port, mut rx, mut tx } = running(&unique("net_ring"), &pool);
    drop(port);
    let mut burst = Burst::<32>::new();
    assert!(pool.alloc_burst(&mut burst, 5));
    assert_eq!(tx[0].send(&mut burst), 5);
    drop(tx);
    assert_eq!(rx[0].receive(&mut burst), 5);
}

#[test]
fn a_port_is_stopped_with_its_queues_and_started_again() {
    let pool = pool(512);
    let mut port = running(&unique("net_ring"), &pool);
    pass(&mut port, &pool, 8);
    let Running { port, mut rx, tx } = port;
    let kept = rx.pop().unwrap();
    let port = port.stop(rx, tx).unwrap_err().port;
    let stopped = port.stop(vec![kept], Vec::new()).unwrap();
    let mut port = stopped.start().unwrap();
    pass(&mut port, &pool, 8);
    let Running { port, rx, tx } = port;
    let device = port.stop(rx, tx).unwrap().into_device();
    let mut port = device
        .configure(&PortConfig::new(&pool))
        .unwrap()
        .start()
        .unwrap();
    pass(&mut port, &pool, 8);
}

#[test]
fn counters_and_link_are_read_from_other_threads_meanwhile() {
    let pool = pool(512);
    let Running { port, mut rx, mut tx } = running(&unique("net_ring"), &pool);
    let port = Arc::new(port);
    let theirs = Arc::clone(&port);
    let reader = thread::spawn(move || {
        let (mut last, mut reads) = (0, 0_u32);
        while last < 32_000 {
            let now = theirs.stats().unwrap().rx_packets;
            assert!(now >= last, "{now} after {last}");
            last = now;
            reads += 1;
            assert!(theirs.link().unwrap().up);
        }
        reads
    });
    let mut burst = Burst::<32>::new();
    for _ in 0..1000 {
        assert!(pool.alloc_burst(&mut burst, 32));
        assert_eq!(tx[0].send(&mut burst), 32);
        assert_eq!(rx[0].receive(&mut burst), 32);
        burst.clear();
    }
    assert!(reader.join().unwrap() > 0);
    assert_eq!(port.mac().unwrap(), port.info().mac);
    assert_eq!(port.mtu().unwrap(), port.granted().mtu);
}

#[test]
fn an_mtu_is_granted_within_the_limits_and_must_fit_the_pool() {
    let small = Mempool::new(eal(), "small", 512, 0, 512).unwrap();
    let name = unique("net_null");
    let config = PortConfig {
        mtu: Some(9000),
        ..PortConfig::new(&small)
    };
    let device = Device::probe(eal(), &name).unwrap();
    assert!(!device.info().scatter);
    let error = device.configure(&config).unwrap_err();
    assert!(
        matches!(
            error,
            ConfigureError::PoolTooSmall {
                needed: 9022,
                room: 512,
                ..
            }
        ),
        "{error}"
    );
    let large = Mempool::new(eal(), "large", 512, 0, 9022).unwrap();
    let config = PortConfig {
        mtu: Some(9000),
        ..PortConfig::new(&large)
    };
    let port = Device::probe(eal(), &name).unwrap().configure(&config).unwrap();
    assert_eq!((port.granted().mtu, port.mtu().unwrap()), (9000, 9000));
    drop(port);
    let none = PortConfig {
        rx_queues: 0,
        ..PortConfig::new(&large)
    };
    let error = Device::probe(eal(), &name).unwrap().configure(&none).unwrap_err();
    assert!(matches!(error, ConfigureError::NoQueues(_)), "{error}");
}

#[test]
fn a_missing_driver_is_named_with_its_package() {
    let error = Device::probe(eal(), "net_nonsense7,iface=x").unwrap_err();
    assert!(matches!(&error, ProbeError::NoDriver { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("net_nonsense7") && text.contains("librte-net-nonsense2"),
        "{text}"
    );
}

#[test]
fn what_a_driver_objects_to_is_told_in_its_words() {
    let name = unique("net_af_packet");
    let error = Device::probe(eal(), &format!("{name},iface=no-such-iface")).unwrap_err();
    let ProbeError::Refused { said, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(said.iter().any(|line| line.contains(&name)), "{said:?}");
    // The name can be used again.
    let again = Device::probe(eal(), &format!("{name},iface=no-such-iface")).unwrap_err();
    assert!(matches!(again, ProbeError::Refused { .. }), "{again:?}");
}

#[test]
fn what_cannot_be_a_device_is_refused_before_dpdk_is_asked() {
    for nothing in ["", ",iface=x"] {
        let error = Device::probe(eal(), nothing).unwrap_err();
        assert!(matches!(error, ProbeError::Description(_)), "{error:?}");
    }
    let error = Device::probe(eal(), "net_null\0").unwrap_err();
    assert!(matches!(error, ProbeError::Description(_)), "{error:?}");
    let error = Device::probe(eal(), "0000:01:00.0").unwrap_err();
    assert!(error.to_string().contains("no_pci"), "{error}");
}

#[test]
fn a_device_without_rules_says_so() {
    let pool = pool(256);
    let rule = Rule {
        pattern: vec![
            Item::Eth(Eth::default()),
            Item::Ipv4(Ipv4 {
                dst: Masked::prefix([192, 0, 2, 0].into(), 24),
                ..Ipv4::default()
            }),
        ],
        actions: vec![Action::Count, Action::Drop],
        ..Rule::default()
    };
    for driver in ["net_null", "net_ring"] {
        let running = running(&unique(driver), &pool);
        let errors = [
            running.port.flows().validate(&rule).unwrap_err(),
            running.port.flows().create(&rule).unwrap_err(),
            running.port.flows().flush().unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind, FlowErrorKind::Unspecified, "{error:?}");
            assert!(error.message.is_some(), "{error:?}");
            assert!(error.to_string().contains(running.port.name()), "{error}");
            let errno = error.source().unwrap().to_string();
            assert!(
                errno.starts_with("ENOSYS") || errno.starts_with("ENOTSUP"),
                "{errno}"
            );
        }
    }
}
