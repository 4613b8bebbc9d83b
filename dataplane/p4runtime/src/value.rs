//! Values on the wire: byte strings, big-endian, without leading zeros (P4Runtime 1.6.0, section 8.4).

/// A value as the shortest byte string; zero is one byte.
pub fn encode(value: u128) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let zeros = bytes.iter().take_while(|b| **b == 0).count().min(15);
    bytes.iter().skip(zeros).copied().collect()
}

/// The value of a byte string; servers may pad it with zeros. `None` when it is empty or has more than 128 bits.
pub fn decode(bytes: &[u8]) -> Option<u128> {
    let start = bytes.iter().take_while(|b| **b == 0).count();
    let digits = bytes.get(start..)?;
    if bytes.is_empty() || digits.len() > 16 {
        return None;
    }
    Some(digits.iter().fold(0, |value, b| value << 8 | u128::from(*b)))
}

/// All bits of a width.
pub fn ones(width: u16) -> u128 {
    u128::MAX
        .checked_shr(128 - u32::from(width.min(128)))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_specification_s_examples() {
        // Section 8.4: 0x63 in 8 bits is \x63; in 16 bits, too; 0 is \x00.
        assert_eq!(encode(0x63), [0x63]);
        assert_eq!(encode(0x3064), [0x30, 0x64]);
        assert_eq!(encode(0), [0]);
        assert_eq!(decode(&[0, 0x63]), Some(0x63));
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[1; 17]), None);
        assert_eq!(decode(&[0; 40]), Some(0));
        assert_eq!(ones(0), 0);
        assert_eq!(ones(9), 0x1ff);
        assert_eq!(ones(128), u128::MAX);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_is_the_shortest(value: u128, zeros in 0usize..20) {
            let bytes = encode(value);
            prop_assert_eq!(decode(&bytes), Some(value));
            prop_assert!(bytes[0] != 0 || bytes == [0]);
            let padded = [vec![0; zeros], bytes].concat();
            prop_assert_eq!(decode(&padded), Some(value));
        }

        #[test]
        fn any_bytes_are_a_value_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _value = decode(&bytes);
        }
    }
}
