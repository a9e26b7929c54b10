//! House rules that no compiler checks: who may import whom, what must stay out of the engine, how
//! long a file may be, and what may not be left behind. Each finding names file, line and rule.
//!
//! The layers, lowest first; a module imports lower ones only (docs/architecture.md):
//!
//! ```text
//!   proto, buffer <- engine, meta, config <- program <- disk, link, nbd <- driver <- control <- daemon <- cli
//! ```

use std::fmt;
use std::fs;
use std::path::Path;

/// Modules of one line do not know each other. A new top-level module is given its place here.
const LAYERS: [&[&str]; 10] = [
    &["buffer", "mountinfo"],
    &["engine", "meta", "election", "config"],
    &["program"],
    &["disk", "link", "nbd", "vrrp", "service", "witness", "watch", "notify"],
    &["driver"],
    &["control"],
    &["failover"],
    &["daemon"],
    &["demo"],
    &["cli"],
];

/// Payload bytes do not enter it either: it sees handles.
const ENGINE: &str = "engine";

/// What must not be named in a layer: `a::b` is a path, a single word any identifier.
const KEPT_OUT: [(&str, &[&str]); 6] = [
    (
        "src/engine",
        &[
            "std::time",
            "std::net",
            "std::fs",
            "std::io",
            "std::os",
            "std::env",
            "std::thread",
            "std::process",
            "tokio",
            "rand",
            "ring",
            "rustix",
            "socket2",
            "io_uring",
            "tracing",
            "HashMap",
            "HashSet",
            "SystemTime",
            "await",
            "println",
            "eprintln",
        ],
    ),
    (
        "proto/src",
        &[
            "twinblk",
            "std::time",
            "std::net",
            "std::fs",
            "std::thread",
            "ring::rand",
            "rand",
            "tokio",
            "HashMap",
            "HashSet",
        ],
    ),
    ("src/buffer", &["std::time", "std::net", "std::fs", "tokio", "rand", "HashMap"]),
    ("src/meta", &["std::time", "std::net", "tokio", "rand", "ring", "HashMap", "HashSet"]),
    (
        "src/election",
        &["std::time", "std::fs", "std::io", "tokio", "rand", "ring", "HashMap", "HashSet"],
    ),
    ("src/config", &["std::time", "tokio", "rand", "ring", "HashMap", "HashSet"]),
];

/// Only what the kernel offers in no safer form.
const UNSAFE_FILES: [&str; 3] = ["src/disk/uring.rs", "src/vrrp/socket.rs", "src/nbd/netlink.rs"];

const MAX_LINES: usize = 800;
const MAX_MEDIAN_LINES: usize = 200;

const UNFINISHED_MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];
// In two pieces, so that this file passes.
const UNFINISHED_NOTES: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];
const MACHINE_FOLDERS: [&str; 5] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/t", "mp/"),
    concat!("/wo", "rk/"),
];

// ---- the rules

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Imports of a higher or a neighbouring layer.
fn layer_findings(source: &Source) -> Vec<Finding> {
    let Some((module, depth)) = module_of(&source.path) else { return Vec::new() };
    let Some(own) = rank(module) else {
        let rule = format!("module '{module}' has no place in LAYERS of tests/tidy.rs");
        return vec![source.finding_at(0, rule)];
    };
    let mut imports = source.members_of("crate");
    imports.extend(source.members_of("twinblk"));
    // From deep enough inside, `super::super::...` leads out of the module as well.
    for supers in depth..depth + 3 {
        imports.extend(source.members_of(&vec!["super"; supers].join("::")));
    }
    let mut findings = Vec::new();
    for (offset, target) in imports {
        let Some(other) = rank(&target) else { continue };
        if target == module {
            continue;
        }
        let rule = if module == ENGINE {
            format!("the engine imports only the protocol crate, not '{target}'")
        } else if other == own {
            format!("'{module}' and '{target}' are of one layer and do not know each other")
        } else if other > own {
            format!("'{module}' imports '{target}', which is a higher layer")
        } else {
            continue;
        };
        findings.push(source.finding_at(offset, rule));
    }
    findings
}

/// Clocks, randomness, threads and I/O in layers that are a function of their input.
fn purity_findings(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (place, words) in KEPT_OUT {
        let inside = source.path.strip_prefix(place);
        if !inside.is_some_and(|rest| rest.starts_with(['/', '.'])) {
            continue;
        }
        for word in words {
            let offsets = match word.rsplit_once("::") {
                Some((parent, member)) => {
                    let members = source.members_of(parent).into_iter();
                    members.filter(|(_, name)| name == member).map(|(offset, _)| offset).collect()
                }
                None => source.words(word),
            };
            for offset in offsets {
                findings.push(source.finding_at(offset, format!("{place} must not use '{word}'")));
            }
        }
    }
    findings
}

fn unsafe_findings(source: &Source) -> Vec<Finding> {
    if UNSAFE_FILES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let rule = format!("'unsafe' only in {}", UNSAFE_FILES.join(", "));
    source.words("unsafe").into_iter().map(|at| source.finding_at(at, rule.clone())).collect()
}

/// What was meant to be finished or switched on again.
fn unfinished_findings(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in UNFINISHED_MACROS {
        for offset in source.words(name) {
            if source.code[offset + name.len()..].starts_with('!') {
                findings.push(source.finding_at(offset, format!("'{name}!' is left behind")));
            }
        }
    }
    for offset in source.words("ignore") {
        if source.code[..offset].trim_end().ends_with("#[") {
            let rule = "a test is ignored: it runs, or says `skipped: REASON`, or goes";
            findings.push(source.finding_at(offset, rule.to_owned()));
        }
    }
    for note in UNFINISHED_NOTES {
        for (offset, _) in source.text.match_indices(note) {
            findings.push(source.finding_at(offset, format!("'{note}' is left behind")));
        }
    }
    findings
}

/// Folders of somebody's machine, in code, comments, scripts or documents.
fn machine_findings(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for folder in MACHINE_FOLDERS {
        for (offset, _) in source.text.match_indices(folder) {
            let before = source.text[..offset].chars().next_back();
            // `$x/tmp/` and `var/tmp/` begin elsewhere.
            if before.is_none_or(|c| !is_word(c) && !"./-}~".contains(c)) {
                let rule = format!("a path of somebody's machine ({folder}...)");
                findings.push(source.finding_at(offset, rule));
            }
        }
    }
    findings
}

fn length_findings(sources: &[Source]) -> Vec<Finding> {
    let mut lengths = Vec::new();
    let mut findings = Vec::new();
    for source in sources {
        let lines = source.text.lines().count();
        lengths.push(lines);
        if lines > MAX_LINES {
            let rule = format!("{lines} lines; a file has at most {MAX_LINES}: divide it by ideas");
            findings.push(Finding { path: source.path.clone(), line: lines, rule });
        }
    }
    lengths.sort_unstable();
    let median = lengths.get(lengths.len() / 2).copied().unwrap_or(0);
    if median > MAX_MEDIAN_LINES {
        let rule = format!("the median file has {median} lines; at most {MAX_MEDIAN_LINES}");
        findings.push(Finding { path: "all .rs files".to_owned(), line: 1, rule });
    }
    findings
}

/// A file begins by saying what it is for.
fn header_findings(source: &Source) -> Vec<Finding> {
    if source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![source.finding_at(0, "the file does not begin with a `//! ` line".to_owned())]
}

/// Relative links of a document that lead nowhere.
fn link_findings(document: &Source, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let folder = document.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut findings = Vec::new();
    for (offset, _) in document.text.match_indices("](") {
        let rest = &document.text[offset + 2..];
        let Some(end) = rest.find(')') else { continue };
        let target = rest[..end].split('#').next().unwrap_or("");
        if target.is_empty() || target.contains("://") {
            continue;
        }
        let path = match target.strip_prefix("../") {
            Some(outside) => outside.to_owned(),
            None if folder.is_empty() => target.to_owned(),
            None => format!("{folder}/{target}"),
        };
        if !exists(&path) {
            findings.push(document.finding_at(offset, format!("link to '{target}': no {path}")));
        }
    }
    findings
}

// ---- sources

#[derive(Debug)]
struct Source {
    /// From the root of the repository, with slashes.
    path: String,
    text: String,
    /// The text with comments and the insides of literals blanked, byte for byte.
    code: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: blanked(text) }
    }

    fn finding_at(&self, offset: usize, rule: String) -> Finding {
        let line = self.text[..offset].matches('\n').count() + 1;
        Finding { path: self.path.clone(), line, rule }
    }

    /// Where `word` stands as a word of the code.
    fn words(&self, word: &str) -> Vec<usize> {
        let alone = |offset: &usize| {
            let before = self.code[..*offset].chars().next_back();
            let after = self.code[offset + word.len()..].chars().next();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        };
        self.code.match_indices(word).map(|(offset, _)| offset).filter(alone).collect()
    }

    /// What is named directly under the path `parent`: `crate::a::b` and `crate::{a, c::{d}}`
    /// name a, and a and c.
    fn members_of(&self, parent: &str) -> Vec<(usize, String)> {
        let mut members = Vec::new();
        for offset in self.words(parent) {
            // `super::crate` does not exist, but `super::super` is not `super`.
            let before = self.code[..offset].trim_end();
            if before.ends_with("::") && before.len() > 2 {
                let owner = before[..before.len() - 2].chars().next_back();
                if owner.is_some_and(|c| is_word(c) || c == '>') {
                    continue;
                }
            }
            let rest = self.code[offset + parent.len()..].trim_start();
            let Some(rest) = rest.strip_prefix("::") else { continue };
            let rest = rest.trim_start();
            match rest.strip_prefix('{') {
                Some(group) => {
                    members.extend(group_members(group).into_iter().map(|name| (offset, name)))
                }
                None => {
                    members.push((offset, rest.chars().take_while(|c| is_word(*c)).collect()));
                }
            }
        }
        members
    }
}

/// The first segments inside a `{...}` of a `use`, the brace already taken off.
fn group_members(group: &str) -> Vec<String> {
    let mut members = Vec::new();
    let (mut depth, mut fresh) = (0_usize, true);
    let mut characters = group.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if is_word(c) && depth == 0 && fresh => {
                let name: String = group[at..].chars().take_while(|c| is_word(*c)).collect();
                for _ in 1..name.chars().count() {
                    characters.next();
                }
                members.push(name);
                fresh = false;
            }
            _ => {}
        }
    }
    members
}

/// The top-level module that a file of src/ belongs to, and how many `super` lead to the root.
fn module_of(path: &str) -> Option<(&str, usize)> {
    let inside = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    let module = inside.split('/').next()?;
    if matches!(inside, "lib" | "main") {
        return None;
    }
    Some((module, inside.split('/').count()))
}

/// Replaces comments and the insides of string and character literals by spaces, so that what is
/// left is code. Line breaks stay, and so does every offset.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    let mut blank = |from: usize, to: usize| {
        for byte in &mut code[from..to.min(bytes.len())] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let end = if rest.starts_with(b"//") {
            let length = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
            blank(at, at + length);
            at + length
        } else if rest.starts_with(b"/*") {
            let end = at + comment_length(rest);
            blank(at, end);
            end
        } else if let Some((open, close)) = raw_string(rest).filter(|_| !follows_word(bytes, at)) {
            let inside = find(&rest[open..], close.as_bytes()).unwrap_or(rest.len() - open);
            blank(at + open, at + open + inside);
            at + open + inside + close.len()
        } else if rest[0] == b'"' {
            let length = quoted_length(rest);
            blank(at + 1, at + length - 1);
            at + length
        } else if rest[0] == b'\'' {
            let length = character_length(rest);
            if length > 1 {
                blank(at + 1, at + length - 1);
            }
            at + length
        } else {
            at + 1
        };
        at = end;
    }
    String::from_utf8(code).expect("whole literals are blanked")
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    // `br"..."` begins at its b; the r of an identifier begins nothing.
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

/// Comments nest.
fn comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// For `r##"`, `br"` and their like: the length of the opening and the closing text.
fn raw_string(rest: &[u8]) -> Option<(usize, String)> {
    let prefix = [&b"r"[..], b"br", b"cr"].into_iter().find(|prefix| {
        rest.starts_with(prefix) && matches!(rest.get(prefix.len()), Some(b'"' | b'#'))
    })?;
    let hashes = rest[prefix.len()..].iter().take_while(|b| **b == b'#').count();
    let open = prefix.len() + hashes;
    // `r#name` is an identifier.
    (rest.get(open) == Some(&b'"')).then(|| (open + 1, format!("\"{}", "#".repeat(hashes))))
}

fn quoted_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// 1 for the quote of a lifetime.
fn character_length(rest: &[u8]) -> usize {
    let inside = match rest.get(1) {
        Some(b'\\') => 2 + rest[2..].iter().skip(1).position(|b| *b == b'\'').unwrap_or(0),
        Some(first) => match first.leading_ones() {
            0 => 1,
            continued => continued as usize,
        },
        None => return 1,
    };
    if rest.get(1 + inside) == Some(&b'\'') { inside + 2 } else { 1 }
}

// ---- the repository

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every file below the places that are ours, chosen by name.
fn collect(places: &[&str], wanted: &dyn Fn(&str) -> bool) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut waiting: Vec<String> = places.iter().map(|place| (*place).to_owned()).collect();
    while let Some(path) = waiting.pop() {
        let full = Path::new(ROOT).join(&path);
        if full.is_dir() {
            let entries = fs::read_dir(&full).expect("a readable folder");
            for entry in entries {
                let name = entry.expect("a readable folder").file_name();
                let name = name.to_str().expect("file names are UTF-8");
                if !matches!(name, "target" | "data" | "corpus" | "artifacts" | "__pycache__") {
                    waiting.push(format!("{path}/{name}"));
                }
            }
        } else if full.is_file() && wanted(&path) {
            let text = fs::read_to_string(&full).expect("our files are UTF-8");
            sources.push(Source::new(&path, &text));
        }
    }
    assert!(!sources.is_empty(), "nothing to check in {places:?}");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn rust_files() -> Vec<Source> {
    collect(&["src", "proto", "tests", "examples"], &|path| path.ends_with(".rs"))
}

fn everything() -> Vec<Source> {
    let places = [
        "src",
        "proto",
        "tests",
        "examples",
        "docs",
        "scripts",
        ".ci",
        "README.md",
        "Cargo.toml",
        "deny.toml",
        ".clippy.toml",
    ];
    collect(&places, &|_| true)
}

fn documents() -> Vec<Source> {
    collect(&["README.md", "docs"], &|path| path.ends_with(".md"))
}

/// Fails with all findings, one on a line.
fn none(findings: impl IntoIterator<Item = Finding>) {
    let lines: Vec<String> = findings.into_iter().map(|finding| finding.to_string()).collect();
    assert!(lines.is_empty(), "{} found:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn lower_layers_do_not_import_higher_ones() {
    none(rust_files().iter().flat_map(layer_findings));
}

#[test]
fn pure_layers_have_no_clock_no_chance_and_no_io() {
    none(rust_files().iter().flat_map(purity_findings));
}

#[test]
fn unsafe_stays_where_it_is_listed() {
    none(rust_files().iter().flat_map(unsafe_findings));
}

#[test]
fn nothing_is_left_unfinished() {
    none(rust_files().iter().flat_map(unfinished_findings));
}

#[test]
fn files_are_short() {
    none(length_findings(&rust_files()));
}

#[test]
fn every_file_says_what_it_is_for() {
    none(rust_files().iter().flat_map(header_findings));
}

#[test]
fn no_file_names_somebodys_machine() {
    none(everything().iter().flat_map(machine_findings));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let exists = |path: &str| Path::new(ROOT).join(path).exists();
    none(documents().iter().flat_map(|document| link_findings(document, exists)));
}

#[path = "tidy/snippets.rs"]
mod snippets;
