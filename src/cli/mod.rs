//! The command line: verbs as DRBD administrators know them (behaviour.md 7), with the reason and
//! the next command under each refusal.
//!
//! ```text
//!   arguments -> live      what the daemon does       --> control socket
//!             -> offline   metadata of a disk at rest --> meta
//!             -> dump      the configuration          --> config
//!             -> check     what is wrong with it      --> config
//!   drbdadm, drbd-overview as the program's name --> the same, in DRBD's words
//!   keepalived as the program's name --> the daemon, by keepalived's options
//!                 \-> output: text, JSON, exit code
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

mod arguments;
mod check;
mod demo;
mod devalue;
mod drbdadm;
mod gi;
mod guards;
mod json;
mod keepalived;
mod live;
mod nbd_client;
mod offline;
mod output;
mod progress;
mod resolve;
mod show;
mod tentative;
mod witness;

use arguments::{Arguments, Verb};
use output::Output;

use crate::config::{self, Config};
use crate::control::Outcome;
use crate::control::outcome::exit;
use crate::daemon::{self, DaemonOptions};

/// What stands before the verb.
#[derive(Clone, Debug)]
struct Context {
    config: PathBuf,
    /// By name, not by being the default.
    is_config_given: bool,
    run_dir: PathBuf,
    node: String,
    json: bool,
    timeout: Option<Duration>,
    /// The options before the verb as they were given, to be repeated in hints.
    given: String,
}

impl Context {
    /// A command of this program that means the same configuration, run directory and node.
    fn command(&self, rest: &str) -> String {
        format!("twinblk {}{rest}", self.given)
    }
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if let Some(face) = std::env::args_os().next().as_deref().and_then(drbdadm::face) {
        words.next();
        return ExitCode::from(drbdadm::main(face, words));
    }
    if std::env::args_os().next().as_deref().is_some_and(keepalived::is_called) {
        words.next();
        return ExitCode::from(keepalived::main(words));
    }
    let arguments = match arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(code) => return ExitCode::from(code),
    };
    ExitCode::from(run(arguments))
}

fn run(arguments: Arguments) -> u8 {
    let context = arguments.context();
    match &arguments.verb {
        Verb::Daemon { keepalived } => return run_daemon(&context, keepalived.clone()),
        Verb::AddressGuard => return guards::addresses(),
        Verb::ServiceGuard => return guards::services(&daemon_options(&context, None)),
        Verb::Demo { keep } => return demo::run(*keep, context.json),
        Verb::Check { keepalived, files } => return check::run(&context, keepalived, files),
        Verb::NbdConnect(options) => return nbd_client::connect(&context, options),
        Verb::NbdDisconnect { device, force } => return nbd_client::disconnect(*device, *force),
        Verb::Witness { listen, state, create, allow, show } => {
            return match show {
                true => witness::show(state, context.json),
                false => witness::run(*listen, state, *create, allow.clone()),
            };
        }
        _ => {}
    }
    let mut output = Output::new(context.json);
    carry_out(&arguments, &mut output);
    output.finish()
}

fn carry_out(arguments: &Arguments, output: &mut Output) {
    let context = arguments.context();
    let verb = &arguments.verb;
    match verb {
        Verb::Dump { verbose, resources } => dump(&context, *verbose, resources, output),
        Verb::CreateMd { .. }
        | Verb::DumpMd { .. }
        | Verb::ApplyAl { .. }
        | Verb::WipeMd { .. }
        | Verb::ShowGi { .. }
        | Verb::GetGi { .. } => offline::run(&context, verb, output),
        Verb::Connect { tentative: true, on, .. } => {
            tentative::run(&context, &on.resources, output);
        }
        Verb::Resolve { resource, keep, discard_local, yes } => {
            let (discard_local, yes) = (*discard_local, *yes);
            let choice = resolve::Choice { keep: keep.clone(), discard_local, yes };
            resolve::run(&context, resource, &choice, output);
        }
        Verb::Invalidate { .. } | Verb::InvalidateRemote { .. } | Verb::Outdate(_) => {
            devalue::run(&context, verb, output);
        }
        _ => live::run(&context, verb, output),
    }
}

fn run_daemon(context: &Context, keepalived: Option<PathBuf>) -> u8 {
    // A daemon with a configuration that does not load could do nothing: better said now.
    let is_needed = context.is_config_given || keepalived.is_none() || context.config.exists();
    match config::load(&context.config) {
        Ok(config) => {
            output::print_warnings(&config);
            output::print_notes(&config);
        }
        // Addresses alone need no resource.
        Err(_) if !is_needed => {}
        Err(mistakes) => {
            output::print_mistakes(&mistakes);
            return exit::FAILURE;
        }
    }
    if let Some(path) = &keepalived {
        match config::keepalived::load(path, &context.node) {
            Ok(config) => output::print_found(&config.warnings),
            Err(mistakes) => {
                output::print_mistakes(&mistakes);
                return exit::FAILURE;
            }
        }
    }
    match daemon::run(daemon_options(context, keepalived)) {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("twinblk daemon: {error}");
            match error {
                daemon::DaemonError::Failover(_) => exit::FAILURE,
                _ => exit::OTHER,
            }
        }
    }
}

fn daemon_options(context: &Context, keepalived: Option<PathBuf>) -> DaemonOptions {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    DaemonOptions {
        config: absolute(&context.config),
        keepalived: keepalived.as_ref().map(absolute),
        run_dir: absolute(&context.run_dir),
        node: context.node.clone(),
    }
}

/// The configuration, or the outcome that says why there is none.
fn load_config(context: &Context) -> Result<Config, Outcome> {
    config::load(&context.config).map_err(|mistakes| {
        output::print_mistakes(&mistakes);
        Outcome::failed(exit::FAILURE, mistakes.to_string())
    })
}

fn not_defined(name: &str, context: &Context) -> Outcome {
    Outcome::failed(exit::USAGE, format!("'{name}' not defined in your config (for this host)."))
        .with_detail(format!("{} has no such resource", context.config.display()))
        .with_hint(context.command("dump"))
}

fn dump(context: &Context, verbose: bool, names: &[String], output: &mut Output) {
    let config = match load_config(context) {
        Ok(config) => config,
        Err(outcome) => return output.printed("dump", None, outcome),
    };
    if !context.json {
        output::print_warnings(&config);
        if verbose {
            output::print_notes(&config);
        }
    }
    if names.is_empty() || names.iter().any(|name| name == "all") {
        match context.json {
            true => output.json(json::config(&config, &config.resources)),
            false => output.text(&config.dump(&context.node)),
        }
        return;
    }
    let mut found = Vec::new();
    for name in names {
        match config.resource(name) {
            Some(resource) if resource.is_for(&context.node) => found.push(resource.clone()),
            Some(resource) => {
                let error = match resource.for_node(&context.node) {
                    Err(error) => (error.to_string(), error.hint()),
                    Ok(_) => unreachable!("a view needs a host section of this node"),
                };
                let outcome = Outcome::failed(exit::USAGE, error.0).with_hint(error.1);
                output.outcome("dump", Some(name), outcome);
            }
            None => output.outcome("dump", Some(name), not_defined(name, context)),
        }
    }
    if context.json && !found.is_empty() {
        output.json(json::config(&config, &found));
    } else {
        for resource in &found {
            output.text(&resource.dump(&context.node));
        }
    }
}
