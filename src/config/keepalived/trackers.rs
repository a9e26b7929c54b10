//! `vrrp_script`, `vrrp_track_process`, `vrrp_track_file`, and the words that use them; programs
//! that are told of changes.

use std::path::PathBuf;

use super::super::tree::{Statement, Word};
use super::model::{FileTracker, Notify, ProcessTracker, Script, Tracked, Trackers, Weight};
use super::reader::Reader;
use super::words::{FILE, PROCESS, SCRIPT};

const SECOND_US: u64 = 1_000_000;

/// The name behind the keyword of a block.
pub fn name(reader: &mut Reader, statement: &Statement) -> Option<String> {
    reader.text(statement)
}

pub fn script(reader: &mut Reader, statement: &Statement) -> Option<Script> {
    let name = name(reader, statement)?;
    let mut command = None;
    let mut timeout_us = None;
    let mut script = Script {
        name,
        span: statement.span,
        command: String::new(),
        interval_us: SECOND_US,
        timeout_us: 0,
        weight: Weight::default(),
        rise: 1,
        fall: 1,
        user: None,
        init_fail: false,
    };
    let body = reader.body(statement);
    reader.block("vrrp_script", SCRIPT, body, |reader, statement| match statement.keyword() {
        "script" => command = reader.command(statement),
        "interval" => script.interval_us = reader.seconds(statement).unwrap_or(SECOND_US),
        "timeout" => timeout_us = reader.seconds(statement),
        "weight" => {
            let weight = reader.weight(statement.arguments(), statement.keyword_span());
            script.weight = weight.unwrap_or_default();
        }
        "rise" => script.rise = reader.number(statement, 1..=65_535).unwrap_or(1),
        "fall" => script.fall = reader.number(statement, 1..=65_535).unwrap_or(1),
        "user" => script.user = reader.user(statement),
        _ => script.init_fail = reader.flag(statement),
    });
    let Some(command) = command else {
        let message = format!("vrrp_script {} has no script", script.name);
        reader.error(statement.span, message, "add: script \"COMMAND\"");
        return None;
    };
    if script.interval_us == 0 {
        reader.error(statement.span, "interval 0: a script cannot run all the time", "");
    }
    script.command = command;
    // keepalived waits as long as until the next run.
    script.timeout_us = timeout_us.filter(|us| *us > 0).unwrap_or(script.interval_us);
    Some(script)
}

pub fn process(reader: &mut Reader, statement: &Statement) -> Option<ProcessTracker> {
    let name = name(reader, statement)?;
    let mut process = ProcessTracker {
        words: vec![name.clone()],
        name,
        span: statement.span,
        weight: Weight::default(),
        quorum: 1,
        quorum_max: None,
        fork_delay_us: 0,
        terminate_delay_us: 0,
        full_command: false,
    };
    let body = reader.body(statement);
    reader.block("vrrp_track_process", PROCESS, body, |reader, statement| {
        match statement.keyword() {
            "process" => {
                let words = statement.arguments().iter();
                let words: Vec<String> = words
                    .flat_map(|word| word.text.split_whitespace())
                    .map(str::to_owned)
                    .collect();
                if words.is_empty() {
                    let _ = reader.word(statement);
                } else {
                    process.words = words;
                }
            }
            "weight" => {
                let weight = reader.weight(statement.arguments(), statement.keyword_span());
                process.weight = weight.unwrap_or_default();
            }
            "quorum" => process.quorum = reader.number(statement, 1..=65_535).unwrap_or(1),
            "quorum_max" => process.quorum_max = reader.number(statement, 0..=65_535),
            "fork_delay" => process.fork_delay_us = reader.seconds(statement).unwrap_or(0),
            "terminate_delay" => {
                process.terminate_delay_us = reader.seconds(statement).unwrap_or(0);
            }
            "delay" => {
                let delay_us = reader.seconds(statement).unwrap_or(0);
                process.fork_delay_us = delay_us;
                process.terminate_delay_us = delay_us;
            }
            _ => process.full_command = reader.flag(statement),
        }
    });
    Some(process)
}

pub fn file(reader: &mut Reader, statement: &Statement) -> Option<FileTracker> {
    let name = name(reader, statement)?;
    let mut path = None;
    let mut weight = Weight { value: 1, reverse: false };
    let mut init = None;
    let body = reader.body(statement);
    reader.block("vrrp_track_file", FILE, body, |reader, statement| match statement.keyword() {
        "file" => path = reader.text(statement).map(PathBuf::from),
        "weight" => {
            let read = reader.weight(statement.arguments(), statement.keyword_span());
            weight = read.unwrap_or(weight);
        }
        _ => init = Some(init_file(reader, statement.arguments())),
    });
    let Some(path) = path else {
        let message = format!("vrrp_track_file {name} names no file");
        reader.error(statement.span, message, "add: file PATH");
        return None;
    };
    Some(FileTracker { name, span: statement.span, path, weight, init })
}

fn init_file(reader: &mut Reader, words: &[Word]) -> (i32, bool) {
    let overwrite = words.iter().any(|word| word.text == "overwrite");
    let number = words.iter().find(|word| word.text != "overwrite");
    let value = number.and_then(|word| reader.number_in("init_file", word, -254..=254));
    (value.unwrap_or(0), overwrite)
}

/// Whether the keyword was one of the `track_...`.
pub fn track(reader: &mut Reader, statement: &Statement, trackers: &mut Trackers) -> bool {
    let list = match statement.keyword() {
        "track_script" => &mut trackers.scripts,
        "track_process" => &mut trackers.processes,
        "track_file" => &mut trackers.files,
        "track_interface" => &mut trackers.interfaces,
        _ => return false,
    };
    for line in reader.body(statement) {
        let weight = match line.arguments() {
            [] => None,
            [word, rest @ ..] if word.text == "weight" => reader.weight(rest, word.span),
            [word, ..] => {
                let message = format!("'{}' after a tracker: ignored", word.text);
                reader.warn(word.span, message, "only 'weight NUMBER' may follow");
                None
            }
        };
        let name = line.keyword().to_owned();
        list.push(Tracked { name, span: line.keyword_span(), weight });
    }
    true
}

/// Whether the keyword was one of the `notify...`.
pub fn notify(reader: &mut Reader, statement: &Statement, notify: &mut Notify) -> bool {
    let place = match statement.keyword() {
        "notify_master" => &mut notify.master,
        "notify_backup" => &mut notify.backup,
        "notify_fault" => &mut notify.fault,
        "notify_stop" => &mut notify.stop,
        "notify_deleted" => &mut notify.deleted,
        "notify_master_rx_lower_pri" => &mut notify.master_heard_lower,
        "notify" => &mut notify.any,
        "notify_priority_changes" => {
            notify.priority_changes = reader.flag(statement);
            return true;
        }
        "smtp_alert" => {
            notify.smtp_alert = Some(reader.flag(statement));
            return true;
        }
        _ => return false,
    };
    *place = reader.program(statement);
    true
}
