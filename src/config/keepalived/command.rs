//! Programs as they are written in scripts, checks and notifications.

use super::super::source::Span;
use super::model::User;

/// Signs that only a shell understands. Older keepalived gave every script to one, newer runs the
/// words themselves: both find their files here.
const SHELL_SIGNS: [char; 10] = ['|', '&', ';', '<', '>', '$', '`', '*', '(', ')'];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The line, as written.
    pub text: String,
    /// Absent: `script_user`.
    pub user: Option<User>,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// A program and its arguments.
    Arguments(Vec<String>),
    /// For `/bin/sh -c`.
    Shell(String),
}

impl Command {
    pub fn invocation(&self) -> Invocation {
        match split(&self.text) {
            Some(words) => Invocation::Arguments(words),
            None => Invocation::Shell(self.text.clone()),
        }
    }
}

/// Words between blanks, with quotes and backslashes as a shell takes them; `None` where a shell is
/// needed.
fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut is_word = false;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quote != Some('\'') => {
                word.push(characters.next()?);
                is_word = true;
            }
            '"' | '\'' if quote.is_none() => {
                quote = Some(character);
                is_word = true;
            }
            _ if quote == Some(character) => quote = None,
            '$' | '`' if quote == Some('"') => return None,
            _ if quote.is_some() => word.push(character),
            _ if character.is_whitespace() => {
                if std::mem::take(&mut is_word) {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ if SHELL_SIGNS.contains(&character) => return None,
            _ => {
                word.push(character);
                is_word = true;
            }
        }
    }
    if quote.is_some() {
        return None;
    }
    if is_word {
        words.push(word);
    }
    (!words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_quotes_and_what_needs_a_shell() {
        let words = |text: &str| split(text).map(|words| words.join("|"));
        assert_eq!(words("/a/check.sh").as_deref(), Some("/a/check.sh"));
        assert_eq!(words(" killall  -0 nginx ").as_deref(), Some("killall|-0|nginx"));
        assert_eq!(words("a 'b c' \"d e\"f \\ g ''").as_deref(), Some("a|b c|d ef| g|"));
        assert_eq!(words("/usr/bin/test ! -e /x").as_deref(), Some("/usr/bin/test|!|-e|/x"));
        assert_eq!(words("sh -c 'a | b > $c'").as_deref(), Some("sh|-c|a | b > $c"));
        for shell in ["a | b", "a && b", "</dev/tcp/127.0.0.1/80", "a $(b)", "a \"$b\"", "", "'a"] {
            assert_eq!(words(shell), None, "{shell}");
        }
    }
}
