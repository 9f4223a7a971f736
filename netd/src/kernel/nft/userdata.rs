//! Userdata: bytes that the kernel keeps on an object and never reads.
//!
//! The layout is that of libnftnl (`libnftnl/udata.h`): type, length, value. Type 0 is a comment everywhere but on
//! sets; `nft list` shows it. Types that `nft` does not know it skips.

use netd_model::Owner;

/// A comment, ending in a zero (`NFTNL_UDATA_TABLE_COMMENT`, `NFTNL_UDATA_SET_ELEM_COMMENT`).
const COMMENT: u8 = 0;
/// On an element: flags (`NFTNL_UDATA_SET_ELEM_FLAGS`).
const ELEM_FLAGS: u8 = 1;
/// The interval that begins here has no end element: it reaches to the last address
/// (`NFTNL_SET_ELEM_F_INTERVAL_OPEN`). Only `nft list` reads it.
const INTERVAL_OPEN: u32 = 1;
/// On a set: byte order of key and data, for `nft list` (`NFTNL_UDATA_SET_KEYBYTEORDER`, `.._DATABYTEORDER`).
const SET_KEY_ORDER: u8 = 0;
const SET_DATA_ORDER: u8 = 1;
/// Ours, far above the types of libnftnl: the tag of a rule; on chains and sets, that netd made them.
///
/// Not a comment on purpose: `nft -f` of a saved listing keeps comments, but may write a rule differently (nft 1.0.6
/// loses the port of `dnat to`). So a restored rule has no tag and is written again.
const NETD: u8 = 0x6e;

/// Byte order of a value, as `nft` counts (`enum byteorder` in its sources).
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// It does not matter.
    None = 0,
    /// The host's.
    Host = 1,
    /// The network's.
    Network = 2,
}

/// The mark of an owner as a comment.
pub(super) fn owner(owner: &Owner) -> Vec<u8> {
    let mut text = owner.mark().into_bytes();
    text.push(0);
    tlv(COMMENT, &text)
}

/// The mark of the owner of an element whose interval has no end element.
pub(super) fn owner_of_open_interval(of: &Owner) -> Vec<u8> {
    [owner(of), tlv(ELEM_FLAGS, &INTERVAL_OPEN.to_ne_bytes())].concat()
}

/// Reads a mark; `None` if there is none of netd's.
pub(super) fn read_owner(userdata: &[u8]) -> Option<Owner> {
    let text = std::str::from_utf8(find(userdata, COMMENT)?.strip_suffix(&[0])?).ok()?;
    Owner::from_mark(text)
}

/// The tag of a rule.
pub(super) fn tag(tag: &str) -> Vec<u8> {
    tlv(NETD, tag.as_bytes())
}

/// Reads a tag; empty if there is none.
pub(super) fn read_tag(userdata: &[u8]) -> String {
    let text = find(userdata, NETD).and_then(|value| std::str::from_utf8(value).ok());
    text.unwrap_or_default().to_owned()
}

/// What a chain of ours carries.
pub(super) fn chain() -> Vec<u8> {
    tlv(NETD, &[])
}

/// What a set of ours carries; `data` for maps.
pub(super) fn set(key: Order, data: Option<Order>) -> Vec<u8> {
    let order = |kind, order: Order| tlv(kind, &(order as u32).to_ne_bytes());
    let data = data
        .map(|data| order(SET_DATA_ORDER, data))
        .unwrap_or_default();
    [order(SET_KEY_ORDER, key), data, tlv(NETD, &[])].concat()
}

/// On a set whose key is a VXLAN network identifier: what it is for `nft list`, `typeof @th,96,24`
/// (`NFTNL_UDATA_SET_KEY_TYPEOF`, and within `EXPR_PAYLOAD` with its base, offset and length in bits).
pub(super) fn type_of_vni() -> Vec<u8> {
    const KEY_TYPEOF: u8 = 3;
    const TYPEOF_EXPR: u8 = 0;
    const TYPEOF_DATA: u8 = 1;
    const EXPR_PAYLOAD: u32 = 7;
    // No protocol that nft knows, and so no field of it; behind the header of the transport.
    let fields: [(u8, u32); 5] = [(0, 0), (1, 0), (2, 3), (3, 96), (4, 24)];
    let number = |(kind, value): (u8, u32)| tlv(kind, &value.to_ne_bytes());
    let fields: Vec<u8> = fields.into_iter().flat_map(number).collect();
    let inner = [
        number((TYPEOF_EXPR, EXPR_PAYLOAD)),
        tlv(TYPEOF_DATA, &fields),
    ];
    tlv(KEY_TYPEOF, &inner.concat())
}

/// Whether netd made this chain or set.
pub(super) fn is_ours(userdata: &[u8]) -> bool {
    find(userdata, NETD).is_some()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    // The longest value is a mark: 170 bytes and its zero.
    let len = u8::try_from(value.len()).unwrap_or(u8::MAX);
    [&[kind, len], value].concat()
}

fn find(mut userdata: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [kind, len, rest @ ..] = userdata {
        let (value, tail) = rest.split_at_checked(usize::from(*len))?;
        if *kind == wanted {
            return Some(value);
        }
        userdata = tail;
    }
    None
}

#[cfg(test)]
mod tests {
    use netd_model::{ContainerId, NetworkId};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn marks_and_tags_read_back() {
        let id = ContainerId::parse(&"x".repeat(128)).unwrap();
        for who in [
            Owner::Host,
            Owner::Endpoint(id, NetworkId::from_bytes([9; 16])),
        ] {
            let bytes = owner_of_open_interval(&who);
            // NFT_USERDATA_MAXLEN
            assert!(bytes.len() <= 256);
            assert_eq!(read_owner(&bytes).as_ref(), Some(&who));
            assert_eq!(read_owner(&owner(&who)), Some(who));
        }
        assert_eq!(read_tag(&tag("0123")), "0123");
        assert_eq!(read_tag(&owner(&Owner::Host)), "");
        assert!(is_ours(&chain()) && is_ours(&set(Order::Host, Some(Order::Network))));
        assert!(!is_ours(&owner(&Owner::Host)));
    }

    #[test]
    fn a_comment_of_someone_else_is_no_mark() {
        assert_eq!(
            read_owner(&tlv(COMMENT, b"netd:host")),
            None,
            "no zero at its end"
        );
        assert_eq!(read_owner(&tlv(COMMENT, b"my rule\0")), None);
        assert_eq!(
            read_owner(&[COMMENT, 200, b'n']),
            None,
            "longer than the bytes"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_userdata_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (read_owner(&bytes), read_tag(&bytes), is_ours(&bytes));
        }
    }
}
