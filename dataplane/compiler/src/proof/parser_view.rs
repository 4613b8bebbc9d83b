//! What a model's parser shows of packets, as far as rows match it.

use portcullis_policy::{Family, Fragment, IpPacket, L4, Protocol, View};

use crate::model::StageModel;

/// What a model's parser shows.
#[derive(Debug, Clone)]
pub(super) struct ParserView {
    /// What the reference verdict is about.
    pub view: View,
    /// Whether there is a mark on what cannot be judged.
    pub unreadable: bool,
    /// EtherTypes that carry IP where the parser does not see it.
    pub opaque: Vec<u16>,
}

impl ParserView {
    pub fn from_model(model: &StageModel) -> Self {
        ParserView {
            view: model.view,
            unreadable: model.unreadable,
            opaque: model.opaque_ethertypes.clone(),
        }
    }

    /// Whether later fragments of this IP version do not show their protocol.
    pub fn hides_later(&self, family: Family) -> bool {
        family == Family::V6 && !self.view.later_v6_protocol
    }

    /// Whether a packet that shows this number in the place of its protocol is certain to bear the mark, where there is one: not
    /// where the parser may not follow extension headers, and sees nothing to mark.
    pub fn marks_protocol(&self, family: Family, shown: u8) -> bool {
        shown == 0 && (family == Family::V4 || self.view.ipv6_extension_headers)
    }

    /// Whether a packet bears the mark. A parser marks headers that are too short, and TCP fragments at offset 1, only
    /// where it tells them apart.
    pub fn marks(&self, ip: &IpPacket) -> bool {
        if !self.unreadable || (ip.is_later() && self.hides_later(Family::from_address(ip.remote))) {
            return false;
        }
        let family = Family::from_address(ip.remote);
        let titled = |protocol| {
            (Protocol::has_ports(protocol) && (protocol != Protocol::SCTP || self.view.sctp_ports))
                || matches!(
                    (protocol, family),
                    (Protocol::ICMP, Family::V4) | (Protocol::ICMPV6, Family::V6)
                )
        };
        let rewrites = ip.protocol == Some(Protocol::TCP) && ip.fragment == Fragment::Later { offset: 1 };
        let short = !ip.is_later() && ip.shown(self.view) == L4::Short && ip.protocol.is_some_and(titled);
        ip.protocol
            .is_none_or(|protocol| self.marks_protocol(family, protocol))
            || (rewrites && self.view.fragment_offset)
            || (short && self.view.short_header)
    }
}
