//! From the trackers of keepalived.conf to watchers, and from their reports to instances.

use std::time::Duration;

use crate::config::keepalived::Keepalived;
use crate::config::keepalived::model::{FileTracker, Global, ProcessTracker, Script, User};
use crate::program::{Identity, Program, user};
use crate::watch::{self, InitialContent, ParameterMatch, ProcessPattern, Tracker};

use super::plan::{Feed, PlanError, Source};

/// Who is fed by a watcher: instance and tracker.
pub type Fed = Vec<(usize, usize)>;

/// The watchers of the trackers that somebody uses, with whom each of them feeds.
pub(super) fn watchers(
    config: &Keepalived,
    feeds: &[Feed],
) -> Result<(watch::Plan, Vec<Fed>), PlanError> {
    let mut plan = watch::Plan::default();
    let mut fed = Vec::new();
    let mut add = |tracker: Tracker, source: Source| {
        let targets = feeds.iter().filter(|feed| feed.source == source);
        plan.trackers.push(tracker);
        fed.push(targets.map(|feed| (feed.instance, feed.tracker)).collect());
    };
    let is_used = |source: &Source| feeds.iter().any(|feed| feed.source == *source);
    for (place, script) in config.scripts.iter().enumerate() {
        if is_used(&Source::Script(place)) {
            add(Tracker::Script(script_tracker(&config.global, script)?), Source::Script(place));
        }
    }
    for (place, process) in config.processes.iter().enumerate() {
        if is_used(&Source::Process(place)) {
            add(Tracker::Process(process_tracker(process)), Source::Process(place));
        }
    }
    for (place, file) in config.files.iter().enumerate() {
        if is_used(&Source::File(place)) {
            add(Tracker::File(file_tracker(file)), Source::File(place));
        }
    }
    Ok((plan, fed))
}

/// Whom programs of the configuration run as: who is named there, else `script_user`, else
/// keepalived's default.
pub(super) fn identity(
    global: &Global,
    own: Option<&User>,
    what: &str,
) -> Result<Identity, PlanError> {
    match own.or(global.script_user.as_ref()) {
        None => Ok(user::script_default()),
        Some(named) => user::look_up(&named.name, named.group.as_deref())
            .map_err(|error| PlanError::User { what: what.to_owned(), error: error.to_string() }),
    }
}

/// A command line of the configuration: words, or shell text where it needs a shell.
pub(super) fn program(global: &Global, command: &str, identity: Identity) -> Program {
    let needs_shell =
        command.contains(['|', '&', ';', '<', '>', '$', '`', '*', '"', '\'', '\\', '(']);
    let mut program = match needs_shell {
        true => Program::shell(command),
        false => Program::arguments(command.split_whitespace()),
    };
    program.identity = Some(identity);
    program.is_root_only = global.script_security && identity == Identity::ROOT;
    program
}

fn script_tracker(global: &Global, script: &Script) -> Result<watch::ScriptTracker, PlanError> {
    let what = format!("vrrp_script {}", script.name);
    let identity = identity(global, script.user.as_ref(), &what)?;
    let mut program = program(global, &script.command, identity);
    program.limit = Some(Duration::from_micros(script.timeout_us));
    Ok(watch::ScriptTracker {
        name: script.name.clone(),
        program,
        interval: Duration::from_micros(script.interval_us),
        rise: script.rise,
        fall: script.fall,
        begins_bad: script.init_fail,
        is_ignored_when_missing: global.missing_scripts_are_ignored,
    })
}

fn process_tracker(process: &ProcessTracker) -> watch::ProcessTracker {
    let words = process.words.clone();
    let pattern = match &words[..] {
        [name] if !process.full_command => ProcessPattern::Name(name.clone()),
        _ => ProcessPattern::Command { words, parameters: ParameterMatch::Exact },
    };
    watch::ProcessTracker {
        name: process.name.clone(),
        pattern,
        quorum: process.quorum as usize,
        quorum_max: process.quorum_max.map(|most| most as usize),
        fork_delay: Duration::from_micros(process.fork_delay_us),
        terminate_delay: Duration::from_micros(process.terminate_delay_us),
    }
}

fn file_tracker(file: &FileTracker) -> watch::FileTracker {
    let initial =
        file.init.map(|(value, overwrites)| InitialContent { value: value.into(), overwrites });
    watch::FileTracker { name: file.name.clone(), path: file.path.clone(), initial }
}
