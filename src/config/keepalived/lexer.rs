//! Characters to tokens (vrrp.md 2.1). A line is a statement: `!` and `#` end it, a backslash at its
//! end joins the next one, braces may stand anywhere in it.

use super::super::diagnostics::{Diagnostic, keep};
use super::super::source::Span;

/// A command line is the longest that is written on one line.
const WORD_BYTES_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Word { text: String, quoted: bool },
    Open,
    Close,
    EndOfLine,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    pub span: Span,
}

#[derive(Debug)]
pub struct Lexer<'a> {
    text: &'a str,
    file: usize,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str, file: usize) -> Self {
        // An editor of another system may have put its mark in front.
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, file, at }
    }

    /// The next token; `None` at the end.
    pub fn next_token(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<Token> {
        self.skip_blanks_and_comments();
        let start = self.at;
        let first = self.text[start..].chars().next()?;
        let kind = match first {
            '\n' => TokenKind::EndOfLine,
            '{' => TokenKind::Open,
            '}' => TokenKind::Close,
            '"' => return Some(self.string(diagnostics)),
            _ => return Some(self.bare(diagnostics)),
        };
        self.at += 1;
        Some(Token { kind, span: self.span(start) })
    }

    /// An empty place behind everything that was read.
    pub fn here(&self) -> Span {
        self.span(self.at)
    }

    fn span(&self, start: usize) -> Span {
        Span { file: self.file, start, end: self.at }
    }

    fn skip_blanks_and_comments(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let trimmed = rest.trim_start_matches(is_blank);
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with(['#', '!']) {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if let Some(length) = joint(trimmed) {
                self.at += length;
            } else {
                return;
            }
        }
    }

    /// Up to a blank, a brace, a comment or the end of the line. A backslash keeps `#` and `!` from
    /// beginning a comment; the braces of `${NAME}` belong to the word.
    fn bare(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Token {
        let start = self.at;
        let mut text = String::new();
        let mut inside_variable = false;
        while let Some(character) = self.text[self.at..].chars().next() {
            let rest = &self.text[self.at..];
            if character == '\\' {
                if joint(rest).is_some() {
                    break;
                }
                if rest[1..].starts_with(['#', '!']) {
                    text.push_str(&rest[1..2]);
                    self.at += 2;
                    continue;
                }
            }
            let ends = match character {
                '{' if text.ends_with('$') => {
                    inside_variable = true;
                    false
                }
                '}' if inside_variable => {
                    inside_variable = false;
                    false
                }
                '\n' | '{' | '}' | '#' | '!' => true,
                other => is_blank(other),
            };
            if ends {
                break;
            }
            text.push(character);
            self.at += character.len_utf8();
        }
        self.finished_word(text, false, start, diagnostics)
    }

    /// A backslash takes `"` and itself as they are, and stays before anything else: what is in the
    /// string is often a command line that has a use for it.
    fn string(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Token {
        let start = self.at;
        let mut text = String::new();
        self.at += 1;
        let mut is_closed = false;
        while let Some(character) = self.text[self.at..].chars().next() {
            let rest = &self.text[self.at..];
            if let Some(length) = joint(rest) {
                self.at += length;
                continue;
            }
            if character == '\\' && rest[1..].starts_with(['"', '\\']) {
                text.push_str(&rest[1..2]);
                self.at += 2;
                continue;
            }
            if character == '\n' {
                break;
            }
            self.at += character.len_utf8();
            if character == '"' {
                is_closed = true;
                break;
            }
            text.push(character);
        }
        if !is_closed {
            let message = "a string without its closing quote";
            keep(diagnostics, Diagnostic::error(self.span(start), message).label("opened here"));
        }
        self.finished_word(text, true, start, diagnostics)
    }

    fn finished_word(
        &self,
        mut text: String,
        quoted: bool,
        start: usize,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Token {
        let span = self.span(start);
        if text.len() > WORD_BYTES_MAX {
            let message = format!("a word of more than {WORD_BYTES_MAX} bytes");
            keep(diagnostics, Diagnostic::error(span, message));
            text.truncate(text.floor_char_boundary(WORD_BYTES_MAX));
        }
        if text.contains(char::REPLACEMENT_CHARACTER) {
            let message = "bytes that are not UTF-8 outside of a comment";
            let help = "what they mean depends on who reads them: save the file as UTF-8";
            keep(diagnostics, Diagnostic::error(span, message).help(help));
        }
        Token { kind: TokenKind::Word { text, quoted }, span }
    }
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\u{b}' | '\u{c}')
}

/// The length of a backslash with the end of its line, which join two lines.
fn joint(rest: &str) -> Option<usize> {
    ["\\\n", "\\\r\n"].into_iter().find(|joint| rest.starts_with(joint)).map(str::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lex(text: &str) -> (String, Vec<String>) {
        let mut lexer = Lexer::new(text, 0);
        let mut diagnostics = Vec::new();
        let mut tokens = Vec::new();
        while let Some(token) = lexer.next_token(&mut diagnostics) {
            tokens.push(match token.kind {
                TokenKind::Word { text, quoted: false } => text,
                TokenKind::Word { text, quoted: true } => format!("<{text}>"),
                TokenKind::Open => "{".to_owned(),
                TokenKind::Close => "}".to_owned(),
                TokenKind::EndOfLine => "/".to_owned(),
            });
        }
        let mistakes = diagnostics.into_iter().map(|diagnostic| diagnostic.message).collect();
        (tokens.join(" "), mistakes)
    }

    fn tokens(text: &str) -> String {
        let (tokens, mistakes) = lex(text);
        assert!(mistakes.is_empty(), "{text}: {mistakes:?}");
        tokens
    }

    #[test]
    fn words_braces_and_comments() {
        assert_eq!(tokens("! Configuration File forkeepalived\nglobal_defs{"), "/ global_defs {");
        assert_eq!(tokens("router_id MYSQL_HA #标识\n}"), "router_id MYSQL_HA / }");
        assert_eq!(tokens("priority 100 #优先级，高\r\nx"), "priority 100 / x");
        assert_eq!(tokens("auth_pass aiker>com"), "auth_pass aiker>com");
        assert_eq!(tokens("auth_pass ai#ker"), "auth_pass ai");
        assert_eq!(tokens("auth_pass ai\\#k\\!er"), "auth_pass ai#k!er");
        assert_eq!(tokens("auth_pass \"ai#k!er\""), "auth_pass <ai#k!er>");
        assert_eq!(tokens("track_script { a b }"), "track_script { a b }");
        assert_eq!(tokens("\u{feff}a b"), "a b");
    }

    #[test]
    fn strings_escapes_and_joined_lines() {
        assert_eq!(tokens(r#"script "a \"b\" \\ \n""#), r#"script <a "b" \ \n>"#);
        assert_eq!(tokens("a \\\n  b\nc\\\r\nd"), "a b / c d");
        assert_eq!(tokens("\"a \\\nb\""), "<a b>");
        assert_eq!(tokens("${A}.1 $B x${C}{y"), "${A}.1 $B x${C} { y");
    }

    #[test]
    fn what_has_no_meaning() {
        assert_eq!(lex("a \"b\nc").0, "a <b> / c");
        assert_eq!(lex("a \"b\nc").1, ["a string without its closing quote"]);
        assert_eq!(lex("\u{fffd}").1, ["bytes that are not UTF-8 outside of a comment"]);
        let long = "x".repeat(WORD_BYTES_MAX + 1);
        assert_eq!(lex(&long).1, ["a word of more than 4096 bytes"]);
    }
}
