use std::net::{IpAddr, Ipv4Addr};

use netd_model::net::{Family, IfName, Mac};
use netd_model::skeleton;
use proptest::prelude::*;

use super::super::attr::Writer;
use super::*;

fn spec(name: &str) -> SetSpec {
    skeleton::host().set(name).unwrap().clone()
}

fn element(set: &str, first: Vec<Datum>, last: Vec<Datum>, data: ElementData) -> Element {
    let key = ElementKey {
        table: skeleton::host_table(),
        set: set.to_owned(),
        first,
        last,
    };
    Element {
        key,
        data,
        owner: Owner::Host,
    }
}

fn guard(first: u32, last: u32) -> Element {
    let ip = |bits| vec![Datum::Ip4(Ipv4Addr::from_bits(bits))];
    element("guard4", ip(first), ip(last), ElementData::None)
}

/// Writes elements and reads them as if the kernel had given them back, in some other order.
fn through_bytes(spec: &SetSpec, elements: &[Element]) -> Vec<Element> {
    let mut w = Writer::default();
    for element in elements {
        assert_eq!(mismatch(spec, element), None);
        write(spec, element, &mut w);
    }
    let mut items: Vec<_> = Attrs(w.bytes())
        .iter()
        .map(|(_, item)| Attrs(item))
        .collect();
    items.reverse();
    let found = read(&skeleton::host_table(), spec, items.into_iter());
    assert_eq!(found.unreadable, 0);
    found.elements
}

#[test]
fn neighbouring_keys_of_many_bytes() {
    assert_eq!(after(&[10, 0, 255, 255]), Some(vec![10, 1, 0, 0]));
    assert_eq!(after(&[255; 4]), None);
    assert_eq!(before(&[10, 1, 0, 0]), Some(vec![10, 0, 255, 255]));
    assert_eq!(before(&[0; 16]), None);
}

#[test]
fn intervals_side_by_side_and_up_to_the_last_address_stay_apart() {
    let elements = [
        guard(0, 0),
        guard(1, 9),
        guard(10, 10),
        guard(0x0a00_0000, 0x0aff_ffff),
        guard(u32::MAX, u32::MAX),
    ];
    assert_eq!(through_bytes(&spec("guard4"), &elements), elements);
    let last = [guard(0xffff_ff00, u32::MAX)];
    assert_eq!(through_bytes(&spec("guard4"), &last), last);
    let all = [guard(0, u32::MAX)];
    assert_eq!(through_bytes(&spec("guard4"), &all), all);
}

#[test]
fn bounds_that_another_program_left_are_read_as_the_kernel_uses_them() {
    let bound = |key: u8, is_end| {
        let (owner, data) = (Owner::Host, ElementData::None);
        Raw {
            key: vec![0, 0, 0, key],
            last: vec![],
            is_end,
            data,
            owner,
        }
    };
    // An end without a start, a start without an end, and another start up to the last key.
    let joined = join(vec![bound(20, false), bound(0, true), bound(5, false)]);
    let ranges: Vec<_> = joined
        .iter()
        .map(|raw| (raw.key[3], raw.last.clone()))
        .collect();
    assert_eq!(ranges, [(5, vec![0, 0, 0, 19]), (20, vec![255; 4])]);
}

#[test]
fn elements_that_do_not_fit_their_set_are_refused() {
    let name = || Datum::Ifname(IfName::parse("br0").unwrap());
    let bridges = spec(skeleton::BRIDGES);
    let other = || Datum::Ifname(IfName::parse("br1").unwrap());
    let in_family = || vec![name(), Datum::NfProto(2)];
    let with = |first, last, data| element("x", vec![first], vec![last], data);
    for (spec, element, why) in [
        (
            &bridges,
            with(Datum::Port(1), Datum::Port(1), ElementData::None),
            "key",
        ),
        (
            &bridges,
            with(name(), other(), ElementData::None),
            "no intervals",
        ),
        (
            &bridges,
            with(name(), name(), ElementData::Verdict(Verdict::Drop)),
            "data",
        ),
        (
            &spec(skeleton::EGRESS),
            element("x", in_family(), in_family(), ElementData::None),
            "data",
        ),
        (&spec("guard4"), guard(9, 8), "empty"),
    ] {
        assert!(mismatch(spec, &element).unwrap().contains(why), "{element}");
    }
}

#[test]
fn every_set_keeps_its_elements() {
    let datum = |field: &Field, seed: u8| match field {
        Field::Ifname => Datum::Ifname(IfName::parse(&format!("br{seed}")).unwrap()),
        Field::Ip4 => Datum::Ip4([10, 0, 0, seed].into()),
        Field::Ip6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(seed)]).into(),
        Field::L4Proto => Datum::L4Proto(6),
        Field::Port => Datum::Port(u16::from(seed)),
        Field::NfProto => Datum::NfProto(Family::V4.nfproto()),
        Field::Mac => Datum::Mac(Mac::new([2, 0, 0, 0, 0, seed]).unwrap()),
        Field::Vni => Datum::Vni(u32::from(seed)),
        Field::EtherType | Field::ArpOp | Field::Icmp6Type => panic!("{field:?} is in no key"),
    };
    for spec in skeleton::host()
        .sets
        .into_iter()
        .chain(skeleton::bridge().sets)
    {
        let values = |fields: &[Field], seed| fields.iter().map(|f| datum(f, seed)).collect();
        let data = match &spec.kind {
            SetKind::Set => ElementData::None,
            SetKind::Map(fields) => ElementData::Values(values(fields, 7)),
            SetKind::VerdictMap => ElementData::Verdict(Verdict::Goto("to_nat".to_owned())),
        };
        let first: Vec<Datum> = values(&spec.key, 1);
        let mut last = first.clone();
        if spec.interval {
            last.pop();
            last.push(datum(spec.key.last().unwrap(), 200));
        }
        let elements = [element(&spec.name, first, last, data)];
        assert_eq!(through_bytes(&spec, &elements), elements);
    }
}

proptest! {
    #[test]
    fn intervals_survive(mut cuts in prop::collection::btree_set(any::<u32>(), 2..40)) {
        if cuts.len() % 2 == 1 {
            cuts.pop_first();
        }
        let cuts: Vec<u32> = cuts.into_iter().collect();
        let elements: Vec<Element> = cuts.chunks(2).map(|pair| guard(pair[0], pair[1])).collect();
        prop_assert_eq!(through_bytes(&spec("guard4"), &elements), elements);
    }

    #[test]
    fn arbitrary_elements_are_read_without_panic(
        items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..8),
        keys in prop::collection::vec((any::<[u8; 4]>(), any::<u32>()), 0..8),
    ) {
        let mut w = Writer::default();
        for (key, flags) in &keys {
            w.nest(NFTA_LIST_ELEM, |w| {
                put_key(NFTA_SET_ELEM_KEY, key, w);
                w.put_u32(NFTA_SET_ELEM_FLAGS, *flags);
            });
        }
        for spec in skeleton::host().sets {
            let known = Attrs(w.bytes()).iter().map(|(_, item)| Attrs(item));
            let items = known.chain(items.iter().map(|item| Attrs(item)));
            let _ = read(&skeleton::host_table(), &spec, items);
        }
    }
}
