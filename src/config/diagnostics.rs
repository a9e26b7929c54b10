//! What is wrong with a configuration, and where: one message per mistake, each with the place, the
//! word and, where there is one, the correction.

use std::fmt;
use std::sync::Arc;

use ariadne::{CharSet, Color, Config, IndexType, Label, Report, ReportKind};

use super::source::{Sources, Span};

/// More mistakes than this are not worth printing; the rest is counted.
const SHOWN_MAX: usize = 25;
/// A hostile file makes one mistake per byte; of each severity this many are kept.
pub(super) const KEPT_MAX: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file does not load.
    Error,
    /// It loads, and something is not as the author may think.
    Warning,
    /// It loads, and a word of it means nothing to this program and need not.
    Note,
}

#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    /// A sentence that says what is wrong.
    pub message: String,
    /// Absent when it is about a file that could not be read.
    pub span: Option<Span>,
    /// What stands under the caret.
    pub label: String,
    /// A second place, such as the first of two definitions.
    pub related: Option<(Span, String)>,
    /// What to do about it.
    pub help: String,
}

impl Diagnostic {
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span: Some(span),
            label: String::new(),
            related: None,
            help: String::new(),
        }
    }

    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    pub fn note(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::error(span, message) }
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related = Some((span, label.into()));
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

/// Adds to a list of mistakes. Each severity is counted apart: however many warnings there are, the
/// first error is kept, since it decides whether the file loads.
pub(super) fn keep(list: &mut Vec<Diagnostic>, diagnostic: Diagnostic) {
    let same = |known: &&Diagnostic| known.severity == diagnostic.severity;
    if list.len() < 3 * KEPT_MAX && list.iter().filter(same).count() < KEPT_MAX {
        list.push(diagnostic);
    }
}

/// The mistakes of one load, together with the text they are in.
#[derive(Clone)]
pub struct Diagnostics {
    pub list: Vec<Diagnostic>,
    sources: Arc<Sources>,
}

impl Diagnostics {
    pub(super) fn new(list: Vec<Diagnostic>, sources: Arc<Sources>) -> Self {
        Self { list, sources }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The file and line of a mistake, where it has one.
    pub fn place(&self, diagnostic: &Diagnostic) -> Option<(String, usize)> {
        let span = diagnostic.span?;
        Some((self.name(span.file), self.sources.line(span)))
    }

    /// For people: file, line, the line itself and a caret under the word.
    pub fn render(&self, colour: bool) -> String {
        let mut out = String::new();
        for diagnostic in self.list.iter().take(SHOWN_MAX) {
            self.render_one(diagnostic, colour, &mut out);
        }
        if self.list.len() > SHOWN_MAX {
            out += &format!("... and {} more\n", self.list.len() - SHOWN_MAX);
        }
        out
    }

    fn render_one(&self, diagnostic: &Diagnostic, colour: bool, out: &mut String) {
        let (kind, kind_colour) = match diagnostic.severity {
            Severity::Error => (ReportKind::Error, Color::Red),
            Severity::Warning => (ReportKind::Warning, Color::Yellow),
            Severity::Note => (ReportKind::Advice, Color::Blue),
        };
        let Some(span) = diagnostic.span else {
            *out += &format!("{kind}: {}\n", diagnostic.message);
            if !diagnostic.help.is_empty() {
                *out += &format!("  {}\n", diagnostic.help);
            }
            return;
        };
        let mut report = Report::build(kind, self.located(span))
            .with_message(&diagnostic.message)
            .with_config(
                Config::default()
                    .with_color(colour)
                    .with_char_set(CharSet::Ascii)
                    .with_index_type(IndexType::Byte),
            )
            .with_label(
                Label::new(self.located(span))
                    .with_message(if diagnostic.label.is_empty() {
                        "here"
                    } else {
                        &diagnostic.label
                    })
                    .with_color(kind_colour),
            );
        if let Some((span, text)) = &diagnostic.related {
            report.add_label(
                Label::new(self.located(*span)).with_message(text).with_color(Color::Cyan),
            );
        }
        if !diagnostic.help.is_empty() {
            report.set_help(&diagnostic.help);
        }
        let mut bytes = Vec::new();
        let mut files = vec![span.file];
        files.extend(diagnostic.related.as_ref().map(|(span, _)| span.file));
        let cache = ariadne::sources(
            files.into_iter().map(|file| (self.name(file), printable(self.sources.text(file)))),
        );
        match report.finish().write(cache, &mut bytes) {
            Ok(()) => *out += &String::from_utf8_lossy(&bytes),
            Err(_) => *out += &format!("{kind}: {}\n", self.line(diagnostic)),
        }
    }

    fn name(&self, file: usize) -> String {
        self.sources.path(file).display().to_string()
    }

    /// Never empty: a caret needs something to stand under. Between characters, since the drawing
    /// slices the text there.
    fn located(&self, span: Span) -> (String, std::ops::Range<usize>) {
        let text = self.sources.text(span.file);
        let start = text.floor_char_boundary(span.start.min(text.len().saturating_sub(1)));
        let end = text.ceil_char_boundary(span.end.clamp(start, text.len()).max(start + 1));
        (self.name(span.file), start..end)
    }

    fn line(&self, diagnostic: &Diagnostic) -> String {
        match diagnostic.span {
            Some(span) => format!("{}: {}", self.sources.place(span), diagnostic.message),
            None => diagnostic.message.clone(),
        }
    }
}

/// A file must not get to write to the terminal more than its letters. As long as the original, so
/// that places stay where they are.
fn printable(text: &str) -> String {
    let plain = |character: char| match character {
        '\n' | '\t' => character,
        '\r' => ' ',
        control if control.is_ascii_control() => '?',
        other => other,
    };
    text.chars().map(plain).collect()
}

/// One line per mistake, for logs.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.list.iter().take(SHOWN_MAX).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}", self.line(diagnostic))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_mistake_is_shown_with_file_line_caret_and_correction() {
        let mut sources = Sources::default();
        let text = "resource r0 {\n    net { timeot 60; }\n}\n";
        let file = sources.add(Path::new("/etc/drbd.conf"), text.to_owned());
        let start = text.find("timeot").expect("in the text");
        let span = Span { file, start, end: start + 6 };
        let diagnostic = Diagnostic::error(span, "unknown option 'timeot' in section 'net'")
            .label("did you mean 'timeout'?");
        let shown = Diagnostics::new(vec![diagnostic], Arc::new(sources));
        assert_eq!(shown.to_string(), "/etc/drbd.conf:2: unknown option 'timeot' in section 'net'");
        let rendered = shown.render(false);
        assert!(rendered.contains("Error: unknown option 'timeot' in section 'net'"), "{rendered}");
        assert!(rendered.contains("/etc/drbd.conf:2:11"), "{rendered}");
        assert!(rendered.contains("^^^"), "{rendered}");
        assert!(rendered.contains("did you mean 'timeout'?"), "{rendered}");
        assert!(!rendered.contains('\x1b'), "no colour: {rendered:?}");
        assert!(shown.render(true).contains('\x1b'));
    }

    #[test]
    fn places_at_and_after_the_end_are_shown_too() {
        for text in ["", "\n", "x", "é", "\x1b[31m"] {
            let mut sources = Sources::default();
            let file = sources.add(Path::new("x"), text.to_owned());
            let span = Span { file, start: text.len(), end: text.len() + 5 };
            let list = vec![Diagnostic::error(span, "ends too early")];
            let rendered = Diagnostics::new(list, Arc::new(sources)).render(false);
            assert!(rendered.contains("ends too early"), "{rendered}");
            assert!(!rendered.contains('\x1b'), "{rendered:?}");
        }
    }
}
