//! Characters to tokens (behaviour.md 7.8): bare words, quoted strings, `;`, braces; `#` starts a
//! comment.

use super::diagnostics::{Diagnostic, keep};
use super::source::Span;

/// drbd.conf knows words of at most 128 and strings of at most 255 characters.
const TEXT_CHARS_MAX: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Word { text: String, quoted: bool },
    Semicolon,
    Open,
    Close,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    pub span: Span,
}

/// Tokens of one file. Reading goes on after a mistake, so that all of them are found at once.
#[derive(Debug)]
pub struct Lexer<'a> {
    text: &'a str,
    file: usize,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str, file: usize) -> Self {
        Self { text, file, at: 0 }
    }

    /// The next token; `None` at the end.
    pub fn next_token(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<Token> {
        loop {
            self.skip_blanks_and_comments();
            let start = self.at;
            let first = self.text[start..].chars().next()?;
            let kind = match first {
                ';' => TokenKind::Semicolon,
                '{' => TokenKind::Open,
                '}' => TokenKind::Close,
                '"' => return Some(self.string(diagnostics)),
                _ if is_bare(first) => return Some(self.bare(diagnostics)),
                _ => {
                    self.at += first.len_utf8();
                    let shown = first.escape_default();
                    let message = format!("'{shown}' cannot stand outside of a quoted string");
                    keep(
                        diagnostics,
                        Diagnostic::error(self.span(start), message)
                            .help("put the value into double quotes"),
                    );
                    continue;
                }
            };
            self.at += 1;
            return Some(Token { kind, span: self.span(start) });
        }
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
            let trimmed =
                rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn bare(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Token {
        let start = self.at;
        let rest = &self.text[start..];
        self.at += rest.find(|c| !is_bare(c)).unwrap_or(rest.len());
        let text = self.text[start..self.at].to_owned();
        self.finished_word(text, false, start, diagnostics)
    }

    /// In a string, a backslash takes the next character as it is; `\n`, `\r`, `\t` are known, and
    /// a line end behind a backslash vanishes.
    fn string(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Token {
        let start = self.at;
        let mut text = String::new();
        let mut characters = self.text[start + 1..].char_indices();
        let mut closed = false;
        while let Some((offset, character)) = characters.next() {
            self.at = start + 1 + offset + character.len_utf8();
            match character {
                '"' => {
                    closed = true;
                    break;
                }
                '\n' => {
                    self.at -= 1;
                    break;
                }
                '\\' => {
                    let Some((offset, escaped)) = characters.next() else { break };
                    self.at = start + 1 + offset + escaped.len_utf8();
                    match escaped {
                        '\n' => {}
                        'n' => text.push('\n'),
                        'r' => text.push('\r'),
                        't' => text.push('\t'),
                        other => text.push(other),
                    }
                }
                other => text.push(other),
            }
        }
        if !closed {
            self.at = self.at.max(start + 1);
            let message = "a string without its closing quote";
            keep(diagnostics, Diagnostic::error(self.span(start), message).label("opened here"));
        }
        self.finished_word(text, true, start, diagnostics)
    }

    fn finished_word(
        &self,
        text: String,
        quoted: bool,
        start: usize,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Token {
        let span = self.span(start);
        if text.chars().count() > TEXT_CHARS_MAX {
            let message = format!("a word of more than {TEXT_CHARS_MAX} characters");
            keep(diagnostics, Diagnostic::error(span, message));
        }
        Token { kind: TokenKind::Word { text, quoted }, span }
    }
}

/// What a word may contain without quotes: printable ASCII but for what has a meaning of its own.
pub fn is_bare(character: char) -> bool {
    character.is_ascii_graphic() && !matches!(character, ';' | '{' | '}' | '"' | '#' | '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lex(text: &str) -> (Vec<String>, Vec<String>) {
        let mut lexer = Lexer::new(text, 0);
        let mut diagnostics = Vec::new();
        let mut tokens = Vec::new();
        while let Some(token) = lexer.next_token(&mut diagnostics) {
            tokens.push(match token.kind {
                TokenKind::Word { text, quoted: false } => text,
                TokenKind::Word { text, quoted: true } => format!("<{text}>"),
                TokenKind::Semicolon => ";".to_owned(),
                TokenKind::Open => "{".to_owned(),
                TokenKind::Close => "}".to_owned(),
            });
        }
        (tokens, diagnostics.into_iter().map(|diagnostic| diagnostic.message).collect())
    }

    #[test]
    fn words_strings_and_signs() {
        let (tokens, mistakes) = lex(
            "net{ping-int 10;# comment; }\n shared-secret \"a \\\"b\\\" # c\";}address [::1]:7;",
        );
        assert_eq!(
            tokens,
            [
                "net",
                "{",
                "ping-int",
                "10",
                ";",
                "shared-secret",
                "<a \"b\" # c>",
                ";",
                "}",
                "address",
                "[::1]:7",
                ";"
            ]
        );
        assert!(mistakes.is_empty());
    }

    #[test]
    fn mistakes_are_named_and_reading_goes_on() {
        let (tokens, mistakes) = lex("a \"open\nb é \\ c");
        assert_eq!(tokens, ["a", "<open>", "b", "c"]);
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
        assert_eq!(mistakes[0], "a string without its closing quote");
        let (_, mistakes) = lex(&format!("{} \"", "x".repeat(300)));
        assert_eq!(mistakes.len(), 2);
    }
}
