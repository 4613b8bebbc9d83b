//! IP headers that hide what is behind them, or break: fragments, options, extension headers, lengths, flags.

use portcullis_policy::{L4, Protocol};

use super::craft::{ACK, Corpus, Ext, IPV4, IPV6, Ip, SYN, Segment, icmp, ip, raw, route, sctp, tcp, udp};
use super::{BARE, FREE, Host, INTERNET, MAIL, STRAY, WEB};

const PATHS: [(Host, Host); 8] = [
    (WEB, INTERNET),
    (INTERNET, WEB),
    (MAIL, INTERNET),
    (INTERNET, MAIL),
    (FREE, INTERNET),
    (INTERNET, STRAY),
    (WEB, MAIL),
    (BARE, WEB),
];

pub fn add(corpus: &mut Corpus) {
    for (from, to) in PATHS {
        for v6 in [false, true] {
            let path = Path { from, to, v6 };
            path.fragments(corpus);
            path.lengths(corpus);
            path.flags(corpus);
            if v6 {
                path.extension_headers(corpus);
                path.broken_v6(corpus);
            } else {
                path.options(corpus);
                path.broken_v4(corpus);
            }
        }
    }
}

/// Messages that the documents treat differently.
fn messages(v6: bool) -> Vec<(&'static str, Segment)> {
    vec![
        ("tcp 25 SYN", tcp(40123, 25, SYN)),
        ("tcp 25 ACK", tcp(40123, 25, ACK)),
        ("tcp 80 SYN", tcp(40123, 80, SYN)),
        ("tcp reply from 443", tcp(443, 40123, ACK)),
        ("tcp 9999 SYN", tcp(40123, 9999, SYN)),
        ("udp 53", udp(40123, 53)),
        ("udp from 53", udp(53, 40123)),
        ("udp 15000", udp(40123, 15000)),
        ("sctp 3868", sctp(40123, 3868)),
        ("ping", icmp(v6, if v6 { 128 } else { 8 }, 0)),
        ("gre", raw(47)),
        ("esp", raw(50)),
    ]
}

#[derive(Clone, Copy)]
struct Path {
    from: Host,
    to: Host,
    v6: bool,
}

impl Path {
    fn packet(self) -> Ip {
        ip(self.from.ip(self.v6), self.to.ip(self.v6))
    }

    fn say(self, what: impl std::fmt::Display) -> String {
        let version = if self.v6 { "v6" } else { "v4" };
        format!("{}→{} {version} {what}", self.from.name(), self.to.name())
    }

    fn send(self, corpus: &mut Corpus, what: impl std::fmt::Display, packet: &Ip, segment: &Segment) {
        corpus.ip(self.say(what), route(self.from, self.to), packet, segment);
    }

    fn fragments(self, corpus: &mut Corpus) {
        for port in [25, 80] {
            let mut options = tcp(40123, port, SYN);
            options.bytes[12] = 10 << 4;
            options.l4 = L4::Begun {
                src: 40123,
                dst: port,
                flags: SYN,
            };
            let first = self.packet().piece(0, true);
            let what = format!("first fragment of tcp {port} whose options go on in the next one");
            self.send(corpus, what, &first, &options);
        }
        for (name, segment) in messages(self.v6) {
            let first = self.packet().piece(0, true);
            self.send(corpus, format!("first fragment of {name}"), &first, &segment);
            for n in [8, 13, 14, 16, 24] {
                let cut = segment.clone().begin(n);
                self.send(
                    corpus,
                    format!("first fragment of {n} bytes of {name}"),
                    &first,
                    &cut,
                );
            }
            for (offset, more) in [
                (1, true),
                (1, false),
                (2, false),
                (3, true),
                (185, false),
                (8189, false),
            ] {
                let piece = Segment {
                    bytes: segment.bytes.iter().copied().cycle().take(24).collect(),
                    ..segment.clone()
                };
                let later = self.packet().piece(offset, more);
                let tags = [(0x8100, 9), (0x8100, 7)];
                let what = self.say(format!(
                    "fragment at {offset}, more {more}, of {name} behind two tags"
                ));
                corpus.tagged(what, route(self.from, self.to), &tags, &later, &piece);
                self.send(
                    corpus,
                    format!("fragment at {offset}, more {more}, of {name}"),
                    &later,
                    &piece,
                );
            }
        }
    }

    /// Layer 4 headers that are not whole, in packets whose own lengths are right.
    fn lengths(self, corpus: &mut Corpus) {
        for (name, segment) in messages(self.v6) {
            for n in [0, 1, 4, 7, 8, 11, 12, 13, 14, 19, 20] {
                if n < segment.bytes.len() {
                    self.send(
                        corpus,
                        format!("{n} bytes of {name}"),
                        &self.packet(),
                        &segment.clone().cut(n),
                    );
                }
            }
        }
        // RFC 9293: the data offset is at least 5, and the header is as long as it says.
        for (offset, what) in [(0u8, "0"), (4, "4"), (15, "15")] {
            let mut segment = tcp(40123, 80, SYN);
            segment.bytes[12] = offset << 4;
            segment.l4 = L4::Short;
            self.send(
                corpus,
                format!("tcp 80 with data offset {what}"),
                &self.packet(),
                &segment,
            );
        }
        let mut options = tcp(40123, 80, SYN);
        options.bytes[12] = 6 << 4;
        self.send(
            corpus,
            "tcp 80 with data offset 6 that is there",
            &self.packet(),
            &options,
        );
        for (length, what) in [(0u16, "0"), (7, "7"), (9999, "9999")] {
            let mut segment = udp(40123, 15000);
            segment.bytes[4..6].copy_from_slice(&length.to_be_bytes());
            self.send(
                corpus,
                format!("udp 15000 that says its length is {what}"),
                &self.packet(),
                &segment,
            );
        }
        for (name, segment) in [
            ("udp 0>0", udp(0, 0)),
            ("tcp 0>0 without flags", tcp(0, 0, 0)),
            ("tcp 0>0 SYN", tcp(0, 0, SYN)),
            ("tcp 0>0 with a reserved bit", tcp(0, 0, 0x800)),
            ("sctp 0>0", sctp(0, 0)),
            ("udp 0>1", udp(0, 1)),
            ("udp 1>0", udp(1, 0)),
        ] {
            self.send(corpus, name, &self.packet(), &segment);
        }
    }

    fn flags(self, corpus: &mut Corpus) {
        let all = [
            ("none", 0),
            ("FIN", 0x01),
            ("SYN", SYN),
            ("SYN+FIN", 0x03),
            ("RST", 0x04),
            ("SYN+RST", 0x06),
            ("SYN+PSH", 0x0a),
            ("ACK", ACK),
            ("FIN+ACK", 0x11),
            ("SYN+ACK", 0x12),
            ("RST+ACK", 0x14),
            ("URG", 0x20),
            ("SYN+ECE+CWR", 0xc2),
            ("SYN+NS", 0x102),
            ("SYN+reserved", 0xe02),
            ("everything", 0xfff),
        ];
        for (name, flags) in all {
            for (src, dst) in [
                (40123, 25),
                (25, 40123),
                (40123, 80),
                (443, 40123),
                (80, 40123),
                (53, 53),
            ] {
                self.send(
                    corpus,
                    format!("tcp {src}>{dst} {name}"),
                    &self.packet(),
                    &tcp(src, dst, flags),
                );
            }
        }
    }

    fn options(self, corpus: &mut Corpus) {
        for (name, segment) in messages(false) {
            for length in [4, 8, 40] {
                // No-operations, and what looks like another port where a fixed offset would look.
                let mut packet = self.packet();
                packet.options = [1, 1, 1, 0].repeat(length / 4);
                self.send(
                    corpus,
                    format!("{name} behind {length} bytes of options"),
                    &packet,
                    &segment,
                );
                let first = packet.clone().piece(0, true);
                self.send(
                    corpus,
                    format!("first fragment of {name} behind {length} bytes of options"),
                    &first,
                    &segment,
                );
            }
            let mut packet = self.packet();
            packet.options = tcp(40123, 80, SYN).bytes[..20].to_vec();
            self.send(
                corpus,
                format!("{name} behind options that look like tcp 80"),
                &packet,
                &segment,
            );
        }
    }

    fn extension_headers(self, corpus: &mut Corpus) {
        let whole = Ext::Fragment {
            offset: 0,
            more: false,
        };
        let first = Ext::Fragment {
            offset: 0,
            more: true,
        };
        let chains: Vec<(&str, Vec<Ext>)> = vec![
            ("hop-by-hop", vec![Ext::HopByHop(0)]),
            ("long hop-by-hop", vec![Ext::HopByHop(3)]),
            ("routing", vec![Ext::Routing(0)]),
            ("long routing", vec![Ext::Routing(2)]),
            ("destination", vec![Ext::Destination(0)]),
            ("long destination", vec![Ext::Destination(7)]),
            ("atomic fragment", vec![whole]),
            ("authentication", vec![Ext::Auth]),
            (
                "all in order",
                vec![
                    Ext::HopByHop(0),
                    Ext::Destination(1),
                    Ext::Routing(0),
                    whole,
                    Ext::Auth,
                    Ext::Destination(0),
                ],
            ),
            ("six destinations", vec![Ext::Destination(0); 6]),
            (
                "hop-by-hop out of place",
                vec![Ext::Destination(0), Ext::HopByHop(0)],
            ),
            (
                "first fragment, then destination",
                vec![first, Ext::Destination(0)],
            ),
            ("hop-by-hop, then first fragment", vec![Ext::HopByHop(0), first]),
            (
                "destination, then later fragment",
                vec![
                    Ext::Destination(0),
                    Ext::Fragment {
                        offset: 4,
                        more: false,
                    },
                ],
            ),
            (
                "hop-by-hop, then fragment at 1",
                vec![
                    Ext::HopByHop(0),
                    Ext::Fragment {
                        offset: 1,
                        more: true,
                    },
                ],
            ),
        ];
        let broken: Vec<(&str, Vec<Ext>)> = vec![
            ("hop-by-hop that is too long", vec![Ext::TooLong(0)]),
            ("routing that is too long", vec![Ext::TooLong(43)]),
            (
                "destination that is too long",
                vec![Ext::HopByHop(0), Ext::TooLong(60)],
            ),
            ("hop-by-hop cut off", vec![Ext::CutOff(0)]),
            ("destination cut off", vec![Ext::Routing(0), Ext::CutOff(60)]),
            ("fragment header cut off", vec![Ext::CutOff(44)]),
            (
                "destination cut off in the first fragment",
                vec![first, Ext::CutOff(60)],
            ),
        ];
        for (name, chain) in chains.iter().chain(&broken) {
            for (message, segment) in messages(true) {
                let mut packet = self.packet();
                packet.chain = chain.clone();
                self.send(corpus, format!("{message} behind {name}"), &packet, &segment);
            }
        }
    }

    fn broken_v4(self, corpus: &mut Corpus) {
        let segment = tcp(40123, 80, SYN);
        type Spoil = fn(&mut Vec<u8>);
        let spoils: [(&str, Spoil); 10] = [
            ("IHL 0", |b| b[0] = 0x40),
            ("IHL 4", |b| b[0] = 0x44),
            ("IHL beyond the packet", |b| {
                b[0] = 0x4f;
                b.truncate(44);
                b[2..4].copy_from_slice(&44u16.to_be_bytes());
            }),
            ("total length 0", |b| b[2..4].fill(0)),
            ("total length 19", |b| {
                b[2..4].copy_from_slice(&19u16.to_be_bytes())
            }),
            ("total length beyond the frame", |b| {
                b[2..4].copy_from_slice(&200u16.to_be_bytes())
            }),
            ("total length one beyond the frame", |b| {
                let n = b.len() as u16 + 1;
                b[2..4].copy_from_slice(&n.to_be_bytes());
            }),
            ("header cut to 19 bytes", |b| b.truncate(19)),
            ("header cut to 10 bytes", |b| b.truncate(10)),
            ("header cut to 6 bytes", |b| b.truncate(6)),
        ];
        for (name, spoil) in spoils {
            corpus.broken(
                self.say(name),
                route(self.from, self.to),
                &self.packet(),
                &segment,
                spoil,
            );
        }
        self.padded(corpus, IPV4);
    }

    fn broken_v6(self, corpus: &mut Corpus) {
        let segment = tcp(40123, 80, SYN);
        type Spoil = fn(&mut Vec<u8>);
        let spoils: [(&str, Spoil); 5] = [
            ("payload length beyond the frame", |b| {
                b[4..6].copy_from_slice(&200u16.to_be_bytes())
            }),
            ("payload length one beyond the frame", |b| {
                let n = b.len() as u16 - 39;
                b[4..6].copy_from_slice(&n.to_be_bytes());
            }),
            ("header cut to 39 bytes", |b| b.truncate(39)),
            ("header cut to 20 bytes", |b| b.truncate(20)),
            ("header cut to 6 bytes", |b| b.truncate(6)),
        ];
        for (name, spoil) in spoils {
            corpus.broken(
                self.say(name),
                route(self.from, self.to),
                &self.packet(),
                &segment,
                spoil,
            );
        }
        self.padded(corpus, IPV6);
    }

    /// Bytes behind the packet are padding, whatever they look like.
    fn padded(self, corpus: &mut Corpus, ether_type: u16) {
        for (name, segment) in messages(self.v6) {
            for n in [4usize, 8, 14, 20] {
                if n >= segment.bytes.len() {
                    continue;
                }
                let missing = segment.bytes.len() - n;
                let cut = segment.clone().cut(n);
                let id = corpus.id();
                let (mut bytes, content) = self.packet().encode(&cut, id);
                bytes.extend(&segment.bytes[n..]);
                assert!(cut.protocol != Protocol::TCP || n >= 20 || cut.l4 == L4::Short);
                corpus.frame(
                    self.say(format!("{name} of which {missing} bytes are padding")),
                    route(self.from, self.to),
                    &[],
                    ether_type,
                    &bytes,
                    content,
                );
            }
        }
    }
}
