//! Runs programs one after the other in each lane: a lane is an instance, a group or a virtual
//! server. Lanes do not wait for each other.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use super::DEFAULT_LIMIT;
use crate::program::{self, Invocation, Program};

/// Of a lane. An instance that changes its state this often while one program runs has nothing to
/// gain from the programs of states it left long ago: the oldest is dropped.
const WAITING_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Queue {
    lanes: BTreeMap<String, Arc<Lane>>,
    tasks: JoinSet<()>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneStatus {
    pub name: String,
    /// The program that runs now.
    pub running: Option<String>,
    pub waiting: usize,
    /// The last one that ended, and how.
    pub last: Option<(String, String)>,
    pub succeeded: u64,
    pub failed: u64,
    /// Never run, because too many waited.
    pub dropped: u64,
}

/// What became of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    Succeeded,
    /// With the exit code or another reason.
    Failed(String),
    Dropped,
}

/// Awaited, it says what became of the program. It need not be.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Done>);

impl Future for Ticket {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Done> {
        Pin::new(&mut self.0).poll(context).map(|done| done.unwrap_or(Done::Dropped))
    }
}

#[derive(Debug)]
struct Lane {
    name: String,
    inside: Mutex<Inside>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    waiting: VecDeque<(Program, oneshot::Sender<Done>)>,
    is_closed: bool,
    status: LaneStatus,
}

impl Queue {
    /// Needs a tokio runtime.
    pub fn push(&mut self, lane: &str, program: Program) -> Ticket {
        let Self { lanes, tasks } = self;
        let lane = lanes.entry(lane.to_owned()).or_insert_with(|| {
            let lane = Arc::new(Lane::new(lane));
            tasks.spawn(Arc::clone(&lane).run());
            lane
        });
        let (done, ticket) = oneshot::channel();
        lane.push(program, done);
        Ticket(ticket)
    }

    pub fn status(&self) -> Vec<LaneStatus> {
        self.lanes.values().map(|lane| lane.status()).collect()
    }

    /// Runs what waits, then ends. Dropping the future kills what runs.
    pub async fn finish(mut self) {
        for lane in self.lanes.values() {
            lane.inside().is_closed = true;
            lane.changed.notify_one();
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Lane {
    fn new(name: &str) -> Self {
        let name = name.to_owned();
        Self { name, inside: Mutex::default(), changed: Notify::new() }
    }

    /// Held for a few moves of memory only.
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> LaneStatus {
        let inside = self.inside();
        let (name, waiting) = (self.name.clone(), inside.waiting.len());
        LaneStatus { name, waiting, ..inside.status.clone() }
    }

    fn push(&self, program: Program, done: oneshot::Sender<Done>) {
        let mut inside = self.inside();
        if inside.waiting.len() == WAITING_MAX
            && let Some((oldest, done)) = inside.waiting.pop_front()
        {
            inside.status.dropped += 1;
            let text = text_of(&oldest);
            tracing::warn!(
                "{}: [{text}] is not run: {WAITING_MAX} others wait behind it",
                self.name
            );
            let _ = done.send(Done::Dropped);
        }
        inside.waiting.push_back((program, done));
        drop(inside);
        self.changed.notify_one();
    }

    async fn run(self: Arc<Self>) {
        loop {
            let (next, is_closed) = {
                let mut inside = self.inside();
                let next = inside.waiting.pop_front();
                inside.status.running = next.as_ref().map(|(program, _)| text_of(program));
                (next, inside.is_closed)
            };
            match next {
                Some((program, done)) => {
                    let _ = done.send(self.run_one(program).await);
                }
                None if is_closed => return,
                None => self.changed.notified().await,
            }
        }
    }

    async fn run_one(&self, mut program: Program) -> Done {
        let (name, text) = (&self.name, text_of(&program));
        tracing::info!("{name}: Executing [{text}]");
        program.limit.get_or_insert(DEFAULT_LIMIT);
        let log = |line: &str| tracing::info!("{name}: [{text}] {line}");
        let outcome = program::run_until(&program, std::future::pending(), log).await;
        let ending = outcome.ending.to_string();
        let is_success = outcome.ending.is_success();
        if is_success {
            tracing::info!("{name}: [{text}] {ending}");
        } else {
            tracing::warn!("{name}: [{text}] {ending}; look into what it wrote, above");
        }
        let mut inside = self.inside();
        inside.status.running = None;
        inside.status.last = Some((text, ending.clone()));
        let count =
            if is_success { &mut inside.status.succeeded } else { &mut inside.status.failed };
        *count += 1;
        if is_success { Done::Succeeded } else { Done::Failed(ending) }
    }
}

fn text_of(program: &Program) -> String {
    match &program.invocation {
        Invocation::Shell(text) => text.clone(),
        Invocation::Arguments(words) => {
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
            words.join(" ")
        }
    }
}
