//! Any bytes are a configuration or a list of mistakes; any configuration survives its own dump.

use proptest::prelude::*;

use super::super::options::{Kind, Section};
use super::super::table::TABLE;
use super::*;

/// Words that mean something, in an order that mostly does not.
fn soup() -> impl Strategy<Value = String> {
    let keyword = prop::sample::select(
        TABLE
            .iter()
            .map(|spec| spec.name)
            .chain([
                "global",
                "common",
                "resource",
                "on",
                "volume",
                "floating",
                "net",
                "disk",
                "nbd",
                "device",
                "meta-disk",
                "address",
                "include",
                "skip",
                "syncer",
                "protocol",
                "minor",
                "internal",
                "yes",
                "no",
                "C",
                "r0",
                "alice",
                "/dev/drbd0",
                "[0]",
                "10.0.0.1:1",
                "99999999999999999999",
                "5G",
                "\"a b\"",
                "\"",
                "#",
                "\n",
                "\\",
                "stacked-on-top-of",
            ])
            .collect::<Vec<&str>>(),
    );
    let sign = prop::sample::select(vec![";", "{", "}", " ", "\n"]);
    prop::collection::vec((keyword, sign), 0..60)
        .prop_map(|pairs| pairs.into_iter().map(|(word, sign)| format!("{word} {sign} ")).collect())
}

/// A setting of the table with a value that it may have.
fn setting() -> impl Strategy<Value = (Section, String)> {
    let usable = |spec: &&super::super::options::Spec| {
        spec.section != Section::Global
            && !matches!(spec.effect, super::super::options::Effect::Refused(_))
            && !matches!(spec.name, "become-primary-on" | "resync-after")
    };
    let specs: Vec<_> = TABLE.iter().filter(usable).collect();
    (prop::sample::select(specs), any::<u64>(), "[ -~]{0,20}").prop_map(|(spec, number, text)| {
        let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
        let value = match spec.kind {
            Kind::Flag => ["", "yes", "no"][number as usize % 3].to_owned(),
            Kind::Number { min, max, .. } => (min + number % (max - min + 1)).to_string(),
            // Only right beside protocol B or C.
            Kind::Choice(_) if spec.name == "fencing" => "resource-only".to_owned(),
            Kind::Choice(words) => words[number as usize % words.len()].to_owned(),
            Kind::Text { .. } => format!("\"{escaped}\""),
            Kind::Words => "alice".to_owned(),
            Kind::Listen => format!("127.0.0.1:{}", 1 + number % 60_000),
            Kind::Network => format!("10.0.0.0/{}", number % 33),
            Kind::Takeover => "both".to_owned(),
        };
        (spec.section, format!("{} {value};", spec.name))
    })
}

fn sections(settings: &[(Section, String)]) -> String {
    let of = |section: Section| -> String {
        settings.iter().filter(|(own, _)| *own == section).map(|(_, text)| text.as_str()).collect()
    };
    Section::OF_RESOURCE
        .into_iter()
        .map(|section| (section, of(section)))
        .filter(|(_, text)| !text.is_empty())
        .map(|(section, text)| format!("{section} {{ {text} }}\n"))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Err(mistakes) = parse(Path::new("f"), &text) {
            prop_assert!(!mistakes.is_empty());
            let _ = mistakes.render(true);
        }
    }

    #[test]
    fn any_words_are_read_without_a_panic(text in soup()) {
        match parse(Path::new("f"), &text) {
            Ok(config) => {
                let _ = config.dump("alice");
                for resource in &config.resources {
                    let _ = resource.for_node("alice");
                }
            }
            Err(mistakes) => {
                let _ = mistakes.render(false);
            }
        }
    }

    #[test]
    fn a_dump_means_what_the_original_means(
        common in prop::collection::vec(setting(), 0..12),
        own in prop::collection::vec(setting(), 0..12),
        disk in "[ -~]{1,20}",
    ) {
        let disk = disk.replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!(
            "common {{ {} }}\n{}",
            sections(&common),
            resource_with(&sections(&own)).replace("/dev/sda3", &format!("\"/dev/{disk}\"")),
        );
        let first = parsed(&text);
        let second = parsed(&first.dump("alice"));
        for node in ["alice", "bob"] {
            let view = |config: &Config| {
                let view = config.resources[0].for_node(node).expect("there");
                NodeView { defined_at: String::new(), ..view }
            };
            prop_assert_eq!(view(&first), view(&second));
        }
        prop_assert_eq!(&first.common, &second.common);
        prop_assert_eq!(&first.resources[0].options, &second.resources[0].options);
    }
}
