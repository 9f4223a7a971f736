//! Adding, changing and removing elements.

use std::time::Instant;

use nix::libc::EEXIST;

use super::*;

kernel_test! {
    fn elements_of_every_kind_are_observed_as_they_were_added() {
        let mut nft = installed();
        let all = of_every_kind();
        nft.apply(&add(&all)).unwrap();
        assert!(holds(&mut nft, &all));
        nft.apply(&remove(&all)).unwrap();
        assert!(holds(&mut nft, &[]));
    }
}

kernel_test! {
    /// Each in a batch of its own, and in the other order: neighbours come and go around those that stay.
    fn elements_come_and_go_one_by_one() {
        let mut nft = installed();
        let all = of_every_kind();
        for backwards in [false, true] {
            let mut order = all.clone();
            if backwards {
                order.reverse();
            }
            for (count, element) in order.iter().enumerate() {
                nft.apply(&add(std::slice::from_ref(element))).unwrap();
                assert!(holds(&mut nft, &order[..=count]), "{element}");
            }
            for (count, element) in order.iter().enumerate() {
                nft.apply(&remove(std::slice::from_ref(element))).unwrap();
                assert!(holds(&mut nft, &order[count + 1..]), "{element}");
            }
        }
    }
}

kernel_test! {
    fn an_equal_element_may_be_added_twice_and_another_under_its_key_may_not() {
        let mut nft = installed();
        let all = of_every_kind();
        nft.apply(&add(&all)).unwrap();
        nft.apply(&add(&all)).unwrap();
        assert!(holds(&mut nft, &all));

        let taken = published(65535);
        let other = Element {
            data: ElementData::Values(vec![Datum::Ip4([10, 0, 0, 3].into()), Datum::Port(80)]),
            ..taken.clone()
        };
        let fine = published(2);
        let error = nft.apply(&add(&[fine.clone(), other])).unwrap_err();
        assert_eq!(error.errno(), Some(EEXIST));
        assert_eq!(
            error.to_string(),
            "add element pubany4 { tcp . 65535 : 10.0.0.3 . 80 }: File exists (os error 17)"
        );
        // Together or not at all.
        assert!(elements(&mut nft).contains(&taken) && !elements(&mut nft).contains(&fine));
    }
}

kernel_test! {
    fn intervals_that_overlap_are_refused() {
        let mut nft = installed();
        nft.apply(&add(&[guard4([10, 0, 0, 0], [10, 0, 0, 255])])).unwrap();
        let inside = guard4([10, 0, 0, 8], [10, 0, 0, 9]);
        let error = nft.apply(&add(&[inside])).unwrap_err();
        let text = "add element guard4 { 10.0.0.8 - 10.0.0.9 }: File exists (os error 17)";
        assert_eq!(error.to_string(), text);
    }
}

kernel_test! {
    fn the_removal_of_what_is_gone_is_a_success() {
        let mut nft = installed();
        let all = of_every_kind();
        nft.apply(&remove(&all)).unwrap();
        let there: Vec<Element> = all.iter().step_by(2).cloned().collect();
        nft.apply(&add(&there)).unwrap();
        let mut ops = remove(&all);
        ops.extend(add(&[published(7)]));
        nft.apply(&ops).unwrap();
        assert_eq!(elements(&mut nft), [published(7)]);
        // Also when table and all are gone.
        by_hand(|batch| delete_table(batch, skeleton::TABLE));
        nft.apply(&remove(&all)).unwrap();
    }
}

kernel_test! {
    fn a_change_replaces_data_and_owner() {
        let mut nft = installed();
        let all: Vec<Element> = of_every_kind();
        nft.apply(&add(&all)).unwrap();
        let to = |element: &Element| {
            let data = match &element.data {
                ElementData::Verdict(_) => ElementData::Verdict(Verdict::Return),
                other => other.clone(),
            };
            Element { owner: Owner::Network(network()), data, ..element.clone() }
        };
        let new: Vec<Element> = all.iter().map(to).collect();
        let change = |from: &Element, to: &Element| Op::Change {
            from: Object::Element(from.clone()),
            to: Object::Element(to.clone()),
        };
        let ops: Vec<Op> = all.iter().zip(&new).map(|(from, to)| change(from, to)).collect();
        nft.apply(&ops).unwrap();
        assert!(holds(&mut nft, &new));
        // What is to be changed is gone: it is made.
        nft.apply(&remove(&new)).unwrap();
        nft.apply(&ops).unwrap();
        assert!(holds(&mut nft, &new));
    }
}

kernel_test! {
    fn a_batch_with_one_bad_operation_leaves_nothing() {
        let mut nft = installed();
        let nowhere = ElementData::Verdict(Verdict::Goto("no-such-chain".to_owned()));
        let bad = single(skeleton::EGRESS, vec![name("br9"), Datum::NfProto(2)], nowhere);
        let mut ops = add(&of_every_kind());
        ops.insert(ops.len() / 2, Op::Add(Object::Element(bad)));
        let error = nft.apply(&ops).unwrap_err();
        assert!(error.to_string().starts_with("add element egress { br9 . ipv4 : "), "{error}");
        assert!(holds(&mut nft, &[]));
        // And without a table nothing is made at all.
        by_hand(|batch| delete_table(batch, skeleton::TABLE));
        let error = nft.apply(&add(&[published(1)])).unwrap_err();
        let text = "add element pubany4 { tcp . 1 : 10.0.0.2 . 80 }: No such file or directory";
        assert!(error.to_string().starts_with(text), "{error}");
    }
}

kernel_test! {
    fn elements_of_no_set_of_ours_are_refused_before_the_kernel_sees_them() {
        let mut nft = installed();
        let stray = single("nowhere", vec![Datum::Port(1)], ElementData::None);
        let error = nft.apply(&add(&[stray])).unwrap_err();
        assert_eq!(error.to_string(), "add element nowhere { 1 }: netd has no such set");
        let wrong = single("pubany4", vec![Datum::Port(1)], ElementData::None);
        let error = nft.apply(&add(&[wrong])).unwrap_err();
        assert!(error.to_string().contains("its key has other types"), "{error}");
    }
}

kernel_test! {
    fn ten_thousand_elements() {
        let mut nft = installed();
        let many: Vec<Element> = (1..=10_000).map(published).collect();
        let ops = add(&many);
        let time = Instant::now();
        nft.apply(&ops).unwrap();
        let added = time.elapsed();
        let time = Instant::now();
        assert!(holds(&mut nft, &many));
        println!("10,000 elements: added in {added:?}, observed in {:?}", time.elapsed());

        let one = published(20_000);
        let (adds, removes) = (add(std::slice::from_ref(&one)), remove(std::slice::from_ref(&one)));
        let time = Instant::now();
        for _ in 0..1000 {
            nft.apply(&adds).unwrap();
            nft.apply(&removes).unwrap();
        }
        println!("one element beside them: {:?}", time.elapsed() / 2000);

        // One bad one among the last is named, and everything stays as it was.
        let mut ops = remove(&many);
        let nowhere = ElementData::Verdict(Verdict::Goto("no-such-chain".to_owned()));
        let bad = Op::Add(Object::Element(single("egress", vec![name("br9"), Datum::NfProto(2)], nowhere)));
        ops.insert(9_990, bad);
        let error = nft.apply(&ops).unwrap_err();
        assert!(error.to_string().starts_with("add element egress { br9 . ipv4 : "), "{error}");
        assert_eq!(elements(&mut nft).len(), 10_000);
        nft.apply(&remove(&many)).unwrap();
        assert_eq!(elements(&mut nft), []);
    }
}

kernel_test! {
    /// More errors than the receive queue holds: those that are kept are enough.
    fn when_everything_fails_the_first_is_named() {
        let mut nft = installed();
        nft.apply(&add(&(1..=10_000).map(published).collect::<Vec<_>>())).unwrap();
        let other = |port| Element {
            data: ElementData::Values(vec![Datum::Ip4([10, 9, 9, 9].into()), Datum::Port(1)]),
            ..published(port)
        };
        let ops = add(&(1..=10_000).map(other).collect::<Vec<_>>());
        let error = nft.apply(&ops).unwrap_err();
        assert_eq!(error.errno(), Some(EEXIST), "{error}");
        assert!(error.to_string().contains("{ tcp . 1 : 10.9.9.9 . 1 }"), "{error}");
        // The socket is good for the next.
        nft.apply(&add(&[published(10_001)])).unwrap();
    }
}

kernel_test! {
    /// As many as there can be, all gone already: each round learns of some.
    fn the_removal_of_ten_thousand_that_are_gone() {
        let mut nft = installed();
        nft.apply(&remove(&(1..=10_000).map(published).collect::<Vec<_>>())).unwrap();
        assert_eq!(elements(&mut nft), []);
    }
}

kernel_test! {
    /// Where the kernel grants no larger send buffer.
    fn a_batch_that_is_too_long_is_cut_and_still_leaves_nothing_when_it_fails() {
        let mut nft = installed();
        nft.transport.batch_max = 20_000;
        let many: Vec<Element> = (1..=1000).map(published).collect();
        nft.apply(&add(&many)).unwrap();
        assert!(holds(&mut nft, &many));
        let nowhere = ElementData::Verdict(Verdict::Goto("no-such-chain".to_owned()));
        let mut bad = remove(&many);
        bad.extend(add(&[single("egress", vec![name("br9"), Datum::NfProto(2)], nowhere)]));
        let error = nft.apply(&bad).unwrap_err();
        assert!(error.to_string().starts_with("add element egress { br9 . ipv4 : "), "{error}");
        assert!(holds(&mut nft, &many));
        nft.apply(&remove(&many)).unwrap();
        assert!(holds(&mut nft, &[]));
    }
}
