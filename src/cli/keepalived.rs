//! Called as `keepalived`: the daemon with that program's options, for the units and scripts that start,
//! stop and look for it under its name (vrrp.md 2.2).
//!
//! The process keeps the name by which it was called, so `pkill keepalived` finds it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::Context;
use super::arguments::{RUN_DIR, node_name};
use crate::config::{self, keepalived};
use crate::control::outcome::exit;

const NAME: &str = "keepalived";
const USAGE: &str = "\
usage: keepalived [-f FILE] [-t] [OPTION...]

  -f, --use-file FILE     the keepalived.conf to read [default: /etc/keepalived/keepalived.conf]
  -t, --config-test       read it, say what is wrong, and end
  -i, --config-id NAME    the name of this node, in '@NAME' lines and 'on NAME' of drbd.conf
  -v, --version           show the version
  -h, --help              show this

The program runs in the foreground and writes its log to standard error. -n -l -D -P -C -d -x and the like
are accepted, and so are -p -r -c -S -s with a value.
";

/// Options of keepalived without a meaning here, with and without a value behind them.
const IGNORED: [&str; 22] = [
    "-n",
    "--dont-fork",
    "-l",
    "--log-console",
    "-D",
    "--log-detail",
    "-P",
    "--vrrp",
    "-C",
    "--check",
    "-d",
    "--dump-conf",
    "-x",
    "--snmp",
    "-X",
    "--release-vips",
    "-V",
    "--dont-release-vrrp",
    "-I",
    "--dont-release-ipvs",
    "-R",
    "--dont-respawn",
];
const IGNORED_WITH_VALUE: [&str; 14] = [
    "-p",
    "--pid",
    "-r",
    "--vrrp_pid",
    "-c",
    "--checkers_pid",
    "-S",
    "--log-facility",
    "-s",
    "--namespace",
    "-g",
    "--log-file",
    "-A",
    "--snmp-agent-socket",
];

pub(super) fn is_called(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(NAME))
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    file: PathBuf,
    node: Option<String>,
    test: bool,
}

pub(super) fn main(words: impl Iterator<Item = OsString>) -> u8 {
    let options = match read(words) {
        Ok(Some(options)) => options,
        Ok(None) => return exit::OK,
        Err(text) => {
            eprintln!("keepalived: {text}");
            eprint!("{USAGE}");
            return exit::USAGE;
        }
    };
    let context = Context {
        config: config::default_path(),
        is_config_given: false,
        run_dir: PathBuf::from(RUN_DIR),
        node: options.node.unwrap_or_else(node_name),
        json: false,
        timeout: None,
        given: String::new(),
    };
    if options.test {
        return super::check::run(&context, &Some(options.file), &[]);
    }
    super::run_daemon(&context, Some(options.file))
}

/// `None`: what was asked for is printed.
fn read(mut words: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let mut options =
        Options { file: PathBuf::from(keepalived::DEFAULT_PATH), node: None, test: false };
    while let Some(word) = words.next() {
        let word = word.to_string_lossy().into_owned();
        let (name, value) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => {
                (name.to_owned(), Some(value.to_owned()))
            }
            _ => (word, None),
        };
        let mut argument = || {
            let next = value.clone().map(OsString::from).or_else(|| words.next());
            next.ok_or_else(|| format!("{name} needs a value"))
        };
        match name.as_str() {
            "-f" | "--use-file" => options.file = PathBuf::from(argument()?),
            "-i" | "--config-id" => {
                options.node = Some(argument()?.to_string_lossy().into_owned());
            }
            "-t" | "--config-test" => options.test = true,
            "-v" | "--version" => {
                println!("twinblk {}, called as keepalived", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            "-h" | "--help" => {
                print!("{USAGE}");
                return Ok(None);
            }
            _ if IGNORED.contains(&name.as_str()) => {}
            _ if IGNORED_WITH_VALUE.contains(&name.as_str()) => drop(argument()?),
            // Letters behind one dash, as in `-nlD`.
            _ if is_cluster(&name) => {}
            _ => return Err(format!("unknown option '{name}'")),
        }
    }
    Ok(Some(options))
}

fn is_cluster(name: &str) -> bool {
    let letters = name.strip_prefix('-').unwrap_or_default();
    let is_known = |letter: char| IGNORED.contains(&format!("-{letter}").as_str());
    letters.len() > 1 && letters.chars().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<Options>, String> {
        read(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_of_units_and_scripts_are_taken() {
        assert!(is_called(OsStr::new("/usr/sbin/keepalived")));
        assert!(!is_called(OsStr::new("/usr/sbin/twinblk")));
        let options = parsed("--dont-fork -D -nlD -p /run/k.pid").expect("taken").expect("run");
        assert_eq!(options.file, Path::new("/etc/keepalived/keepalived.conf"));
        for line in ["-f /x/k.conf -t", "--use-file=/x/k.conf --config-test"] {
            let options = parsed(line).expect("taken").expect("run");
            assert!(options.test && options.file == Path::new("/x/k.conf"), "{line}");
        }
        assert_eq!(parsed("-i alice").expect("taken").expect("run").node.as_deref(), Some("alice"));
        assert_eq!(parsed("-f"), Err("-f needs a value".to_owned()));
        assert_eq!(parsed("--nonsense"), Err("unknown option '--nonsense'".to_owned()));
    }
}
