//! `twinblk check`: every error and warning of drbd.conf and keepalived.conf, and of the two
//! together, before a daemon reads them.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Context;
use super::output::write_out;
use crate::config::keepalived::{self, Keepalived, cross_check};
use crate::config::{self, Config, Diagnostics, Severity};
use crate::control::outcome::exit;

/// Comments may stand before the first word.
const KIND_BYTES: u64 = 64 << 10;

/// What was looked at, and what was found.
#[derive(Default)]
struct Findings {
    files: Vec<PathBuf>,
    lists: Vec<Diagnostics>,
}

#[derive(Serialize)]
struct Document {
    files: Vec<PathBuf>,
    errors: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    severity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    message: String,
    label: String,
    help: String,
}

/// Without `files`: those that the daemon would read.
pub(super) fn run(context: &Context, keepalived: &Option<PathBuf>, files: &[PathBuf]) -> u8 {
    let mut findings = Findings::default();
    let mut drbd = Vec::new();
    let mut elections = Vec::new();
    if files.is_empty() {
        drbd.extend(findings.drbd(&context.config));
        let default = Path::new(keepalived::DEFAULT_PATH);
        if keepalived.is_some() || default.exists() {
            let path = keepalived.as_deref().unwrap_or(default);
            elections.extend(findings.keepalived(path, &context.node));
        }
    }
    for path in files {
        if is_keepalived(path) {
            elections.extend(findings.keepalived(path, &context.node));
        } else {
            drbd.extend(findings.drbd(path));
        }
    }
    for election in &elections {
        for config in &drbd {
            findings.lists.push(cross_check(election, config, &context.node));
        }
    }
    findings.print(context.json)
}

impl Findings {
    fn drbd(&mut self, path: &Path) -> Option<Config> {
        self.files.push(path.to_owned());
        let config = config::load(path).map_err(|mistakes| self.lists.push(mistakes)).ok()?;
        self.lists.push(config.warnings.clone());
        Some(config)
    }

    fn keepalived(&mut self, path: &Path, node: &str) -> Option<Keepalived> {
        self.files.push(path.to_owned());
        let loaded = keepalived::load(path, node);
        let config = loaded.map_err(|mistakes| self.lists.push(mistakes)).ok()?;
        self.lists.push(config.warnings.clone());
        Some(config)
    }

    fn count(&self, severity: Severity) -> usize {
        let all = self.lists.iter().flat_map(|list| &list.list);
        all.filter(|one| one.severity == severity).count()
    }

    fn print(self, json: bool) -> u8 {
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        if json {
            let findings = self.lists.iter().flat_map(|list| {
                list.list.iter().map(|one| {
                    let (file, line) = list.place(one).unzip();
                    let severity = match one.severity {
                        Severity::Error => "error",
                        Severity::Warning => "warning",
                        Severity::Note => "note",
                    };
                    let (message, label) = (one.message.clone(), one.label.clone());
                    Finding { severity, file, line, message, label, help: one.help.clone() }
                })
            });
            let findings = findings.collect();
            let document = Document { files: self.files, errors, warnings, findings };
            write_out(&(serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"));
        } else {
            for list in &self.lists {
                eprint!("{}", list.render(io::stderr().is_terminal()));
            }
            let files: Vec<String> =
                self.files.iter().map(|path| path.display().to_string()).collect();
            let plural = |count: usize, what: &str| match count {
                1 => format!("1 {what}"),
                count => format!("{count} {what}s"),
            };
            let (errors, warnings) = (plural(errors, "error"), plural(warnings, "warning"));
            write_out(&format!("{}: {errors}, {warnings}\n", files.join(", ")));
        }
        if errors == 0 { exit::OK } else { exit::FAILURE }
    }
}

/// By the first word of the file: the two have none in common but `include`.
fn is_keepalived(path: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(KIND_BYTES).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '!']));
    let first = lines.find(|line| !line.starts_with("include")).filter(|_| read.is_ok());
    let Some(line) = first else { return path.to_string_lossy().contains("keepalived") };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let word = &line[..line.find(|c| !is_name(c)).unwrap_or(line.len())];
    !matches!(word, "global" | "common" | "resource" | "skip")
}
