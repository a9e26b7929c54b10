//! docs/keepalived-compatibility.md against the table: a line per word, none forgotten, none
//! invented; and every word that is said to act does.

use super::super::words::{Block, Effect};
use super::*;

const DOCUMENT: &str = include_str!("../../../../docs/keepalived-compatibility.md");

/// The rows of the document, without its head.
fn rows() -> Vec<&'static str> {
    let after = DOCUMENT.split("<!-- words -->").nth(1);
    let block = after.and_then(|text| text.split("<!-- end -->").next()).unwrap_or_default();
    block.lines().filter(|line| line.starts_with("| ")).skip(1).collect()
}

fn expected() -> Vec<String> {
    let mut rows = Vec::new();
    for block in Block::ALL {
        for (word, effect) in block.words().iter().copied().flatten() {
            let effect = match effect {
                Effect::Acts => "yes".to_owned(),
                Effect::Irrelevant(why) => format!("accepted, a note: {why}"),
                Effect::NotProvided(instead) => format!("not provided, a warning: {instead}"),
                Effect::Forwarding => "no forwarding, one warning for all".to_owned(),
            };
            rows.push(format!("| {block} | {word} | {effect} |"));
        }
    }
    rows
}

#[test]
fn every_word_is_in_the_document_as_it_is_in_the_table() {
    let (expected, found) = (expected(), rows());
    let missing: Vec<&String> =
        expected.iter().filter(|row| !found.contains(&row.as_str())).collect();
    let stale: Vec<&&str> =
        found.iter().filter(|row| !expected.iter().any(|known| known == *row)).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/keepalived-compatibility.md\n--- add:\n{}\n--- remove:\n{}",
        missing.into_iter().cloned().collect::<Vec<_>>().join("\n"),
        stale.into_iter().map(|row| (*row).to_owned()).collect::<Vec<_>>().join("\n"),
    );
}

#[test]
fn no_word_is_in_the_table_twice() {
    for block in Block::ALL {
        let mut words: Vec<&str> =
            block.words().iter().copied().flatten().map(|(word, _)| *word).collect();
        words.sort_unstable();
        let count = words.len();
        words.dedup();
        assert_eq!(words.len(), count, "{block}");
    }
}

/// A block reader that forgets a word of the table ends in a debug assertion.
#[test]
fn every_word_of_the_table_is_read() {
    for block in Block::ALL {
        for (word, _) in block.words().iter().copied().flatten() {
            for line in [format!("{word} 1 2\n"), format!("{word} {{\nx\n}}\n")] {
                let text = match block {
                    Block::File => line,
                    Block::GlobalDefs => format!("global_defs {{\n{line}}}"),
                    Block::Url => {
                        format!(
                            "virtual_server 1.1.1.1 1 {{\nreal_server 1.1.1.1 1 {{\nHTTP_GET {{\nurl {{\n{line}}}}}}}}}"
                        )
                    }
                    Block::TcpCheck | Block::HttpGet | Block::MiscCheck => {
                        format!(
                            "virtual_server 1.1.1.1 1 {{\nreal_server 1.1.1.1 1 {{\n{block} {{\n{line}}}}}}}"
                        )
                    }
                    Block::RealServer => {
                        format!("virtual_server 1.1.1.1 1 {{\nreal_server 1.1.1.1 1 {{\n{line}}}}}")
                    }
                    Block::Authentication => {
                        format!("vrrp_instance x {{\nauthentication {{\n{line}}}}}")
                    }
                    Block::DrbdResource => {
                        format!("vrrp_instance x {{\ndrbd_resource r {{\n{line}}}}}")
                    }
                    Block::VirtualServer => format!("virtual_server 1.1.1.1 1 {{\n{line}}}"),
                    _ => format!("{block} x {{\n{line}}}"),
                };
                if let Err(mistakes) = parse(Path::new("f"), &text, "a") {
                    assert!(!mistakes.to_string().contains("unknown"), "{text}: {mistakes}");
                }
            }
        }
    }
}
