//! The face of DRBD's own tools: started under the name `drbdadm` or `drbd-overview` (a link to the
//! program), it takes their command lines and answers with their texts and exit codes
//! (behaviour.md 7.1, 7.2), so that scripts, resource agents and runbooks go on working.
//!
//! ```text
//!   line -> verbs -> arguments of this program -> live, offline, devalue
//!                \-> scripts (status, sh-*, drbd-overview)
//!   texts: usage, "Command '...' terminated with exit code N"
//! ```

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory;

mod line;
mod scripts;
mod texts;
pub(super) mod verbs;

pub(super) use texts::Texts;

use super::arguments::{self, Arguments};
use super::output::Output;
use super::{Context, carry_out};
use crate::config;
use crate::control::outcome::exit;
use crate::control::{Client, Outcome, ResourceStatus};
use line::{Line, Misuse};
use twinblk_proto::state::{ConnectionState, DiskState};
use verbs::Target;

/// The name under which the program was started, if it is one of DRBD's.
pub(super) fn face(program: &std::ffi::OsStr) -> Option<&'static str> {
    let name = Path::new(program).file_name()?;
    ["drbdadm", "drbd-overview"].into_iter().find(|face| name == *face)
}

/// Runs as that tool; the arguments are those behind the program's name.
pub(super) fn main(face: &str, arguments: impl Iterator<Item = OsString>) -> u8 {
    let words: Vec<String> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
    if face == "drbd-overview" {
        return overview(&words);
    }
    let line = match line::parse(&words) {
        Ok(line) => line,
        Err(misuse) => return refuse_line(&misuse),
    };
    if line.version {
        println!("DRBDADM_VERSION={}", env!("CARGO_PKG_VERSION"));
        return exit::OK;
    }
    let Some(spec) = line.verb.filter(|_| !line.help) else {
        print!("{}", texts::usage(line.verb));
        return exit::OK;
    };
    match spec.target {
        Target::Script(script) => {
            let Some(context) = context(&line.general) else { return exit::USAGE };
            scripts::run(&context, script, &line)
        }
        Target::Verb(verb) => run_verb(spec.name, verb, &line),
        Target::Refused(_) => exit::USAGE,
    }
}

fn refuse_line(misuse: &Misuse) -> u8 {
    match misuse {
        Misuse::NoVerb => {
            print!("{}", texts::usage(None));
            eprintln!("\nNo command specified");
        }
        Misuse::NoResources(verb) => {
            print!("{}", texts::usage(verbs::find(verb)));
            eprintln!("\nNo resource names specified");
        }
        Misuse::UnknownVerb(verb) => eprintln!("drbdadm: Unknown command '{verb}'"),
        Misuse::UnknownOption(option) => {
            eprintln!("drbdadm: unrecognized option '{option}'\ntry 'drbdadm help'");
        }
        Misuse::NoValue(option) => {
            eprintln!("drbdadm: option '{option}' requires an argument\ntry 'drbdadm help'");
        }
        Misuse::NotHere { verb, why } => eprintln!("drbdadm: '{verb}' is not there: {why}"),
        Misuse::OtherVolume(name) => {
            eprintln!("'{name}' not defined in your config (for this host).");
        }
    }
    exit::USAGE
}

/// What the general options mean to this program.
fn context(general: &[String]) -> Option<Context> {
    let words = ["twinblk".to_owned()].into_iter().chain(general.iter().cloned());
    let words = words.chain(["dump".to_owned()]).map(OsString::from);
    arguments::parse(words).ok().map(|arguments| arguments.context())
}

/// Whether the program has the verb: what others can do is done under this name too.
pub(super) fn is_there(verb: &str) -> bool {
    Arguments::command().find_subcommand(verb).is_some()
}

fn run_verb(name: &'static str, verb: &str, line: &Line) -> u8 {
    if !is_there(verb) {
        eprintln!("drbdadm: '{name}' is not supported by this version");
        return exit::OTHER;
    }
    let Some(context) = context(&line.general) else { return exit::USAGE };
    let texts = Texts::new(name, &context);
    let mut output = Output::new(context.json).with_texts(texts);
    let resources = ready(&context, name, line, &mut output);
    if resources.is_empty() && !line.resources.is_empty() {
        return output.finish();
    }
    let mut words = vec!["twinblk".to_owned()];
    words.extend(line.general.iter().cloned());
    words.push(verb.to_owned());
    words.extend(line.options.iter().cloned());
    words.extend(resources);
    if line.dry_run {
        println!("{}", words.join(" "));
        return exit::OK;
    }
    match arguments::parse(words.into_iter().map(OsString::from)) {
        Ok(arguments) => {
            carry_out(&arguments, &mut output);
            output.finish()
        }
        Err(code) => code,
    }
}

/// The resources to go on with. This program takes `connect` of what is connected for done; drbdadm
/// says that it was not needed, and scripts tell the two apart.
fn ready(context: &Context, verb: &'static str, line: &Line, output: &mut Output) -> Vec<String> {
    if line.dry_run || !["up", "attach", "connect", "disconnect"].contains(&verb) {
        return line.resources.clone();
    }
    let mut names = line.resources.clone();
    if names.iter().any(|name| name == "all")
        && let Ok(config) = config::load(&context.config)
    {
        let mine = config.resources.iter().filter(|resource| resource.is_for(&context.node));
        names = mine.map(|resource| resource.name.clone()).collect();
    }
    names.retain(|name| {
        let refusal = status(context, name).and_then(|status| needless(verb, name, &status));
        match refusal {
            Some(outcome) => {
                output.outcome(verb, Some(name), outcome);
                false
            }
            None => true,
        }
    });
    names
}

fn status(context: &Context, name: &str) -> Option<ResourceStatus> {
    let mut client = Client::connect(&context.run_dir).ok()?;
    client.status(Some(name)).ok()?.ok()?.pop()
}

/// What the original tools refuse because it is so already.
fn needless(verb: &str, name: &str, status: &ResourceStatus) -> Option<Outcome> {
    let alone = status.connection == ConnectionState::StandAlone;
    let has_disk = status.disk != DiskState::Diskless;
    match verb {
        "connect" if !alone => {
            Some(Outcome::refused(name, 102, "Local address(port) already in use.", "", ""))
        }
        "disconnect" if alone => {
            let mut outcome = Outcome::refused("??", 162, "Invalid configuration request", "", "");
            outcome.message += "\nadditional info from kernel:\nunknown connection";
            Some(outcome)
        }
        // Completed where something is missing; only what is up is not brought up again.
        "attach" if has_disk => Some(configured(status)),
        "up" if has_disk && !alone => Some(configured(status)),
        _ => None,
    }
}

fn configured(status: &ResourceStatus) -> Outcome {
    Outcome::failed(exit::OTHER, format!("Device '{}' is configured!", status.minor))
}

/// `drbd-overview [-c FILE]`
fn overview(words: &[String]) -> u8 {
    let words: Vec<String> = words.iter().cloned().chain(["status".to_owned()]).collect();
    match line::parse(&words).map(|line| context(&line.general)) {
        Ok(Some(context)) => scripts::overview(&context),
        Ok(None) => exit::USAGE,
        Err(misuse) => refuse_line(&misuse),
    }
}
