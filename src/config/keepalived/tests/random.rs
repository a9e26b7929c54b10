//! Whatever the bytes are, the answer is a configuration or a list of mistakes.

use std::path::Path;

use proptest::prelude::*;

use super::super::parse;
use super::super::words::BLOCKS;

fn word() -> impl Strategy<Value = String> {
    let known: Vec<String> = BLOCKS
        .iter()
        .flat_map(|(_, words)| words.iter().map(|(word, _)| (*word).to_owned()))
        .filter(|word| !word.starts_with("include"))
        .collect();
    prop_oneof![
        6 => prop::sample::select(known),
        3 => prop::sample::select(vec!["{", "}", "\n", "{\n", "}\n", "\"", "\\", "#", "!", "$A=1"])
            .prop_map(str::to_owned),
        2 => prop::sample::select(vec!["10.0.0.1", "fe80::1/64", "1", "255", "-20", "weight", "x"])
            .prop_map(str::to_owned),
        1 => "\\PC{0,6}",
    ]
}

proptest! {
    #[test]
    fn any_bytes_load_or_do_not(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(Path::new("x"), &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_words_load_or_do_not(words in prop::collection::vec(word(), 0..80)) {
        let text = words.join(" ");
        if let Err(mistakes) = parse(Path::new("x"), &text) {
            prop_assert!(!mistakes.is_empty());
            let _ = mistakes.render(false);
        }
    }
}
