//! `resolve`: a split brain from finding it to the resync, with a look at what is thrown away before
//! it is (behaviour.md 6).

use std::time::{Duration, Instant};

use twinblk_proto::state::{ConnectionState, Role};

use super::output::{Output, write_out};
use super::show::{self, size};
use super::{Context, live, offline};
use crate::control::outcome::exit;
use crate::control::{Client, Command, Outcome, ResourceStatus};

/// How long the other node may take to come, unless --timeout says otherwise: time to type a command
/// there.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries while the other node is not ready.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Whose changes are to be kept.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub keep: Option<String>,
    pub discard_local: bool,
    pub yes: bool,
}

pub(super) fn run(context: &Context, name: &str, choice: &Choice, output: &mut Output) {
    let outcome = resolve(context, name, choice, output).err().unwrap_or_default();
    output.outcome("resolve", Some(name), outcome);
}

fn resolve(context: &Context, name: &str, choice: &Choice, output: &Output) -> Result<(), Outcome> {
    let mut client = live::connect(context)?;
    let status = look(context, &mut client, name)?;
    let local_loses = loser_is_local(context, &status, choice)?;
    if status.connection >= ConnectionState::Connected {
        return Err(Outcome::failed(exit::USAGE, format!("{name}: no split brain to resolve"))
            .with_detail(format!("the connection is {}", status.connection))
            .with_hint(context.command(&format!("status {name}"))));
    }
    if status.split_brain.is_none() {
        return Err(Outcome::failed(exit::USAGE, format!("{name}: no split brain was met so far"))
            .with_detail("the nodes have not compared their generations since this node is up")
            .with_hint(context.command(&format!("connect {name}, then status {name}"))));
    }
    output.text(&show::split_brain(&status));
    let (loser, winner) = match local_loses {
        true => (&status.local.name, &status.peer.name),
        false => (&status.peer.name, &status.local.name),
    };
    let again = context.command(&match local_loses {
        true => format!("resolve {name} --discard-local --yes"),
        false => format!("resolve {name} --keep {winner} --yes"),
    });
    let question =
        format!("What only {loser} wrote will be thrown away; {winner}'s data is kept.\n");
    if !choice.yes {
        offline::confirm(&question, false, context, &again)?;
    } else if !context.json {
        write_out(&question);
    }
    if local_loses {
        give_way(context, &mut client, name)?;
    }
    let there = match local_loses {
        true => format!("twinblk connect {name}"),
        false => format!("twinblk resolve {name} --discard-local"),
    };
    output.text(&format!("if {} does not do so yet, type there: {there}\n", status.peer.name));
    let done = carry_through(context, &mut client, name, local_loses, &there)?;
    let copied = done.resync.as_ref().map_or(done.out_of_sync_bytes, |resync| resync.total_bytes);
    let direction = if local_loses { "to this node" } else { "to the peer" };
    output.text(&format!(
        "{name}: resolved: {} is copied {direction}, now {}\n",
        size(copied),
        done.connection
    ));
    Ok(())
}

fn look(context: &Context, client: &mut Client, name: &str) -> Result<ResourceStatus, Outcome> {
    let mut found = live::ask(context, client, Some(name))?;
    found.pop().ok_or_else(|| Outcome::no_such_resource(name))
}

fn loser_is_local(
    context: &Context,
    status: &ResourceStatus,
    choice: &Choice,
) -> Result<bool, Outcome> {
    let (me, peer) = (&status.local.name, &status.peer.name);
    match &choice.keep {
        None if choice.discard_local => Ok(true),
        Some(name) if name == me => Ok(false),
        Some(name) if name == peer => Ok(true),
        _ => Err(Outcome::failed(exit::USAGE, format!("{}: whose data is kept?", status.name))
            .with_detail(format!("the nodes are {me} (this one) and {peer}"))
            .with_hint(context.command(&format!(
                "resolve {name} --keep {me}, or: resolve {name} --keep {peer}",
                name = status.name
            )))),
    }
}

/// Demote, disconnect: the connection that follows may discard.
fn give_way(context: &Context, client: &mut Client, name: &str) -> Result<(), Outcome> {
    let status = look(context, client, name)?;
    if status.role == Role::Primary {
        perform(context, client, name, Command::Secondary { force: false })?;
    }
    if status.connection != ConnectionState::StandAlone {
        perform(context, client, name, Command::Disconnect { force: false })?;
    }
    Ok(())
}

fn perform(
    context: &Context,
    client: &mut Client,
    name: &str,
    command: Command,
) -> Result<(), Outcome> {
    match client.perform(Some(name), command, context.timeout) {
        Ok(outcome) if outcome.is_done() => Ok(()),
        Ok(outcome) => Err(outcome),
        Err(error) => Err(live::unreachable_daemon(context, &error)),
    }
}

/// Connects, again when the other node was not ready, until the resync has begun.
fn carry_through(
    context: &Context,
    client: &mut Client,
    name: &str,
    discard: bool,
    there: &str,
) -> Result<ResourceStatus, Outcome> {
    let deadline = Instant::now() + context.timeout.unwrap_or(PATIENCE);
    loop {
        let status = look(context, client, name)?;
        if status.connection >= ConnectionState::Connected {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            let outcome = Outcome::failed(
                exit::TIMEOUT,
                format!("{name}: the other node has not come: nothing is discarded yet"),
            );
            return Err(outcome
                .with_detail(format!("{}: {}", status.connection, status.reason))
                .with_hint(format!("on {}: {there}", status.peer.name)));
        }
        if status.connection == ConnectionState::StandAlone {
            let command = Command::Connect { discard_my_data: discard, tentative: false };
            perform(context, client, name, command)?;
        }
        std::thread::sleep(RETRY_PAUSE.min(deadline.saturating_duration_since(Instant::now())));
    }
}
