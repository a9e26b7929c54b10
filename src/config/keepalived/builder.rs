//! Statements to the model: which words may stand where, and how their arguments are read. What
//! keepalived tolerates is a warning; what would make a node act on something that nobody meant is
//! an error.

use std::net::IpAddr;
use std::str::FromStr;

use super::super::diagnostics::{Diagnostic, KEPT_MAX, Severity, keep};
use super::super::source::Span;
use super::super::suggest::nearest;
use super::super::tree::{Statement, Word};
use super::command::Command;
use super::model::User;
use super::words::{Block, Effect};

/// Of each kind of block. Looking for a name goes through all of them.
const BLOCKS_MAX: usize = 4096;
const SECOND_US: u64 = 1_000_000;

#[derive(Debug, Default)]
pub struct Builder {
    pub diagnostics: Vec<Diagnostic>,
    /// Somebody expects packets to be forwarded: said once.
    forwarding_at: Option<Span>,
}

impl Builder {
    pub fn new(diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics, forwarding_at: None }
    }

    pub fn report(&mut self, diagnostic: Diagnostic) {
        keep(&mut self.diagnostics, diagnostic);
    }

    pub fn error(&mut self, span: Span, message: impl Into<String>, label: impl Into<String>) {
        self.report(Diagnostic::error(span, message).label(label));
    }

    pub fn warning(&mut self, span: Span, message: impl Into<String>, label: impl Into<String>) {
        self.report(Diagnostic::warning(span, message).label(label));
    }

    // ---- words

    /// Gives each statement of a block that has a meaning to `take`, and says what is wrong with the
    /// others.
    pub fn each(
        &mut self,
        block: Block,
        statements: &[Statement],
        mut take: impl FnMut(&mut Self, &Statement),
    ) {
        for statement in statements {
            match block.find(statement.keyword()) {
                Some(Effect::Acts) => take(self, statement),
                Some(Effect::Irrelevant(why)) => {
                    let message = format!("'{}' has no effect: {why}", statement.keyword());
                    self.report(Diagnostic::note(statement.keyword_span(), message));
                }
                Some(Effect::NotProvided(instead)) => {
                    let message = format!("'{}' is not provided: {instead}", statement.keyword());
                    self.warning(statement.keyword_span(), message, "without effect");
                }
                Some(Effect::Forwarding) => self.forwarding(statement),
                None => self.unknown(block, statement),
            }
        }
    }

    fn forwarding(&mut self, statement: &Statement) {
        if self.forwarding_at.is_some() {
            return;
        }
        self.forwarding_at = Some(statement.keyword_span());
        let message = format!("'{}' has no effect: no packets are forwarded", statement.keyword());
        let help = "virtual_server and real_server are checks with notify_up and notify_down";
        let at = statement.keyword_span();
        self.report(
            Diagnostic::warning(at, message).label("forwarding is not provided").help(help),
        );
    }

    fn unknown(&mut self, block: Block, statement: &Statement) {
        let (word, span) = (statement.keyword(), statement.keyword_span());
        if statement.body.is_some() && block != Block::File && Block::File.find(word).is_some() {
            let message = format!("'{word}' inside of {block}: is a '}}' missing before it?");
            return self.error(span, message, "keepalived would leave all of it out");
        }
        if self.is_full(Severity::Warning) {
            return;
        }
        let known = || block.words().iter().flat_map(|words| words.iter()).map(|(word, _)| *word);
        let home = Block::ALL.into_iter().find(|home| home.find(word).is_some());
        let label = match (nearest(word, known()), home) {
            (Some(near), None) => format!("did you mean '{near}'?"),
            (_, Some(home)) => format!("belongs into {home}"),
            (None, None) => "ignored".to_owned(),
        };
        let place = match block {
            Block::File => "outside of a block".to_owned(),
            block => format!("in {block}"),
        };
        self.warning(span, format!("unknown keyword '{word}' {place}"), label);
    }

    /// Looking for the nearest word is dear; nobody would read more of them.
    pub fn is_full(&self, severity: Severity) -> bool {
        let same = |diagnostic: &&Diagnostic| diagnostic.severity == severity;
        self.diagnostics.iter().filter(same).count() >= KEPT_MAX
    }

    /// The statements of a block; none where its brace is missing.
    pub fn body<'a>(&mut self, statement: &'a Statement) -> &'a [Statement] {
        match &statement.body {
            Some(body) => body,
            None => {
                let message = format!("'{}' without its '{{'", statement.keyword());
                let label = "expected '{' behind it or on the next line";
                self.error(statement.span, message, label);
                &[]
            }
        }
    }

    /// The name of a block, checked against those that there are.
    pub fn name<'a>(
        &mut self,
        statement: &Statement,
        known: impl ExactSizeIterator<Item = (&'a str, Span)>,
    ) -> Option<String> {
        let (keyword, span) = (statement.keyword(), statement.keyword_span());
        let Some(word) = statement.arguments().first() else {
            self.error(span, format!("this {keyword} has no name"), "expected a name behind it");
            return None;
        };
        self.no_more_words(statement, 2);
        if known.len() >= BLOCKS_MAX {
            let message = format!("more than {BLOCKS_MAX} of {keyword}");
            self.error(span, message, "this one is left out");
            return None;
        }
        let mut known = known;
        if let Some((_, first)) = known.find(|(name, _)| *name == word.text) {
            let message = format!("{keyword} '{}' is defined twice", word.text);
            self.report(
                Diagnostic::error(word.span, message)
                    .label("defined again here")
                    .related(first, "first defined here")
                    .help("rename one of them"),
            );
            return None;
        }
        Some(word.text.clone())
    }

    pub fn no_more_words(&mut self, statement: &Statement, expected: usize) {
        if let Some(word) = statement.words.get(expected) {
            let message = format!("'{}' behind '{}'", word.text, statement.words[0].text);
            self.warning(word.span, message, "one word too many: ignored");
        }
    }

    // ---- arguments

    /// The only argument.
    pub fn argument<'a>(&mut self, statement: &'a Statement, expected: &str) -> Option<&'a Word> {
        if statement.body.is_some() {
            let message = format!("'{}' takes no block", statement.keyword());
            self.warning(statement.keyword_span(), message, "the block is ignored");
        }
        let Some(word) = statement.arguments().first() else {
            let message = format!("'{}' needs a value", statement.keyword());
            self.error(statement.keyword_span(), message, format!("expected {expected}"));
            return None;
        };
        self.no_more_words(statement, 2);
        Some(word)
    }

    pub fn text(&mut self, statement: &Statement) -> Option<String> {
        self.argument(statement, "a word").map(|word| word.text.clone())
    }

    pub fn number<N: TryFrom<i64>>(
        &mut self,
        statement: &Statement,
        min: i64,
        max: i64,
    ) -> Option<N> {
        let word = self.argument(statement, &format!("a number, {min} to {max}"))?;
        self.number_of(statement.keyword(), word, min, max)
    }

    pub fn number_of<N: TryFrom<i64>>(
        &mut self,
        what: &str,
        word: &Word,
        min: i64,
        max: i64,
    ) -> Option<N> {
        let expected = format!("expected {min} to {max}");
        let Ok(number) = word.text.parse::<i64>() else {
            let message = format!("'{}' is not a number for '{what}'", word.text);
            self.error(word.span, message, expected);
            return None;
        };
        if !(min..=max).contains(&number) {
            self.error(word.span, format!("{what} {number} is out of range"), expected);
            return None;
        }
        N::try_from(number).ok()
    }

    /// Seconds with a fraction, in microseconds.
    pub fn seconds(&mut self, statement: &Statement, min_us: u64, max_us: u64) -> Option<u64> {
        let word = self.argument(statement, "seconds")?;
        self.seconds_of(statement.keyword(), word, min_us, max_us)
    }

    pub fn seconds_of(&mut self, what: &str, word: &Word, min_us: u64, max_us: u64) -> Option<u64> {
        let shown = |us: u64| {
            let fraction = format!("{:06}", us % SECOND_US);
            let text = format!("{}.{}", us / SECOND_US, fraction.trim_end_matches('0'));
            text.trim_end_matches('.').to_owned()
        };
        let expected = format!("expected {} to {} seconds", shown(min_us), shown(max_us));
        match microseconds(&word.text) {
            Some(us) if (min_us..=max_us).contains(&us) => Some(us),
            Some(_) => {
                self.error(word.span, format!("{what} {} is out of range", word.text), expected);
                None
            }
            None => {
                let message = format!("'{}' is not a number of seconds for '{what}'", word.text);
                self.error(word.span, message, expected);
                None
            }
        }
    }

    /// Without an argument it is said and meant: yes.
    pub fn flag(&mut self, statement: &Statement) -> Option<bool> {
        match statement.arguments().first() {
            None => Some(true),
            Some(_) => {
                let word = self.argument(statement, "on or off")?;
                match word.text.to_ascii_lowercase().as_str() {
                    "on" | "true" | "yes" => Some(true),
                    "off" | "false" | "no" => Some(false),
                    _ => {
                        let (keyword, text) = (statement.keyword(), &word.text);
                        let message = format!("'{text}' is not a value of '{keyword}'");
                        self.error(word.span, message, "expected on, off, true, false, yes or no");
                        None
                    }
                }
            }
        }
    }

    /// A word of a list.
    pub fn choice<T: Copy>(&mut self, statement: &Statement, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let expected = names.join(" or ");
        let word = self.argument(statement, &expected)?;
        let found = words.iter().find(|(name, _)| *name == word.text);
        if found.is_none() {
            let (keyword, text) = (statement.keyword(), &word.text);
            let label = match nearest(text, names) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("expected {expected}"),
            };
            self.error(word.span, format!("'{text}' is not a value of '{keyword}'"), label);
        }
        found.map(|(_, value)| *value)
    }

    pub fn address<A: FromStr>(&mut self, statement: &Statement) -> Option<A> {
        let word = self.argument(statement, "an address")?;
        self.address_of(word)
    }

    pub fn address_of<A: FromStr>(&mut self, word: &Word) -> Option<A> {
        let parsed = word.text.parse().ok();
        if parsed.is_none() {
            let message = format!("'{}' is not an address", word.text);
            let label = match word.text.parse::<IpAddr>() {
                Ok(_) => "it is of the other family",
                Err(_) => "expected an IPv4 or IPv6 address",
            };
            self.error(word.span, message, label);
        }
        parsed
    }

    /// The lines of a block of single words, such as `notification_email`.
    pub fn lines<'a>(&mut self, statement: &'a Statement) -> &'a [Statement] {
        let body = self.body(statement);
        for line in body.iter().filter(|line| line.body.is_some()) {
            let message = format!("'{}' takes no block", line.keyword());
            self.warning(line.keyword_span(), message, "the block is ignored");
        }
        body
    }

    /// `KEYWORD "COMMAND" [USER [GROUP]]`
    pub fn notify_command(&mut self, statement: &Statement) -> Option<Command> {
        let Some(word) = statement.arguments().first() else {
            let message = format!("'{}' needs a command", statement.keyword());
            self.error(statement.keyword_span(), message, "expected a program in quotes");
            return None;
        };
        let user = self.user_of(&statement.arguments()[1..]);
        Some(Command { text: word.text.clone(), user, span: word.span })
    }

    /// `KEYWORD COMMAND`: all words belong to it.
    pub fn plain_command(&mut self, statement: &Statement) -> Option<Command> {
        let Some(word) = statement.arguments().first() else {
            let message = format!("'{}' needs a command", statement.keyword());
            self.error(statement.keyword_span(), message, "expected a program in quotes");
            return None;
        };
        let (mut text, mut span) = (word.text.clone(), word.span);
        for word in &statement.arguments()[1..] {
            text = format!("{text} {}", word.text);
            span = span.to(word.span);
        }
        if statement.arguments().len() > 1 {
            let message = "a command of several words without quotes around all of it";
            self.warning(span, message, "taken as one command; keepalived takes the first word");
        }
        Some(Command { text, user: None, span })
    }

    /// `USER [GROUP]`; none: nobody was named.
    pub fn user_of(&mut self, words: &[Word]) -> Option<User> {
        if let Some(word) = words.get(2) {
            let message = format!("'{}' behind a user and a group", word.text);
            let label = "one word too many: is a quote missing around the command?";
            self.warning(word.span, message, label);
        }
        let name = words.first()?.text.clone();
        Some(User { name, group: words.get(1).map(|word| word.text.clone()) })
    }
}

/// Digits after the sixth behind the point are less than a microsecond.
pub fn microseconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.chars().all(|digit| digit.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let padded = format!("{fraction:0<6}");
    let fraction: u64 = padded[..6].parse().ok()?;
    whole.checked_mul(SECOND_US)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_to_the_microsecond() {
        assert_eq!(microseconds("1"), Some(1_000_000));
        assert_eq!(microseconds("0.01"), Some(10_000));
        assert_eq!(microseconds(".5"), Some(500_000));
        assert_eq!(microseconds("2.7182818"), Some(2_718_281));
        for wrong in ["", ".", "-1", "1s", "1.2.3", "1,5", "99999999999999999999"] {
            assert_eq!(microseconds(wrong), None, "{wrong}");
        }
    }
}
