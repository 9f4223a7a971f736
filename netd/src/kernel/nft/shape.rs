//! Chains and sets to attributes and back into what [`netd_model::nft::digest`] compares.

use netd_model::nft::digest::{ChainShape, SetShape};
use netd_model::nft::{ChainKind, Field, Hook, HookPoint, SetKind, SetSpec, TableFamily, wire};

use super::abi::*;
use super::attr::{Attrs, Writer};
use super::userdata::{self, Order};

/// The number of a table's family.
pub(super) const fn nfproto(family: TableFamily) -> u8 {
    match family {
        TableFamily::Inet => NFPROTO_INET,
        TableFamily::Bridge => NFPROTO_BRIDGE,
    }
}

/// Names of chain types and hooks, with the numbers of the latter.
const KINDS: [(ChainKind, &str); 2] = [(ChainKind::Filter, "filter"), (ChainKind::Nat, "nat")];
/// The bridge family numbers its hooks alike (`NF_BR_*`, linux/netfilter_bridge.h).
const POINTS: [(HookPoint, u32); 5] = [
    (HookPoint::Prerouting, NF_INET_PRE_ROUTING),
    (HookPoint::Input, NF_INET_LOCAL_IN),
    (HookPoint::Forward, NF_INET_FORWARD),
    (HookPoint::Output, NF_INET_LOCAL_OUT),
    (HookPoint::Postrouting, NF_INET_POST_ROUTING),
];

/// Numbers of the types of `nft` (`enum datatypes`, include/datatype.h in its sources). The kernel keeps and never
/// reads them: they let `nft list` print values, and tell us that a set is of the types that are wanted.
const TYPES: [(Field, u32); 11] = [
    (Field::NfProto, 2),
    (Field::Ip4, 7),
    (Field::Ip6, 8),
    (Field::Mac, 9),
    (Field::EtherType, 10),
    (Field::ArpOp, 11),
    (Field::L4Proto, 12),
    (Field::Port, 13),
    // A plain number: `nft` has no name for it.
    (Field::Vni, 4),
    (Field::Icmp6Type, 29),
    (Field::Ifname, 41),
];
/// Bits of one type in the number of a concatenation (`TYPE_BITS`).
const TYPE_BITS: u32 = 6;

/// Writes hook, type and policy of a base chain.
pub(super) fn write_hook(hook: Hook, w: &mut Writer) {
    let point = POINTS.iter().find(|(point, _)| *point == hook.point);
    let kind = KINDS.iter().find(|(kind, _)| *kind == hook.kind);
    w.nest(NFTA_CHAIN_HOOK, |w| {
        w.put_u32(
            NFTA_HOOK_HOOKNUM,
            point.map_or(u32::MAX, |(_, number)| *number),
        );
        w.put_u32(NFTA_HOOK_PRIORITY, hook.priority.cast_unsigned());
    });
    w.put_text(NFTA_CHAIN_TYPE, kind.map_or("", |(_, name)| name));
    w.put_u32(NFTA_CHAIN_POLICY, NF_ACCEPT);
}

/// Reads a chain, without its rules. A base chain at a hook or of a type that netd never uses has the shape of a chain
/// that drops, which no wanted chain has.
pub(super) fn read_chain(attrs: Attrs<'_>) -> ChainShape {
    let base = attrs.get(NFTA_CHAIN_HOOK).is_some();
    let hook = read_hook(attrs);
    let accepts = if base {
        hook.is_some() && attrs.u32(NFTA_CHAIN_POLICY) == Some(NF_ACCEPT)
    } else {
        true
    };
    ChainShape {
        hook,
        accepts,
        tags: None,
    }
}

fn read_hook(attrs: Attrs<'_>) -> Option<Hook> {
    let hook = attrs.inside(NFTA_CHAIN_HOOK);
    let (number, name) = (hook.u32(NFTA_HOOK_HOOKNUM)?, attrs.text(NFTA_CHAIN_TYPE)?);
    Some(Hook {
        kind: KINDS.iter().find(|(_, text)| *text == name)?.0,
        point: POINTS.iter().find(|(_, point)| *point == number)?.0,
        priority: hook.u32(NFTA_HOOK_PRIORITY)?.cast_signed(),
    })
}

/// Whether this is a base chain that sees what is forwarded and may drop it.
pub(super) fn filters_forwarded(attrs: Attrs<'_>) -> bool {
    attrs.inside(NFTA_CHAIN_HOOK).u32(NFTA_HOOK_HOOKNUM) == Some(NF_INET_FORWARD)
        && attrs.text(NFTA_CHAIN_TYPE) == Some("filter")
}

/// Whether a base chain drops what none of its rules accepts.
pub(super) fn drops_by_policy(attrs: Attrs<'_>) -> bool {
    attrs.u32(NFTA_CHAIN_POLICY) == Some(NF_DROP)
}

/// Whether a rule drops or rejects all that comes to it: it compares nothing.
pub(super) fn drops_all(rule: Attrs<'_>) -> bool {
    let mut drops = false;
    for expression in rule.list(NFTA_RULE_EXPRESSIONS) {
        match expression.text(NFTA_EXPR_NAME) {
            Some("counter" | "log") => {}
            Some("reject") => drops = true,
            Some("immediate") => {
                let data = expression.inside(NFTA_EXPR_DATA);
                let verdict = data.inside(NFTA_IMMEDIATE_DATA).inside(NFTA_DATA_VERDICT);
                drops |= verdict.u32(NFTA_VERDICT_CODE) == Some(NF_DROP);
            }
            _ => return false,
        }
    }
    drops
}

/// Writes a set, less its table.
pub(super) fn write_set(spec: &SetSpec, id: u32, w: &mut Writer) {
    w.put_text(NFTA_SET_NAME, &spec.name);
    w.put_u32(NFTA_SET_FLAGS, flags(&spec.key, &spec.kind, spec.interval));
    w.put_u32(NFTA_SET_KEY_TYPE, type_number(&spec.key));
    w.put_u32(NFTA_SET_KEY_LEN, length(&spec.key));
    // Only a number within the batch, which the kernel insists on.
    w.put_u32(NFTA_SET_ID, id);
    let data = match &spec.kind {
        SetKind::Set => None,
        SetKind::Map(fields) => {
            w.put_u32(NFTA_SET_DATA_TYPE, type_number(fields));
            w.put_u32(NFTA_SET_DATA_LEN, length(fields));
            Some(order(fields))
        }
        SetKind::VerdictMap => {
            w.put_u32(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
            w.put_u32(NFTA_SET_DATA_LEN, 0);
            Some(Order::None)
        }
    };
    if spec.interval && spec.key.len() > 1 {
        // Lengths of the fields: the kernel looks intervals up field by field (nft_set_pipapo).
        w.nest(NFTA_SET_DESC, |w| {
            w.nest(NFTA_SET_DESC_CONCAT, |w| {
                for field in &spec.key {
                    let len = length(std::slice::from_ref(field));
                    w.nest(NFTA_LIST_ELEM, |w| w.put_u32(NFTA_SET_FIELD_LEN, len));
                }
            });
        });
    }
    if let Some(size) = spec.size {
        w.nest(NFTA_SET_DESC, |w| w.put_u32(NFTA_SET_DESC_SIZE, size));
    }
    let raw = spec.key == [Field::Vni];
    let of_raw = raw.then(userdata::type_of_vni).unwrap_or_default();
    let userdata = userdata::set(order(&spec.key), data);
    w.put(NFTA_SET_USERDATA, &[userdata, of_raw].concat());
}

/// Reads a set; `None` for one that netd never makes.
pub(super) fn read_set(attrs: Attrs<'_>) -> Option<SetShape> {
    // The kernel leaves flags out when there are none.
    let bits = attrs.u32(NFTA_SET_FLAGS).unwrap_or_default();
    let key = types_of(attrs.u32(NFTA_SET_KEY_TYPE)?)?;
    let interval = bits & NFT_SET_INTERVAL != 0;
    let kind = match (bits & NFT_SET_MAP != 0, attrs.u32(NFTA_SET_DATA_TYPE)) {
        (false, _) => SetKind::Set,
        (true, Some(NFT_DATA_VERDICT)) => SetKind::VerdictMap,
        (true, number) => {
            let fields = types_of(number?)?;
            (attrs.u32(NFTA_SET_DATA_LEN) == Some(length(&fields)))
                .then_some(SetKind::Map(fields))?
        }
    };
    let same =
        bits == flags(&key, &kind, interval) && attrs.u32(NFTA_SET_KEY_LEN) == Some(length(&key));
    same.then_some(SetShape {
        key,
        kind,
        interval,
    })
}

fn flags(key: &[Field], kind: &SetKind, interval: bool) -> u32 {
    let interval = match (interval, key.len()) {
        (false, _) => 0,
        (true, 1) => NFT_SET_INTERVAL,
        (true, _) => NFT_SET_INTERVAL | NFT_SET_CONCAT,
    };
    if *kind == SetKind::Set {
        interval
    } else {
        interval | NFT_SET_MAP
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a key has 64 bytes at most"
)]
fn length(fields: &[Field]) -> u32 {
    wire::size(fields) as u32
}

fn order(fields: &[Field]) -> Order {
    match fields {
        [Field::Ifname] => Order::Host,
        [Field::Ip4 | Field::Ip6 | Field::Port | Field::Vni] => Order::Network,
        _ => Order::None,
    }
}

fn type_number(fields: &[Field]) -> u32 {
    let number = |field| {
        TYPES
            .iter()
            .find(|(known, _)| *known == field)
            .map_or(0, |(_, n)| *n)
    };
    fields
        .iter()
        .fold(0, |sum, field| sum << TYPE_BITS | number(*field))
}

fn types_of(mut number: u32) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while number > 0 {
        let last = number & ((1 << TYPE_BITS) - 1);
        fields.push(TYPES.iter().find(|(_, known)| *known == last)?.0);
        number >>= TYPE_BITS;
    }
    fields.reverse();
    (!fields.is_empty()).then_some(fields)
}

#[cfg(test)]
mod tests {
    use netd_model::skeleton;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sets_read_back_as_they_were_written() {
        for spec in skeleton::host()
            .sets
            .into_iter()
            .chain(skeleton::bridge().sets)
        {
            let mut w = Writer::default();
            write_set(&spec, 1, &mut w);
            assert_eq!(
                read_set(Attrs(w.bytes())),
                Some(SetShape::from(&spec)),
                "{}",
                spec.name
            );
        }
    }

    #[test]
    fn chains_read_back_as_they_were_written() {
        for chain in skeleton::host()
            .chains
            .into_iter()
            .chain(skeleton::bridge().chains)
        {
            let mut w = Writer::default();
            if let Some(hook) = chain.hook {
                write_hook(hook, &mut w);
            }
            let want = ChainShape {
                tags: None,
                ..ChainShape::from(&chain)
            };
            assert_eq!(read_chain(Attrs(w.bytes())), want, "{}", chain.name);
            assert!(!drops_by_policy(Attrs(w.bytes())));
        }
    }

    #[test]
    fn the_numbers_are_those_that_nft_writes() {
        use Field::{Ifname, Ip4, Ip6, L4Proto, NfProto, Port};
        for (fields, number) in [
            (&[Ip4, L4Proto, Port][..], 0x730d),
            (&[Ip6, L4Proto, Port], 0x830d),
            (&[L4Proto, Port], 0x30d),
            (&[Ip4, Port], 0x1cd),
            (&[Ip6, Port], 0x20d),
            (&[Ifname], 0x29),
            (&[Ifname, Ifname], 0xa69),
            (&[Ifname, Ip4], 0xa47),
            (&[Ifname, NfProto], 0xa42),
        ] {
            assert_eq!(type_number(fields), number);
            assert_eq!(types_of(number).as_deref(), Some(fields));
        }
        assert_eq!(types_of(0), None);
        assert_eq!(types_of(63), None);
    }

    proptest! {
        #[test]
        fn arbitrary_attributes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (read_set(Attrs(&bytes)), read_chain(Attrs(&bytes)), drops_all(Attrs(&bytes)));
        }
    }
}
