//! The checker itself, on small pieces of source.

use super::*;

fn lines(findings: &[Finding]) -> Vec<usize> {
    findings.iter().map(|finding| finding.line).collect()
}

fn source(path: &str, text: &str) -> Source {
    Source::new(path, text)
}

#[test]
fn blanking_keeps_offsets_and_removes_comments_and_literals() {
    for (text, code) in [
        ("a // unsafe\nb", "a          \nb"),
        ("a /* x /* y */ z */ b", "a                   b"),
        (r#"f("un\"safe") + 1"#, r#"f("        ") + 1"#),
        (r##"f(r#"a "b" c"#) + r"x""##, r##"f(r#"       "#) + r" ""##),
        (r#"br"ab" + b"cd""#, r#"br"  " + b"  ""#),
        ("'a' 'static '\\'' '\\u{1f}' b'x'", "' ' 'static '  ' '      ' b' '"),
        ("&'a str, 'é', '\"', x", "&'a str, '  ', ' ', x"),
        ("let r#type = 1; // x", "let r#type = 1;     "),
        ("\"two\nlines\" end", "\"   \n     \" end"),
    ] {
        assert_eq!(blanked(text), code, "{text}");
    }
    // No Rust; it must only not break the checker.
    for text in ["\"open", "r#\"open", "/* open", "'", "\\", "'\\", "'\\u{1f", ""] {
        assert_eq!(blanked(text).len(), text.len(), "{text}");
    }
}

#[test]
fn modules_and_their_depth() {
    assert_eq!(module_of("src/engine/mod.rs"), Some(("engine", 1)));
    assert_eq!(module_of("src/engine/write.rs"), Some(("engine", 2)));
    assert_eq!(module_of("src/link/tests/mod.rs"), Some(("link", 2)));
    assert_eq!(module_of("src/buffer.rs"), Some(("buffer", 1)));
    assert_eq!(module_of("src/lib.rs"), None);
    assert_eq!(module_of("src/main.rs"), None);
    assert_eq!(module_of("tests/tidy.rs"), None);
    assert_eq!(module_of("proto/src/codec.rs"), None);
}

#[test]
fn higher_and_neighbouring_layers_are_found_in_every_spelling() {
    for text in [
        "use crate::driver::X;",
        "use crate::{buffer::Payload, driver::{X, Y}};",
        "use crate::{\n    buffer::Payload,\n    cli,\n};",
        "fn f() { crate::link::send(); }",
        "fn f() { twinblk::nbd::send(); }",
        "use crate :: control;",
        "use super::super::driver::X;",
        "use super::super::super::driver::X;",
    ] {
        let found = layer_findings(&source("src/disk/queue.rs", text));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
}

#[test]
fn lower_layers_own_parts_and_mere_words_are_no_finding() {
    for text in [
        "use crate::buffer::{Buffer, driver};",
        "use crate::disk::queue;",
        "use super::{driver, link};",
        "use crate::engine::{event, effect};",
        "// crate::driver decides\nlet x = \"crate::driver\";",
        "use twinblk_proto::units;",
        "use crate::{buffer::{self, cli}, meta};",
    ] {
        let found = layer_findings(&source("src/disk/queue.rs", text));
        assert!(found.is_empty(), "{text}: {found:?}");
    }
    assert!(layer_findings(&source("src/cli/mod.rs", "use crate::daemon;")).is_empty());
    assert!(layer_findings(&source("src/main.rs", "twinblk::cli::main()")).is_empty());
    assert!(layer_findings(&source("tests/pair/main.rs", "use twinblk::control;")).is_empty());
}

#[test]
fn the_engine_imports_nothing_of_this_crate() {
    let found = layer_findings(&source("src/engine/write.rs", "\nuse crate::buffer::Payload;"));
    assert_eq!(lines(&found), [2]);
    assert_eq!(
        found[0].to_string(),
        "src/engine/write.rs:2: the engine imports only the protocol crate, not 'buffer'"
    );
    assert!(layer_findings(&source("src/engine/a.rs", "use crate::engine::b;")).is_empty());
}

#[test]
fn a_module_without_a_layer_is_named() {
    let found = layer_findings(&source("src/extra/mod.rs", ""));
    assert_eq!(found.len(), 1);
    assert!(found[0].rule.contains("'extra'"));
}

#[test]
fn clocks_and_chance_are_found_in_pure_layers_only() {
    for text in [
        "use std::time::Duration;",
        "use std::{fmt, time::Duration};",
        "let x: std::collections::HashMap<u8, u8>;",
        "use std::collections::{BTreeMap, HashSet};",
        "std::thread::spawn(f);",
        "tokio::spawn(f);",
        "ring::rand::SystemRandom::new();",
        "f().await;",
    ] {
        let found = purity_findings(&source("src/engine/write.rs", text));
        assert_eq!(found.len(), 1 + usize::from(text.starts_with("ring")), "{text}: {found:?}");
        assert!(purity_findings(&source("src/link/write.rs", text)).is_empty(), "{text}");
    }
    for text in ["use std::fmt;", "let time = 1; self.time.random();", "// std::time", "awaited()"]
    {
        let found = purity_findings(&source("src/engine/write.rs", text));
        assert!(found.is_empty(), "{text}: {found:?}");
    }
    let digest = source("proto/src/digest.rs", "use ring::{digest, hmac};");
    assert!(purity_findings(&digest).is_empty());
    assert_eq!(purity_findings(&source("src/buffer.rs", "use std::fs;")).len(), 1);
    assert_eq!(purity_findings(&source("src/buffer/pool.rs", "use std::fs;")).len(), 1);
    assert!(purity_findings(&source("src/buffers.rs", "use std::fs;")).is_empty());
}

#[test]
fn unsafe_is_found_as_a_keyword() {
    let text = "#![forbid(unsafe_code)]\n// unsafe\nlet x = unsafe { f() };";
    assert_eq!(lines(&unsafe_findings(&source("src/disk/queue.rs", text))), [3]);
    assert!(unsafe_findings(&source("src/disk/uring.rs", text)).is_empty());
}

#[test]
fn unfinished_work_is_found() {
    let note = UNFINISHED_NOTES[0];
    let text = format!("todo!();\nfn todo() {{}}\n#[ignore]\n#[ignore = \"x\"]\n// {note}: y\n");
    assert_eq!(lines(&unfinished_findings(&source("src/a.rs", &text))), [1, 3, 4, 5]);
    let text = "dbg!(x);\nunimplemented!(\"x\");\n\"todo!()\";\nignore();";
    let mut found = lines(&unfinished_findings(&source("src/a.rs", text)));
    found.sort_unstable();
    assert_eq!(found, [1, 2]);
}

#[test]
fn paths_of_a_machine_are_found_in_comments_and_text() {
    let [home, ..] = MACHINE_FOLDERS;
    let text = format!("// see {home}x\n\"{home}y\"\n$DIR{home}z\n/var/tmp/x\nnetwork{home}x\n");
    assert_eq!(lines(&machine_findings(&source("src/a.rs", &text))), [1, 2]);
}

#[test]
fn long_files_and_a_long_median_are_found() {
    let short = source("src/a.rs", &"x\n".repeat(MAX_MEDIAN_LINES));
    let long = source("src/b.rs", &"x\n".repeat(MAX_LINES + 1));
    let allowed = source("src/c.rs", &"x\n".repeat(MAX_LINES));
    assert!(length_findings(&[short, allowed, source("src/d.rs", "x")]).is_empty());
    let found = length_findings(&[source("src/d.rs", "x"), source("src/e.rs", "x"), long]);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].path.as_str(), found[0].line), ("src/b.rs", MAX_LINES + 1));
    let middling = source("src/a.rs", &"x\n".repeat(MAX_MEDIAN_LINES + 1));
    assert!(length_findings(&[middling])[0].rule.contains("median"));
}

#[test]
fn a_header_is_a_first_line() {
    assert!(header_findings(&source("src/a.rs", "//! What it is for.\n")).is_empty());
    for text in ["", "use std::fmt;\n", "// a comment\n", "//!\n"] {
        assert_eq!(header_findings(&source("src/a.rs", text)).len(), 1, "{text}");
    }
}

#[test]
fn dead_links_are_found() {
    let text = "[a](docs/a.md) [b](docs/b.md#part)\n[c](https://example.org) [d](#here)\n";
    let exists = |path: &str| path == "docs/a.md";
    assert_eq!(lines(&link_findings(&source("README.md", text), exists)), [1]);
    let text = "[a](a.md)\n[up](../README.md)\n[b](b.md)\n";
    let exists = |path: &str| ["docs/a.md", "README.md"].contains(&path);
    assert_eq!(lines(&link_findings(&source("docs/x.md", text), exists)), [3]);
}
