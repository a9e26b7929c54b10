//! docs/drbd-compatibility.md against the table: a line per option, none forgotten, none invented.

use super::super::options::{Default, Effect, Kind, Spec, Unit};
use super::super::table::{ALIASES, TABLE};

const DOCUMENT: &str = include_str!("../../../docs/drbd-compatibility.md");

fn row(spec: &Spec) -> String {
    let default = match spec.default {
        Default::Unset => "-".to_owned(),
        Default::Flag(value) => if value { "yes" } else { "no" }.to_owned(),
        Default::Number(value) => value.to_string(),
        Default::Word(word) => word.to_owned(),
    };
    let values = match spec.kind {
        Kind::Flag => "yes, no".to_owned(),
        Kind::Number { min, max, unit } => {
            let unit = match unit {
                Unit::One => "",
                Unit::Kib => " KiB",
                Unit::Sectors => " sectors",
            };
            format!("{min} to {max}{unit}")
        }
        Kind::Choice(words) => words.join(", "),
        Kind::Text { chars_max } => format!("text, {chars_max} characters"),
        Kind::Words => "words".to_owned(),
        Kind::Listen => "ADDRESS:PORT".to_owned(),
        Kind::Network => "ADDRESS/BITS".to_owned(),
        Kind::Takeover => "both, favour-primary, witness HOST:PORT".to_owned(),
    };
    let effect = match spec.effect {
        Effect::Acts => "yes".to_owned(),
        Effect::NotYet => "accepted without effect, with a warning".to_owned(),
        Effect::Irrelevant => "nothing to act upon; a note in `dump -v`".to_owned(),
        Effect::Refused(why) => format!("refused: {why}"),
    };
    format!("| {} | {} | {default} | {values} | {effect} |", spec.section, spec.name)
}

fn alias_row(alias: &super::super::options::Alias) -> String {
    let becomes = match alias.target {
        Some((section, name)) => format!("{section} {name}"),
        None => "ignored, with a note".to_owned(),
    };
    format!("| {} | {} | {becomes} |", alias.section, alias.name)
}

/// The rows of a table of the document, without its head.
fn rows(marker: &str) -> Vec<&'static str> {
    let after = DOCUMENT.split(&format!("<!-- {marker} -->")).nth(1);
    let block = after.and_then(|text| text.split("<!-- end -->").next()).unwrap_or_default();
    block.lines().filter(|line| line.starts_with("| ")).skip(1).collect()
}

fn assert_same(marker: &str, expected: &[String]) {
    let found = rows(marker);
    let missing: Vec<&String> =
        expected.iter().filter(|row| !found.contains(&row.as_str())).collect();
    let stale: Vec<&&str> =
        found.iter().filter(|row| !expected.iter().any(|known| known == *row)).collect();
    let list = |rows: Vec<String>| rows.join("\n");
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/drbd-compatibility.md, table '{marker}'\n--- add:\n{}\n--- remove:\n{}",
        list(missing.into_iter().cloned().collect()),
        list(stale.into_iter().map(|row| (*row).to_owned()).collect())
    );
}

#[test]
fn every_option_is_in_the_document_as_it_is_in_the_table() {
    assert_same("options", &TABLE.iter().map(row).collect::<Vec<String>>());
}

#[test]
fn every_older_name_is_in_the_document() {
    assert_same("older names", &ALIASES.iter().map(alias_row).collect::<Vec<String>>());
}
