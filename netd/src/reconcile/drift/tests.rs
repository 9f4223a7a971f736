use netd_model::NetworkId;
use netd_model::object::Sysctl;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn setting(value: &str) -> Object {
    Object::Sysctl(Sysctl {
        ns: Ns::Host,
        path: "net/ipv4/ip_forward".to_owned(),
        value: value.to_owned(),
        ifname: None,
        owner: ObjectOwner::Host,
    })
}

fn noticed(owner: &ObjectOwner, object: &Object, there: bool) -> Noticed {
    Noticed::Object {
        owner: owner.clone(),
        key: object.key(),
        now: there.then(|| Box::new(object.clone())),
    }
}

fn compare(drift: &mut Drift, wanted: &[Object], busy: bool, now: Instant) -> Places {
    drift.compare(
        |_| wanted.to_vec(),
        |id| id.as_str() == "known",
        |_| busy,
        now,
    );
    drift.ready(now)
}

#[test]
fn what_is_left_inside_of_a_container_that_is_gone_is_not_looked_at() {
    let (mut drift, now) = (Drift::default(), Instant::now());
    for (id, places) in [("gone", 0), ("known", 1)] {
        let owner = ObjectOwner::Container(ContainerId::parse(id).unwrap());
        drift.notice(noticed(&owner, &Object::Loopback(owner.clone()), true), now);
        assert_eq!(compare(&mut drift, &[], false, now).len(), places, "{id}");
    }
}

fn host() -> Places {
    Places::from([(Ns::Host, None)])
}

#[test]
fn what_is_wanted_is_no_drift_and_the_last_notice_counts() {
    let (mut drift, now, owner) = (Drift::default(), Instant::now(), ObjectOwner::Host);
    let (on, off) = (setting("1"), setting("0"));
    for last in [&off, &on] {
        drift.notice(noticed(&owner, last, true), now);
    }
    assert_eq!(drift.due(), Some(now + SETTLE));
    assert_eq!(
        compare(&mut drift, std::slice::from_ref(&on), false, now),
        Places::new()
    );
    assert_eq!(drift.due(), None, "nothing is left to look at");
    for (notice, wanted, expected) in [
        (noticed(&owner, &off, true), &[on.clone()][..], host()),
        (noticed(&owner, &on, false), &[on.clone()][..], host()),
        (noticed(&owner, &on, true), &[], host()),
        (noticed(&owner, &on, false), &[], Places::new()),
    ] {
        drift.notice(notice, now);
        assert_eq!(compare(&mut drift, wanted, false, now), expected);
    }
}

#[test]
fn objects_under_way_wait_for_the_end_of_their_job() {
    let (mut drift, now) = (Drift::default(), Instant::now());
    let owner = ObjectOwner::Network(NetworkId::from_bytes([1; 16]));
    let object = setting("1");
    drift.notice(noticed(&owner, &object, false), now);
    let wanted = [object];
    assert_eq!(compare(&mut drift, &wanted, true, now), Places::new());
    assert_eq!(drift.due(), Some(now + SETTLE), "it is looked at again");
    assert_eq!(compare(&mut drift, &wanted, false, now), host());
}

#[test]
fn a_storm_gets_its_share_and_no_more() {
    let (mut drift, begin) = (Drift::default(), Instant::now());
    let mut now = begin;
    let mut looks = 0;
    let took = 10 * MS;
    while now < begin + Duration::from_secs(10) {
        drift.notice(
            Noticed::Place {
                ns: Ns::Host,
                what: "everything".to_owned(),
                by: None,
            },
            now,
        );
        let places = compare(&mut drift, &[], false, now);
        if places.is_empty() {
            assert!(
                drift.due().is_some_and(|due| due > now),
                "it is not forgotten"
            );
        } else {
            looks += 1;
            drift.looked(&places, took, true, now);
        }
        now += MS;
    }
    // 10 ms of work, then 90 ms of rest.
    assert!((100..=112).contains(&looks), "{looks}");
    let alarms = drift.alarms(now);
    assert!(
        alarms.len() == 1 && alarms[0].contains("netctl events"),
        "{alarms:?}"
    );
    assert_eq!(drift.alarms(now + 3 * WINDOW), Vec::<String>::new());
}

#[test]
fn a_place_in_a_storm_holds_up_no_other() {
    let (mut drift, now) = (Drift::default(), Instant::now());
    let other = Ns::Container(ContainerId::parse("other").unwrap());
    drift.looked(&host(), Duration::from_secs(1), true, now);
    for ns in [Ns::Host, other.clone()] {
        let what = String::new();
        drift.notice(Noticed::Place { ns, what, by: None }, now);
    }
    let ready = compare(&mut drift, &[], false, now);
    assert_eq!(ready, Places::from([(other, None)]));
    // Not even a long look keeps a place away for longer.
    assert_eq!(drift.due(), Some(now + LONGEST));
    let later = now + LONGEST;
    assert_eq!(compare(&mut drift, &[], false, later), host());
}
