//! What the kernel's part of an attach and a detach costs: the operations of a plan replayed straight to the kernel, without API,
//! records or planning.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netd::kernel::real::{Config, RealKernel};
use netd::kernel::{DnsSink, Executor, Kernel};
use netd_model::diff::diff;
use netd_model::observed::Observed;
use netd_model::{ContainerId, Object, Op};
use netd_tests::host::Host;
use netd_tests::lab::{self, Netns};

/// The operations of a plan, straight to the kernel.
pub(crate) struct Floor {
    kernel: Arc<RealKernel>,
    executor: Box<dyn Executor>,
}

/// Takes DNS sockets and closes them again.
#[derive(Debug, Default)]
struct Sink(std::sync::Mutex<Vec<(ContainerId, UdpSocket, TcpListener)>>);

impl DnsSink for Sink {
    fn listen(&self, id: &ContainerId, udp: UdpSocket, tcp: TcpListener) -> std::io::Result<()> {
        self.0
            .lock()
            .expect("no panic with the lock")
            .push((id.clone(), udp, tcp));
        Ok(())
    }
    fn close(&self, id: &ContainerId) {
        self.0
            .lock()
            .expect("no panic with the lock")
            .retain(|(other, ..)| other != id);
    }
    fn is_listening(&self, id: &ContainerId) -> bool {
        self.0
            .lock()
            .expect("no panic with the lock")
            .iter()
            .any(|(other, ..)| other == id)
    }
}

impl Floor {
    pub(crate) fn new(host: &Host) -> Self {
        let config = Config {
            resolv_conf: netd::names::conf_path(&host.dir().join("resolv.conf")),
            daemon: false,
        };
        let (kernel, executor) = host.netns.run(|| {
            let kernel = Arc::new(
                RealKernel::new(config, Arc::new(Sink::default()))
                    .expect("the kernel can be opened"),
            );
            let executor = kernel.executor().expect("an executor can be made");
            (kernel, executor)
        });
        Self { kernel, executor }
    }

    /// Attach and detach of what a plan says, in milliseconds each, and the CPU of both.
    pub(crate) fn pair(
        &mut self,
        host: &Host,
        sandbox: &Netns,
        ops: &[Op],
    ) -> (f64, f64, Duration) {
        let id = ops
            .iter()
            .find_map(|op| match op {
                Op::AddPair { container, .. } => container.owner.container().cloned(),
                _ => None,
            })
            .expect("an attach makes a pair");
        let opened = self
            .kernel
            .open_sandbox(sandbox.path())
            .expect("the sandbox can be opened");
        self.kernel.add_sandbox(&id, opened);
        let removal = removal(ops);
        let executor = &mut self.executor;
        let own = || lab::cpu_time(std::process::id());
        // An executor belongs to a thread of the host's namespace.
        let measured = host.netns.run(|| {
            let before = own();
            let attach = timed(|| executor.apply(ops).expect("the operations apply"));
            let detach = timed(|| executor.apply(&removal).expect("their removal applies"));
            (attach, detach, own().saturating_sub(before))
        });
        self.kernel.remove_sandbox(&id);
        measured
    }
}

fn removal(ops: &[Op]) -> Vec<Op> {
    let mut held = Observed::default();
    for op in ops {
        match op {
            Op::AddPair { host, container } => {
                held.insert(Object::Link(host.clone()));
                held.insert(Object::Link(container.clone()));
            }
            Op::Add(object) => held.insert(object.clone()),
            _ => {}
        }
    }
    diff(&[], &held, |_| true).ops
}

/// In milliseconds.
pub(crate) fn timed(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64() * 1e3
}
