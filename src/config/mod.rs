//! drbd.conf: the grammar of DRBD 8.3 and 8.4 and a few words of this program (behaviour.md 7.8).
//!
//! ```text
//!   text -> lexer -> tree -> sections -> checks -> Config -> for_node -> NodeView
//!                              |  value, table (options)         \-> dump
//!                              +-> diagnostics: place, word, correction
//! ```
//!
//! All mistakes of all files are found in one run. Whatever the bytes are, the answer is a
//! configuration or a list of mistakes.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub mod diagnostics;
pub mod keepalived;
pub mod options;
pub mod view;

mod checks;
mod dump;
mod glob;
mod lexer;
mod model;
mod sections;
mod source;
mod suggest;
mod table;
mod tree;
mod value;

#[cfg(test)]
mod tests;

pub use diagnostics::{Diagnostic, Diagnostics, Severity};
pub use model::{
    Address, AddressFamily, Config, Device, DiskPath, Host, HostKind, MetaDisk, Placed, Resource,
    Volume, Volumes,
};
pub use options::Network;
pub use source::{Sources, Span};
pub use view::{
    Backend, ConfigError, Congestion, DiskOptions, Endpoint, Fencing, MetaDiskPlace, NbdListen,
    NetOptions, NodeView, OnIoError, OnNoData, ResourceOptions, RoleConflict, StartupOptions,
};

use diagnostics::keep;
use sections::Builder;
use tree::Statement;

/// Where the main file is looked for, in this order (behaviour.md 7.1).
pub const SEARCH: [&str; 4] =
    ["/etc/drbd-84.conf", "/etc/drbd-83.conf", "/etc/drbd-08.conf", "/etc/drbd.conf"];
/// `include` within `include` (behaviour.md 7.8).
const INCLUDE_DEPTH_MAX: usize = 10;
/// A site with a file per resource has hundreds.
const FILES_MAX: usize = 4096;
/// The largest known drbd.conf are some 100 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The first file of [`SEARCH`] that is there; the last if none is, so that the message names it.
pub fn default_path() -> PathBuf {
    let found = SEARCH.iter().map(Path::new).find(|path| path.exists());
    found.unwrap_or_else(|| Path::new(SEARCH[SEARCH.len() - 1])).to_owned()
}

/// Reads a file and all that it includes.
pub fn load(path: &Path) -> Result<Config, Diagnostics> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut loader = Loader::default();
    loader.read(&path, None, 0);
    loader.finish()
}

/// Reads a text as if it were in a file of that name.
pub fn parse(path: &Path, text: &str) -> Result<Config, Diagnostics> {
    let mut loader = Loader::default();
    loader.take_text(path, text.to_owned(), 0);
    loader.finish()
}

#[derive(Default)]
struct Loader {
    sources: Sources,
    diagnostics: Vec<Diagnostic>,
    statements: Vec<Statement>,
}

impl Loader {
    fn read(&mut self, path: &Path, from: Option<Span>, depth: usize) {
        match read_limited(path) {
            Ok(text) => self.take_text(path, text, depth),
            Err(error) => {
                let reason = error.to_string();
                // "No such file or directory (os error 2)": the number helps nobody.
                let reason = reason.split(" (os error").next().unwrap_or(&reason);
                let message = format!("Can not open '{}': {reason}", path.display());
                let help = match from {
                    None => "name the file with -c FILE".to_owned(),
                    Some(_) => String::new(),
                };
                let severity = Severity::Error;
                let label = "included here".to_owned();
                let diagnostic =
                    Diagnostic { severity, message, span: from, label, related: None, help };
                keep(&mut self.diagnostics, diagnostic);
            }
        }
    }

    fn take_text(&mut self, path: &Path, text: String, depth: usize) {
        let file = self.sources.add(path, text.clone());
        for statement in tree::parse(&text, file, &mut self.diagnostics) {
            if statement.keyword() == "include" {
                self.include(&statement, depth);
            } else {
                self.statements.push(statement);
            }
        }
    }

    /// Included statements stand where the `include` stands.
    fn include(&mut self, statement: &Statement, depth: usize) {
        let span = statement.keyword_span();
        let [_, pattern] = &statement.words[..] else {
            let message = "'include' takes one file name or pattern";
            keep(
                &mut self.diagnostics,
                Diagnostic::error(span, message).label("expected: include \"FILE\";"),
            );
            return;
        };
        if depth == INCLUDE_DEPTH_MAX {
            let message = format!("'include' nested deeper than {INCLUDE_DEPTH_MAX}");
            let help = "does a file include itself?";
            keep(&mut self.diagnostics, Diagnostic::error(pattern.span, message).help(help));
            return;
        }
        let base =
            self.sources.path(span.file).parent().unwrap_or_else(|| Path::new("/")).to_owned();
        if !glob::is_pattern(&pattern.text) {
            return self.read_included(&base.join(&pattern.text), pattern.span, depth);
        }
        match glob::expand(&base, &pattern.text) {
            Ok(paths) => {
                for path in paths {
                    self.read_included(&path, pattern.span, depth);
                }
            }
            Err(error) => {
                let message = format!("cannot look for '{}': {error}", pattern.text);
                keep(&mut self.diagnostics, Diagnostic::error(pattern.span, message));
            }
        }
    }

    fn read_included(&mut self, path: &Path, from: Span, depth: usize) {
        match self.sources.len() {
            0..FILES_MAX => self.read(path, Some(from), depth + 1),
            // Said once, not for each file of a pattern.
            FILES_MAX if !self.diagnostics.iter().any(|known| known.span == Some(from)) => {
                let message = format!("more than {FILES_MAX} files are included");
                keep(&mut self.diagnostics, Diagnostic::error(from, message));
            }
            _ => {}
        }
    }

    fn finish(self) -> Result<Config, Diagnostics> {
        let sources = Arc::new(self.sources);
        let mut builder = Builder::new(&sources, self.diagnostics);
        for statement in &self.statements {
            builder.file_statement(statement);
        }
        let Builder {
            mut diagnostics, global, common, mut resources, global_at, common_at, ..
        } = builder;
        let common = Arc::new(common);
        let is_error = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
        if !diagnostics.iter().any(is_error) {
            // What is missing is known only once everything that is there was understood.
            checks::check(&common, &resources, &mut diagnostics);
        }
        if diagnostics.iter().any(is_error) {
            diagnostics.retain(is_error);
            return Err(Diagnostics::new(diagnostics, sources));
        }
        for resource in &mut resources {
            resource.common = common.clone();
        }
        let is_note = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Note;
        let (notes, diagnostics) = diagnostics.into_iter().partition(is_note);
        let notes = Diagnostics::new(notes, sources.clone());
        let warnings = Diagnostics::new(diagnostics, sources.clone());
        let (has_global, has_common) = (global_at.is_some(), common_at.is_some());
        Ok(Config { global, common, resources, warnings, notes, sources, has_global, has_common })
    }
}

fn read_limited(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::other("it is a directory"));
    }
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    // Comments may be in any encoding; elsewhere the lexer refuses the replacement character.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
