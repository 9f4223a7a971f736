//! What others do to our table is seen and repaired; what is the administrator's stays.

use netd_model::nft::{Chain, ChainKind, Hook, HookPoint};

use super::*;

/// Someone does `harm`; then a difference is seen, the repair is made, and everything is as before.
fn is_repaired(harm: impl FnOnce(&mut Batch)) {
    let mut nft = installed();
    nft.apply(&add(&of_every_kind())).unwrap();
    by_hand(|batch| foreign_rule(batch, skeleton::USER_FORWARD));
    assert!(
        holds(&mut nft, &of_every_kind()),
        "a rule there is no difference"
    );
    by_hand(harm);
    let seen = ruleset(&mut nft).unwrap();
    assert_eq!(seen, skeleton::host().emptied());
    let to = Object::Ruleset(skeleton::host());
    nft.apply(&[Op::Change {
        from: Object::Ruleset(seen),
        to,
    }])
    .unwrap();
    assert!(holds(&mut nft, &of_every_kind()));
    assert_eq!(
        rules_in(&mut nft, skeleton::USER_FORWARD),
        1,
        "the administrator's rule stays"
    );
}

kernel_test! {
    fn a_deleted_rule() {
        is_repaired(|batch| {
            let dump = Transport::open().unwrap().dump(NFT_MSG_GETRULE, NFPROTO_INET, |_| ());
            let dump = dump.unwrap();
            let in_guard = |attrs: &attr::Attrs<'_>| attrs.text(NFTA_RULE_CHAIN) == Some("guard");
            let rule = dump.iter().map(|m| m.attrs()).find(in_guard).unwrap();
            // NFTA_RULE_HANDLE
            let handle = rule.get(3).unwrap().to_vec();
            message(batch, NFT_MSG_DELRULE, |w| {
                w.put_text(NFTA_RULE_TABLE, skeleton::TABLE);
                w.put_text(NFTA_RULE_CHAIN, "guard");
                w.put(3, &handle);
            });
        });
    }
}

kernel_test! {
    fn a_foreign_rule_in_our_chain() {
        is_repaired(|batch| foreign_rule(batch, "forward"));
    }
}

kernel_test! {
    fn a_flushed_chain() {
        is_repaired(|batch| flush(batch, "publish"));
    }
}

kernel_test! {
    fn a_chain_that_drops_by_policy() {
        is_repaired(drop_by_policy);
    }
}

kernel_test! {
    fn a_table_that_is_switched_off() {
        is_repaired(switch_off);
    }
}

fn drop_by_policy(batch: &mut Batch) {
    message(batch, NFT_MSG_NEWCHAIN, |w| {
        w.put_text(NFTA_CHAIN_TABLE, skeleton::TABLE);
        w.put_text(NFTA_CHAIN_NAME, "forward");
        w.put_u32(NFTA_CHAIN_POLICY, NF_DROP);
    });
}

fn switch_off(batch: &mut Batch) {
    message(batch, NFT_MSG_NEWTABLE, |w| {
        w.put_text(NFTA_TABLE_NAME, skeleton::TABLE);
        w.put_u32(NFTA_TABLE_FLAGS, NFT_TABLE_F_DORMANT);
    });
}

/// Deletes a base chain with its rules.
fn delete_chain(batch: &mut Batch, chain: &str) {
    flush(batch, chain);
    message(batch, NFT_MSG_DELCHAIN, |w| {
        w.put_text(NFTA_CHAIN_TABLE, skeleton::TABLE);
        w.put_text(NFTA_CHAIN_NAME, chain);
    });
}

fn new_chain(batch: &mut Batch, chain: &Chain) {
    message(batch, NFT_MSG_NEWCHAIN, |w| {
        w.put_text(NFTA_CHAIN_TABLE, skeleton::TABLE);
        w.put_text(NFTA_CHAIN_NAME, &chain.name);
        if let Some(hook) = chain.hook {
            shape::write_hook(hook, w);
        }
    });
}

kernel_test! {
    fn a_table_that_is_switched_off_and_harmed_in_more_than_one_way() {
        is_repaired(|batch| {
            by_hand(|batch| delete_chain(batch, "input"));
            by_hand(drop_by_policy);
            switch_off(batch);
        });
    }
}

kernel_test! {
    fn a_chain_at_another_hook() {
        is_repaired(|batch| {
            delete_chain(batch, "input");
            let hook = Hook { kind: ChainKind::Filter, point: HookPoint::Prerouting, priority: 7 };
            new_chain(batch, &Chain { name: "input".to_owned(), hook: Some(hook), rules: None });
        });
    }
}

kernel_test! {
    fn a_base_chain_that_is_none_any_more() {
        is_repaired(|batch| {
            delete_chain(batch, "input");
            new_chain(batch, &Chain { name: "input".to_owned(), hook: None, rules: None });
        });
    }
}

kernel_test! {
    /// As versions had it that guarded containers' addresses in prerouting.
    fn a_chain_that_had_no_hook() {
        is_repaired(|batch| {
            for chain in ["input", "forward", "decide"] {
                flush(batch, chain);
            }
            delete_chain(batch, "guard");
            let hook = Hook { kind: ChainKind::Filter, point: HookPoint::Prerouting, priority: -150 };
            new_chain(batch, &Chain { name: "guard".to_owned(), hook: Some(hook), rules: None });
        });
    }
}

kernel_test! {
    /// Its rules are lost with it; but it is there again, and is jumped to.
    fn a_missing_user_forward() {
        let mut nft = installed();
        by_hand(|batch| {
            flush(batch, "forward");
            flush(batch, "asked");
            delete_chain(batch, skeleton::USER_FORWARD);
        });
        let from = Object::Ruleset(ruleset(&mut nft).unwrap());
        let to = Object::Ruleset(skeleton::host());
        nft.apply(&[Op::Change { from, to }]).unwrap();
        assert!(holds(&mut nft, &[]));
    }
}

kernel_test! {
    fn a_missing_element() {
        let mut nft = installed();
        nft.apply(&add(&of_every_kind())).unwrap();
        let mut others = NftSocket::open().unwrap();
        others.apply(&remove(&of_every_kind()[3..9])).unwrap();
        let mut left = of_every_kind();
        left.drain(3..9);
        assert!(holds(&mut nft, &left));
    }
}

kernel_test! {
    fn a_missing_table() {
        let mut nft = installed();
        by_hand(|batch| delete_table(batch, skeleton::TABLE));
        assert_eq!(objects(&mut nft), []);
        nft.apply(&[install()]).unwrap();
        assert!(holds(&mut nft, &[]));
    }
}

/// Another version of netd had a chain, a set and a rule that this one does not know.
fn other_version() -> Ruleset {
    let mut other = skeleton::host();
    let hook = Hook {
        kind: ChainKind::Filter,
        point: HookPoint::Input,
        priority: 0,
    };
    other.sets.push(other_set("gone", vec![Field::Ifname]));
    let lookup = netd_model::nft::Stmt::Lookup {
        key: vec![netd_model::nft::Expr::Iifname],
        set: "gone".to_owned(),
        invert: false,
    };
    let drop = netd_model::nft::Stmt::Verdict(Verdict::Drop);
    let rules = Some(vec![vec![lookup, drop]]);
    other.chains.push(Chain {
        name: "input".to_owned(),
        hook: Some(hook),
        rules,
    });
    other
}

kernel_test! {
    fn what_another_version_left_is_cleared_away() {
        let mut nft = socket();
        let other = Op::Add(Object::Ruleset(other_version()));
        nft.apply(std::slice::from_ref(&other)).unwrap();
        nft.apply(&add(&of_every_kind())).unwrap();
        by_hand(|batch| foreign_rule(batch, skeleton::USER_FORWARD));
        assert_eq!(ruleset(&mut nft), Some(skeleton::host().emptied()));
        for _ in 0..2 {
            nft.apply(&[install()]).unwrap();
            assert!(holds(&mut nft, &of_every_kind()));
            nft.apply(std::slice::from_ref(&other)).unwrap();
        }
        assert_eq!(rules_in(&mut nft, skeleton::USER_FORWARD), 1);
    }
}

kernel_test! {
    /// An administrator may have chains and sets in our table; they are not ours.
    fn what_others_put_beside_ours_stays() {
        let mut nft = installed();
        by_hand(|batch| {
            new_chain(batch, &Chain { name: "mine".to_owned(), hook: None, rules: None });
            foreign_rule(batch, "mine");
            message(batch, NFT_MSG_NEWSET, |w| {
                w.put_text(NFTA_SET_TABLE, skeleton::TABLE);
                w.put_text(NFTA_SET_NAME, "mine");
                w.put_u32(NFTA_SET_KEY_LEN, 4);
                w.put_u32(NFTA_SET_ID, 1);
            });
        });
        assert!(holds(&mut nft, &[]));
        by_hand(|batch| flush(batch, "guard"));
        nft.apply(&[install()]).unwrap();
        assert!(holds(&mut nft, &[]));
        assert_eq!(rules_in(&mut nft, "mine"), 1);
    }
}

kernel_test! {
    fn a_failed_repair_changes_nothing() {
        let mut nft = installed();
        by_hand(|batch| flush(batch, "guard"));
        let before = snapshot(&mut nft);
        let nowhere = ElementData::Verdict(Verdict::Goto("no-such-chain".to_owned()));
        let bad = Op::Add(Object::Element(single("egress", vec![name("br9"), Datum::NfProto(2)], nowhere)));
        nft.apply(&[install(), bad]).unwrap_err();
        assert_eq!(snapshot(&mut nft), before);
    }
}
