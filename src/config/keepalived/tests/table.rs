//! The table of words, the readers and the document agree.

use std::path::Path;

use super::super::parse;
use super::super::words::{BLOCKS, Effect};

const DOCUMENT: &str = include_str!("../../../../docs/keepalived-compatibility.md");

/// A file in which `word` stands alone in its block.
fn file(block: &str, word: &str) -> String {
    let inner = match word {
        "real_server" => "real_server 10.0.0.1 80 {\n}".to_owned(),
        "TCP_CHECK" | "group" | "unicast_peer" | "virtual_ipaddress" => format!("{word} {{\n}}"),
        _ => format!("{word} 1 {{\n}}"),
    };
    match block {
        "the file" => format!("{inner}\n"),
        "vrrp_instance" => super::instance(&inner),
        "authentication" | "drbd_resource" => {
            super::instance(&format!("{block} x {{\n{inner}\n}}"))
        }
        "virtual_server" => format!("virtual_server 10.0.0.1 80 {{\n{inner}\n}}\n"),
        "real_server" => {
            format!("virtual_server 10.0.0.1 80 {{\nreal_server 10.0.0.1 80 {{\n{inner}\n}}\n}}\n")
        }
        "a checker" => format!(
            "virtual_server 10.0.0.1 80 {{\nreal_server 10.0.0.1 80 {{\nHTTP_GET {{\nurl {{\n}}\n{inner}\n}}\n}}\n}}\n"
        ),
        "url" => format!(
            "virtual_server 10.0.0.1 80 {{\nreal_server 10.0.0.1 80 {{\nHTTP_GET {{\nurl {{\n{inner}\n}}\n}}\n}}\n}}\n"
        ),
        _ => format!("{block} x {{\n{inner}\n}}\n"),
    }
}

/// A word that the table knows and no reader would end in an assertion there.
#[test]
fn every_word_that_acts_is_read_by_somebody() {
    for (block, words) in BLOCKS {
        for (word, effect) in words {
            let text = file(block, word);
            let found = match parse(Path::new("/x/k.conf"), &text) {
                Ok(config) => config.warnings.to_string(),
                Err(mistakes) => mistakes.to_string(),
            };
            assert!(!found.contains(&format!("unknown word '{word}'")), "{block} {word}: {found}");
            if let Effect::Without(why) = effect {
                assert!(found.contains(why), "{block} {word}: {found}");
            }
        }
    }
}

#[test]
fn the_document_lists_every_word_with_its_effect() {
    for (block, words) in BLOCKS {
        let heading = format!("## {block}\n");
        let (_, section) = DOCUMENT.split_once(&heading).unwrap_or_else(|| panic!("no {heading}"));
        let section = section.split("\n## ").next().expect("a section");
        let listed: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")).collect();
        let expected: Vec<String> = words
            .iter()
            .map(|(word, effect)| match effect {
                Effect::Acts => format!("{word}` | yes |"),
                Effect::Own => format!("{word}` | yes, a word of twinblk |"),
                Effect::Without(why) => format!("{word}` | no effect: {why} |"),
            })
            .collect();
        assert_eq!(listed, expected, "{block}");
    }
}
