//! Verbs that say what data is worth: `invalidate`, `invalidate-remote`, `outdate`. A resource that is
//! not up has its metadata changed, as drbdadm has drbdmeta do it.

use std::io::{self, IsTerminal};

use super::arguments::Verb;
use super::live::{self, Targets};
use super::output::Output;
use super::{Context, offline};
use crate::control::outcome::exit;
use crate::control::{Command, Outcome};

pub(super) fn run(context: &Context, verb: &Verb, output: &mut Output) {
    let (name, names, command, force) = match verb {
        Verb::Invalidate { force, on } => {
            ("invalidate", &on.resources, Command::Invalidate, *force)
        }
        Verb::InvalidateRemote { force, on } => {
            ("invalidate-remote", &on.resources, Command::InvalidateRemote, *force)
        }
        Verb::Outdate(on) => ("outdate", &on.resources, Command::Outdate, true),
        _ => return,
    };
    let Some(targets) = live::targets(context, name, names, output) else { return };
    for resource in &targets.names {
        let outcome = confirmed(context, name, &command, resource, force)
            .map(|()| perform(context, &targets, resource, &command));
        output.outcome(name, Some(resource), outcome.unwrap_or_else(|refused| refused));
    }
}

/// A person is asked; a script means what it says, as with drbdadm.
fn confirmed(
    context: &Context,
    verb: &str,
    command: &Command,
    resource: &str,
    force: bool,
) -> Result<(), Outcome> {
    if force || context.json || !io::stdin().is_terminal() {
        return Ok(());
    }
    let loser = if *command == Command::Invalidate { "this node" } else { "the peer" };
    let question = format!(
        "All data of {resource} on {loser} will be thrown away and copied from the other node.\n"
    );
    let again = context.command(&format!("{verb} --force {resource}"));
    offline::confirm(&question, false, context, &again)
}

fn perform(context: &Context, targets: &Targets, resource: &str, command: &Command) -> Outcome {
    let defined = targets.defined(context, resource);
    if live::is_up(context, resource) {
        return live::act_on(context, resource, command, targets.config.as_ref());
    }
    if let Err(outcome) = defined {
        return outcome;
    }
    match (command, &targets.config) {
        (Command::Invalidate | Command::Outdate, Some(config)) => {
            let worthless = *command == Command::Invalidate;
            offline::devalue(context, config, resource, worthless).err().unwrap_or_default()
        }
        (_, Some(_)) => Outcome::no_such_resource(resource)
            .with_hint(context.command(&format!("up {resource}"))),
        (_, None) => Outcome::failed(exit::FAILURE, "the configuration does not load"),
    }
}
