//! MAC table (FDB): a hash table in 256 parts, so that a change copies one part.

use std::sync::Arc;

const PARTS: usize = 256;
/// An empty slot; its MAC would be the broadcast address.
const EMPTY: u64 = u64::MAX;
/// The port of a MAC that is at several ports.
pub const SEVERAL: u16 = u16::MAX;

/// MAC and port in one word, with open addressing. At least half of the slots are empty.
#[derive(Debug, Clone)]
struct Part {
    places: Box<[u64]>,
    used: usize,
}

#[derive(Debug, Clone)]
pub struct MacTable {
    parts: Box<[Arc<Part>; PARTS]>,
}

/// The part of a MAC, and where its way through the part begins: higher bits of a product, which depend on all lower ones
/// (Knuth, The Art of Computer Programming 3, 6.4). The sum lets a MAC's upper bits have a say in both.
#[inline(always)]
fn hash(mac: u64) -> (usize, usize) {
    let mixed = (mac << 16).wrapping_add(mac).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 56) as usize, (mixed >> 32) as usize & 0xff_ffff)
}

impl Default for MacTable {
    fn default() -> Self {
        let empty = Arc::new(Part::from_places(8));
        MacTable {
            parts: Box::new(std::array::from_fn(|_| Arc::clone(&empty))),
        }
    }
}

impl Part {
    fn from_places(places: usize) -> Part {
        Part {
            places: vec![EMPTY; places].into_boxed_slice(),
            used: 0,
        }
    }

    /// The slot of a MAC, or the empty slot for it.
    fn place(&self, mac: u64) -> usize {
        let mask = self.places.len() - 1;
        let mut at = hash(mac).1 & mask;
        while let Some(place) = self.places.get(at) {
            if *place == EMPTY || place >> 16 == mac {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    fn put(&mut self, mac: u64, port: u16) {
        let at = self.place(mac);
        if let Some(place) = self.places.get_mut(at) {
            self.used += usize::from(*place == EMPTY);
            *place = mac << 16 | u64::from(port);
        }
    }

    fn refilled(&self, without: Option<u64>, size: usize) -> Part {
        let mut part = Part::from_places(size);
        let kept = self.places.iter().filter(|p| **p != EMPTY);
        for place in kept.filter(|p| Some(**p >> 16) != without) {
            part.put(place >> 16, *place as u16);
        }
        part
    }
}

impl MacTable {
    /// The port of a MAC, or [`SEVERAL`].
    #[inline(always)]
    pub fn find(&self, mac: u64) -> Option<u16> {
        let (part, begin) = hash(mac);
        let places = &self.parts[part % PARTS].places;
        let mask = places.len() - 1;
        let mut at = begin & mask;
        loop {
            let place = *places.get(at)?;
            if place == EMPTY {
                return None;
            }
            if place >> 16 == mac {
                return Some(place as u16);
            }
            at = (at + 1) & mask;
        }
    }

    /// Sets the port of a MAC; `None` removes it.
    pub fn set(&mut self, mac: u64, port: Option<u16>) {
        let part = &mut self.parts[hash(mac).0 % PARTS];
        match port {
            Some(port) => {
                let size = part.places.len();
                if (part.used + 1) * 2 > size {
                    *part = Arc::new(part.refilled(None, size * 2));
                }
                Arc::make_mut(part).put(mac, port);
            }
            None => *part = Arc::new(part.refilled(Some(mac), part.places.len())),
        }
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|p| p.places.len() * 8 + 40).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn it_is_a_map() {
        let mut mac_table = MacTable::default();
        let mut map = HashMap::new();
        let mut seed = 1u64;
        for round in 0..60_000u64 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let mac = (seed >> 33) % 9000;
            let port = (round % 5 != 0).then_some((seed >> 20) as u16 % 512);
            mac_table.set(mac, port);
            match port {
                Some(port) => map.insert(mac, port),
                None => map.remove(&mac),
            };
        }
        assert_eq!(
            mac_table.find(0xffff_ffff_ffff),
            None,
            "an empty place is no station"
        );
        for mac in 0..9000 {
            assert_eq!(mac_table.find(mac), map.get(&mac).copied(), "{mac}");
        }
    }
}
