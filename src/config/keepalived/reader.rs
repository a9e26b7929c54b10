//! Files to statements: blocks, included files, variables and lines that are for one node only
//! (vrrp.md 2.1).
//!
//! ```text
//!   statement := word+ ( end of line | "{" statement* "}" )
//! ```
//!
//! An included file stands where its `include` stands, in a block too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::diagnostics::{Diagnostic, keep};
use super::super::source::{Sources, Span};
use super::super::tree::{Statement, Word};
use super::super::{glob, read_limited};
use super::lexer::{Lexer, Token, TokenKind};

/// virtual_server > real_server > HTTP_GET > url is the deepest that means anything.
const DEPTH_MAX: usize = 10;
/// `include` within `include`.
const INCLUDE_DEPTH_MAX: usize = 10;
/// A site with a file per address has hundreds.
const FILES_MAX: usize = 1024;
/// Of all files: as many as the largest known site has, a hundredfold.
const ALL_BYTES_MAX: usize = 32 << 20;
/// A variable in the value of a variable.
const EXPANSION_DEPTH_MAX: usize = 8;
const EXPANDED_WORD_BYTES_MAX: usize = 4096;
/// Of all words with variables in them: each may become 4096 bytes out of 4.
const EXPANDED_BYTES_MAX: usize = 16 << 20;

/// `includer`, `includem` and their like only differ in what they call a mistake.
const INCLUDE_WORDS: [&str; 6] =
    ["include", "includer", "includem", "includew", "includeb", "includea"];

#[derive(Debug, Default)]
pub struct Reader {
    pub sources: Sources,
    pub diagnostics: Vec<Diagnostic>,
    /// What `@NAME` at the beginning of a line is compared with.
    config_id: String,
    variables: BTreeMap<String, String>,
    bytes: usize,
    expanded_bytes: usize,
}

impl Reader {
    pub fn new(config_id: &str) -> Self {
        // As keepalived does: the node's name up to its domain.
        let config_id = config_id.split('.').next().unwrap_or_default().to_owned();
        Self { config_id, ..Self::default() }
    }

    pub fn report(&mut self, diagnostic: Diagnostic) {
        keep(&mut self.diagnostics, diagnostic);
    }

    /// The statements of the main file.
    pub fn read_main(&mut self, path: &Path) -> Vec<Statement> {
        match read_limited(path) {
            Ok(text) => self.take_text(path, text, 0, 0),
            Err(error) => {
                let message = format!("cannot open '{}': {}", path.display(), reason(&error));
                let mut diagnostic = Diagnostic::error(Span { file: 0, start: 0, end: 0 }, message);
                diagnostic.span = None;
                self.report(diagnostic);
                Vec::new()
            }
        }
    }

    pub fn take_text(
        &mut self,
        path: &Path,
        text: String,
        block_depth: usize,
        include_depth: usize,
    ) -> Vec<Statement> {
        self.bytes += text.len();
        let file = self.sources.add(path, text.clone());
        if self.bytes > ALL_BYTES_MAX {
            let message = format!("more than {} MiB of configuration", ALL_BYTES_MAX >> 20);
            self.report(Diagnostic::error(Span { file, start: 0, end: 0 }, message));
            return Vec::new();
        }
        let lexer = Lexer::new(&text, file);
        let mut parser = Parser { reader: self, lexer, is_at_end: false, include_depth };
        parser.block(block_depth, None)
    }

    fn include(
        &mut self,
        words: &[Word],
        block_depth: usize,
        include_depth: usize,
    ) -> Vec<Statement> {
        let [keyword, pattern] = words else {
            let message = format!("'{}' takes one file name or pattern", words[0].text);
            self.report(Diagnostic::error(words[0].span, message));
            return Vec::new();
        };
        if include_depth == INCLUDE_DEPTH_MAX {
            let message = format!("'{}' nested deeper than {INCLUDE_DEPTH_MAX}", keyword.text);
            let help = "does a file include itself?";
            self.report(Diagnostic::error(pattern.span, message).help(help));
            return Vec::new();
        }
        let base = folder_of(self.sources.path(keyword.span.file));
        let paths = if glob::is_pattern(&pattern.text) {
            match glob::expand(&base, &pattern.text) {
                Ok(paths) => paths,
                Err(error) => {
                    let message = format!("cannot look for '{}': {}", pattern.text, reason(&error));
                    self.report(Diagnostic::error(pattern.span, message));
                    return Vec::new();
                }
            }
        } else {
            vec![base.join(&pattern.text)]
        };
        if paths.is_empty() {
            let message = format!("no file is named like '{}'", pattern.text);
            self.report(Diagnostic::warning(pattern.span, message).label("nothing is included"));
        }
        let mut statements = Vec::new();
        for path in paths {
            if self.sources.len() >= FILES_MAX {
                let message = format!("more than {FILES_MAX} files are included");
                self.report(Diagnostic::error(pattern.span, message));
                break;
            }
            match read_limited(&path) {
                Ok(text) => {
                    statements.extend(self.take_text(&path, text, block_depth, include_depth + 1));
                }
                Err(error) => {
                    let message = format!("cannot open '{}': {}", path.display(), reason(&error));
                    let help = "keepalived goes on without it; what it defines is missing then";
                    let label = "not included";
                    self.report(Diagnostic::warning(pattern.span, message).label(label).help(help));
                }
            }
        }
        statements
    }

    // ---- variables

    /// `$NAME=VALUE`, where that is what the words are.
    fn define(&mut self, words: &[Word]) -> bool {
        let Some((name, value)) = definition(words) else { return false };
        let rest = words[1..].iter().map(|word| word.text.as_str());
        let value: Vec<&str> = std::iter::once(value).chain(rest).collect();
        self.variables.insert(name.to_owned(), value.join(" ").trim().to_owned());
        true
    }

    /// Variables that nobody defined stay as they are, since `$` may belong to a command.
    fn expand(&mut self, words: Vec<Word>) -> Vec<Word> {
        let mut expanded = Vec::with_capacity(words.len());
        for word in words {
            if !word.text.contains('$') {
                expanded.push(word);
                continue;
            }
            let folder = folder_of(self.sources.path(word.span.file));
            let mut text = word.text.clone();
            for depth in 0.. {
                let next = self.substituted(&text, &folder);
                if next == text {
                    break;
                }
                self.expanded_bytes += next.len();
                text = next;
                if depth == EXPANSION_DEPTH_MAX
                    || text.len() > EXPANDED_WORD_BYTES_MAX
                    || self.expanded_bytes > EXPANDED_BYTES_MAX
                {
                    let message = "variables make this too long";
                    let help = "does one contain itself?";
                    self.report(Diagnostic::error(word.span, message).help(help));
                    text.clear();
                    break;
                }
            }
            if word.quoted {
                expanded.push(Word { text, ..word });
            } else {
                let parts = text.split_whitespace();
                expanded.extend(parts.map(|part| Word { text: part.to_owned(), ..word.clone() }));
            }
        }
        expanded
    }

    /// `${NAME}` anywhere, `$NAME` before a blank or the end.
    fn substituted(&self, text: &str, folder: &Path) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let behind = &rest[at + 1..];
            let named = match behind.strip_prefix('{') {
                Some(inside) => {
                    inside.split_once('}').map(|(name, _)| (name, name.len() + "{}".len()))
                }
                None => {
                    let length = behind.find(|c| !is_name(c)).unwrap_or(behind.len());
                    let ends = behind[length..].chars().next().is_none_or(char::is_whitespace);
                    ends.then(|| (&behind[..length], length))
                }
            };
            match named.and_then(|(name, length)| Some((self.value(name, folder)?, length))) {
                Some((value, length)) => {
                    out.push_str(&value);
                    rest = &behind[length..];
                }
                None => {
                    out.push('$');
                    rest = behind;
                }
            }
            if out.len() > EXPANDED_WORD_BYTES_MAX {
                break;
            }
        }
        out + rest
    }

    fn value(&self, name: &str, folder: &Path) -> Option<String> {
        match name {
            "_PWD" => Some(folder.display().to_string()),
            "_INSTANCE" => Some(self.config_id.clone()),
            "_HASH" => Some("#".to_owned()),
            "_BANG" => Some("!".to_owned()),
            _ => self.variables.get(name).cloned(),
        }
    }
}

/// "No such file or directory (os error 2)": the number helps nobody.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or_else(|| Path::new("/")).to_owned()
}

fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

fn definition(words: &[Word]) -> Option<(&str, &str)> {
    let first = words.first().filter(|word| !word.quoted)?;
    let (name, value) = first.text.strip_prefix('$')?.split_once('=')?;
    (!name.is_empty() && name.chars().all(is_name)).then_some((name, value))
}

// ---- one file

struct Parser<'a> {
    reader: &'a mut Reader,
    lexer: Lexer<'a>,
    /// The end of the file was said to be missing braces: once is enough.
    is_at_end: bool,
    include_depth: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<Token> {
        self.lexer.next_token(&mut self.reader.diagnostics)
    }

    /// Statements up to the closing brace, or to the end of the file. `opened` is the brace of a
    /// block that this file opened.
    fn block(&mut self, depth: usize, opened: Option<Span>) -> Vec<Statement> {
        let mut statements: Vec<Statement> = Vec::new();
        let mut words: Vec<Word> = Vec::new();
        // The statement of the line before, for a brace on a line of its own.
        let mut can_open = false;
        loop {
            let Some(token) = self.next() else {
                self.line(&mut words, depth, &mut statements);
                self.missing_braces(opened);
                return statements;
            };
            match token.kind {
                TokenKind::Word { text, quoted } => {
                    words.push(Word { text, quoted, span: token.span });
                }
                TokenKind::EndOfLine if words.is_empty() => {}
                TokenKind::EndOfLine => can_open = self.line(&mut words, depth, &mut statements),
                TokenKind::Open if !words.is_empty() => {
                    let words = self.opening(std::mem::take(&mut words));
                    let body = self.inner(depth, token.span);
                    if let (Some(words), Some(body)) = (words, body) {
                        let span = words[0].span.to(words[words.len() - 1].span);
                        statements.push(Statement { words, body: Some(body), span });
                    }
                    can_open = false;
                }
                TokenKind::Open if can_open => {
                    let body = self.inner(depth, token.span);
                    let last = statements.last_mut().expect("a line before the brace");
                    last.body = body;
                    can_open = false;
                }
                TokenKind::Open => {
                    let message = "'{' without a keyword before it: what follows has no meaning";
                    self.reader.report(Diagnostic::warning(token.span, message));
                    self.inner(depth, token.span);
                }
                TokenKind::Close => {
                    self.line(&mut words, depth, &mut statements);
                    if opened.is_some() {
                        return statements;
                    }
                    let message = "'}' without a '{' before it";
                    self.reader.report(Diagnostic::warning(token.span, message).label("ignored"));
                    can_open = false;
                }
            }
        }
    }

    /// `None`: nested too deeply; everything up to its brace was left out.
    fn inner(&mut self, depth: usize, opened: Span) -> Option<Vec<Statement>> {
        if depth < DEPTH_MAX {
            return Some(self.block(depth + 1, Some(opened)));
        }
        let message = format!("blocks nested deeper than {DEPTH_MAX}");
        self.reader.report(Diagnostic::error(opened, message));
        let mut open = 1_u64;
        while open > 0 {
            match self.next().map(|token| token.kind) {
                Some(TokenKind::Open) => open += 1,
                Some(TokenKind::Close) => open -= 1,
                Some(_) => {}
                None => break,
            }
        }
        None
    }

    fn missing_braces(&mut self, opened: Option<Span>) {
        let Some(opened) = opened.filter(|_| !self.is_at_end) else { return };
        self.is_at_end = true;
        let message = "the file ends inside of a block: '}' is missing";
        let help = "the block is taken to end there";
        self.reader.report(
            Diagnostic::warning(self.lexer.here(), message)
                .label("the file ends here")
                .related(opened, "this block was opened")
                .help(help),
        );
    }

    /// A line without a brace. Returns whether it became a statement that a brace may follow.
    fn line(
        &mut self,
        words: &mut Vec<Word>,
        depth: usize,
        statements: &mut Vec<Statement>,
    ) -> bool {
        if words.is_empty() {
            return false;
        }
        let words = std::mem::take(words);
        if self.reader.define(&words) {
            return false;
        }
        let Some(words) = self.meant_for_this_node(words) else { return false };
        if INCLUDE_WORDS.contains(&words[0].text.as_str()) {
            statements.extend(self.reader.include(&words, depth, self.include_depth));
            return false;
        }
        let span = words[0].span.to(words[words.len() - 1].span);
        statements.push(Statement { words, body: None, span });
        true
    }

    /// The words before a brace.
    fn opening(&mut self, words: Vec<Word>) -> Option<Vec<Word>> {
        if definition(&words).is_some() {
            let message = "a variable that stands for a block is not provided";
            let help = "write the block out where the variable is used";
            self.reader.report(Diagnostic::error(words[0].span, message).help(help));
            return None;
        }
        let words = self.meant_for_this_node(words)?;
        if INCLUDE_WORDS.contains(&words[0].text.as_str()) {
            let message = format!("'{}' takes no block", words[0].text);
            self.reader.report(Diagnostic::error(words[0].span, message));
            return None;
        }
        Some(words)
    }

    /// With variables replaced; `None` for a line of another node (`@NAME`, `@^NAME`), or an empty one.
    fn meant_for_this_node(&mut self, words: Vec<Word>) -> Option<Vec<Word>> {
        let mut words = self.reader.expand(words);
        while let Some(first) = words.first().filter(|word| !word.quoted) {
            if first.text.starts_with("~SEQ") || first.text.starts_with("~LST") {
                let message = "lines that are repeated by ~SEQ or ~LST are not provided";
                let help = "write the lines out";
                self.reader.report(Diagnostic::error(first.span, message).help(help));
                return None;
            }
            let Some(id) = first.text.strip_prefix('@') else { break };
            let is_meant = match id.strip_prefix('^') {
                Some(other) => other != self.reader.config_id,
                None => id == self.reader.config_id,
            };
            if !is_meant {
                return None;
            }
            words.remove(0);
        }
        (!words.is_empty()).then_some(words)
    }
}
