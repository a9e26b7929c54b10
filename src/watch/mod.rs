//! Looks after what is outside: trackers of VRRP instances, and health checks of real servers
//! (vrrp.md 2.3, 2.4). It tells what it found; what follows from it is decided elsewhere.
//!
//! ```text
//!   script, process, file    trackers, one task each
//!     processes                what runs on this machine
//!   server                   a virtual server: its checkers' findings become programs to run
//!     pool                     who is up, is there a quorum (pure)
//!     checker                  one check again and again
//!       tcp, get, misc           one look; http the bytes of GET (pure), tls its cover
//!   tally                    counting: rise and fall, retries, delays (pure)
//! ```
//!
//! Everything is bounded: a look has its time, what is read has its length, a program that still
//! runs is not started twice.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::program::{GRACE, Program};

mod checker;
mod file;
mod get;
pub mod http;
pub mod pool;
mod process;
mod processes;
mod script;
mod server;
#[cfg(test)]
mod server_tests;
pub mod tally;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;

pub use checker::{Check, Checker, MiscCheck};
pub use file::{FileTracker, InitialContent};
pub use get::{GetCheck, Url};
pub use http::{BodyDigest, HttpProtocol};
pub use pool::Change;
pub use process::{ParameterMatch, ProcessPattern, ProcessTracker};
pub use script::ScriptTracker;
pub use server::{Protocol, RealServer, Service, VirtualServer};
pub use tcp::Target;

/// Each watcher has at most one report under way; who has more waits.
const REPORTS_MAX: usize = 1024;

/// From asking watchers to end to ending them: their programs have [`GRACE`], and the rest is quick.
const STOP_LIMIT: Duration = GRACE.saturating_add(Duration::from_secs(1));

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub trackers: Vec<Tracker>,
    pub servers: Vec<VirtualServer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracker {
    Script(ScriptTracker),
    Process(ProcessTracker),
    File(FileTracker),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Good,
    Bad,
    /// For those that weigh by a number; 0 changes nothing.
    Number(i64),
}

impl From<bool> for Reading {
    fn from(is_good: bool) -> Self {
        if is_good { Self::Good } else { Self::Bad }
    }
}

#[derive(Clone, Debug)]
pub enum Report {
    /// The first finding of a tracker by its place in the plan, and each that differs from the one
    /// before.
    Tracker { tracker: usize, reading: Reading, reason: String },
    /// A virtual server by its place in the plan. What is to `run` is a notify program: the reports
    /// of a server come in the order in which their programs are to be run.
    Server { server: usize, change: pool::Change, reason: String, run: Option<Program> },
}

/// Watchers at work. Dropping it kills their programs at once.
#[derive(Debug)]
pub struct Watch {
    pub reports: mpsc::Receiver<Report>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Watch {
    /// Needs a tokio runtime, whose tasks the watchers become. Files may lie where reading never
    /// ends: the runtime is best ended by `shutdown_background`.
    pub fn start(plan: Plan) -> Self {
        let (reports, inbox) = mpsc::channel(REPORTS_MAX);
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (tracker, kind) in plan.trackers.into_iter().enumerate() {
            let outlet = Outlet { reports: reports.clone(), stopping: stopping.clone() };
            match kind {
                Tracker::Script(script) => tasks.spawn(script::watch(script, tracker, outlet)),
                Tracker::Process(process) => tasks.spawn(process::watch(process, tracker, outlet)),
                Tracker::File(file) => tasks.spawn(file::watch(file, tracker, outlet)),
            };
        }
        for (place, server) in plan.servers.into_iter().enumerate() {
            let outlet = Outlet { reports: reports.clone(), stopping: stopping.clone() };
            tasks.spawn(server::watch(server, place, outlet));
        }
        Self { reports: inbox, stop, tasks }
    }

    /// Ends everything, programs by SIGTERM first; also when this is the wish of one of them. What
    /// servers with `omega` have to say at the end is returned.
    pub async fn stop(mut self) -> Vec<Report> {
        self.stop.send_replace(true);
        let mut last = Vec::new();
        let ended = async {
            // All senders are gone once all watchers have ended.
            while let Some(report) = self.reports.recv().await {
                if matches!(report, Report::Server { .. }) {
                    last.push(report);
                }
            }
            while self.tasks.join_next().await.is_some() {}
        };
        let _ = timeout(STOP_LIMIT, ended).await;
        last
    }
}

/// Where a watcher tells what it found, and hears that it shall end.
#[derive(Clone, Debug)]
struct Outlet {
    reports: mpsc::Sender<Report>,
    stopping: watch::Receiver<bool>,
}

impl Outlet {
    async fn tracker(&self, tracker: usize, reading: Reading, reason: &str) {
        let report = Report::Tracker { tracker, reading, reason: reason.to_owned() };
        // Without a reader everything ends soon.
        let _ = self.reports.send(report).await;
    }

    /// Returns when it shall end.
    async fn stopping(&self) {
        let mut stopping = self.stopping.clone();
        let _ = stopping.wait_for(|stop| *stop).await;
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// `None`: it shall end, and the work was dropped.
    async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stopping() => None,
            done = work => Some(done),
        }
    }
}
