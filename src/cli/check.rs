//! `check`: what is wrong in both languages, or has no effect, and where they do not fit together.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::Context;
use super::output::Output;
use crate::config::keepalived::{self, Keepalived};
use crate::config::{self, Config, Diagnostics, Severity, view};
use crate::control::Outcome;
use crate::control::outcome::exit;
use crate::failover::plan::{Places, ResourceFacts, plan};

pub(super) fn run(context: &Context, keepalived: Option<&Path>, output: &mut Output) {
    let drbd = config::load(&context.config);
    match &drbd {
        Ok(config) => {
            for found in [&config.warnings, &config.notes] {
                show(found, output);
            }
            let name = context.config.display().to_string();
            output.text(&format!("{name}: {} resource(s)\n", config.resources.len()));
        }
        Err(mistakes) => fail(mistakes, output),
    }
    let default = Path::new(keepalived::DEFAULT_PATH);
    let path = keepalived.or_else(|| default.exists().then_some(default));
    let Some(path) = path else {
        return output.text(&format!("{}: not there\n", default.display()));
    };
    match keepalived::load(path) {
        Ok(config) => {
            show(&config.warnings, output);
            let (instances, scripts) = (config.instances.len(), config.scripts.len());
            let name = path.display();
            output.text(&format!("{name}: {instances} instance(s), {scripts} script(s)\n"));
            if let Ok(drbd) = &drbd {
                together(context, drbd, &config, output);
            }
        }
        Err(mistakes) => fail(&mistakes, output),
    }
}

/// What only both files show.
fn together(context: &Context, drbd: &Config, config: &Keepalived, output: &mut Output) {
    let places = Places { run_dir: PathBuf::new(), address_guard: None };
    let facts = |name: &str| {
        let resource = drbd
            .resource(name)
            .ok_or_else(|| format!("{} has no such resource", context.config.display()))?;
        let node = resource.for_node(&context.node).map_err(|error| error.to_string())?;
        let is_exclusive = node.options.takeover != view::Takeover::Both;
        if !is_exclusive {
            eprintln!(
                "warning: {name}: takeover both: nodes that lose each other both go on, and their \
                 data splits; options {{ takeover witness HOST:PORT; }} avoids it"
            );
        }
        Ok(ResourceFacts { is_attached: true, is_exclusive, wait_for_peer: None })
    };
    if let Err(error) = plan(config, &places, facts) {
        let outcome = Outcome::failed(exit::FAILURE, error.to_string());
        output.outcome("check", None, outcome);
    }
}

fn show(found: &Diagnostics, output: &mut Output) {
    if output.is_json() {
        for diagnostic in &found.list {
            let severity = match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "note",
            };
            let place = found.place(diagnostic);
            let (message, help) = (&diagnostic.message, &diagnostic.help);
            let entry = json!({
                "severity": severity, "place": place, "message": message, "help": help,
            });
            output.json_entry(entry);
        }
    } else {
        eprint!("{}", found.render(std::io::stderr().is_terminal()));
    }
}

fn fail(mistakes: &Diagnostics, output: &mut Output) {
    show(mistakes, output);
    let outcome = Outcome::failed(exit::FAILURE, mistakes.to_string());
    output.printed("check", None, outcome);
}
