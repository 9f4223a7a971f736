//! What is not ours is left alone, and said.

use netd_model::nft::{Chain, ChainKind, Hook, HookPoint};

use super::*;

fn new_table(batch: &mut Batch, table: &str) {
    message(batch, NFT_MSG_NEWTABLE, |w| {
        w.put_text(NFTA_TABLE_NAME, table);
    });
}

kernel_test! {
    fn a_table_of_our_name_that_is_not_ours_is_neither_adopted_nor_changed() {
        let mut nft = socket();
        by_hand(|batch| new_table(batch, skeleton::TABLE));
        let before = snapshot(&mut nft);
        assert_eq!(objects(&mut nft), []);
        let error = nft.apply(&[install()]).unwrap_err().to_string();
        let text = "add ruleset of table inet netd in host: \
                    a table of that name is there and not marked as netd's";
        assert_eq!(error, text);
        // It is not removed either: of ours there is nothing to remove.
        nft.apply(&[Op::Remove(Object::from(skeleton::host()))]).unwrap();
        assert_eq!(snapshot(&mut nft), before);
    }
}

kernel_test! {
    fn a_set_of_another_type_is_named() {
        let mut nft = socket();
        let mut other = skeleton::host();
        // No rule reads it before the forward chain; leave those out that would not load.
        other.chains.retain(|chain| chain.name == skeleton::USER_FORWARD);
        other.sets = vec![other_set(skeleton::BRIDGES, vec![Field::Port])];
        nft.apply(&[Op::Add(Object::from(other))]).unwrap();
        let seen = objects(&mut nft);
        assert_eq!(seen, [Object::from(skeleton::host().emptied())], "no element of it is read");
        let error = nft.apply(&[install()]).unwrap_err().to_string();
        let text = "add ruleset of table inet netd in host: \
                    the set bridges is there with another type";
        assert_eq!(error, text);
    }
}

kernel_test! {
    fn a_user_forward_with_a_hook_is_named_and_stays() {
        let mut nft = socket();
        let mut other = skeleton::host();
        let hook = Hook { kind: ChainKind::Filter, point: HookPoint::Forward, priority: 0 };
        other.chains = vec![Chain {
            name: skeleton::USER_FORWARD.to_owned(),
            hook: Some(hook),
            rules: None,
        }];
        nft.apply(&[Op::Add(Object::from(other))]).unwrap();
        let error = nft.apply(&[install()]).unwrap_err().to_string();
        assert!(error.ends_with("the chain user-forward is there with another hook"), "{error}");
    }
}

kernel_test! {
    fn an_element_without_a_mark_is_observed_as_the_hosts() {
        let mut nft = installed();
        by_hand(|batch| {
            batch.element(0, NFT_MSG_NEWSETELEM, (&skeleton::host_table(), skeleton::BRIDGES), |w| {
                w.nest(NFTA_LIST_ELEM, |w| {
                    w.nest(NFTA_SET_ELEM_KEY, |w| w.put(NFTA_DATA_VALUE, b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"));
                });
            });
            // No interface can have this name, so no operation could remove it.
            batch.element(0, NFT_MSG_NEWSETELEM, (&skeleton::host_table(), skeleton::BRIDGES), |w| {
                w.nest(NFTA_LIST_ELEM, |w| {
                    w.nest(NFTA_SET_ELEM_KEY, |w| w.put(NFTA_DATA_VALUE, &[b'*'; 16]));
                });
            });
        });
        let mut eth0 = single(skeleton::BRIDGES, vec![name("eth0")], ElementData::None);
        eth0.owner = Owner::Host;
        assert_eq!(elements(&mut nft), [eth0.clone()]);
        nft.apply(&remove(&[eth0])).unwrap();
        assert_eq!(elements(&mut nft), []);
    }
}

fn base_chain(
    batch: &mut Batch,
    family: u8,
    (table, name): (&str, &str),
    (point, policy): (u32, u32),
) {
    batch.message_of(family, NFT_MSG_NEWTABLE, |w| {
        w.put_text(NFTA_TABLE_NAME, table);
    });
    batch.message_of(family, NFT_MSG_NEWCHAIN, |w| {
        w.put_text(NFTA_CHAIN_TABLE, table);
        w.put_text(NFTA_CHAIN_NAME, name);
        w.nest(NFTA_CHAIN_HOOK, |w| {
            w.put_u32(NFTA_HOOK_HOOKNUM, point);
            w.put_u32(NFTA_HOOK_PRIORITY, 0);
        });
        w.put_text(NFTA_CHAIN_TYPE, "filter");
        w.put_u32(NFTA_CHAIN_POLICY, policy);
    });
}

kernel_test! {
    fn foreign_chains_that_drop_what_is_forwarded_are_found() {
        let mut nft = installed();
        by_hand(|batch| {
            base_chain(batch, NFPROTO_IPV4, ("filter", "FORWARD"), (NF_INET_FORWARD, NF_DROP));
            base_chain(batch, NFPROTO_IPV6, ("filter", "FORWARD"), (NF_INET_FORWARD, NF_DROP));
            base_chain(batch, NFPROTO_INET, ("fw", "forward"), (NF_INET_FORWARD, NF_DROP));
            base_chain(batch, NFPROTO_INET, ("fw", "accepting"), (NF_INET_FORWARD, NF_ACCEPT));
            base_chain(batch, NFPROTO_INET, ("fw", "input"), (NF_INET_LOCAL_IN, NF_DROP));
        });
        let mut found = nft.forward_drop().unwrap();
        found.sort();
        assert_eq!(found, ["inet fw forward", "ip filter FORWARD", "ip6 filter FORWARD"]);
    }
}

fn rule(batch: &mut Batch, (table, chain): (&str, &str), expressions: impl Fn(&mut Writer)) {
    batch.message_of(NFPROTO_INET, NFT_MSG_NEWRULE, |w| {
        w.put_text(NFTA_RULE_TABLE, table);
        w.put_text(NFTA_RULE_CHAIN, chain);
        w.nest(NFTA_RULE_EXPRESSIONS, &expressions);
    });
}

fn expression(w: &mut Writer, name: &str, data: impl Fn(&mut Writer)) {
    w.nest(NFTA_LIST_ELEM, |w| {
        w.put_text(NFTA_EXPR_NAME, name);
        w.nest(NFTA_EXPR_DATA, &data);
    });
}

/// `reject with icmpx admin-prohibited`, as firewalld ends its chain.
fn reject(w: &mut Writer) {
    expression(w, "reject", |w| {
        w.put_u32(1, 2);
        w.put(2, &[3]);
    });
}

fn verdict(w: &mut Writer, code: u32) {
    expression(w, "immediate", |w| {
        w.put_u32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
        w.nest(NFTA_IMMEDIATE_DATA, |w| {
            w.nest(NFTA_DATA_VERDICT, |w| w.put_u32(NFTA_VERDICT_CODE, code));
        });
    });
}

kernel_test! {
    /// firewalld's policy is to accept, and its last rule rejects.
    fn a_foreign_chain_whose_last_rule_drops_all_is_found() {
        let mut nft = installed();
        let chains = ["rejects", "counts", "drops", "accepts", "compares", "goes_on"];
        by_hand(|batch| {
            for chain in chains {
                base_chain(batch, NFPROTO_INET, ("fw", chain), (NF_INET_FORWARD, NF_ACCEPT));
            }
            rule(batch, ("fw", "rejects"), reject);
            rule(batch, ("fw", "counts"), |w| {
                expression(w, "counter", |_| ());
                reject(w);
            });
            rule(batch, ("fw", "drops"), |w| verdict(w, NF_DROP));
            rule(batch, ("fw", "accepts"), |w| verdict(w, NF_ACCEPT));
            rule(batch, ("fw", "compares"), |w| {
                expression(w, "meta", |w| {
                    w.put_u32(1, 1);
                    w.put_u32(2, 6);
                });
                expression(w, "cmp", |w| {
                    w.put_u32(1, 1);
                    w.put_u32(2, 0);
                    w.nest(3, |w| w.put(NFTA_DATA_VALUE, b"eth0"));
                });
                reject(w);
            });
            // Each goes in front of those there are.
            rule(batch, ("fw", "goes_on"), |w| verdict(w, NF_ACCEPT));
            rule(batch, ("fw", "goes_on"), reject);
        });
        let mut found = nft.forward_drop().unwrap();
        found.sort();
        assert_eq!(found, ["inet fw counts", "inet fw drops", "inet fw rejects"]);
    }
}

kernel_test! {
    /// Another program changes its rules all the time: dumps are interrupted, and repeated until they are whole.
    fn a_busy_neighbour_costs_nothing_but_time() {
        let mut nft = installed();
        let many: Vec<Element> = (1..=2_000).map(published).collect();
        nft.apply(&add(&many)).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut busy = Transport::open().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut batch = Batch::new(busy.next_seq(), Packing::Singly);
                    new_table(&mut batch, "busy");
                    delete_table(&mut batch, "busy");
                    let sealed = batch.seal();
                    busy.commit(sealed.bytes(), sealed.messages()).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            for _ in 0..20 {
                assert_eq!(elements(&mut nft).len(), many.len());
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
