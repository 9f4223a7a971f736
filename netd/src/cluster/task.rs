//! The task that carries inputs and outputs between [`Core`], a store and the owner. It decides nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use netd_model::error::Result;
use netd_model::id::Name;
use netd_model::probe::{Paths, Target};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::core::{Core, Input, LEASE, Output, Token};
use super::meter::Meter;
use super::mirror::News;
use super::probing::{self, Sites};
use super::records::Node;
use super::store::{Events, Store, StoreError, TxnEnd};
use crate::state;

/// Changes of the view are written at most this often.
const SAVE: Duration = Duration::from_secs(1);

/// What the owner is told.
#[derive(Debug)]
pub enum Told {
    /// What changed, to be taken in at once.
    News(Vec<News>),
    /// The answer to a wish.
    Reply(Token, Result<()>),
    /// Something an operator should know.
    Alarm(String),
    /// Keys whose values are of no use, each with the reason: all of them, whenever they changed.
    Faults(BTreeMap<String, String>),
    /// From where the store is reached, when it was.
    Local(IpAddr),
    /// How it stands with all peers, whenever that changed.
    Probed(BTreeMap<Target, Paths>),
}

/// The owner's ends.
#[derive(Debug)]
pub struct Ends {
    /// This host's name.
    pub name: Name,
    /// What is known of it; its address is unspecified until it is known.
    pub node: Node,
    /// Whether the address was configured.
    pub fixed: bool,
    /// The view of an earlier life, to be taken in before anything else.
    pub restored: Vec<News>,
    /// To the core.
    pub inputs: mpsc::UnboundedSender<Input>,
    /// To the probes: who is to be probed.
    pub sites: watch::Sender<Sites>,
    /// From it.
    pub told: mpsc::UnboundedReceiver<Told>,
}

/// What the task is made from.
#[derive(Debug)]
pub struct Setup {
    /// This host's name.
    pub name: Name,
    /// What is known of it.
    pub node: Node,
    /// Whether its address was configured.
    pub fixed: bool,
    /// The last good view.
    pub view: Vec<(String, Vec<u8>)>,
    /// The shared store.
    pub store: Arc<dyn Store>,
    /// Where the view is kept.
    pub records: Arc<dyn state::Store>,
    /// What is counted.
    pub meter: Arc<Meter>,
    /// What makes its pauses differ from those of other hosts.
    pub seed: u64,
}

/// Makes the ends and the task. The future ends when the owner does.
pub fn start(setup: Setup) -> (Ends, impl Future<Output = ()> + Send) {
    let (inputs, wanted) = mpsc::unbounded_channel();
    let (tell, told) = mpsc::unbounded_channel();
    let (sites, probed) = watch::channel(Sites::default());
    let probing = probing::run(probed, tell.clone(), setup.seed);
    let core = Core::new(
        setup.name.clone(),
        setup.node.clone(),
        setup.view,
        setup.seed,
    );
    let ends = Ends {
        name: setup.name,
        node: setup.node,
        fixed: setup.fixed,
        restored: core.restored(),
        inputs,
        sites,
        told,
    };
    let task = Task {
        core,
        meter: setup.meter,
        store: setup.store,
        records: setup.records,
        tell,
        calls: FuturesUnordered::new(),
        watch: None,
        unsaved: BTreeMap::new(),
        save_at: None,
        faults: BTreeMap::new(),
        started: Instant::now(),
    };
    let both = async {
        tokio::join!(task.run(wanted), probing);
    };
    (ends, both)
}

type Watch = mpsc::Receiver<std::result::Result<Events, StoreError>>;

/// What a call of the store ends with.
enum Done {
    Input(Input),
    Watch(std::result::Result<Watch, StoreError>),
}

struct Task {
    core: Core,
    meter: Arc<Meter>,
    store: Arc<dyn Store>,
    records: Arc<dyn state::Store>,
    tell: mpsc::UnboundedSender<Told>,
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
    watch: Option<Watch>,
    unsaved: BTreeMap<String, Option<Vec<u8>>>,
    save_at: Option<Instant>,
    faults: BTreeMap<String, String>,
    started: Instant,
}

impl Task {
    async fn run(mut self, mut wanted: mpsc::UnboundedReceiver<Input>) {
        loop {
            let due = self.core.due();
            let wake = self.started.checked_add(due);
            let input = tokio::select! {
                input = wanted.recv() => match input {
                    Some(input) => input,
                    None => return self.save().await,
                },
                Some(done) = self.calls.next(), if !self.calls.is_empty() => match done {
                    Done::Input(input) => input,
                    Done::Watch(Ok(watch)) => {
                        self.watch = Some(watch);
                        Input::Watching(Ok(()))
                    }
                    Done::Watch(Err(error)) => Input::Watching(Err(error)),
                },
                told = next(&mut self.watch) => {
                    let told = told.unwrap_or_else(|| Err(StoreError::Unavailable("the watch ended".to_owned())));
                    if told.is_err() {
                        self.watch = None;
                    }
                    Input::Watched(told)
                }
                () = until(wake) => Input::Tick,
                () = until(self.save_at) => {
                    self.save().await;
                    continue;
                }
            };
            self.step(input);
        }
    }

    fn step(&mut self, input: Input) {
        let listed = matches!(input, Input::Listed(Ok(_)));
        if let (true, Some(local)) = (listed, self.store.local_address()) {
            self.say(Told::Local(local));
        }
        if let Some(well) = answered(&input) {
            self.meter.answered(well);
        }
        let outputs = self.core.step(input, self.started.elapsed());
        for output in outputs {
            self.carry_out(output);
        }
        self.meter.stands(&self.core);
        let faults: BTreeMap<String, String> = self
            .core
            .faults()
            .map(|(key, why)| (key.clone(), why.clone()))
            .collect();
        if faults != self.faults {
            self.faults.clone_from(&faults);
            self.say(Told::Faults(faults));
        }
    }

    fn say(&self, told: Told) {
        // An owner that is gone wants to know nothing.
        let _ = self.tell.send(told);
    }

    fn call(&mut self, call: impl Future<Output = Input> + Send + 'static) {
        self.calls.push(Box::pin(async { Done::Input(call.await) }));
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::List(known) => {
                self.watch = None;
                self.meter.lists();
                let list = self.store.list(known);
                self.call(async { Input::Listed(list.await) });
            }
            Output::Watch(from) => {
                self.watch = None;
                let watch = self.store.watch(from);
                self.calls
                    .push(Box::pin(async { Done::Watch(watch.await) }));
            }
            Output::Txn(number, txn) => {
                self.meter.sends(&txn);
                let txn = self.store.txn(txn);
                self.call(async move { Input::Ended(number, txn.await) });
            }
            Output::TxnAfter(number, kept, txn) => {
                self.meter.sends(&txn);
                let (records, txn) = (Arc::clone(&self.records), self.store.txn(txn));
                self.call(async move {
                    let kept = tokio::task::spawn_blocking(move || records.put_cluster(&kept));
                    let why = match kept.await {
                        Ok(Ok(())) => return Input::Ended(number, txn.await),
                        Ok(Err(error)) => error.to_string(),
                        Err(error) => error.to_string(),
                    };
                    tracing::error!(
                        why,
                        "the view of the cluster could not be kept: nothing is given back"
                    );
                    let (done, revision) = (false, 0);
                    Input::Ended(number, Ok(TxnEnd { done, revision }))
                });
            }
            Output::Grant => {
                let seconds = u32::try_from(LEASE.as_secs()).unwrap_or(u32::MAX);
                let grant = self.store.grant(seconds);
                self.call(async { Input::Granted(grant.await) });
            }
            Output::Keep(lease) => {
                let keep = self.store.keep_alive(lease);
                self.call(async { Input::Kept(keep.await) });
            }
            Output::News(news) => self.say(Told::News(news)),
            Output::Reply(token, answer) => self.say(Told::Reply(token, answer)),
            Output::Alarm(text) => self.say(Told::Alarm(text)),
            Output::Save(keys) => {
                self.unsaved.extend(keys);
                self.save_at.get_or_insert_with(|| Instant::now() + SAVE);
            }
        }
    }

    /// Writes what changed of the view, on a thread that may block.
    async fn save(&mut self) {
        self.save_at = None;
        let keys: Vec<(String, Option<Vec<u8>>)> =
            std::mem::take(&mut self.unsaved).into_iter().collect();
        if keys.is_empty() {
            return;
        }
        let records = Arc::clone(&self.records);
        let written = tokio::task::spawn_blocking(move || {
            let written = records.put_cluster(&keys);
            written.map_err(|error| (error, keys))
        });
        if let Ok(Err((error, keys))) = written.await {
            tracing::error!(%error, "the view of the cluster could not be kept; it is tried again");
            for (key, value) in keys {
                self.unsaved.entry(key).or_insert(value);
            }
            self.save_at = Some(Instant::now() + SAVE * 10);
        }
    }
}

/// Whether an input is an answer of the store, and one that is as it should be.
fn answered(input: &Input) -> Option<bool> {
    Some(match input {
        Input::Listed(answer) => answer.is_ok(),
        Input::Watching(answer) | Input::Kept(answer) => answer.is_ok(),
        Input::Watched(answer) => answer.is_ok(),
        Input::Ended(_, answer) => answer.is_ok(),
        Input::Granted(answer) => answer.is_ok(),
        _ => return None,
    })
}

async fn next(watch: &mut Option<Watch>) -> Option<std::result::Result<Events, StoreError>> {
    match watch {
        Some(watch) => watch.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
