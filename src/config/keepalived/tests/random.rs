//! Any bytes are a configuration or a list of mistakes.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// Words that mean something, in an order that mostly does not.
fn soup() -> impl Strategy<Value = String> {
    let known = Block::ALL.into_iter().flat_map(|block| block.words().iter().copied().flatten());
    let more = [
        "51",
        "100",
        "300",
        "-5",
        "0.5",
        "eth0",
        "VI_1",
        "VI_2",
        "10.0.0.1",
        "10.0.0.1/24",
        "fe80::1",
        "MASTER",
        "BACKUP",
        "PASS",
        "weight",
        "reverse",
        "dev",
        "brd",
        "+",
        "timeout",
        "\"/bin/a b\"",
        "\"",
        "#",
        "!",
        "\\",
        "$A=5",
        "$A",
        "${A}",
        "${_PWD}",
        "@alice",
        "~SEQ(",
        "优先级",
        "/dev/drbd0",
        "/mnt",
        "99999999999999999999",
    ];
    let words: Vec<&str> = known.map(|(word, _)| *word).chain(more).collect();
    let sign = prop::sample::select(vec!["{\n", "}\n", " ", "\n", "\n", "\n{\n", " { "]);
    prop::collection::vec((prop::sample::select(words), sign), 0..80).prop_map(|pairs| {
        pairs.into_iter().fold(String::new(), |mut text, (word, sign)| {
            let _ = write!(text, "{word} {sign}");
            text
        })
    })
}

/// A right block with one word of it replaced.
fn almost_right() -> impl Strategy<Value = String> {
    let texts = [
        include_str!("../../../../tests/data/keepalived/nginx-a.conf"),
        include_str!("../../../../tests/data/keepalived/mysql-a.conf"),
    ];
    (prop::sample::select(texts.to_vec()), any::<prop::sample::Index>(), "\\PC{0,12}").prop_map(
        |(text, at, other)| {
            let words: Vec<&str> = text.split(' ').collect();
            let at = at.index(words.len());
            let changed = words.iter().enumerate();
            let changed = changed.map(|(index, word)| if index == at { &other } else { *word });
            changed.collect::<Vec<&str>>().join(" ")
        },
    )
}

fn read(text: &str) {
    match parse(Path::new("f"), text, "alice") {
        Ok(config) => {
            let _ = config.warnings.render(false);
            for instance in &config.instances {
                assert!(instance.virtual_router_id > 0 && instance.priority > 0);
                assert!(!instance.interface.is_empty() && !instance.addresses.is_empty());
            }
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            let _ = mistakes.render(true);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_words_are_read_without_a_panic(text in soup()) {
        read(&text);
    }

    #[test]
    fn any_change_of_a_right_file_is_read_without_a_panic(text in almost_right()) {
        read(&text);
    }
}

/// What takes long in an honest file takes bounded time in any: each of these is a megabyte.
#[test]
fn large_hostile_files_are_read_soon() {
    let names = |line: &str, count: usize| {
        (0..count).fold(String::new(), |mut text, number| {
            let _ = writeln!(text, "{}", line.replace('#', &number.to_string()));
            text
        })
    };
    read(&names("unknown#", 60_000));
    read(&"{".repeat(1 << 20));
    read(&"a{".repeat(1 << 19));
    read(&"}".repeat(1 << 20));
    read(&names("vrrp_script x# { script y\n}", 30_000));
    read(&(names("$A#=${B}${B}${B}", 10) + "$B=$C\n" + &"${A1} ".repeat(100_000)));
    read(&names("vrrp_instance V# { track_script { x# } unicast_peer { 10.0.0.# } }", 10_000));
}
