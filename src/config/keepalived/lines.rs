//! Characters to statements. keepalived reads lines: a statement ends with its line, a block is
//! opened by `{` at its end or alone on the next one (vrrp.md 2.1).
//!
//! What keepalived takes with a shrug is a warning here: braces that are missing or too many.

use std::collections::BTreeMap;

use super::super::diagnostics::{Diagnostic, keep};
use super::super::source::Span;
use super::super::tree::{Statement, Word};

/// virtual_server > real_server > HTTP_GET > url is the deepest that means anything.
const DEPTH_MAX: usize = 10;
/// Variables that a file may define, and how long a word may become by them.
const VARIABLES_MAX: usize = 256;
const WORD_BYTES_MAX: usize = 4096;

/// `$NAME=value`, across files.
pub type Variables = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(Word),
    Open(Span),
    Close(Span),
    EndOfLine,
}

/// The statements of a file.
pub fn parse(
    text: &str,
    file: usize,
    variables: &mut Variables,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Statement> {
    let tokens = Lexer { text, file, at: 0, variables, diagnostics }.tokens();
    let mut builder = Builder { diagnostics, stack: vec![Block::default()], words: Vec::new() };
    for token in tokens {
        builder.take(token);
    }
    let end = Span { file, start: text.len(), end: text.len() };
    builder.finish(end)
}

struct Lexer<'a> {
    text: &'a str,
    file: usize,
    at: usize,
    variables: &'a mut Variables,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn span(&self, start: usize) -> Span {
        Span { file: self.file, start, end: self.at }
    }

    fn tokens(mut self) -> Vec<Token> {
        let mut tokens = Vec::new();
        while let Some(byte) = self.peek() {
            let start = self.at;
            match byte {
                b'\n' => {
                    self.at += 1;
                    tokens.push(Token::EndOfLine);
                }
                b'\\' if self.text[self.at..].starts_with("\\\n") => self.at += 2,
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'!' | b'#' => self.skip_line(),
                b'{' => {
                    self.at += 1;
                    tokens.push(Token::Open(self.span(start)));
                }
                b'}' => {
                    self.at += 1;
                    tokens.push(Token::Close(self.span(start)));
                }
                _ => {
                    let word = self.word();
                    let is_first = matches!(tokens.last(), None | Some(Token::EndOfLine));
                    if !(is_first && self.defines(&word)) {
                        tokens.push(Token::Word(word));
                    }
                }
            }
        }
        tokens.push(Token::EndOfLine);
        tokens
    }

    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.find('\n').unwrap_or(rest.len());
    }

    /// Up to a blank, a brace or a comment; quotes hide all three.
    fn word(&mut self) -> Word {
        let start = self.at;
        let mut text = String::new();
        let mut quoted = false;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    quoted = true;
                    self.quoted(&mut text);
                }
                b'\\'
                    if matches!(
                        self.text.as_bytes().get(self.at + 1),
                        Some(b'#' | b'!' | b'\\' | b'"')
                    ) =>
                {
                    text.push(char::from(self.text.as_bytes()[self.at + 1]));
                    self.at += 2;
                }
                b'$' => self.variable(&mut text),
                b'\\' if self.text[self.at..].starts_with("\\\n") => break,
                b'!' | b'#' | b'{' | b'}' => break,
                _ if byte.is_ascii_whitespace() || byte == 0x0b => break,
                _ => {
                    let character = self.text[self.at..].chars().next().expect("not at the end");
                    text.push(character);
                    self.at += character.len_utf8();
                }
            }
            if text.len() > WORD_BYTES_MAX {
                let message = format!("a word of more than {WORD_BYTES_MAX} bytes");
                keep(self.diagnostics, Diagnostic::error(self.span(start), message));
                text.truncate(0);
                self.skip_line();
                break;
            }
        }
        Word { text, quoted, span: self.span(start) }
    }

    fn quoted(&mut self, text: &mut String) {
        let start = self.at;
        self.at += 1;
        let mut characters = self.text[self.at..].char_indices();
        while let Some((offset, character)) = characters.next() {
            match character {
                '"' => {
                    self.at += offset + 1;
                    return;
                }
                '\n' => {
                    self.at += offset;
                    let message = "a quote is not closed on its line";
                    return keep(self.diagnostics, Diagnostic::warning(self.span(start), message));
                }
                '\\' => match characters.next() {
                    Some((_, next @ ('"' | '\\'))) => text.push(next),
                    Some((_, '\n')) => text.push(' '),
                    Some((_, next)) => text.extend(['\\', next]),
                    None => text.push('\\'),
                },
                _ => text.push(character),
            }
        }
        self.at = self.text.len();
        let message = "a quote is not closed before the end of the file";
        keep(self.diagnostics, Diagnostic::warning(self.span(start), message));
    }

    /// `$NAME` and `${NAME}`; what is not defined stays as it is, for the shell.
    fn variable(&mut self, text: &mut String) {
        let rest = &self.text[self.at + 1..];
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let braced = rest.starts_with('{');
        let name_at = usize::from(braced);
        let length = rest.as_bytes()[name_at..].iter().take_while(|byte| is_name(byte)).count();
        let name = &rest[name_at..name_at + length];
        let is_whole = !braced || rest.as_bytes().get(name_at + length) == Some(&b'}');
        let end = self.at + 1 + name_at + length + usize::from(braced);
        match self.variables.get(name) {
            Some(value) if is_whole => {
                text.push_str(value);
                self.at = end;
            }
            // Its braces open no block.
            _ if braced && is_whole => {
                text.push_str(&self.text[self.at..end]);
                self.at = end;
            }
            _ => {
                text.push('$');
                self.at += 1;
            }
        }
    }

    /// Whether the word was `$NAME=value`; the value goes to the end of the line.
    fn defines(&mut self, word: &Word) -> bool {
        let Some((name, first)) = word.text.strip_prefix('$').and_then(|rest| rest.split_once('='))
        else {
            return false;
        };
        let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
        if name.is_empty() || !name.chars().all(is_name) {
            return false;
        }
        let mut value = first.to_owned();
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' | b'!' | b'#' => break,
                _ if byte.is_ascii_whitespace() => self.at += 1,
                b'{' | b'}' => {
                    value.push(char::from(byte));
                    self.at += 1;
                }
                _ => {
                    let next = self.word();
                    if !value.is_empty() {
                        value.push(' ');
                    }
                    value.push_str(&next.text);
                }
            }
        }
        if self.variables.len() == VARIABLES_MAX && !self.variables.contains_key(name) {
            let message = format!("more than {VARIABLES_MAX} variables");
            keep(self.diagnostics, Diagnostic::error(word.span, message));
        } else if value.len() > WORD_BYTES_MAX {
            let message = format!("a value of more than {WORD_BYTES_MAX} bytes");
            keep(self.diagnostics, Diagnostic::error(word.span, message));
        } else {
            self.variables.insert(name.to_owned(), value);
        }
        true
    }
}

/// A block that is not closed yet, and the brace that opened it.
#[derive(Default)]
struct Block {
    statements: Vec<Statement>,
    words: Vec<Word>,
    opened: Option<Span>,
}

struct Builder<'a> {
    diagnostics: &'a mut Vec<Diagnostic>,
    stack: Vec<Block>,
    /// Of the line that is read.
    words: Vec<Word>,
}

impl Builder<'_> {
    fn take(&mut self, token: Token) {
        match token {
            Token::Word(word) => self.words.push(word),
            Token::EndOfLine => self.end_statement(),
            Token::Open(span) => self.open(span),
            Token::Close(span) => self.close(span),
        }
    }

    fn top(&mut self) -> &mut Block {
        self.stack.last_mut().expect("the file itself is never closed")
    }

    fn end_statement(&mut self) {
        let words = std::mem::take(&mut self.words);
        if let (Some(first), Some(last)) = (words.first(), words.last()) {
            let span = first.span.to(last.span);
            self.top().statements.push(Statement { words, body: None, span });
        }
    }

    fn open(&mut self, span: Span) {
        let mut words = std::mem::take(&mut self.words);
        if words.is_empty() {
            // Alone on its line: it belongs to the statement before.
            let previous = self.top().statements.pop_if(|statement| statement.body.is_none());
            words = previous.map(|statement| statement.words).unwrap_or_default();
        }
        if words.is_empty() {
            let message = "'{' without a word before it";
            keep(
                self.diagnostics,
                Diagnostic::warning(span, message).label("this block is ignored"),
            );
        }
        if self.stack.len() > DEPTH_MAX {
            let message = format!("blocks nested deeper than {DEPTH_MAX}");
            keep(self.diagnostics, Diagnostic::error(span, message));
            // Kept flat: nothing of it counts, and its braces still pair up.
            words.clear();
        }
        if self.stack.len() <= 4 * DEPTH_MAX {
            self.stack.push(Block { statements: Vec::new(), words, opened: Some(span) });
        }
    }

    fn close(&mut self, span: Span) {
        self.end_statement();
        if self.stack.len() == 1 {
            let message = "'}' without a '{' before it: ignored";
            return keep(self.diagnostics, Diagnostic::warning(span, message));
        }
        self.close_block(span);
    }

    fn close_block(&mut self, end: Span) {
        let block = self.stack.pop().expect("not the file itself");
        let Some(first) = block.words.first() else { return };
        let span = first.span.to(block.opened.unwrap_or(end));
        let statement = Statement { words: block.words, body: Some(block.statements), span };
        self.top().statements.push(statement);
    }

    fn finish(mut self, end: Span) -> Vec<Statement> {
        self.end_statement();
        let missing = self.stack.len() - 1;
        if missing > 0 {
            let opened = self.stack[1].opened.unwrap_or(end);
            let message = format!(
                "the file ends inside of a block: {missing} '}}' missing; it is closed here"
            );
            let diagnostic = Diagnostic::warning(end, message)
                .label("the file ends here")
                .related(opened, "this block was opened");
            keep(self.diagnostics, diagnostic);
        }
        while self.stack.len() > 1 {
            self.close_block(end);
        }
        self.stack.pop().expect("the file").statements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> (String, Vec<String>) {
        fn show(statements: &[Statement]) -> String {
            let one = |statement: &Statement| {
                let words: Vec<&str> = statement.words.iter().map(|word| &*word.text).collect();
                match &statement.body {
                    None => format!("[{}]", words.join("|")),
                    Some(body) => format!("{}{{{}}}", words.join("|"), show(body)),
                }
            };
            statements.iter().map(one).collect()
        }
        let mut diagnostics = Vec::new();
        let tree = parse(text, 0, &mut Variables::new(), &mut diagnostics);
        (show(&tree), diagnostics.into_iter().map(|diagnostic| diagnostic.message).collect())
    }

    #[test]
    fn lines_blocks_and_comments() {
        let text = "! Configuration File\nglobal_defs {\n  router_id A #标识\n}\nvrrp_instance VI_1\n{\n state MASTER\n}\n";
        let (tree, mistakes) = shown(text);
        assert_eq!(tree, "global_defs{[router_id|A]}vrrp_instance|VI_1{[state|MASTER]}");
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(shown("a { b c } d { e }\nf").0, "a{[b|c]}d{[e]}[f]");
        assert_eq!(shown("a{b{c}}").0, "a{b{[c]}}");
    }

    #[test]
    fn quotes_escapes_and_continued_lines() {
        assert_eq!(shown("script \"/bin/x a # b\" c").0, "[script|/bin/x a # b|c]");
        assert_eq!(shown(r#"p "say \"hi\" \n""#).0, r#"[p|say "hi" \n]"#);
        assert_eq!(shown(r"auth_pass a\#b\!c").0, "[auth_pass|a#b!c]");
        assert_eq!(shown("auth_pass aiker>com").0, "[auth_pass|aiker>com]");
        assert_eq!(shown("a b \\\n c").0, "[a|b|c]");
        assert_eq!(shown("a \"b\nc").1, ["a quote is not closed on its line"]);
    }

    #[test]
    fn variables_stand_for_their_values() {
        let text = "$IF=eth0\n$CMD=/bin/check -a  b # why\ninterface $IF\nscript \"x\" ${IF}.5 $CMD $OTHER ${OTHER}";
        let (tree, mistakes) = shown(text);
        assert_eq!(tree, "[interface|eth0][script|x|eth0.5|/bin/check -a b|$OTHER|${OTHER}]");
        assert!(mistakes.is_empty(), "{mistakes:?}");
    }

    #[test]
    fn braces_that_are_missing_or_too_many_are_warnings() {
        let (tree, mistakes) = shown("a {\n b {\n c\n}\n");
        assert_eq!(tree, "a{b{[c]}}");
        assert_eq!(mistakes, ["the file ends inside of a block: 1 '}' missing; it is closed here"]);
        let (tree, mistakes) = shown("a }\n b");
        assert_eq!((tree.as_str(), mistakes.len()), ("[a][b]", 1));
        let (tree, mistakes) = shown("{ x }\ny");
        assert_eq!((tree.as_str(), mistakes.len()), ("[y]", 1));
        let deep = "a {\n".repeat(500) + &"}\n".repeat(500);
        assert!(shown(&deep).1.iter().any(|text| text.contains("nested deeper")));
    }
}
