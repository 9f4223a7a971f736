//! What happens to the daemon and to the kernel's objects while clients work.

use crate::host::Host;

use super::Shared;
use super::facts::{Key, Was};
use super::script::Fault;

pub(super) fn inject(shared: &Shared, host: &mut Host, fault: Fault) {
    let kind = match fault {
        Fault::Kill => "kill -9",
        Fault::Stop => "restarts in order",
        Fault::DeleteLink(_) => "links removed",
        Fault::LinkDown(_) => "links set down",
        Fault::FlushTable => "tables removed",
    };
    let done = match fault {
        Fault::Kill => restart(shared, host, Host::kill_daemon),
        Fault::Stop => restart(shared, host, Host::stop_daemon),
        Fault::DeleteLink(which) => tamper(shared, host, |host| {
            link(host, which).is_some_and(|name| host.netns.try_del_link(&name))
        }),
        Fault::LinkDown(which) => tamper(shared, host, |host| {
            link(host, which).is_some_and(|name| host.netns.try_down(&name))
        }),
        Fault::FlushTable => tamper(shared, host, remove_table),
    };
    if done {
        Shared::count(&shared.faults, kind);
    }
}

fn restart(shared: &Shared, host: &mut Host, end: fn(&mut Host)) -> bool {
    let watch = shared.facts(|facts| {
        // What was under way is taken back or finished by the next daemon, after it is ready.
        facts.set(Key::Unsettled, true);
        facts.begin([], vec![Key::Down])
    });
    end(host);
    host.start_daemon();
    shared.facts(|facts| facts.end(&watch, |_, _| Was::No));
    true
}

/// Changes something behind the daemon's back and has it look. What clients are changing at that moment is left out of an
/// audit, so only the next quiet point knows that everything is repaired.
fn tamper(shared: &Shared, host: &Host, change: impl FnOnce(&Host) -> bool) -> bool {
    shared.facts(|facts| {
        facts.set(Key::Tampered, true);
        facts.set(Key::Unsettled, true);
    });
    let done = change(host);
    match shared.request("POST", "/v1/audit", "") {
        Ok(answer) if answer.status == 200 => {}
        other => shared.violation(format!("an audit after tampering: {other:?}")),
    }
    done
}

/// One of netd's links on the host, bridges included.
fn link(host: &Host, which: usize) -> Option<String> {
    let links = host.new_links();
    let which = which.checked_rem(links.len())?;
    Some(links[which].name.clone())
}

fn remove_table(host: &Host) -> bool {
    use netd::kernel::nft::NftSocket;
    use netd_model::{Object, Op, skeleton};
    let remove = Op::Remove(Object::from(skeleton::host()));
    let removed = host.netns.run(|| NftSocket::open()?.apply(&[remove]));
    removed.is_ok()
}
