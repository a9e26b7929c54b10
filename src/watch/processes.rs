//! What runs on a machine, as /proc tells it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::process::{ParameterMatch, ProcessPattern};

/// Of a name in `comm`.
const NAME_BYTES_MAX: usize = 15;
/// A longer command line matches as far as this goes. The kernel allows megabytes.
const COMMAND_BYTES_MAX: u64 = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    id: u32,
    /// In ticks since boot: the number alone may be another's later.
    started: u64,
}

#[derive(Debug)]
pub(super) struct Table {
    folder: PathBuf,
}

impl Table {
    pub(super) fn of_this_machine() -> Self {
        Self { folder: PathBuf::from("/proc") }
    }

    fn file(&self, id: u32, name: &str) -> PathBuf {
        self.folder.join(id.to_string()).join(name)
    }
}

/// Of `known`, those that run on.
pub(super) fn still(table: &Table, pattern: &ProcessPattern, known: Vec<Process>) -> Vec<Process> {
    let same = |process: &Process| look(table, process.id, pattern) == Some(*process);
    known.into_iter().filter(same).collect()
}

pub(super) fn search(table: &Table, pattern: &ProcessPattern) -> Vec<Process> {
    let Ok(entries) = fs::read_dir(&table.folder) else { return Vec::new() };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter_map(|id| look(table, id, pattern)).collect()
}

/// The process, if it runs and is of the kind.
fn look(table: &Table, id: u32, pattern: &ProcessPattern) -> Option<Process> {
    let stat = read(&table.file(id, "stat"))?;
    let (name, started) = parse_stat(&stat)?;
    let matches = match pattern {
        // What was renamed after it started is as it is called now.
        ProcessPattern::Name(wanted) => {
            let wanted = wanted.as_bytes();
            name == &wanted[..wanted.len().min(NAME_BYTES_MAX)]
        }
        ProcessPattern::Command { words, parameters } => {
            is_command(&read(&table.file(id, "cmdline"))?, words, *parameters)
        }
    };
    matches.then_some(Process { id, started })
}

/// `ID (NAME) STATE ... STARTED ...`: the name may hold anything, brackets too. `None` for what has
/// ended and only waits for its parent.
fn parse_stat(stat: &[u8]) -> Option<(&[u8], u64)> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let name = stat.get(open + 1..close)?;
    let rest = str::from_utf8(&stat[close + 1..]).ok()?;
    // State is the third field of proc(5), the start time the 22nd.
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some((name, started))
}

fn is_command(line: &[u8], words: &[String], parameters: ParameterMatch) -> bool {
    let line = line.strip_suffix(b"\0").unwrap_or(line);
    // A kernel thread, or a process that is ending.
    if line.is_empty() || words.is_empty() {
        return false;
    }
    let is: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    if is.len() < words.len() || parameters != ParameterMatch::Partial && is.len() > words.len() {
        return false;
    }
    let last = words.len() - 1;
    is.iter().zip(words).enumerate().all(|(place, (is, wanted))| {
        let may_go_on = parameters == ParameterMatch::Initial && place == last && last > 0;
        *is == wanted.as_bytes() || may_go_on && is.starts_with(wanted.as_bytes())
    })
}

/// Bounded; `None` when the process is gone.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(COMMAND_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let rest = "1 1 1 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        for (name, state, expected) in [
            ("nginx", "S", Some("nginx")),
            ("a) Z (b", "R", Some("a) Z (b")),
            (")", "D", Some(")")),
            ("nginx", "Z", None),
            ("nginx", "X", None),
        ] {
            let stat = format!("77 ({name}) {state} {rest}\n");
            let found = parse_stat(stat.as_bytes());
            assert_eq!(found, expected.map(|name| (name.as_bytes(), 4711)), "{stat}");
        }
        for nonsense in ["", "1", "1 (", "1 (x", "1 x)", "1 (x) S", "1 )x( S 1", "1 (x) S 1 2 3"] {
            assert_eq!(parse_stat(nonsense.as_bytes()), None, "{nonsense}");
        }
    }

    #[test]
    fn parameters() {
        use ParameterMatch::{Exact, Initial, Partial};
        for (line, words, parameters, expected) in [
            ("a\0-x\0", &["a", "-x"][..], Exact, true),
            ("a\0-x\0-y\0", &["a", "-x"], Exact, false),
            ("a\0-x\0-y\0", &["a", "-x"], Partial, true),
            ("a\0-xy\0", &["a", "-x"], Partial, false),
            ("a\0-xy\0", &["a", "-x"], Initial, true),
            ("a\0-xy\0z\0", &["a", "-x"], Initial, false),
            ("a\0", &["a", "-x"], Partial, false),
            // No parameters at all.
            ("a\0", &["a"], Exact, true),
            ("ab\0", &["a"], Initial, false),
            // An empty parameter is one.
            ("a\0\0", &["a", ""], Exact, true),
            ("a\0\0", &["a"], Exact, false),
            ("", &["a"], Partial, false),
            ("a\0", &[], Partial, false),
        ] {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let found = is_command(line.as_bytes(), &words, parameters);
            assert_eq!(found, expected, "{line:?} {words:?} {parameters:?}");
        }
    }

    #[test]
    fn this_process_is_found_by_name_and_command() {
        let table = Table::of_this_machine();
        let name = fs::read_to_string("/proc/self/comm").expect("it has a name");
        let line = fs::read("/proc/self/cmdline").expect("it has a command");
        let line = String::from_utf8(line).expect("text");
        let words: Vec<String> =
            line.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
        // The main thread has the name of the process; this one may have another.
        let own = std::process::id();
        let stat = fs::read(format!("/proc/{own}/stat")).expect("it runs");
        let main = parse_stat(&stat).map(|(name, _)| String::from_utf8_lossy(name).into_owned());
        drop(name);
        let command = ProcessPattern::Command { words, parameters: ParameterMatch::Exact };
        for pattern in [ProcessPattern::Name(main.expect("a name")), command] {
            let found = search(&table, &pattern);
            let own: Vec<_> = found.into_iter().filter(|process| process.id == own).collect();
            assert_eq!(own.len(), 1, "{pattern:?}");
            assert_eq!(still(&table, &pattern, own.clone()), own);
            let other = Process { started: own[0].started + 1, ..own[0] };
            assert_eq!(still(&table, &pattern, vec![other]), []);
        }
    }
}
