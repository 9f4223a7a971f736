//! Traffic control on the wire: token buckets, and packets that are led from one link to another (linux/pkt_sched.h,
//! linux/pkt_cls.h). netd's queues have a handle of netd's, which stands for the mark that they cannot carry.

use std::collections::HashMap;

use netd_model::attachment::{Redirect, Shaper};
use netd_model::observed::Observed;
use netd_model::{IfName, Object, Owner};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use nix::errno::Errno;

use super::netlink::{Refusal, Request, gone_is_done};
use super::space::Space;
use super::wire::{Attrs, Writer, text, u32_at};
use crate::kernel::KernelErrorKind;

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;

/// `sizeof(struct tcmsg)`.
const TCMSG: usize = 20;
/// The handle of netd's queues: `nd` as the major number.
const HANDLE: u32 = 0x6e64_0000;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
/// The handle that every ingress queue has.
const INGRESS: u32 = 0xffff_0000;
/// Priority 1, for every protocol (`ETH_P_ALL`, in network order).
const FIRST_OF_ALL: u32 = (1 << 16) | (3_u16.to_be() as u32);

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_LINKLAYER_ETHERNET: u8 = 1;
const TC_U32_TERMINAL: u8 = 1;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;

fn tcmsg(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let words = [0, ifindex, handle, parent, info];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Limits what a link sends. One that is there is replaced.
pub(super) fn shape(host: &mut Space, shaper: &Shaper) -> Result<(), Refusal> {
    let index = host.index(&shaper.ifname)?;
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let request = Request::raw(RTM_NEWQDISC, flags, bucket(index, shaper));
    host.route.call(&request).map(drop).map_err(lacking)
}

/// Removes a limit; one that is gone, with its link or without, is removed.
pub(super) fn unshape(host: &mut Space, shaper: &Shaper) -> Result<(), Refusal> {
    remove(host, &shaper.ifname, HANDLE, TC_H_ROOT)
}

/// Lets packets go their own way again.
pub(super) fn undirect(host: &mut Space, redirect: &Redirect) -> Result<(), Refusal> {
    remove(host, &redirect.ifname, INGRESS, TC_H_INGRESS)
}

fn remove(host: &mut Space, name: &IfName, handle: u32, parent: u32) -> Result<(), Refusal> {
    let index = match host.index(name) {
        Err(refusal) if refusal.kind == KernelErrorKind::NoSuchDevice => return Ok(()),
        index => index?,
    };
    let body = tcmsg(index, handle, parent, 0);
    let answer = host
        .route
        .call(&Request::raw(RTM_DELQDISC, NLM_F_ACK, body));
    gone_is_done(answer, &[Errno::ENOENT, Errno::ENODEV, Errno::EINVAL])
}

fn bucket(index: u32, shaper: &Shaper) -> Vec<u8> {
    // struct tc_tbf_qopt: two tc_ratespec, limit, buffer, mtu. With a link layer no table of rates is needed.
    let short = u32::try_from(shaper.rate).unwrap_or(u32::MAX);
    let mut parms = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    parms.extend_from_slice(&short.to_ne_bytes());
    parms.extend_from_slice(&[0; 12]);
    parms.extend_from_slice(&shaper.limit().to_ne_bytes());
    parms.extend_from_slice(&[0; 8]);
    let mut options = Writer::default().attr(TCA_TBF_PARMS, &parms);
    if short == u32::MAX {
        options = options.attr(TCA_TBF_RATE64, &shaper.rate.to_ne_bytes());
    }
    let options = options.attr(TCA_TBF_BURST, &shaper.burst.to_ne_bytes());
    Writer::behind(&tcmsg(index, HANDLE, TC_H_ROOT, 0))
        .attr(TCA_KIND, b"tbf\0")
        .nest(TCA_OPTIONS, &options)
        .done()
}

/// Leads what comes in on a link to another, where it leaves.
pub(super) fn redirect(host: &mut Space, redirect: &Redirect) -> Result<(), Refusal> {
    let (index, to) = (host.index(&redirect.ifname)?, host.index(&redirect.to)?);
    let queue = Writer::behind(&tcmsg(index, INGRESS, TC_H_INGRESS, 0))
        .attr(TCA_KIND, b"ingress\0")
        .done();
    // From anew: what stood there led somewhere else.
    let old = Request::raw(RTM_DELQDISC, NLM_F_ACK, queue.clone());
    gone_is_done(host.route.call(&old), &[Errno::ENOENT, Errno::EINVAL])?;
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let requests = [
        Request::raw(RTM_NEWQDISC, flags, queue),
        Request::raw(RTM_NEWTFILTER, flags, filter(index, to)),
    ];
    for answer in host.route.batch(&requests)? {
        answer.map_err(lacking)?;
    }
    Ok(())
}

/// Every packet, redirected: a selector of one key that compares no bit, and the action.
fn filter(index: u32, to: u32) -> Vec<u8> {
    // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
    let words = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to];
    let mirred: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let action = Writer::default().attr(TCA_ACT_KIND, b"mirred\0").nest(
        TCA_ACT_OPTIONS,
        &Writer::default().attr(TCA_MIRRED_PARMS, &mirred),
    );
    // struct tc_u32_sel: flags, offshift, number of keys; the rest and the key are zero.
    let mut selector = vec![TC_U32_TERMINAL, 0, 1];
    selector.resize(16 + 16, 0);
    let options = Writer::default()
        .attr(TCA_U32_CLASSID, &1_u32.to_ne_bytes())
        .attr(TCA_U32_SEL, &selector)
        .nest(TCA_U32_ACT, &Writer::default().nest(1, &action));
    Writer::behind(&tcmsg(index, 0, INGRESS, FIRST_OF_ALL))
        .attr(TCA_KIND, b"u32\0")
        .nest(TCA_OPTIONS, &options)
        .done()
}

/// A kernel without the module says ENOENT for a kind that it does not know.
fn lacking(refusal: Refusal) -> Refusal {
    if matches!(refusal.errno(), Errno::ENOENT | Errno::EOPNOTSUPP) {
        return refusal.because(
            "the kernel needs sch_tbf, sch_ingress, cls_u32 and act_mirred to limit rates",
        );
    }
    refusal
}

/// Looks at the limits and redirects, where any is wanted: a dump tells the queues of all links.
pub(super) fn look(
    host: &mut Space,
    ours: &HashMap<u32, (IfName, Owner)>,
    wanted: &[&Object],
    observed: &mut Observed,
) -> Result<(), Refusal> {
    if wanted
        .iter()
        .any(|object| matches!(object, Object::Shaper(_)))
    {
        let request = Request::raw(RTM_GETQDISC, NLM_F_DUMP, tcmsg(0, 0, 0, 0));
        for (index, rate, limit) in host.route.dump(&request, read_bucket)? {
            if let Some((ifname, owner)) = ours.get(&index) {
                observed.insert(Object::Shaper(Shaper {
                    ifname: ifname.clone(),
                    rate,
                    burst: Shaper::burst_of(rate, limit),
                    owner: owner.clone(),
                }));
            }
        }
    }
    let indexes: HashMap<&IfName, u32> = ours
        .iter()
        .map(|(index, (name, _))| (name, *index))
        .collect();
    for object in wanted {
        let Object::Redirect(redirect) = object else {
            continue;
        };
        let Some(index) = indexes.get(&redirect.ifname) else {
            continue;
        };
        let request = Request::raw(RTM_GETTFILTER, NLM_F_DUMP, tcmsg(*index, 0, INGRESS, 0));
        let targets = match host.route.dump(&request, read_target) {
            // Without an ingress queue there is no filter.
            Err(refusal) if refusal.errno() == Errno::EINVAL => continue,
            targets => targets?,
        };
        if let Some((to, _)) = targets.iter().find_map(|target| ours.get(target)) {
            let to = to.clone();
            observed.insert(Object::Redirect(Redirect {
                to,
                ..redirect.clone()
            }));
        }
    }
    Ok(())
}

/// Link, rate and limit of a bucket of netd's.
fn read_bucket(body: &[u8]) -> Option<(u32, u64, u32)> {
    let (index, handle, parent) = (u32_at(body, 4)?, u32_at(body, 8)?, u32_at(body, 12)?);
    let attrs = Attrs::behind(body, TCMSG);
    if handle != HANDLE || parent != TC_H_ROOT || text(attrs.find(TCA_KIND)?) != "tbf" {
        return None;
    }
    let options = attrs.nested(TCA_OPTIONS);
    let parms = options.find(TCA_TBF_PARMS)?;
    let long = options
        .find(TCA_TBF_RATE64)
        .and_then(|value| value.try_into().ok());
    let rate = long.map_or_else(
        || u32_at(parms, 8).map(u64::from),
        |bytes| Some(u64::from_ne_bytes(bytes)),
    )?;
    Some((index, rate, u32_at(parms, 24)?))
}

/// The link that a filter redirects to.
fn read_target(body: &[u8]) -> Option<u32> {
    let options = Attrs::behind(body, TCMSG).nested(TCA_OPTIONS);
    let action = options.nested(TCA_U32_ACT).nested(1);
    let parms = action.nested(TCA_ACT_OPTIONS);
    u32_at(parms.find(TCA_MIRRED_PARMS)?, 24)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netd_model::NetworkId;

    #[test]
    fn a_bucket_reads_back_as_it_was_written() {
        for rate in [1_000_000, 8 << 30] {
            let shaper = Shaper {
                ifname: IfName::parse("ndv-1").unwrap(),
                rate,
                burst: 100_000,
                owner: Owner::Network(NetworkId::from_bytes([1; 16])),
            };
            let read = read_bucket(&bucket(7, &shaper));
            assert_eq!(read, Some((7, rate, shaper.limit())));
        }
        assert_eq!(read_target(&filter(7, 9)), Some(9));
        assert_eq!(read_bucket(&filter(7, 9)), None);
    }
}
