//! Verbs that the daemon carries out, and what it tells.

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::json;
use twinblk_proto::state::DiskState;

use super::arguments::Verb;
use super::output::Output;
use super::progress::Progress;
use super::show::{self, Style};
use super::{Context, json, offline, output};
use crate::config::{self, Config};
use crate::control::outcome::exit;
use crate::control::{Client, ClientError, Command, Outcome, ResourceStatus};

/// DRBD's number for "158 unknown resource": it is in no daemon.
pub(super) const NO_SUCH_RESOURCE: i32 = 158;
/// After `shutdown` the daemon takes its resources down before it closes the connection.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(60);

/// What a verb is to the daemon, and its name for reports.
fn request(verb: &Verb) -> Option<(&'static str, &[String], Command)> {
    Some(match verb {
        Verb::Up(on) => ("up", &on.resources, Command::Up),
        Verb::Down(on) => ("down", &on.resources, Command::Down),
        Verb::Adjust(on) => ("adjust", &on.resources, Command::Adjust),
        Verb::Attach(on) => ("attach", &on.resources, Command::Attach),
        Verb::Detach { force, on } => ("detach", &on.resources, Command::Detach { force: *force }),
        Verb::Connect { discard_my_data, tentative, on } => {
            let (discard_my_data, tentative) = (*discard_my_data, *tentative);
            ("connect", &on.resources, Command::Connect { discard_my_data, tentative })
        }
        Verb::Disconnect { force, on } => {
            ("disconnect", &on.resources, Command::Disconnect { force: *force })
        }
        Verb::Primary { force, on } => {
            ("primary", &on.resources, Command::Primary { force: *force })
        }
        Verb::Secondary { force, on } => {
            ("secondary", &on.resources, Command::Secondary { force: *force })
        }
        Verb::SuspendIo(on) => ("suspend-io", &on.resources, Command::SuspendIo),
        Verb::ResumeIo(on) => ("resume-io", &on.resources, Command::ResumeIo),
        Verb::AttachDevice(on) => ("attach-device", &on.resources, Command::AttachDevice),
        Verb::DetachDevice { force, on } => {
            ("detach-device", &on.resources, Command::DetachDevice { force: *force })
        }
        Verb::NewCurrentUuid { clear_bitmap, on } => (
            "new-current-uuid",
            &on.resources,
            Command::NewCurrentUuid { clear_bitmap: *clear_bitmap },
        ),
        Verb::Verify { start, stop, repair, from, on } => {
            let (start, stop, repair, from) = (*start, *stop, *repair, from.clone());
            ("verify", &on.resources, Command::Verify { start, stop, repair, from })
        }
        Verb::Resize { size, assume_peer_has_space, assume_clean, on } => {
            let (sectors, assume_clean) = (*size, *assume_clean);
            let assume_peer_has_space = *assume_peer_has_space;
            let command = Command::Resize { sectors, assume_peer_has_space, assume_clean };
            ("resize", &on.resources, command)
        }
        Verb::PauseSync(on) => ("pause-sync", &on.resources, Command::PauseSync),
        Verb::ResumeSync(on) => ("resume-sync", &on.resources, Command::ResumeSync),
        Verb::Handover(on) => ("handover", &on.resources, Command::Handover),
        Verb::Standby { state, on } => {
            ("standby", &on.resources, Command::Standby { on: state == "on" })
        }
        Verb::WaitConnect(on) => ("wait-connect", &on.resources, Command::WaitConnect),
        Verb::WaitSync(on) => ("wait-sync", &on.resources, Command::WaitSync),
        _ => return None,
    })
}

/// Runs a verb that needs the daemon.
pub(super) fn run(context: &Context, verb: &Verb, output: &mut Output) {
    match verb {
        Verb::Status { watch: true, resources } => watch(context, resources, output),
        Verb::Status { watch: false, resources } => status(context, resources, output),
        Verb::Role(on) => words(context, "role", &on.resources, output),
        Verb::Cstate(on) => words(context, "cstate", &on.resources, output),
        Verb::Dstate(on) => words(context, "dstate", &on.resources, output),
        Verb::Shutdown => shutdown(context, output),
        Verb::Instances => instances(context, output),
        Verb::Reload => reload(context, output),
        _ => {
            if let Some((name, resources, command)) = request(verb) {
                act(context, name, resources, &command, output);
            }
        }
    }
}

/// The daemon, or the outcome that says how to get one.
pub(super) fn connect(context: &Context) -> Result<Client, Outcome> {
    Client::connect(&context.run_dir).map_err(|error| unreachable_daemon(context, &error))
}

pub(super) fn unreachable_daemon(context: &Context, error: &ClientError) -> Outcome {
    let outcome = Outcome::failed(exit::OTHER, format!("twinblk: {error}"));
    match error {
        ClientError::NotRunning { .. } => outcome
            .with_detail("verbs are carried out by the daemon of this node")
            .with_hint(format!("start it: {}", context.command("daemon"))),
        ClientError::Unreachable { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            outcome.with_hint("its socket is for the user that runs it: become that user")
        }
        ClientError::Unreachable { .. } => outcome.with_hint("check --run-dir"),
        _ => outcome.with_hint("look into the daemon's log; restart it if it does not react"),
    }
}

/// The resources that a verb is for, each with whether the configuration has it.
pub(super) struct Targets {
    pub names: Vec<String>,
    /// Absent when it does not load; then only the daemon knows what there is.
    pub config: Option<Config>,
}

/// Without a configuration, what is up can still be controlled: in the night of a failure, a typing
/// mistake in a file must not stand between the administrator and a `primary`.
pub(super) fn targets(
    context: &Context,
    verb: &'static str,
    names: &[String],
    output: &mut Output,
) -> Option<Targets> {
    let config = match config::load(&context.config) {
        Ok(config) => Some(config),
        Err(mistakes) => {
            output::print_mistakes(&mistakes);
            if verb == "up" {
                let outcome = Outcome::failed(exit::FAILURE, mistakes.to_string());
                output.printed(verb, None, outcome);
                return None;
            }
            eprintln!("going on with what the daemon knows");
            None
        }
    };
    let all = names.iter().any(|name| name == "all");
    if !all {
        return Some(Targets { names: names.to_vec(), config });
    }
    let mine = |config: &Config| -> Vec<String> {
        let mine = config.resources.iter().filter(|resource| resource.is_for(&context.node));
        mine.map(|resource| resource.name.clone()).collect()
    };
    let mut names = config.as_ref().map(mine).unwrap_or_default();
    // What was taken out of the file while it was up is still there.
    if (config.is_none() || verb == "down")
        && let Ok(mut client) = Client::connect(&context.run_dir)
        && let Ok(Ok(statuses)) = client.status(None)
    {
        let unlisted = statuses.into_iter().map(|status| status.name);
        let unlisted: Vec<String> = unlisted.filter(|name| !names.contains(name)).collect();
        names.extend(unlisted);
    }
    if names.is_empty() && verb != "down" {
        let outcome = Outcome::failed(exit::USAGE, "no resources defined!")
            .with_detail(format!(
                "{} has no resource for '{}'",
                context.config.display(),
                context.node
            ))
            .with_hint(context.command("dump"));
        output.outcome(verb, None, outcome);
        return None;
    }
    Some(Targets { names, config })
}

impl Targets {
    /// Whether this node has the resource, as far as the configuration tells; the daemon is asked
    /// about the rest.
    pub(super) fn defined(&self, context: &Context, name: &str) -> Result<(), Outcome> {
        let Some(config) = &self.config else { return Ok(()) };
        let Some(resource) = config.resource(name) else {
            return Err(super::not_defined(name, context));
        };
        resource.for_node(&context.node).map(|_| ()).map_err(|error| {
            Outcome::failed(exit::USAGE, error.to_string()).with_hint(error.hint())
        })
    }
}

/// A resource that the file does not have may be up all the same.
pub(super) fn is_up(context: &Context, name: &str) -> bool {
    let client = Client::connect(&context.run_dir);
    client.is_ok_and(|mut client| matches!(client.status(Some(name)), Ok(Ok(_))))
}

fn act(
    context: &Context,
    verb: &'static str,
    names: &[String],
    command: &Command,
    output: &mut Output,
) {
    let Some(targets) = targets(context, verb, names, output) else { return };
    if *command == Command::Up
        && !context.json
        && let Some(config) = &targets.config
    {
        output::print_warnings(config);
    }
    for name in &targets.names {
        let outcome = match targets.defined(context, name) {
            Err(outcome) if *command == Command::Up || !is_up(context, name) => outcome,
            _ => act_on(context, name, command, targets.config.as_ref()),
        };
        output.outcome(verb, Some(name), outcome);
    }
}

pub(super) fn act_on(
    context: &Context,
    name: &str,
    command: &Command,
    config: Option<&Config>,
) -> Outcome {
    let mut client = match connect(context) {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    let waits = matches!(command, Command::WaitConnect | Command::WaitSync);
    let answer = if waits {
        let limit = context.timeout.or_else(|| configured_wait(context, name, command, config));
        let progress = Progress::new(context.json);
        let answer = client.follow(Some(name), command.clone(), limit, |statuses| {
            statuses.iter().for_each(|status| progress.show(status));
            true
        });
        progress.finish();
        // The look above never ends it, so there is an outcome.
        answer.map(Option::unwrap_or_default)
    } else {
        client.perform(Some(name), command.clone(), context.timeout)
    };
    answer.unwrap_or_else(|error| unreachable_daemon(context, &error))
}

/// `wfc-timeout`, unless it is 0: "for ever" is left to the server's notion of a stall.
fn configured_wait(
    context: &Context,
    name: &str,
    command: &Command,
    config: Option<&Config>,
) -> Option<Duration> {
    let view = config?.resource(name)?.for_node(&context.node).ok()?;
    let seconds = u64::from(view.startup.wfc_timeout_s);
    (*command == Command::WaitConnect && seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Asks for one resource or all. An unknown name that is not in the file either is a typing
/// mistake, and said to be one.
pub(super) fn ask(
    context: &Context,
    client: &mut Client,
    name: Option<&str>,
) -> Result<Vec<ResourceStatus>, Outcome> {
    match client.status(name) {
        Ok(Ok(statuses)) => Ok(statuses),
        Ok(Err(outcome)) if outcome.code == NO_SUCH_RESOURCE => {
            let name = name.unwrap_or_default();
            match config::load(&context.config) {
                Ok(config) if config.resource(name).is_none() => {
                    Err(super::not_defined(name, context))
                }
                _ => Err(outcome.with_hint(context.command(&format!("up {name}")))),
            }
        }
        Ok(Err(outcome)) => Err(outcome),
        Err(error) => Err(unreachable_daemon(context, &error)),
    }
}

fn wants_all(names: &[String]) -> bool {
    names.is_empty() || names.iter().any(|name| name == "all")
}

fn status(context: &Context, names: &[String], output: &mut Output) {
    let mut client = match connect(context) {
        Ok(client) => client,
        Err(outcome) => return output.outcome("status", None, outcome),
    };
    let mut statuses = Vec::new();
    let wanted: Vec<Option<&str>> = match wants_all(names) {
        true => vec![None],
        false => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    let mut found_all = true;
    for name in wanted {
        match ask(context, &mut client, name) {
            Ok(found) => statuses.extend(found),
            Err(outcome) => {
                found_all = false;
                output.outcome("status", name, outcome);
            }
        }
    }
    if output.is_json() && found_all {
        output.raw_json(&json::statuses(&statuses));
    } else if found_all || !statuses.is_empty() {
        output.text(&show::resources(&statuses, terminal_style()));
    }
}

fn instances(context: &Context, output: &mut Output) {
    let answer = connect(context).and_then(|mut client| {
        client.instances().map_err(|error| unreachable_daemon(context, &error))
    });
    match answer {
        Err(outcome) => output.outcome("instances", None, outcome),
        Ok(instances) if output.is_json() => output.raw_json(&json::instances(&instances)),
        Ok(instances) => output.text(&show::instances(&instances)),
    }
}

fn terminal_style() -> Style {
    let terminal = std::io::stdout().is_terminal();
    Style { colour: terminal, bar: terminal }
}

/// Until the reader has enough or the daemon ends.
fn watch(context: &Context, names: &[String], output: &mut Output) {
    let mut client = match connect(context) {
        Ok(client) => client,
        Err(outcome) => return output.outcome("status", None, outcome),
    };
    let style = terminal_style();
    let mut last = String::new();
    let answer = client.follow(None, Command::Watch, context.timeout, |mut statuses| {
        statuses.retain(|status| wants_all(names) || names.contains(&status.name));
        let text = match context.json {
            true => json::statuses_line(&statuses),
            false => show::resources(&statuses, style),
        };
        if text == last {
            return true;
        }
        // On a terminal each picture takes the place of the one before.
        let clear = if style.bar && !context.json { "\x1b[H\x1b[2J" } else { "" };
        let goes_on = output::write_out(&format!("{clear}{text}"));
        last = text;
        goes_on
    });
    let outcome = match answer {
        Ok(outcome) => outcome.unwrap_or_default(),
        Err(error) => unreachable_daemon(context, &error),
    };
    output.streamed("status", outcome);
}

/// `role`, `cstate`, `dstate`: a line per resource.
fn words(context: &Context, verb: &'static str, names: &[String], output: &mut Output) {
    let Some(targets) = targets(context, verb, names, output) else { return };
    for name in &targets.names {
        let known = targets.defined(context, name);
        if let Err(outcome) = known
            && !is_up(context, name)
        {
            output.outcome(verb, Some(name), outcome);
            continue;
        }
        match words_of(context, verb, name, targets.config.as_ref()) {
            Ok(pair) => {
                output.text(&format!("{}\n", pair.join("/")));
                let keys = match verb {
                    "role" => ["role", "peer-role"],
                    "cstate" => ["connection-state", ""],
                    _ => ["disk-state", "peer-disk-state"],
                };
                let mut entry = json!({ "resource": name });
                for (key, word) in keys.into_iter().zip(&pair) {
                    entry[key] = json!(word);
                }
                output.json_entry(entry);
            }
            Err(outcome) => output.outcome(verb, Some(name), outcome),
        }
    }
}

fn words_of(
    context: &Context,
    verb: &str,
    name: &str,
    config: Option<&Config>,
) -> Result<Vec<&'static str>, Outcome> {
    let mut client = connect(context)?;
    let status = match ask(context, &mut client, Some(name)) {
        Ok(mut statuses) if statuses.len() == 1 => statuses.remove(0),
        Ok(_) => return Err(Outcome::no_such_resource(name)),
        // What a disk at rest would be is in its metadata.
        Err(outcome) if outcome.code == NO_SUCH_RESOURCE && verb == "dstate" => {
            let Some(config) = config else { return Err(outcome) };
            return offline::disk_state(context, config, name).map(|state| vec![state]);
        }
        Err(outcome) if outcome.code == NO_SUCH_RESOURCE => return Ok(vec!["Unconfigured"]),
        Err(outcome) => return Err(outcome),
    };
    Ok(match verb {
        "role" => vec![status.role.as_str(), status.peer_role.as_str()],
        "cstate" => vec![status.connection.as_str()],
        _ => vec![status.disk.as_str(), status.peer_disk.as_str()],
    })
}

fn reload(context: &Context, output: &mut Output) {
    let outcome = match connect(context) {
        Err(outcome) => outcome,
        Ok(mut client) => match client.perform(None, Command::Reload, context.timeout) {
            Err(error) => unreachable_daemon(context, &error),
            Ok(outcome) => outcome,
        },
    };
    output.outcome("reload", None, outcome);
}

fn shutdown(context: &Context, output: &mut Output) {
    let outcome = match connect(context) {
        Err(outcome) => outcome,
        Ok(mut client) => match client.perform(None, Command::Shutdown, context.timeout) {
            Err(ClientError::Closed) => Outcome::done(),
            Err(error) => unreachable_daemon(context, &error),
            Ok(outcome) if !outcome.is_done() => outcome,
            Ok(outcome) => match client.wait_for_end(context.timeout.unwrap_or(SHUTDOWN_LIMIT)) {
                Ok(()) => outcome,
                Err(error) => unreachable_daemon(context, &error),
            },
        },
    };
    output.outcome("shutdown", None, outcome);
}

/// The status of a resource whose disk the daemon holds.
pub(super) fn attached(context: &Context, name: &str) -> Option<ResourceStatus> {
    let mut client = Client::connect(&context.run_dir).ok()?;
    let statuses = client.status(Some(name)).ok()?.ok()?;
    statuses.into_iter().find(|status| status.disk != DiskState::Diskless)
}
