//! What the blocks' readers have in common: words known and unknown, numbers, times, addresses.
//!
//! keepalived goes on with whatever it did not understand. So does this, with a warning, except
//! where a value that was read wrong would make a node another one than its author meant.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::super::diagnostics::{Diagnostic, keep};
use super::super::source::Span;
use super::super::suggest;
use super::super::tree::{Statement, Word};
use super::model::{NotifyProgram, User, Weight};
use super::words::{Effect, Words};

const SECOND_US: f64 = 1_000_000.0;
/// A year: what is longer is a mistake, and arithmetic with it stays far from its ends.
const LONGEST_S: f64 = 31_536_000.0;

#[derive(Debug, Default)]
pub struct Reader {
    pub diagnostics: Vec<Diagnostic>,
}

impl Reader {
    pub fn error(&mut self, span: Span, message: impl Into<String>, help: &str) {
        keep(&mut self.diagnostics, Diagnostic::error(span, message).help(help));
    }

    pub fn warn(&mut self, span: Span, message: impl Into<String>, help: &str) {
        keep(&mut self.diagnostics, Diagnostic::warning(span, message).help(help));
    }

    /// Gives the statements of a block to `take`, those whose words act.
    pub fn block(
        &mut self,
        name: &str,
        words: Words,
        statements: &[Statement],
        mut take: impl FnMut(&mut Self, &Statement),
    ) {
        for statement in statements {
            let keyword = statement.keyword();
            let span = statement.keyword_span();
            match words.iter().find(|(word, _)| *word == keyword) {
                Some((_, Effect::Acts | Effect::Own)) => take(self, statement),
                Some((_, Effect::Without(why))) => {
                    let message = format!("'{keyword}' has no effect: {why}");
                    keep(&mut self.diagnostics, Diagnostic::note(span, message));
                }
                None => {
                    let message = format!("unknown word '{keyword}' in {name}: ignored");
                    let known = words.iter().map(|(word, _)| *word);
                    let near = suggest::nearest(keyword, known);
                    let label = near.map(|near| format!("did you mean '{near}'?"));
                    let diagnostic =
                        Diagnostic::warning(span, message).label(label.unwrap_or_default());
                    keep(&mut self.diagnostics, diagnostic);
                }
            }
        }
    }

    /// The statements inside of a block that must be one.
    pub fn body<'a>(&mut self, statement: &'a Statement) -> &'a [Statement] {
        match &statement.body {
            Some(body) => body,
            None => {
                let keyword = statement.keyword();
                let message = format!("'{keyword}' opens a block, and none follows");
                self.warn(statement.keyword_span(), message, "write { ... } behind it");
                &[]
            }
        }
    }

    /// The one word behind the keyword.
    pub fn word<'a>(&mut self, statement: &'a Statement) -> Option<&'a Word> {
        let keyword = statement.keyword();
        match statement.arguments() {
            [] => {
                let message = format!("'{keyword}' needs a value");
                self.error(statement.keyword_span(), message, "");
                None
            }
            [word] => Some(word),
            [word, more, ..] => {
                let message =
                    format!("'{keyword}' takes one value: the rest of the line is ignored");
                self.warn(more.span, message, "quote a value with blanks in it");
                Some(word)
            }
        }
    }

    pub fn text(&mut self, statement: &Statement) -> Option<String> {
        self.word(statement).map(|word| word.text.clone())
    }

    /// A command line: one quoted word, or the words of the line.
    pub fn command(&mut self, statement: &Statement) -> Option<String> {
        let words: Vec<&str> = statement.arguments().iter().map(|word| &*word.text).collect();
        let command = words.join(" ");
        if command.trim().is_empty() {
            let message = format!("'{}' needs a command", statement.keyword());
            self.error(statement.keyword_span(), message, "");
            return None;
        }
        Some(command)
    }

    /// A notify program: a quoted command, then perhaps the user and group that run it.
    pub fn program(&mut self, statement: &Statement) -> Option<NotifyProgram> {
        match statement.arguments() {
            [command, user, group @ ..] if command.quoted && group.len() <= 1 => {
                let group = group.first().map(|group| group.text.clone());
                let user = Some(User { name: user.text.clone(), group });
                Some(NotifyProgram { command: command.text.clone(), user })
            }
            _ => self.command(statement).map(|command| NotifyProgram { command, user: None }),
        }
    }

    pub fn user(&mut self, statement: &Statement) -> Option<User> {
        match statement.arguments() {
            [name] => Some(User { name: name.text.clone(), group: None }),
            [name, group] => {
                Some(User { name: name.text.clone(), group: Some(group.text.clone()) })
            }
            _ => {
                let message = format!("'{}' takes a user and perhaps a group", statement.keyword());
                self.error(statement.keyword_span(), message, "");
                None
            }
        }
    }

    pub fn number<N>(&mut self, statement: &Statement, range: RangeInclusive<N>) -> Option<N>
    where
        N: FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        let word = self.word(statement)?;
        self.number_in(statement.keyword(), word, range)
    }

    pub fn number_in<N>(
        &mut self,
        keyword: &str,
        word: &Word,
        range: RangeInclusive<N>,
    ) -> Option<N>
    where
        N: FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        let number = word.text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let (low, high) = (range.start(), range.end());
            let message = format!("'{keyword} {}': a number from {low} to {high}", word.text);
            self.error(word.span, message, "");
        }
        number
    }

    /// Seconds, with decimals, in microseconds.
    pub fn seconds(&mut self, statement: &Statement) -> Option<u64> {
        let word = self.word(statement)?;
        self.seconds_in(statement.keyword(), word)
    }

    pub fn seconds_in(&mut self, keyword: &str, word: &Word) -> Option<u64> {
        let is_plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
        let plain = word.text.bytes().all(is_plain).then_some(&word.text);
        let seconds = plain.and_then(|text| text.parse::<f64>().ok());
        match seconds {
            Some(seconds) if seconds <= LONGEST_S => Some((seconds * SECOND_US).round() as u64),
            _ => {
                let message = format!("'{keyword} {}': a number of seconds", word.text);
                self.error(word.span, message, "");
                None
            }
        }
    }

    /// A word that may stand alone, or before yes or no.
    pub fn flag(&mut self, statement: &Statement) -> bool {
        let Some(word) = statement.arguments().first() else { return true };
        match word.text.as_str() {
            "on" | "true" | "yes" | "1" => true,
            "off" | "false" | "no" | "0" => false,
            other => {
                let message = format!("'{} {other}': on or off; taken as on", statement.keyword());
                self.warn(word.span, message, "");
                true
            }
        }
    }

    pub fn address(&mut self, word: &Word) -> Option<IpAddr> {
        let address = word.text.parse().ok();
        if address.is_none() {
            let message = format!("'{}' is no IP address", word.text);
            self.error(word.span, message, "");
        }
        address
    }

    /// `weight N [reverse]`
    pub fn weight(&mut self, words: &[Word], keyword_span: Span) -> Option<Weight> {
        let [number, rest @ ..] = words else {
            self.error(keyword_span, "'weight' needs a number", "");
            return None;
        };
        let value = self.number_in("weight", number, -254..=254_i16)?;
        if !(-253..=253).contains(&value) {
            // keepalived takes 254 as well and cuts it off.
            self.warn(number.span, "weights go from -253 to 253: cut off", "");
        }
        let reverse = match rest {
            [] => false,
            [word] if word.text == "reverse" || word.text == "no_reverse" => word.text == "reverse",
            [word, ..] => {
                self.warn(word.span, format!("'{}' after a weight: ignored", word.text), "");
                false
            }
        };
        Some(Weight { value: value.clamp(-253, 253), reverse })
    }
}
