//! keepalived.conf: what keepalived 2.2.7 reads, as far as this program provides it, and one block of
//! its own, `drbd_resource` (vrrp.md 2, DESIGN.md 6).
//!
//! ```text
//!   text -> lines (statements) -> global, trackers, instance, servers -> checks -> Keepalived
//!                                   |  words: every word, whether it acts
//!                                   +-> diagnostics: what keepalived tolerates is a warning
//! ```

use std::path::Path;
use std::sync::Arc;

pub mod model;
pub mod words;

mod checks;
mod global;
mod instance;
mod lines;
mod reader;
mod servers;
mod trackers;

#[cfg(test)]
mod tests;

pub use model::Keepalived;

use super::diagnostics::{Diagnostic, Diagnostics, Severity};
use super::source::{Sources, Span};
use super::tree::Statement;
use super::{FILES_MAX, INCLUDE_DEPTH_MAX, glob, read_limited};
use lines::Variables;
use model::Global;
use reader::Reader;

/// Where keepalived looks.
pub const DEFAULT_PATH: &str = "/etc/keepalived/keepalived.conf";

/// Reads a file and all that it includes.
pub fn load(path: &Path) -> Result<Keepalived, Diagnostics> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut loader = Loader::default();
    loader.read(&path, None, 0);
    loader.finish()
}

/// Reads a text as if it were in a file of that name.
pub fn parse(path: &Path, text: &str) -> Result<Keepalived, Diagnostics> {
    let mut loader = Loader::default();
    loader.take_text(path, text.to_owned(), 0);
    loader.finish()
}

#[derive(Default)]
struct Loader {
    sources: Sources,
    reader: Reader,
    variables: Variables,
    statements: Vec<Statement>,
}

impl Loader {
    fn read(&mut self, path: &Path, from: Option<Span>, depth: usize) {
        match read_limited(path) {
            Ok(text) => self.take_text(path, text, depth),
            Err(error) => {
                let reason = error.to_string();
                let reason = reason.split(" (os error").next().unwrap_or(&reason);
                let message = format!("Can not open '{}': {reason}", path.display());
                // keepalived goes on without an included file; the main one it needs.
                let (severity, help) = match from {
                    None => (Severity::Error, "name the file with --keepalived FILE"),
                    Some(_) => (Severity::Warning, ""),
                };
                let (label, help) = ("included here".to_owned(), help.to_owned());
                let diagnostic =
                    Diagnostic { severity, message, span: from, label, related: None, help };
                super::keep(&mut self.reader.diagnostics, diagnostic);
            }
        }
    }

    fn take_text(&mut self, path: &Path, text: String, depth: usize) {
        let file = self.sources.add(path, text.clone());
        // `$_PWD` is the folder of the file that is read.
        let folder = path.parent().unwrap_or_else(|| Path::new("/")).display().to_string();
        self.variables.insert("_PWD".to_owned(), folder);
        let statements =
            lines::parse(&text, file, &mut self.variables, &mut self.reader.diagnostics);
        for statement in statements {
            match statement.keyword() {
                "include" | "includer" | "includem" | "includew" | "includeb" | "includea" => {
                    self.include(path, &statement, depth);
                }
                _ => self.statements.push(statement),
            }
        }
    }

    fn include(&mut self, path: &Path, statement: &Statement, depth: usize) {
        let Some(pattern) = self.reader.word(statement) else { return };
        if depth == INCLUDE_DEPTH_MAX {
            let message = format!("'include' nested deeper than {INCLUDE_DEPTH_MAX}");
            return self.reader.error(pattern.span, message, "does a file include itself?");
        }
        let base = path.parent().unwrap_or_else(|| Path::new("/"));
        let paths = match glob::is_pattern(&pattern.text) {
            false => Ok(vec![base.join(&pattern.text)]),
            true => glob::expand(base, &pattern.text),
        };
        match paths {
            Ok(paths) => {
                for path in paths {
                    if self.sources.len() < FILES_MAX {
                        self.read(&path, Some(pattern.span), depth + 1);
                    } else {
                        let message = format!("more than {FILES_MAX} files are included");
                        return self.reader.error(pattern.span, message, "");
                    }
                }
            }
            Err(error) => {
                let message = format!("cannot look for '{}': {error}", pattern.text);
                self.reader.warn(pattern.span, message, "");
            }
        }
    }

    fn finish(self) -> Result<Keepalived, Diagnostics> {
        let Self { sources, mut reader, statements, .. } = self;
        let sources = Arc::new(sources);
        let mut config = Keepalived {
            global: Global::default(),
            scripts: Vec::new(),
            processes: Vec::new(),
            files: Vec::new(),
            groups: Vec::new(),
            instances: Vec::new(),
            servers: Vec::new(),
            warnings: Diagnostics::new(Vec::new(), sources.clone()),
        };
        reader.block("the file", words::TOP, &statements, |reader, statement| {
            match statement.keyword() {
                "global_defs" => global::read(reader, statement, &mut config.global),
                "vrrp_script" => config.scripts.extend(trackers::script(reader, statement)),
                "vrrp_track_process" => {
                    config.processes.extend(trackers::process(reader, statement));
                }
                "vrrp_track_file" | "track_file" => {
                    config.files.extend(trackers::file(reader, statement));
                }
                "vrrp_sync_group" => config.groups.extend(instance::group(reader, statement)),
                "vrrp_instance" => config.instances.extend(instance::instance(reader, statement)),
                _ => config.servers.extend(servers::server(reader, statement)),
            }
        });
        checks::check(&mut reader, &mut config);
        let is_error = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
        if reader.diagnostics.iter().any(is_error) {
            reader.diagnostics.retain(is_error);
            return Err(Diagnostics::new(reader.diagnostics, sources));
        }
        config.warnings = Diagnostics::new(reader.diagnostics, sources);
        Ok(config)
    }
}
