//! Where everything goes: answers to standard output, what went wrong to standard error, and with
//! `--json` all of it as one document on standard output.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::Value;

use super::drbdadm::Texts;
use crate::config::{Config, Diagnostics};
use crate::control::Outcome;
use crate::control::outcome::exit;

/// How one verb ended on one resource.
#[derive(Debug, Serialize)]
struct Report {
    verb: &'static str,
    resource: Option<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Collects the ends of all verbs and the exit code: that of the first failure.
#[derive(Debug)]
pub(super) struct Output {
    json: bool,
    exit_code: u8,
    reports: Vec<Report>,
    /// What takes the place of the reports when everything went well.
    document: Option<Value>,
    /// What was printed already, key by key: then there is no document.
    printed: bool,
    /// The words of drbdadm, under whose name the program was started.
    texts: Option<Texts>,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            exit_code: exit::OK,
            reports: Vec::new(),
            document: None,
            printed: false,
            texts: None,
        }
    }

    pub(super) fn with_texts(mut self, texts: Texts) -> Self {
        self.texts = Some(texts);
        self
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// The end of a verb; what went wrong is printed.
    pub(super) fn outcome(&mut self, verb: &'static str, resource: Option<&str>, outcome: Outcome) {
        let outcome = match &self.texts {
            Some(texts) => texts.reworded(resource, outcome),
            None => outcome,
        };
        if !self.json && !outcome.is_done() {
            eprint!("{}", outcome_text(&outcome));
        }
        self.printed(verb, resource, outcome);
    }

    /// The end of a verb that printed for itself what there is to say.
    pub(super) fn printed(&mut self, verb: &'static str, resource: Option<&str>, outcome: Outcome) {
        if self.exit_code == exit::OK {
            self.exit_code = outcome.exit_code;
        }
        self.reports.push(Report { verb, resource: resource.map(str::to_owned), outcome });
    }

    /// Text of an answer; nothing of it with `--json`.
    pub(super) fn text(&self, text: &str) {
        if !self.json {
            write_out(text);
        }
    }

    /// The answer with `--json`.
    pub(super) fn json(&mut self, document: Value) {
        self.document = Some(document);
    }

    /// An answer that has its own order of keys.
    pub(super) fn raw_json(&mut self, text: &str) {
        self.printed = true;
        write_out(text);
    }

    /// The end of an answer that was a stream of documents.
    pub(super) fn streamed(&mut self, verb: &'static str, outcome: Outcome) {
        self.printed = outcome.is_done();
        self.outcome(verb, None, outcome);
    }

    /// An answer of which there is one per resource.
    pub(super) fn json_entry(&mut self, entry: Value) {
        match &mut self.document {
            Some(Value::Array(entries)) => entries.push(entry),
            _ => self.document = Some(Value::Array(vec![entry])),
        }
    }

    /// Prints the document, if any, and gives the exit code.
    pub(super) fn finish(self) -> u8 {
        if self.json && !self.printed {
            let document = match self.document {
                Some(document) if self.exit_code == exit::OK => document,
                // What did work is of no use to a program that has to look at what did not.
                _ => serde_json::to_value(&self.reports).unwrap_or_default(),
            };
            write_out(&format!("{document:#}\n"));
        }
        self.exit_code
    }
}

/// Message, detail and hint, each on a line of its own.
pub(super) fn outcome_text(outcome: &Outcome) -> String {
    let mut text = format!("{}\n", outcome.message);
    for (label, line) in [("detail", &outcome.detail), ("hint", &outcome.hint)] {
        if !line.is_empty() {
            text += &format!("  {label}: {line}\n");
        }
    }
    text
}

/// To standard output; false when nobody reads it any more, which is no error of ours.
pub(super) fn write_out(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

pub(super) fn print_mistakes(mistakes: &Diagnostics) {
    eprint!("{}", mistakes.render(io::stderr().is_terminal()));
}

/// One line each: they come with every start.
pub(super) fn print_warnings(config: &Config) {
    print_found(&config.warnings);
}

pub(super) fn print_found(found: &Diagnostics) {
    for line in found.to_string().lines() {
        eprintln!("warning: {line}");
    }
}

/// What was accepted without effect: said where a log is begun, and when asked for.
pub(super) fn print_notes(config: &Config) {
    for line in config.notes.to_string().lines() {
        eprintln!("note: {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_three_lines() {
        let outcome = Outcome::refused(
            "r0",
            -2,
            "Need access to UpToDate data",
            "the local disk is Inconsistent and the peer is not connected",
            "twinblk connect r0",
        );
        assert_eq!(
            outcome_text(&outcome),
            "r0: State change failed: (-2) Need access to UpToDate data\n  \
             detail: the local disk is Inconsistent and the peer is not connected\n  \
             hint: twinblk connect r0\n"
        );
    }

    #[test]
    fn the_first_failure_gives_the_exit_code() {
        let mut output = Output::new(true);
        output.outcome("up", Some("r0"), Outcome::done());
        output.outcome("up", Some("r1"), Outcome::failed(17, "one"));
        output.outcome("up", Some("r2"), Outcome::failed(20, "two"));
        assert_eq!(output.exit_code, 17);
        let document = serde_json::to_string(&output.reports[1]).expect("json");
        assert_eq!(
            document,
            r#"{"verb":"up","resource":"r1","exit-code":17,"code":0,"message":"one","detail":"","hint":""}"#
        );
    }
}
