//! `drbd_resource` in a `vrrp_instance`, a word of this program: what is served from a resource, and
//! in which order.
//!
//! ```text
//!   drbd_resource r0 {
//!       mount /dev/drbd0 /var/lib/mysql ext4 noatime
//!       start "systemctl start mariadb"   timeout 60
//!       stop  "systemctl stop mariadb"    timeout 30
//!   }
//! ```

use super::super::diagnostics::Diagnostic;
use super::super::tree::Statement;
use super::builder::Builder;
use super::model::{DrbdResource, Mount, ServiceCommand};
use super::words::Block;

const SECOND_US: u64 = 1_000_000;
/// A database that recovers from a crash.
const START_TIMEOUT_US: u64 = 60 * SECOND_US;
const STOP_TIMEOUT_US: u64 = 30 * SECOND_US;
const LONGEST_TIMEOUT_US: u64 = 3600 * SECOND_US;
const COMMANDS_MAX: usize = 32;

pub fn drbd_resource(b: &mut Builder, statement: &Statement, place: &mut Option<DrbdResource>) {
    if let Some(first) = place {
        let message = "a second drbd_resource in one vrrp_instance";
        let first = first.span;
        return b.report(
            Diagnostic::error(statement.keyword_span(), message)
                .label("an instance follows one resource")
                .related(first, "first here"),
        );
    }
    let Some(name) = b.name(statement, std::iter::empty()) else { return };
    let span = statement.words[1].span;
    let mut resource =
        DrbdResource { name, span, mount: None, start: Vec::new(), stop: Vec::new() };
    // A resource alone, which is only promoted, needs no block.
    let body = statement.body.as_deref().unwrap_or_default();
    b.each(Block::DrbdResource, body, |b, statement| match statement.keyword() {
        "mount" => mount(b, statement, &mut resource.mount),
        "start" => command(b, statement, START_TIMEOUT_US, &mut resource.start),
        "stop" => command(b, statement, STOP_TIMEOUT_US, &mut resource.stop),
        other => debug_assert!(false, "no meaning for {other}"),
    });
    if !resource.start.is_empty() && resource.stop.is_empty() {
        let message = format!("'{}' is started here and never stopped", resource.name);
        let help = "what still runs keeps the mount busy when the other node takes over";
        b.report(Diagnostic::warning(span, message).label("expected stop \"COMMAND\"").help(help));
    }
    *place = Some(resource);
}

/// `mount DEVICE DIRECTORY FSTYPE [OPTIONS]`
fn mount(b: &mut Builder, statement: &Statement, place: &mut Option<Mount>) {
    if place.is_some() {
        let message = "a second mount in one drbd_resource";
        return b.error(statement.keyword_span(), message, "expected one");
    }
    let words: Vec<&str> = statement.arguments().iter().map(|word| word.text.as_str()).collect();
    let (device, directory, file_system, options) = match words[..] {
        [device, directory, file_system] => (device, directory, file_system, ""),
        [device, directory, file_system, options] => (device, directory, file_system, options),
        _ => {
            let message = "'mount' needs a device, a directory and a type";
            let label = "expected DEVICE DIRECTORY FSTYPE [OPTIONS]";
            return b.error(statement.span, message, label);
        }
    };
    for word in &statement.arguments()[..2] {
        if !word.text.starts_with('/') {
            let message = format!("'{}' is no absolute path", word.text);
            return b.error(word.span, message, "expected a path from /");
        }
    }
    if directory.trim_end_matches('/').is_empty() {
        let word = &statement.arguments()[1];
        return b.error(word.span, "nothing is mounted on /", "expected another directory");
    }
    *place = Some(Mount {
        device: device.to_owned(),
        directory: directory.to_owned(),
        file_system: file_system.to_owned(),
        options: options.to_owned(),
    });
}

/// `start "COMMAND" [timeout SECONDS]`
fn command(
    b: &mut Builder,
    statement: &Statement,
    default_us: u64,
    commands: &mut Vec<ServiceCommand>,
) {
    let keyword = statement.keyword();
    let Some(first) = statement.arguments().first() else {
        let message = format!("'{keyword}' needs a command");
        return b.error(statement.keyword_span(), message, "expected a program in quotes");
    };
    let timeout_us = match &statement.arguments()[1..] {
        [] => Some(default_us),
        [word, seconds] if word.text == "timeout" => {
            b.seconds_of("timeout", seconds, SECOND_US, LONGEST_TIMEOUT_US)
        }
        [other, ..] => {
            let message = format!("'{}' behind the command of '{keyword}'", other.text);
            let label = "expected timeout SECONDS, or quotes around all of the command";
            return b.error(other.span, message, label);
        }
    };
    if first.text.trim().is_empty() {
        let message = format!("'{keyword}' with an empty command");
        return b.error(first.span, message, "expected a program");
    }
    if commands.len() == COMMANDS_MAX {
        let message = format!("more than {COMMANDS_MAX} of '{keyword}'");
        return b.error(statement.keyword_span(), message, "this one is left out");
    }
    if let Some(timeout_us) = timeout_us {
        commands.push(ServiceCommand { text: first.text.clone(), timeout_us });
    }
}
