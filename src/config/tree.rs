//! Tokens to statements. All of drbd.conf has one shape:
//!
//! ```text
//!   statement := word+ ( ";" | "{" statement* "}" )
//! ```
//!
//! What the words mean is decided later, with the whole statement in view: that is what makes the
//! messages good.

use super::diagnostics::{Diagnostic, keep};
use super::lexer::{Lexer, Token, TokenKind};
use super::source::Span;

/// resource > on > volume > disk is the deepest that means anything; the rest is hostility.
const DEPTH_MAX: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub quoted: bool,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Never empty.
    pub words: Vec<Word>,
    pub body: Option<Vec<Self>>,
    /// From the first word to the `;` or `{`.
    pub span: Span,
}

impl Statement {
    pub fn keyword(&self) -> &str {
        &self.words[0].text
    }

    pub fn keyword_span(&self) -> Span {
        self.words[0].span
    }

    /// The words behind the keyword.
    pub fn arguments(&self) -> &[Word] {
        &self.words[1..]
    }
}

/// The statements of a file. `skip` sections (behaviour.md 7.8) are left out.
pub fn parse(text: &str, file: usize, diagnostics: &mut Vec<Diagnostic>) -> Vec<Statement> {
    let mut parser = Parser { lexer: Lexer::new(text, file), diagnostics, peeked: None };
    parser.block(0, None)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    diagnostics: &'a mut Vec<Diagnostic>,
    peeked: Option<Token>,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<Token> {
        self.peeked.take().or_else(|| self.lexer.next_token(self.diagnostics))
    }

    fn error(&mut self, diagnostic: Diagnostic) {
        keep(self.diagnostics, diagnostic);
    }

    /// Statements up to the closing brace, or to the end of the file at depth 0.
    fn block(&mut self, depth: usize, opened: Option<Span>) -> Vec<Statement> {
        let mut statements = Vec::new();
        let mut words: Vec<Word> = Vec::new();
        loop {
            let Some(token) = self.next() else {
                self.unfinished(&words, self.lexer.here());
                if let Some(opened) = opened {
                    let message = "the file ends inside of a section: '}' is missing";
                    self.error(
                        Diagnostic::error(self.lexer.here(), message)
                            .label("the file ends here")
                            .related(opened, "this section was opened"),
                    );
                }
                return statements;
            };
            match token.kind {
                TokenKind::Word { text, quoted } => {
                    words.push(Word { text, quoted, span: token.span });
                }
                TokenKind::Semicolon if words.is_empty() => {}
                TokenKind::Semicolon => {
                    let span = words[0].span.to(token.span);
                    statements.push(Statement {
                        words: std::mem::take(&mut words),
                        body: None,
                        span,
                    });
                }
                TokenKind::Open if words.is_empty() => {
                    let message = "'{' without the name of a section before it";
                    self.error(Diagnostic::error(token.span, message));
                    self.skip_block(token.span);
                }
                TokenKind::Open => {
                    let words = std::mem::take(&mut words);
                    let span = words[0].span.to(token.span);
                    let is_skip = depth == 0 && words[0].text == "skip" && !words[0].quoted;
                    if is_skip {
                        self.skip_block(token.span);
                    } else if depth == DEPTH_MAX {
                        let message = format!("sections nested deeper than {DEPTH_MAX}");
                        self.error(Diagnostic::error(token.span, message));
                        self.skip_block(token.span);
                    } else {
                        let body = self.block(depth + 1, Some(token.span));
                        statements.push(Statement { words, body: Some(body), span });
                    }
                }
                TokenKind::Close => {
                    self.unfinished(&words, token.span);
                    if depth > 0 {
                        return statements;
                    }
                    words.clear();
                    self.error(Diagnostic::error(token.span, "'}' without a '{' before it"));
                }
            }
        }
    }

    /// Words that no `;` follows.
    fn unfinished(&mut self, words: &[Word], next: Span) {
        if let Some(last) = words.last() {
            let message = format!("';' is missing after '{}'", last.text);
            let end = Span { start: last.span.start, ..last.span };
            let label =
                if next.start == next.end { "the file ends after this" } else { "after this" };
            self.error(Diagnostic::error(end, message).label(label));
        }
    }

    /// Everything up to the brace that closes this one, whatever it is.
    fn skip_block(&mut self, opened: Span) {
        let mut open = 1_u64;
        while open > 0 {
            match self.next().map(|token| token.kind) {
                Some(TokenKind::Open) => open += 1,
                Some(TokenKind::Close) => open -= 1,
                Some(_) => {}
                None => {
                    let message = "the file ends inside of a section: '}' is missing";
                    self.error(
                        Diagnostic::error(self.lexer.here(), message)
                            .label("the file ends here")
                            .related(opened, "this section was opened"),
                    );
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, Vec<String>) {
        fn show(statements: &[Statement]) -> String {
            let one = |statement: &Statement| {
                let words: Vec<&str> = statement.words.iter().map(|word| &*word.text).collect();
                match &statement.body {
                    None => format!("{};", words.join(" ")),
                    Some(body) => format!("{}{{{}}}", words.join(" "), show(body)),
                }
            };
            statements.iter().map(one).collect()
        }
        let mut diagnostics = Vec::new();
        let tree = parse(text, 0, &mut diagnostics);
        (show(&tree), diagnostics.into_iter().map(|diagnostic| diagnostic.message).collect())
    }

    #[test]
    fn statements_nest() {
        let (tree, mistakes) =
            parsed("include \"x\"; resource r\n{ on a b { address c; };; net {} }");
        assert_eq!(tree, "include x;resource r{on a b{address c;}net{}}");
        assert!(mistakes.is_empty(), "{mistakes:?}");
    }

    #[test]
    fn skipped_sections_may_hold_anything_balanced() {
        let (tree, mistakes) = parsed("skip { { ; } \"}\" } skip resource x { y z } a;");
        assert_eq!(tree, "a;");
        assert!(mistakes.is_empty(), "{mistakes:?}");
    }

    #[test]
    fn braces_and_semicolons_that_are_missing() {
        assert_eq!(parsed("a { b c }").1, ["';' is missing after 'c'"]);
        assert_eq!(parsed("a { b;").1, ["the file ends inside of a section: '}' is missing"]);
        assert_eq!(parsed("a; }").1, ["'}' without a '{' before it"]);
        assert_eq!(parsed("{ x y } a;").0, "a;");
        let deep = "a {".repeat(500) + &"}".repeat(500);
        assert_eq!(parsed(&deep).1, ["sections nested deeper than 10"]);
    }
}
