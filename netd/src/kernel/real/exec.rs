//! Carrying out a list of operations: which of them go together, and in which namespace.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use netd_model::object::Link;
use netd_model::skeleton::{DNS_ADDRESS, DNS_PORT};
use netd_model::{ContainerId, Ns, Object, Op};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::Shared;
use super::conntrack::{self, Flows};
use super::descriptors::keep;
use super::netlink::Refusal;
use super::space::Space;
use super::{announce, neighbour, ops, removal, traffic};
use crate::kernel::{ApplyError, Executor, KernelError};

/// Bytes that the kernel keeps of queries not yet read, in its own count: 768 of a short one.
const DNS_BUFFER: usize = 1 << 20;

/// The executor of the real kernel. It belongs to a thread of the host's namespace.
#[derive(Debug)]
pub struct RealExecutor {
    shared: Arc<Shared>,
    host: Space,
}

/// How many operations of a list were done, and why the next was not.
struct Failed {
    done: usize,
    /// Which of the list it was, if that is known.
    culprit: Option<usize>,
    error: KernelError,
}

impl Failed {
    /// The operation behind those that are done.
    fn at(done: usize, error: KernelError) -> Self {
        Self {
            done,
            culprit: Some(done),
            error,
        }
    }

    /// The same in a list that starts earlier.
    fn behind(self, count: usize) -> Self {
        let culprit = self.culprit.map(|at| at + count);
        Self {
            done: self.done + count,
            culprit,
            ..self
        }
    }
}

/// What operations have to have in common to be carried out together.
#[derive(PartialEq, Eq)]
enum Kind {
    /// One nftables transaction.
    Nft,
    /// One removal of a link group.
    RemoveLink,
    /// Sockets that are handed over outside of the namespace they were opened in.
    Dns,
    /// One walk through the connection table.
    Flows,
    /// One batch of requests.
    Stations,
    /// Each by itself.
    Single,
}

fn kind(op: &Op) -> Kind {
    match op {
        Op::Add(object) | Op::Remove(object) | Op::Change { to: object, .. } => match object {
            Object::Ruleset(_) | Object::Element(_) => Kind::Nft,
            Object::DnsSocket(_) => Kind::Dns,
            Object::Link(_) if matches!(op, Op::Remove(_)) => Kind::RemoveLink,
            object if neighbour::is_one(object) => Kind::Stations,
            _ => Kind::Single,
        },
        Op::ForgetUdpFlows { .. } => Kind::Flows,
        _ => Kind::Single,
    }
}

/// The namespace that the thread has to be in.
fn place(op: &Op) -> Ns {
    match op {
        Op::AddPair { container, .. } => container.ns.clone(),
        Op::Add(object) | Op::Remove(object) | Op::Change { to: object, .. } => object.ns(),
        Op::Announce { container, .. } => Ns::Container(container.clone()),
        Op::ForgetUdpFlows { .. } => Ns::Host,
    }
}

/// How many operations from the first on share what `of` says.
fn run_of<T: PartialEq>(ops: &[Op], of: impl Fn(&Op) -> T) -> usize {
    let Some(first) = ops.first().map(&of) else {
        return 0;
    };
    ops.iter().take_while(|op| of(op) == first).count()
}

impl Executor for RealExecutor {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        self.host.forget();
        let mut done = 0;
        while done < ops.len() {
            // Sockets are handed over by themselves: the sink must not be called from inside a container.
            let len = run_of(&ops[done..], |op| (place(op), kind(op) == Kind::Dns));
            let run = &ops[done..done + len];
            if let Err(failed) = self.run(run).map_err(|failed| failed.behind(done)) {
                return Err(ApplyError {
                    done: failed.done,
                    failed: failed.culprit.and_then(|at| ops.get(at)).cloned(),
                    error: failed.error,
                });
            }
            done += len;
        }
        Ok(())
    }
}

impl RealExecutor {
    /// Opens the sockets of the host's namespace, which the calling thread is in.
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self, KernelError> {
        let host = shared.host_space()?;
        Ok(Self { shared, host })
    }

    /// Neighbouring operations of one namespace.
    fn run(&mut self, ops: &[Op]) -> Result<(), Failed> {
        let Some(first) = ops.first() else {
            return Ok(());
        };
        match place(first) {
            Ns::Host => Steps {
                shared: &self.shared,
                host: &mut self.host,
                inside: None,
            }
            .all(ops),
            Ns::Container(id) if kind(first) == Kind::Dns => self.dns(&id, ops),
            Ns::Container(id) => self.inside(&id, ops),
        }
    }

    fn inside(&mut self, id: &ContainerId, ops: &[Op]) -> Result<(), Failed> {
        let Self { shared, host } = self;
        let entered = shared.sandboxes.inside(shared.host(), id, |fd| {
            let space = Space::open(Ns::Container(id.clone()))
                .map_err(|source| KernelError::new("open a netlink socket", source))
                .map_err(|error| Failed::at(0, error))?;
            let space = shared.adopt(space);
            Steps {
                shared,
                host,
                inside: Some((space, fd)),
            }
            .all(ops)
        });
        entered.unwrap_or_else(|error| gone(ops, error))
    }

    fn dns(&mut self, id: &ContainerId, ops: &[Op]) -> Result<(), Failed> {
        for (done, op) in ops.iter().enumerate() {
            let result = match op {
                Op::Remove(_) => {
                    self.shared.dns.close(id);
                    Ok(())
                }
                _ => self.listen(id).map_err(|refusal| refusal.on(op)),
            };
            result.map_err(|error| Failed::at(done, error))?;
        }
        Ok(())
    }

    fn listen(&mut self, id: &ContainerId) -> Result<(), Refusal> {
        let sockets = self
            .shared
            .sandboxes
            .inside(self.shared.host(), id, |_| bind_dns());
        let (udp, tcp) = sockets.map_err(|error| Refusal {
            kind: error.kind,
            text: error.detail,
            source: error.source,
        })??;
        Ok(self.shared.dns.listen(id, udp, tcp)?)
    }
}

/// What to say when a namespace cannot be entered: all that was to be removed in there is gone with it.
fn gone(ops: &[Op], error: KernelError) -> Result<(), Failed> {
    let missing = error.kind == crate::kernel::KernelErrorKind::NoSandbox;
    let done = ops
        .iter()
        .take_while(|op| missing && matches!(op, Op::Remove(_)))
        .count();
    if done == ops.len() {
        return Ok(());
    }
    Err(Failed::at(done, error))
}

/// The operation of an atomic batch that the text of an error starts with.
fn named(ops: &[Op], what: &str) -> Option<usize> {
    let is_named = |op: &Op| {
        let rest = what.strip_prefix(&op.to_string());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(": "))
    };
    ops.iter().position(is_named)
}

/// 127.0.0.11 is an address of `lo` for as long as `lo` is up.
fn bind_dns() -> Result<(UdpSocket, TcpListener), Refusal> {
    let address = SocketAddr::from((DNS_ADDRESS, DNS_PORT));
    let bound = UdpSocket::bind(address)
        .and_then(|udp| Ok((keep(udp)?, keep(TcpListener::bind(address)?)?)))
        .inspect(|(udp, _)| widen(udp))
        .map_err(Refusal::from);
    bound.map_err(|refusal| match refusal.errno() {
        Errno::EADDRNOTAVAIL => refusal.because("lo is down in the container"),
        Errno::EADDRINUSE => refusal.because("the container listens on netd's DNS port itself"),
        _ => refusal,
    })
}

/// Room for bursts: the default of the kernel takes about 200 queries. An empty buffer takes no memory.
fn widen(udp: &UdpSocket) {
    // Beyond rmem_max only root may go, and not in a user namespace: then as far as that.
    if setsockopt(udp, sockopt::RcvBufForce, &DNS_BUFFER).is_err() {
        let _ = setsockopt(udp, sockopt::RcvBuf, &DNS_BUFFER);
    }
}

/// Operations of one namespace, with the thread inside it.
struct Steps<'a> {
    shared: &'a Shared,
    host: &'a mut Space,
    /// The container's sockets and the descriptor of its namespace; none on the host.
    inside: Option<(Space, BorrowedFd<'a>)>,
}

impl Steps<'_> {
    fn space(&mut self) -> &mut Space {
        match &mut self.inside {
            Some((space, _)) => space,
            None => self.host,
        }
    }

    fn all(&mut self, ops: &[Op]) -> Result<(), Failed> {
        let mut done = 0;
        while let Some(first) = ops.get(done) {
            let mut len = 1;
            let result = match kind(first) {
                Kind::Nft => {
                    len = run_of(&ops[done..], |op| kind(op) == Kind::Nft);
                    self.nft(&ops[done..done + len])
                }
                Kind::RemoveLink => {
                    len = run_of(&ops[done..], |op| kind(op) == Kind::RemoveLink);
                    self.remove_links(&ops[done..done + len])
                }
                Kind::Flows => {
                    len = run_of(&ops[done..], |op| kind(op) == Kind::Flows);
                    self.forget(&ops[done..done + len])
                }
                Kind::Stations => {
                    len = run_of(&ops[done..], |op| kind(op) == Kind::Stations);
                    self.stations(&ops[done..done + len])
                }
                Kind::Dns | Kind::Single => self
                    .single(first)
                    .map_err(|refusal| Failed::at(0, refusal.on(first))),
            };
            result.map_err(|failed| failed.behind(done))?;
            done += len;
        }
        Ok(())
    }

    fn nft(&mut self, ops: &[Op]) -> Result<(), Failed> {
        let nft = self.space().nft();
        nft.and_then(|nft| nft.apply(ops)).map_err(|error| Failed {
            done: 0,
            culprit: named(ops, &error.what),
            error,
        })
    }

    fn remove_links(&mut self, ops: &[Op]) -> Result<(), Failed> {
        let links: Vec<&Link> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Remove(Object::Link(link)) => Some(link),
                _ => None,
            })
            .collect();
        let shared = self.shared;
        removal::remove_links(self.space(), &links, &shared.groups, &shared.unlinker)
            .map_err(|(done, refusal)| Failed::at(done, refusal.on(&ops[done])))
    }

    fn stations(&mut self, ops: &[Op]) -> Result<(), Failed> {
        neighbour::apply(self.host, ops)
            .map_err(|(done, refusal)| Failed::at(done, refusal.on(&ops[done])))
    }

    fn forget(&mut self, ops: &[Op]) -> Result<(), Failed> {
        let flows = ops.iter().filter_map(|op| match op {
            Op::ForgetUdpFlows { ip, port, except } => Some(Flows {
                ip: *ip,
                port: *port,
                except,
            }),
            _ => None,
        });
        let flows: Vec<Flows<'_>> = flows.collect();
        conntrack::forget(&mut self.host.route, &flows)
            .map_err(|refusal| Failed::at(0, refusal.on(&ops[0])))
    }

    fn single(&mut self, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::AddPair { host, container } => {
                let Some((inside, fd)) = &mut self.inside else {
                    return Err(not_here());
                };
                ops::add_pair(self.host, inside, *fd, host, container)
            }
            Op::Add(object) => self.add(object),
            Op::Change { from, to } => self.change(from, to),
            Op::Remove(object) => self.remove(object),
            Op::Announce {
                ifname, mac, ips, ..
            } => {
                let Some((inside, _)) = &mut self.inside else {
                    return Err(not_here());
                };
                let announcement = announce::announce(self.host, inside, ifname, *mac, ips)?;
                self.shared.announcer.make(announcement);
                Ok(())
            }
            Op::ForgetUdpFlows { .. } => Err(not_here()),
        }
    }

    /// Objects that are added one by one: all others go in batches, see [`kind`].
    fn add(&mut self, object: &Object) -> Result<(), Refusal> {
        match object {
            Object::HostPort(port) => self.shared.ports.hold(port),
            Object::Link(link) => ops::add_link(self.space(), link),
            Object::Loopback(_) => ops::loopback(self.space()),
            Object::BridgePort(port) => ops::set_port(self.host, port),
            Object::Address(address) => ops::add_address(self.space(), address),
            Object::Route(route) => ops::add_route(self.space(), route),
            Object::Shaper(shaper) => traffic::shape(self.host, shaper),
            Object::Redirect(redirect) => traffic::redirect(self.host, redirect),
            Object::Sysctl(sysctl) => ops::set_sysctl(sysctl),
            _ => Err(not_here()),
        }
    }

    fn change(&mut self, from: &Object, to: &Object) -> Result<(), Refusal> {
        match (from, to) {
            (_, Object::HostPort(port)) => self.shared.ports.hand_over(port),
            (_, Object::Link(link)) => ops::change_link(self.space(), link),
            // Neither can be changed in place without the risk to hit one of somebody else.
            (Object::Address(_) | Object::Route(_), Object::Address(_) | Object::Route(_)) => {
                self.remove(from)?;
                self.add(to)
            }
            _ => self.add(to),
        }
    }

    /// The same for those that are removed one by one.
    fn remove(&mut self, object: &Object) -> Result<(), Refusal> {
        match object {
            Object::HostPort(port) => {
                self.shared.ports.release(port);
                Ok(())
            }
            Object::Shaper(shaper) => traffic::unshape(self.host, shaper),
            Object::Redirect(redirect) => traffic::undirect(self.host, redirect),
            Object::Address(address) => ops::remove_address(self.space(), address),
            Object::Route(route) => ops::remove_route(self.space(), route),
            // The flags go with the port; settings and `lo` are never taken back.
            Object::BridgePort(_) | Object::Loopback(_) | Object::Sysctl(_) => Ok(()),
            _ => Err(not_here()),
        }
    }
}

/// An operation that names a namespace it cannot be carried out in.
fn not_here() -> Refusal {
    Refusal::from(Errno::EINVAL).because("no such operation in this namespace")
}
