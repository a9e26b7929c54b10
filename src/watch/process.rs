//! `track_process`: are enough processes of a kind running?
//!
//! By looking into /proc. A process that was found is looked at again and again, which costs one
//! small file; all of /proc is gone through only while some are missing (or too many could be there),
//! at a slower pace. The kernel would tell about each exec of the machine (its process connector) to
//! whoever may administer the network and keeps up; a pidfd tells only who ends, for a descriptor
//! each.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::processes::{self, Process, Table};
use super::tally::Lasting;
use super::{Outlet, Reading};

/// How soon the end of a process is noticed.
const LOOK: Duration = Duration::from_millis(100);
/// How soon a new one is: a walk through a thousand processes takes about 10 ms.
const SEARCH: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessTracker {
    pub name: String,
    pub pattern: ProcessPattern,
    pub quorum: usize,
    /// More than so many are as bad as too few.
    pub quorum_max: Option<usize>,
    pub fork_delay: Duration,
    pub terminate_delay: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessPattern {
    /// The kernel's name of the process (`/proc/PID/comm`), which has at most 15 bytes.
    Name(String),
    /// The command with its parameters (`/proc/PID/cmdline`).
    Command { words: Vec<String>, parameters: ParameterMatch },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterMatch {
    /// These and no others.
    Exact,
    /// The first ones are these.
    Partial,
    /// These, of which the last may go on.
    Initial,
}

pub(super) async fn watch(process: ProcessTracker, tracker: usize, outlet: Outlet) {
    let name = &process.name;
    let begin = Instant::now();
    let mut lasting = Lasting::new(process.fork_delay, process.terminate_delay);
    let mut found: Vec<Process> = Vec::new();
    let mut searched_at: Option<Instant> = None;
    loop {
        let needs_search = found.len() < process.quorum || process.quorum_max.is_some();
        let may_search = searched_at.is_none_or(|at| at.elapsed() >= SEARCH);
        let (pattern, known) = (process.pattern.clone(), found);
        let look = spawn_blocking(move || {
            let table = Table::of_this_machine();
            let alive = processes::still(&table, &pattern, known);
            if needs_search && may_search { processes::search(&table, &pattern) } else { alive }
        });
        if needs_search && may_search {
            searched_at = Some(Instant::now());
        }
        let Some(looked) = outlet.unless_stopping(look).await else { return };
        found = looked.unwrap_or_default();
        let count = found.len();
        let is_enough =
            count >= process.quorum && process.quorum_max.is_none_or(|max| count <= max);
        if let Some(good) = lasting.count(begin.elapsed(), is_enough) {
            let turn = if good { "gained" } else { "lost" };
            let text = format!("Quorum {turn} for tracked process {name}: {count} running");
            tracing::info!("{text}");
            outlet.tracker(tracker, Reading::from(good), &text).await;
        }
        if outlet.unless_stopping(sleep(LOOK)).await.is_none() {
            return;
        }
    }
}
