//! Installing and removing rulesets.

use super::*;

kernel_test! {
    fn the_hosts_ruleset_is_observed_as_it_was_installed() {
        let mut nft = socket();
        assert_eq!(nft.observe(&Ns::Host).unwrap(), []);
        nft.apply(&[install()]).unwrap();
        assert!(holds(&mut nft, &[]));
    }
}

kernel_test! {
    fn what_is_held_is_not_written_again() {
        let mut nft = installed();
        let before = snapshot(&mut nft);
        nft.apply(&[install()]).unwrap();
        nft.apply(&[]).unwrap();
        assert_eq!(snapshot(&mut nft), before);
    }
}

kernel_test! {
    fn a_removed_ruleset_leaves_nothing() {
        let mut nft = installed();
        let empty = snapshot(&mut socket()).len();
        nft.apply(&[Op::Remove(Object::from(skeleton::host()))]).unwrap();
        assert_eq!(objects(&mut nft), []);
        assert!(empty > 0 && snapshot(&mut nft).is_empty());
        // Once more: the aim is reached already.
        nft.apply(&[Op::Remove(Object::from(skeleton::host()))]).unwrap();
    }
}

kernel_test! {
    fn a_ruleset_and_its_elements_are_one_batch() {
        let mut nft = socket();
        let mut ops = vec![install()];
        ops.extend(add(&of_every_kind()));
        nft.apply(&ops).unwrap();
        assert!(holds(&mut nft, &of_every_kind()));
    }
}

kernel_test! {
    fn a_ruleset_removed_and_added_in_one_batch_is_new() {
        let mut nft = installed();
        nft.apply(&add(&[published(1)])).unwrap();
        nft.apply(&[Op::Remove(Object::from(skeleton::host())), install()]).unwrap();
        assert!(holds(&mut nft, &[]));
    }
}

kernel_test! {
    fn a_ruleset_added_and_removed_in_one_batch_is_gone() {
        let mut nft = socket();
        let remove = || Op::Remove(Object::from(skeleton::host()));
        nft.apply(&[install(), remove()]).unwrap();
        assert_eq!(objects(&mut nft), []);
        nft.apply(&[remove(), install(), remove()]).unwrap();
        assert_eq!(objects(&mut nft), []);
    }
}

kernel_test! {
    fn a_socket_stays_in_its_namespace_whatever_thread_uses_it() {
        let mut host = installed();
        with_second_namespace(|mut inside| {
            let dns = || Object::from(skeleton::dns(&container()));
            let ns = Ns::Container(container());
            assert_eq!(inside.observe(&ns).unwrap(), []);
            inside.apply(&[Op::Add(dns())]).unwrap();
            assert_eq!(inside.observe(&ns).unwrap(), [dns()]);
            assert!(holds(&mut host, &[]));
            let before = snapshot(&mut inside);
            inside.apply(&[Op::Add(dns())]).unwrap();
            assert_eq!(snapshot(&mut inside), before);
            inside.apply(&[Op::Remove(dns())]).unwrap();
            assert_eq!(inside.observe(&ns).unwrap(), []);
        });
    }
}

kernel_test! {
    fn a_sandbox_that_changed_hands_gets_the_table_of_its_new_container() {
        let mut nft = socket();
        let dns = |id: &str| Object::from(skeleton::dns(&ContainerId::parse(id).unwrap()));
        let ns = |id: &str| Ns::Container(ContainerId::parse(id).unwrap());
        nft.apply(&[Op::Add(dns("old"))]).unwrap();
        let seen = nft.observe(&ns("new")).unwrap();
        let [Object::Ruleset(seen)] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!(seen.owner, Owner::Container(ContainerId::parse("old").unwrap()));
        let op = Op::Change { from: Object::Ruleset(Arc::clone(seen)), to: dns("new") };
        nft.apply(&[op]).unwrap();
        assert_eq!(nft.observe(&ns("new")).unwrap(), [dns("new")]);
    }
}

kernel_test! {
    fn a_container_that_runs_netd_itself_is_not_mistaken_for_the_host() {
        let mut nft = installed();
        assert_eq!(nft.observe(&Ns::Container(container())).unwrap(), []);
    }
}

kernel_test! {
    fn operations_that_are_not_for_nftables_are_refused() {
        let error = socket().apply(&[Op::Add(Object::Loopback(Owner::Host))]).unwrap_err();
        assert_eq!(error.to_string(), "add lo up in host: it is not for nftables");
    }
}

kernel_test! {
    fn the_table_of_bridges_stands_beside_the_hosts() {
        let mut nft = socket();
        assert!(nft.has_bridge_tables().unwrap());
        assert!(snapshot(&mut nft).is_empty(), "asking leaves nothing");
        let bridges = || Op::Add(Object::from(skeleton::bridge()));
        let mut ops = vec![install(), bridges()];
        ops.extend(add(&of_every_kind()));
        ops.extend(add(&of_every_port()));
        nft.apply(&ops).unwrap();
        let before = snapshot(&mut nft);
        nft.apply(&ops).unwrap();
        assert_eq!(snapshot(&mut nft), before, "what is held is not written again");
        let all = sorted([of_every_kind(), of_every_port()].concat());
        assert_eq!(elements(&mut nft), all);
        let observed = objects(&mut nft);
        assert!(observed.contains(&Object::from(skeleton::bridge())));
        assert!(observed.contains(&Object::from(skeleton::host())));

        nft.apply(&[Op::Remove(Object::from(skeleton::bridge()))]).unwrap();
        assert!(holds(&mut nft, &of_every_kind()));
    }
}
