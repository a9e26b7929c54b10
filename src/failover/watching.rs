//! From the trackers of keepalived.conf to watchers, and from their reports to instances.

use std::time::Duration;

use super::plan::{Feed, PlanError, Source};
use crate::config::keepalived::model::{self, Global, Script, TrackedFile, TrackedProcess, User};
use crate::config::keepalived::{Command, Invocation, Keepalived};
use crate::program::{Identity, Program, user};
use crate::watch::{self, InitialContent, ParameterMatch, ProcessPattern, Tracker};

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

/// `what` is for the message when its user is not there.
pub(super) fn program(
    global: &Global,
    command: &Command,
    what: &str,
) -> Result<Program, PlanError> {
    let identity = identity(global, command.user.as_ref(), what)?;
    let mut program = match command.invocation() {
        Invocation::Shell(text) => Program::shell(&text),
        Invocation::Arguments(words) => Program::arguments(words),
    };
    program.identity = Some(identity);
    program.is_root_only = global.enable_script_security && identity == Identity::ROOT;
    Ok(program)
}

fn script_tracker(global: &Global, script: &Script) -> Result<watch::ScriptTracker, PlanError> {
    let what = format!("vrrp_script {}", script.name);
    let mut program = program(global, &script.command, &what)?;
    program.limit = Some(Duration::from_micros(script.timeout_us));
    Ok(watch::ScriptTracker {
        name: script.name.clone(),
        program,
        interval: Duration::from_micros(script.interval_us),
        rise: script.rise,
        fall: script.fall,
        begins_bad: script.init_fail,
        is_ignored_when_missing: false,
    })
}

fn process_tracker(process: &TrackedProcess) -> watch::ProcessTracker {
    let words = process.words.clone();
    let pattern = match &words[..] {
        [name] if !process.full_command => ProcessPattern::Name(name.clone()),
        _ => ProcessPattern::Command {
            words,
            parameters: match process.parameters {
                model::ParameterMatch::Exact => ParameterMatch::Exact,
                model::ParameterMatch::Initial => ParameterMatch::Initial,
                model::ParameterMatch::Partial => ParameterMatch::Partial,
            },
        },
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

fn file_tracker(file: &TrackedFile) -> watch::FileTracker {
    let initial = file
        .init
        .map(|init| InitialContent { value: init.value.into(), overwrites: init.overwrite });
    watch::FileTracker { name: file.name.clone(), path: (&file.path).into(), initial }
}
