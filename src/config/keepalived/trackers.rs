//! What is watched: `vrrp_script`, `vrrp_track_process`, `vrrp_track_file`, and the `track_...`
//! blocks that name them.

use std::collections::BTreeSet;

use super::super::diagnostics::{Diagnostic, Severity};
use super::super::suggest::nearest;
use super::super::tree::{Statement, Word};
use super::builder::Builder;
use super::global::{put, set};
use super::model::{
    InitFile, ParameterMatch, Script, Tracked, TrackedFile, TrackedProcess, Trackers, Weight,
};
use super::words::Block;

const SECOND_US: u64 = 1_000_000;
const DAY_US: u64 = 86_400 * SECOND_US;
const TIMES_MAX: i64 = 65_535;
const WEIGHT_MAX: i64 = 253;
/// The file's number is multiplied by it.
const FILE_WEIGHT_MAX: i64 = 254;
/// As many as an instance takes (election::settings::MAX_TRACKERS), of each kind.
const TRACKED_MAX: usize = 64;

pub fn vrrp_script(b: &mut Builder, statement: &Statement, scripts: &mut Vec<Script>) {
    let known = scripts.iter().map(|script| (script.name.as_str(), script.span));
    let Some(name) = b.name(statement, known) else { return };
    let span = statement.words[1].span;
    let mut command = None;
    let (mut interval_us, mut timeout_us) = (SECOND_US, None);
    let (mut weight, mut rise, mut fall) = (Weight::default(), 1, 1);
    let (mut user, mut init_fail) = (None, false);
    let body = b.body(statement);
    b.each(Block::Script, body, |b, statement| match statement.keyword() {
        "script" => set(&mut command, b.plain_command(statement)),
        "interval" => put(&mut interval_us, b.seconds(statement, SECOND_US, DAY_US)),
        "timeout" => set(&mut timeout_us, b.seconds(statement, SECOND_US, DAY_US)),
        "weight" => put(&mut weight, weight_statement(b, statement, WEIGHT_MAX)),
        "rise" => put(&mut rise, b.number(statement, 1, TIMES_MAX)),
        "fall" => put(&mut fall, b.number(statement, 1, TIMES_MAX)),
        "user" => user = b.user_of(statement.arguments()),
        "init_fail" => put(&mut init_fail, b.flag(statement)),
        other => debug_assert!(false, "no meaning for {other}"),
    });
    let Some(mut command) = command else {
        if statement.body.is_some() {
            let message = format!("vrrp_script '{name}' has no script");
            b.error(span, message, "expected: script \"PROGRAM\"");
        }
        return;
    };
    command.user = user;
    let timeout_us = timeout_us.unwrap_or(interval_us);
    scripts.push(Script {
        name,
        span,
        command,
        interval_us,
        timeout_us,
        weight,
        rise,
        fall,
        init_fail,
    });
}

pub fn vrrp_track_process(
    b: &mut Builder,
    statement: &Statement,
    processes: &mut Vec<TrackedProcess>,
) {
    let known = processes.iter().map(|process| (process.name.as_str(), process.span));
    let Some(name) = b.name(statement, known) else { return };
    let span = statement.words[1].span;
    let mut process = TrackedProcess {
        name,
        span,
        words: Vec::new(),
        parameters: ParameterMatch::Exact,
        full_command: false,
        weight: Weight::default(),
        quorum: 1,
        quorum_max: None,
        fork_delay_us: 0,
        terminate_delay_us: 0,
    };
    let body = b.body(statement);
    b.each(Block::Process, body, |b, statement| match statement.keyword() {
        "process" => {
            process.words = statement.arguments().iter().map(|word| word.text.clone()).collect();
        }
        "param_match" => {
            let words =
                [("initial", ParameterMatch::Initial), ("partial", ParameterMatch::Partial)];
            put(&mut process.parameters, b.choice(statement, &words));
        }
        "weight" => put(&mut process.weight, weight_statement(b, statement, FILE_WEIGHT_MAX)),
        "quorum" => put(&mut process.quorum, b.number(statement, 1, TIMES_MAX)),
        "quorum_max" => set(&mut process.quorum_max, b.number(statement, 0, TIMES_MAX)),
        "fork_delay" => put(&mut process.fork_delay_us, b.seconds(statement, 0, DAY_US)),
        "terminate_delay" => put(&mut process.terminate_delay_us, b.seconds(statement, 0, DAY_US)),
        "delay" => {
            if let Some(delay_us) = b.seconds(statement, 0, DAY_US) {
                (process.fork_delay_us, process.terminate_delay_us) = (delay_us, delay_us);
            }
        }
        "full_command" => process.full_command = true,
        other => debug_assert!(false, "no meaning for {other}"),
    });
    if process.words.is_empty() {
        if statement.body.is_some() {
            let message = format!("vrrp_track_process '{}' names no process", process.name);
            b.error(span, message, "expected: process NAME");
        }
        return;
    }
    processes.push(process);
}

pub fn vrrp_track_file(b: &mut Builder, statement: &Statement, files: &mut Vec<TrackedFile>) {
    let known = files.iter().map(|file| (file.name.as_str(), file.span));
    let Some(name) = b.name(statement, known) else { return };
    let span = statement.words[1].span;
    let (mut path, mut init) = (None, None);
    let mut weight = Weight { value: 1, reverse: false };
    let body = b.body(statement);
    b.each(Block::TrackFile, body, |b, statement| match statement.keyword() {
        "file" => set(&mut path, b.text(statement)),
        "weight" => put(&mut weight, weight_statement(b, statement, FILE_WEIGHT_MAX)),
        "init_file" => set(&mut init, init_file(b, statement)),
        other => debug_assert!(false, "no meaning for {other}"),
    });
    match path {
        Some(path) => files.push(TrackedFile { name, span, path, weight, init }),
        None if statement.body.is_some() => {
            let message = format!("{} '{name}' names no file", statement.keyword());
            b.error(span, message, "expected: file \"PATH\"");
        }
        None => {}
    }
}

/// `init_file [VALUE] [overwrite]`
fn init_file(b: &mut Builder, statement: &Statement) -> Option<InitFile> {
    let mut init = InitFile { value: 0, overwrite: false };
    for word in statement.arguments() {
        if word.text == "overwrite" {
            init.overwrite = true;
        } else {
            let (min, max) = (i64::from(i32::MIN), i64::from(i32::MAX));
            init.value = b.number_of("init_file", word, min, max)?;
        }
    }
    Some(init)
}

/// `weight NUMBER [reverse]`
fn weight_statement(b: &mut Builder, statement: &Statement, max: i64) -> Option<Weight> {
    let Some(number) = statement.arguments().first() else {
        b.error(statement.keyword_span(), "'weight' needs a value", format!("-{max} to {max}"));
        return None;
    };
    b.no_more_words(statement, 3);
    let value = b.number_of("weight", number, -max, max)?;
    let reverse = reverse_of(b, statement.arguments().get(1)).unwrap_or(false);
    Some(Weight { value, reverse })
}

fn reverse_of(b: &mut Builder, word: Option<&Word>) -> Option<bool> {
    let word = word?;
    match word.text.as_str() {
        "reverse" => Some(true),
        "noreverse" | "no_reverse" => Some(false),
        other => {
            let message = format!("'{other}' behind a weight");
            b.warning(word.span, message, "expected reverse or noreverse: ignored");
            None
        }
    }
}

/// A `track_...` block of an instance or a group.
pub fn track(b: &mut Builder, statement: &Statement, trackers: &mut Trackers) {
    b.no_more_words(statement, 1);
    let list = match statement.keyword() {
        "track_interface" => &mut trackers.interfaces,
        "track_script" => &mut trackers.scripts,
        "track_process" => &mut trackers.processes,
        "track_file" => &mut trackers.files,
        other => return debug_assert!(false, "no meaning for {other}"),
    };
    let max = match statement.keyword() {
        "track_file" | "track_process" => FILE_WEIGHT_MAX,
        _ => WEIGHT_MAX,
    };
    for line in b.lines(statement) {
        let name = &line.words[0];
        if list.len() == TRACKED_MAX {
            let message = format!("more than {TRACKED_MAX} in {}", statement.keyword());
            return b.error(name.span, message, "this one is left out");
        }
        if let Some(first) = list.iter().find(|known| known.name == name.text) {
            let message = format!("'{}' is tracked twice", name.text);
            let first = first.span;
            b.report(
                Diagnostic::warning(name.span, message)
                    .label("ignored")
                    .related(first, "first here"),
            );
            continue;
        }
        let Some(weight) = tracked_weight(b, line, max) else { continue };
        list.push(Tracked { name: name.text.clone(), span: name.span, weight });
    }
}

/// `NAME [weight NUMBER [reverse]]`; the outer `None`: it was not understood.
fn tracked_weight(b: &mut Builder, line: &Statement, max: i64) -> Option<Option<Weight>> {
    let words = line.arguments();
    let Some(first) = words.first() else { return Some(None) };
    if first.text != "weight" {
        // Several names on one line: keepalived takes the first only, and nobody sees it.
        let message = format!("'{}' behind '{}'", first.text, line.keyword());
        b.error(first.span, message, "expected weight NUMBER, or a line of its own");
        return None;
    }
    let Some(number) = words.get(1) else {
        b.error(first.span, "'weight' needs a value", format!("-{max} to {max}"));
        return None;
    };
    b.no_more_words(line, 4);
    let value = b.number_of("weight", number, -max, max)?;
    let reverse = reverse_of(b, words.get(2)).unwrap_or(false);
    Some(Some(Weight { value, reverse }))
}

/// Where the names of trackers lead to. keepalived goes on without one that is not there, and the
/// node then serves whatever the check would say.
pub fn check_names(b: &mut Builder, tracked: &[Tracked], what: &str, known: &BTreeSet<&str>) {
    for tracked in tracked {
        if known.contains(tracked.name.as_str()) || b.is_full(Severity::Error) {
            continue;
        }
        let label = match nearest(&tracked.name, known.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("expected the name of a {what}"),
        };
        b.error(tracked.span, format!("there is no {what} '{}'", tracked.name), label);
    }
}
