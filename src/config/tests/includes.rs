//! Files that include others.

use super::*;

fn mistakes_of(files: &[(&str, &str)]) -> Vec<String> {
    let directory = tempfile::tempdir().expect("temporary directory");
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).expect("written");
    }
    let root = directory.path().display().to_string();
    match load(&directory.path().join(files[0].0)) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes
            .to_string()
            .lines()
            .map(|line| line.replace(&format!("{root}/"), "").replace(&root, "."))
            .collect(),
    }
}

#[test]
fn patterns_may_name_nothing_and_files_may_not_be_missing() {
    let resource = resource_with("");
    assert!(mistakes_of(&[("a", "include \"no*.res\";"), ("r", &resource)]).is_empty());
    assert!(mistakes_of(&[("a", "include \"r\";"), ("r", &resource)]).is_empty());
    assert_eq!(
        mistakes_of(&[("a", "\n include \"nosuch\";")]),
        ["a:2: Can not open 'nosuch': No such file or directory"]
    );
    assert_eq!(
        mistakes_of(&[("a", "include \".\";")]),
        ["a:1: Can not open '.': it is a directory"]
    );
}

#[test]
fn a_file_that_includes_itself_ends() {
    assert_eq!(
        mistakes_of(&[("a", "include \"b\";"), ("b", "include \"a\";")]),
        ["a:1: 'include' nested deeper than 10"]
    );
    // Each level twice would be a thousand files; the second visit of each changes nothing.
    let mistakes = mistakes_of(&[("a", "include \"a\"; include \"a\";")]);
    assert!(mistakes.iter().all(|line| line.contains("nested deeper")), "{mistakes:?}");
}

#[test]
fn one_resource_in_two_files_is_shown_with_both_places() {
    let resource = resource_with("");
    let mistakes =
        mistakes_of(&[("a", "include \"r\";\ninclude \"s\";"), ("r", &resource), ("s", &resource)]);
    assert_eq!(mistakes, ["s:1: conflicting use of resource section 'r0'"]);
}

#[test]
fn no_file_at_all() {
    let mistakes = load(Path::new("/nonexistent/drbd.conf")).expect_err("not there");
    assert_eq!(
        mistakes.render(false),
        "Error: Can not open '/nonexistent/drbd.conf': No such file or directory\n  name the file with -c FILE\n"
    );
}

#[test]
fn include_inside_of_a_section_is_refused() {
    let mistakes = mistakes_of(&[("a", "common { include \"x\"; }")]);
    assert_eq!(mistakes, ["a:1: unknown keyword 'include' in section 'common'"]);
}
