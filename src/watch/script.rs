//! `vrrp_script`: a program that is run again and again; 0 is good.

use std::path::Path;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::tally::RiseAndFall;
use super::{Outlet, Reading};
use crate::program::{self, Ending, Outcome, Program};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptTracker {
    pub name: String,
    /// Its limit is `timeout`; absent: as long as `interval`.
    pub program: Program,
    /// From one start to the next.
    pub interval: Duration,
    pub rise: u32,
    pub fall: u32,
    /// Bad until it has risen (`init_fail`).
    pub begins_bad: bool,
    /// As keepalived: a script that is not there when it is first needed is not run at all, and the
    /// tracker does not count. Otherwise it is a script that fails.
    pub is_ignored_when_missing: bool,
}

pub(super) async fn watch(script: ScriptTracker, tracker: usize, outlet: Outlet) {
    let name = &script.name;
    if let Some(path) = script.missing_file() {
        if script.is_ignored_when_missing {
            tracing::warn!("Disabling track script {name}: {} not found", path.display());
            return outlet.tracker(tracker, Reading::Number(0), "its script is missing").await;
        }
        tracing::warn!(
            "VRRP_Script({name}): {} not found: it counts as failed until it is there",
            path.display()
        );
    }
    let begin = script.begins_bad.then_some(false);
    if script.begins_bad {
        outlet.tracker(tracker, Reading::Bad, "begins as failed (init_fail)").await;
    }
    let mut tally = RiseAndFall::new(script.rise, script.fall, begin);
    let mut program = script.program.clone();
    program.limit.get_or_insert(script.interval);
    let mut starts = interval(script.interval);
    // One that took longer than its interval is not made up for.
    starts.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while outlet.unless_stopping(starts.tick()).await.is_some() {
        let outcome = program::run_until(&program, outlet.stopping(), |_| {}).await;
        if outlet.is_stopping() {
            return;
        }
        let found = describe(name, &outcome);
        match tally.count(outcome.ending.is_success()) {
            Some(good) => {
                tracing::info!("{found}");
                outlet.tracker(tracker, good.into(), &found).await;
            }
            None => tracing::debug!("{found}"),
        }
    }
}

impl ScriptTracker {
    fn missing_file(&self) -> Option<&Path> {
        let file = self.program.file()?;
        // A name without a path is looked up when it is run.
        (file.is_absolute() && !file.exists()).then_some(file)
    }
}

/// The words of keepalived 1.3.5, and what the script said.
fn describe(name: &str, outcome: &Outcome) -> String {
    let said = match outcome.output.last() {
        Some(line) => format!(": {line}"),
        None => String::new(),
    };
    match &outcome.ending {
        Ending::Exited(0) => format!("VRRP_Script({name}) succeeded"),
        Ending::TimedOut { .. } => format!("VRRP_Script({name}) timed out{said}"),
        other => format!("VRRP_Script({name}) failed ({other}){said}"),
    }
}
