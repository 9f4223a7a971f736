//! Keys and data in the kernel's layout, both ways, without any IO.
//!
//! A single value is as long as its type. In a concatenation each value is padded with zeros to a multiple of 4 bytes,
//! the size of a register (`NFT_REG32_SIZE`, linux/netfilter/nf_tables.h), and lengths count the padding.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Datum, Field};
use crate::net::{IfName, Mac};

/// Size of one register: what every part of a concatenation is padded to.
const REGISTER: usize = 4;

/// The bytes of a key or of data.
pub fn encode(parts: &[Datum]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    for part in parts {
        push(part, &mut bytes);
        if parts.len() > 1 {
            bytes.resize(bytes.len().next_multiple_of(REGISTER), 0);
        }
    }
    bytes
}

fn push(part: &Datum, bytes: &mut Vec<u8>) {
    match part {
        Datum::Ifname(name) => {
            let end = bytes.len() + Field::Ifname.size();
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.resize(end, 0);
        }
        Datum::Ip4(ip) => bytes.extend_from_slice(&ip.octets()),
        Datum::Ip6(ip) => bytes.extend_from_slice(&ip.octets()),
        Datum::Mac(mac) => bytes.extend_from_slice(&mac.bytes()),
        Datum::L4Proto(number) | Datum::NfProto(number) | Datum::Icmp6Type(number) => {
            bytes.push(*number);
        }
        Datum::Port(number) | Datum::EtherType(number) | Datum::ArpOp(number) => {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        Datum::Vni(number) => bytes.extend_from_slice(&number.to_be_bytes()[1..]),
    }
}

/// How many bytes a key or data of these types takes.
pub fn size(fields: &[Field]) -> usize {
    match fields {
        [single] => single.size(),
        many => many
            .iter()
            .map(|field| field.size().next_multiple_of(REGISTER))
            .sum(),
    }
}

/// The values in a key or in data; `None` for bytes that [`encode`] would never make of these types, such as padding
/// that is not zero or an interface name that no interface can have.
pub fn decode(fields: &[Field], bytes: &[u8]) -> Option<Vec<Datum>> {
    if bytes.len() != size(fields) {
        return None;
    }
    let mut rest = bytes;
    let mut parts = Vec::with_capacity(fields.len());
    for field in fields {
        let (value, tail) = rest.split_at_checked(field.size())?;
        parts.push(pull(*field, value)?);
        let padding = if fields.len() > 1 {
            value.len().next_multiple_of(REGISTER) - value.len()
        } else {
            0
        };
        let (zeros, tail) = tail.split_at_checked(padding)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return None;
        }
        rest = tail;
    }
    Some(parts)
}

fn pull(field: Field, value: &[u8]) -> Option<Datum> {
    Some(match field {
        Field::Ifname => {
            let len = value.iter().position(|byte| *byte == 0)?;
            let (name, zeros) = value.split_at(len);
            if zeros.iter().any(|byte| *byte != 0) {
                return None;
            }
            Datum::Ifname(IfName::parse(std::str::from_utf8(name).ok()?).ok()?)
        }
        Field::Ip4 => Datum::Ip4(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?)),
        Field::Ip6 => Datum::Ip6(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?)),
        Field::L4Proto => Datum::L4Proto(*value.first()?),
        Field::Port => Datum::Port(u16::from_be_bytes(value.try_into().ok()?)),
        Field::NfProto => Datum::NfProto(*value.first()?),
        Field::Mac => Datum::Mac(Mac::new(value.try_into().ok()?).ok()?),
        Field::EtherType => Datum::EtherType(u16::from_be_bytes(value.try_into().ok()?)),
        Field::ArpOp => Datum::ArpOp(u16::from_be_bytes(value.try_into().ok()?)),
        Field::Icmp6Type => Datum::Icmp6Type(*value.first()?),
        Field::Vni => {
            let [a, b, c] = <[u8; 3]>::try_from(value).ok()?;
            Datum::Vni(u32::from_be_bytes([0, a, b, c]))
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_single_value_is_not_padded_and_a_concatenation_is() {
        assert_eq!(encode(&[Datum::NfProto(2)]), [2]);
        assert_eq!(encode(&[Datum::Port(53)]), [0, 53]);
        assert_eq!(
            encode(&[Datum::L4Proto(6), Datum::Port(0x1234)]),
            [6, 0, 0, 0, 0x12, 0x34, 0, 0]
        );
        let name = IfName::parse("br0").unwrap();
        let key = encode(&[Datum::Ifname(name), Datum::Ip4(Ipv4Addr::new(10, 0, 0, 1))]);
        assert_eq!(key, *b"br0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0a\0\0\x01");
    }

    #[test]
    fn bytes_that_encode_never_makes_are_refused() {
        use Field::{Ifname, L4Proto, Port};
        assert_eq!(decode(&[Port], &[0, 53, 0, 0]), None, "too long");
        assert_eq!(
            decode(&[L4Proto, Port], &[6, 1, 0, 0, 0, 53, 0, 0]),
            None,
            "padding"
        );
        assert_eq!(decode(&[Ifname], &[b'a'; 16]), None, "no end");
        assert_eq!(
            decode(&[Ifname], b"a\0b\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            None,
            "after the end"
        );
        assert_eq!(decode(&[Ifname], &[0; 16]), None, "empty");
        assert_eq!(decode(&[], &[]), Some(vec![]));
    }

    fn fields() -> impl Strategy<Value = Vec<Field>> {
        let field = prop::sample::select(vec![
            Field::Ifname,
            Field::Ip4,
            Field::Ip6,
            Field::L4Proto,
            Field::Port,
            Field::NfProto,
            Field::Mac,
            Field::EtherType,
            Field::ArpOp,
            Field::Icmp6Type,
            Field::Vni,
        ]);
        prop::collection::vec(field, 1..4)
    }

    fn datum(field: Field) -> BoxedStrategy<Datum> {
        match field {
            Field::Ifname => "[a-zA-Z0-9_.@-]{2,15}"
                .prop_filter_map("a name", |name| IfName::parse(&name).ok())
                .prop_map(Datum::Ifname)
                .boxed(),
            Field::Ip4 => any::<u32>()
                .prop_map(|bits| Datum::Ip4(bits.into()))
                .boxed(),
            Field::Ip6 => any::<u128>()
                .prop_map(|bits| Datum::Ip6(bits.into()))
                .boxed(),
            Field::L4Proto => any::<u8>().prop_map(Datum::L4Proto).boxed(),
            Field::Port => any::<u16>().prop_map(Datum::Port).boxed(),
            Field::NfProto => any::<u8>().prop_map(Datum::NfProto).boxed(),
            Field::Mac => any::<u32>()
                .prop_map(|bits| Datum::Mac(Mac::of_address(std::net::Ipv4Addr::from(bits).into())))
                .boxed(),
            Field::EtherType => any::<u16>().prop_map(Datum::EtherType).boxed(),
            Field::ArpOp => any::<u16>().prop_map(Datum::ArpOp).boxed(),
            Field::Icmp6Type => any::<u8>().prop_map(Datum::Icmp6Type).boxed(),
            Field::Vni => (0..1_u32 << 24).prop_map(Datum::Vni).boxed(),
        }
    }

    fn typed() -> impl Strategy<Value = (Vec<Field>, Vec<Datum>)> {
        fields().prop_flat_map(|fields| {
            let data: Vec<_> = fields.iter().map(|field| datum(*field)).collect();
            (Just(fields), data)
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes((fields, data) in typed()) {
            let bytes = encode(&data);
            prop_assert_eq!(bytes.len(), size(&fields));
            prop_assert_eq!(decode(&fields, &bytes), Some(data));
        }

        #[test]
        fn arbitrary_bytes_decode_to_what_encodes_to_them(
            fields in fields(),
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Some(data) = decode(&fields, &bytes) {
                prop_assert_eq!(encode(&data), bytes);
            }
        }
    }
}
