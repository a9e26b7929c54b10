//! File name patterns of `include`: `*`, `?` and `[...]` in the parts of a path.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Whether a path has wildcards at all.
pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// The files that a pattern names, sorted by name. A directory that is not there has none.
pub fn expand(base: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![base.to_owned()];
    for component in Path::new(pattern).components() {
        let Component::Normal(name) = component else {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        };
        let name = name.to_string_lossy();
        if !is_pattern(&name) {
            found.iter_mut().for_each(|path| path.push(&*name));
            continue;
        }
        let mut next = Vec::new();
        for directory in found {
            next.extend(matches_in(&directory, &name)?);
        }
        found = next;
    }
    found.retain(|path| path.exists());
    found.sort();
    Ok(found)
}

fn matches_in(directory: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        // As in a shell, a leading dot is matched by a dot only: editors leave such files behind.
        if matches(pattern, &text) && text.starts_with('.') == pattern.starts_with('.') {
            found.push(directory.join(&name));
        }
    }
    Ok(found)
}

/// Linear in both lengths but for the single backtracking point of `*`.
fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut read) = (0, 0);
    let mut retry = None;
    while read < text.len() {
        if pattern.get(at) == Some(&'*') {
            retry = Some((at + 1, read));
            at += 1;
            continue;
        }
        if let Some(next) = match_one(&pattern, at, text[read]) {
            (at, read) = (next, read + 1);
        } else if let Some((star, from)) = retry {
            (at, read) = (star, from + 1);
            retry = Some((star, from + 1));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|&character| character == '*')
}

/// Matches one character; where the pattern goes on.
fn match_one(pattern: &[char], at: usize, character: char) -> Option<usize> {
    match *pattern.get(at)? {
        '?' => Some(at + 1),
        '[' => match_class(pattern, at, character),
        literal => (literal == character).then_some(at + 1),
    }
}

fn match_class(pattern: &[char], open: usize, character: char) -> Option<usize> {
    let negated = matches!(pattern.get(open + 1), Some('!' | '^'));
    let first = open + 1 + usize::from(negated);
    // A bracket that is never closed stands for itself.
    let Some(close) = (first + 1..pattern.len()).find(|&at| pattern[at] == ']') else {
        return (character == '[').then_some(open + 1);
    };
    let mut inside = false;
    let mut at = first;
    while at < close {
        if at + 2 < close && pattern[at + 1] == '-' {
            inside |= (pattern[at]..=pattern[at + 2]).contains(&character);
            at += 3;
        } else {
            inside |= pattern[at] == character;
            at += 1;
        }
    }
    (inside != negated).then_some(close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*.res", "r0.res", true),
            ("*.res", "r0.res~", false),
            ("*", "", true),
            ("r?.res", "r0.res", true),
            ("r?.res", "r.res", false),
            ("r[0-9].res", "r7.res", true),
            ("r[!0-9].res", "r7.res", false),
            ("r[]x].res", "r].res", true),
            ("a[", "a[", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        assert!(!matches(&"*a".repeat(50), &"a".repeat(49)));
    }

    #[test]
    fn files_are_found_sorted_and_hidden_ones_left_out() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let inner = directory.path().join("drbd.d");
        std::fs::create_dir(&inner).expect("created");
        for name in ["b.res", "a.res", ".a.res.swp", ".x.res", "c.conf"] {
            std::fs::write(inner.join(name), "").expect("written");
        }
        let found = expand(directory.path(), "drbd.d/*.res").expect("readable");
        assert_eq!(found, [inner.join("a.res"), inner.join("b.res")]);
        let absolute = inner.join("?.conf").display().to_string();
        assert_eq!(expand(Path::new("/nowhere"), &absolute).expect("ok"), [inner.join("c.conf")]);
        assert!(expand(directory.path(), "missing/*.res").expect("no error").is_empty());
    }
}
