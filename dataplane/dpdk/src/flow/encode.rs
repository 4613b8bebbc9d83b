//! Encoding of a rule for `rte_flow`: arrays of items and actions, and the memory they point to.

use super::action::Argument;
use super::error::FlowCause;
use super::item::Header;
use super::{Direction, Rule};
use portcullis_dpdk_sys as sys;
use std::ffi::c_void;
use std::mem::zeroed;
use std::ptr;

/// A rule as `rte_flow` takes it. The pointers stay valid as long as it lives, also when it is moved: what they point at
/// is on the heap, and is not changed.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) attributes: Box<sys::rte_flow_attr>,
    pub(super) items: Vec<sys::rte_flow_item>,
    pub(super) actions: Vec<sys::rte_flow_action>,
    item_names: Vec<&'static str>,
    action_names: Vec<&'static str>,
    _headers: Vec<Bytes>,
    _arguments: Vec<Option<Argument>>,
}

/// Bytes at an address that any of DPDK's items may have.
#[derive(Debug)]
struct Aligned(Vec<u64>);

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        };
        Self(bytes.chunks(8).map(word).collect())
    }

    fn pointer(&self) -> *const c_void {
        self.0.as_ptr().cast()
    }
}

/// A header of an item: values, bits that count, and ends of ranges if there are some.
#[derive(Debug)]
struct Bytes {
    value: Aligned,
    mask: Aligned,
    last: Option<Aligned>,
}

impl Bytes {
    fn new(header: &Header) -> Self {
        Self {
            value: Aligned::new(&header.value),
            mask: Aligned::new(&header.mask),
            last: header.has_range.then(|| Aligned::new(&header.last)),
        }
    }
}

impl Encoded {
    pub(super) fn new(rule: &Rule) -> Self {
        let headers: Vec<Bytes> = rule
            .pattern
            .iter()
            .map(|item| Bytes::new(&item.header()))
            .collect();
        let arguments: Vec<Option<Argument>> = rule.actions.iter().map(|action| action.argument()).collect();
        let items = rule
            .pattern
            .iter()
            .zip(&headers)
            .map(|(item, header)| encode_item(item.kind(), header));
        let actions = rule
            .actions
            .iter()
            .zip(&arguments)
            .map(|(action, argument)| sys::rte_flow_action {
                type_: action.kind(),
                conf: argument
                    .as_ref()
                    .map_or(ptr::null(), |argument| argument.pointer()),
            });
        Self {
            attributes: Box::new(attributes(rule)),
            items: items
                .chain([encode_item(sys::RTE_FLOW_ITEM_TYPE_END, &nothing())])
                .collect(),
            actions: actions
                .chain([sys::rte_flow_action {
                    type_: sys::RTE_FLOW_ACTION_TYPE_END,
                    conf: ptr::null(),
                }])
                .collect(),
            item_names: rule.pattern.iter().map(|item| item.name()).collect(),
            action_names: rule.actions.iter().map(|action| action.name()).collect(),
            _headers: headers,
            _arguments: arguments,
        }
    }

    /// What of the rule a driver points at.
    pub(super) fn cause(&self, pointer: *const c_void) -> Option<FlowCause> {
        if ptr::eq(pointer, ptr::from_ref(self.attributes.as_ref()).cast()) {
            return Some(FlowCause::Attributes);
        }
        let item = self.items.iter().position(|item| {
            [ptr::from_ref(item).cast(), item.spec, item.last, item.mask].contains(&pointer)
                && !pointer.is_null()
        });
        if let Some(index) = item {
            let name = self.item_names.get(index).copied().unwrap_or("end");
            return Some(FlowCause::Item { index, name });
        }
        let action = self.actions.iter().position(|action| {
            [ptr::from_ref(action).cast(), action.conf].contains(&pointer) && !pointer.is_null()
        });
        action.map(|index| FlowCause::Action {
            index,
            name: self.action_names.get(index).copied().unwrap_or("end"),
        })
    }
}

fn nothing() -> Bytes {
    Bytes {
        value: Aligned::new(&[]),
        mask: Aligned::new(&[]),
        last: None,
    }
}

/// Without a bit that counts there is no value either: drivers take that as any packet with this header.
fn encode_item(kind: sys::rte_flow_item_type, header: &Bytes) -> sys::rte_flow_item {
    let Bytes { value, mask, last } = header;
    let any = mask.0.iter().all(|word| *word == 0);
    sys::rte_flow_item {
        type_: kind,
        spec: if any { ptr::null() } else { value.pointer() },
        last: last.as_ref().map_or(ptr::null(), Aligned::pointer),
        mask: if any { ptr::null() } else { mask.pointer() },
    }
}

fn attributes(rule: &Rule) -> sys::rte_flow_attr {
    // SAFETY: the struct is numbers, for which zero is a value.
    let mut attributes: sys::rte_flow_attr = unsafe { zeroed() };
    attributes.group = rule.attributes.group;
    attributes.priority = rule.attributes.priority;
    match rule.attributes.direction {
        Direction::Ingress => attributes.set_ingress(1),
        Direction::Egress => attributes.set_egress(1),
        Direction::Transfer => attributes.set_transfer(1),
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Attributes, Eth, Item, Masked, Ports};
    use super::{Direction, Encoded, FlowCause, Rule, sys};
    use std::ptr;

    fn rule() -> Rule {
        let ports = Ports {
            dst: Masked::exact(53),
            ..Ports::default()
        };
        Rule {
            attributes: Attributes {
                group: 3,
                priority: 7,
                direction: Direction::Egress,
            },
            pattern: vec![Item::Eth(Eth::default()), Item::Udp(ports)],
            actions: vec![Action::Count, Action::Queue(5), Action::Drop],
        }
    }

    #[test]
    fn lists_end_and_point_at_what_the_rule_says() {
        let encoded = Encoded::new(&rule());
        assert_eq!((encoded.attributes.group, encoded.attributes.priority), (3, 7));
        assert_eq!(
            (encoded.attributes.ingress(), encoded.attributes.egress()),
            (0, 1)
        );
        let kinds: Vec<u32> = encoded.items.iter().map(|item| item.type_).collect();
        assert_eq!(
            kinds,
            [
                sys::RTE_FLOW_ITEM_TYPE_ETH,
                sys::RTE_FLOW_ITEM_TYPE_UDP,
                sys::RTE_FLOW_ITEM_TYPE_END
            ]
        );
        assert!(encoded.items[0].spec.is_null() && encoded.items[0].mask.is_null());
        // SAFETY: the item points at the bytes of a UDP header.
        let bytes = unsafe { std::slice::from_raw_parts(encoded.items[1].spec.cast::<u8>(), 4) };
        assert_eq!(bytes, [0, 0, 0, 53]);
        assert_eq!(encoded.actions.len(), 4);
        // SAFETY: the second action points at the argument of `queue`.
        let queue = unsafe { &*encoded.actions[1].conf.cast::<sys::rte_flow_action_queue>() };
        assert_eq!(queue.index, 5);
        assert!(encoded.actions[2].conf.is_null());
        assert_eq!(encoded.actions[3].type_, sys::RTE_FLOW_ACTION_TYPE_END);
    }

    #[test]
    fn what_a_driver_points_at_is_found_in_the_rule() {
        let encoded = Encoded::new(&rule());
        let udp = Some(FlowCause::Item {
            index: 1,
            name: "udp",
        });
        assert_eq!(encoded.cause(ptr::from_ref(&encoded.items[1]).cast()), udp);
        assert_eq!(encoded.cause(encoded.items[1].mask), udp);
        let queue = Some(FlowCause::Action {
            index: 1,
            name: "queue",
        });
        assert_eq!(encoded.cause(encoded.actions[1].conf), queue);
        let drop = Some(FlowCause::Action {
            index: 2,
            name: "drop",
        });
        assert_eq!(encoded.cause(ptr::from_ref(&encoded.actions[2]).cast()), drop);
        let attributes = ptr::from_ref(encoded.attributes.as_ref()).cast();
        assert_eq!(encoded.cause(attributes), Some(FlowCause::Attributes));
        assert_eq!(encoded.cause(ptr::null()), None);
        assert_eq!(encoded.cause(ptr::from_ref(&udp).cast()), None);
    }
}
