//! `connect --tentative`: what a connection would do, without doing it.

use std::time::{Duration, Instant};

use serde_json::json;
use twinblk_proto::state::ConnectionState;

use super::output::Output;
use super::show::{self, size};
use super::{Context, live};
use crate::control::outcome::exit;
use crate::control::status::VerdictStatus;
use crate::control::{Client, Command, Outcome, ResourceStatus};

/// How long the peer may take to answer, unless --timeout says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_PAUSE: Duration = Duration::from_millis(200);

pub(super) fn run(context: &Context, names: &[String], output: &mut Output) {
    let Some(targets) = live::targets(context, "connect", names, output) else { return };
    for name in &targets.names {
        let outcome = match ask(context, name) {
            Ok(status) => {
                output.text(&text(&status));
                output.json_entry(json!({ "resource": name, "tentative": status.verdict,
                    "split-brain": status.split_brain, "reason": status.reason }));
                continue;
            }
            Err(outcome) => outcome,
        };
        output.outcome("connect", Some(name), outcome);
    }
}

fn ask(context: &Context, name: &str) -> Result<ResourceStatus, Outcome> {
    let mut client = live::connect(context)?;
    let perform =
        |client: &mut Client, command| match client.perform(Some(name), command, context.timeout) {
            Ok(outcome) if outcome.is_done() => Ok(()),
            Ok(outcome) => Err(outcome),
            Err(error) => Err(live::unreachable_daemon(context, &error)),
        };
    perform(&mut client, Command::Connect { discard_my_data: false, tentative: true })?;
    let deadline = Instant::now() + context.timeout.unwrap_or(PATIENCE);
    loop {
        let mut found = live::ask(context, &mut client, Some(name))?;
        let status = found.pop().ok_or_else(|| Outcome::no_such_resource(name))?;
        if status.connection == ConnectionState::StandAlone {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            perform(&mut client, Command::Disconnect { force: true })?;
            return Err(Outcome::failed(
                exit::TIMEOUT,
                format!("{name}: the peer does not answer"),
            )
            .with_detail(format!("{}: {}", status.connection, status.reason))
            .with_hint(format!("on {}: twinblk connect {name}", status.peer.name)));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

fn text(status: &ResourceStatus) -> String {
    let (name, peer) = (&status.name, &status.peer.name);
    let Some(verdict) = &status.verdict else {
        return format!("{name}: would be refused: {}\n", status.reason);
    };
    let amount = amount(verdict);
    let mut out = match verdict.direction.as_str() {
        "source" => {
            format!(
                "{name}: would become SyncSource: {amount} copied to {peer} ({})\n",
                verdict.why
            )
        }
        "target" => {
            format!(
                "{name}: would become SyncTarget: {amount} of this node's data replaced by {peer}'s ({})\n",
                verdict.why
            )
        }
        "none" => format!("{name}: would connect without a resync ({})\n", verdict.why),
        _ => format!("{name}: would be refused: {}\n", verdict.why),
    };
    if status.split_brain.is_some() {
        out += &show::split_brain(status);
    }
    out
}

fn amount(verdict: &VerdictStatus) -> String {
    match (verdict.least_bytes, verdict.most_bytes) {
        (least, most) if least == most => size(least),
        (least, most) => format!("{} to {}", size(least), size(most)),
    }
}
