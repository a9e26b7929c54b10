//! drbdadm's command line: `drbdadm [GENERAL...] [-- BACKEND...] VERB [OPTION...] RESOURCE...`, old
//! and new order, to the arguments of this program.

use super::verbs::{self, Becomes, Resources, Target, VerbSpec};

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Options of this program that go before the verb, as in `-c FILE`.
    pub general: Vec<String>,
    pub verb: Option<&'static VerbSpec>,
    /// Options of the verb in this program's words.
    pub options: Vec<String>,
    pub resources: Vec<String>,
    pub dry_run: bool,
    pub help: bool,
    pub version: bool,
}

/// A line that cannot be carried out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Misuse {
    NoVerb,
    UnknownVerb(String),
    UnknownOption(String),
    NoValue(String),
    NoResources(&'static str),
    NotHere { verb: &'static str, why: &'static str },
    OtherVolume(String),
}

/// Options before or behind the verb that are this program's or are of no use to it; with a value
/// or not.
const GENERAL: &[(&str, &str, bool)] = &[
    ("-c", "--config-file", true),
    ("-t", "--config-to-test", true),
    ("-s", "--drbdsetup", true),
    ("-m", "--drbdmeta", true),
    ("-p", "--drbd-proxy-ctl", true),
    ("-n", "--sh-varname", true),
    ("-P", "--peer", true),
    ("-W", "--setup-option", true),
    ("-S", "--stacked", false),
    ("-d", "--dry-run", false),
    ("-v", "--verbose", false),
    ("-V", "--version", false),
    ("-h", "--help", false),
    ("", "--run-dir", true),
    ("", "--node", true),
    ("", "--timeout", true),
    ("", "--json", false),
];

pub(super) fn parse(arguments: &[String]) -> Result<Line, Misuse> {
    let mut line = Line::default();
    // Options of the verb may stand before it: they are understood once it is known.
    let mut waiting: Vec<(String, Option<String>)> = Vec::new();
    let mut rest = arguments.iter().map(String::as_str).peekable();
    while let Some(word) = rest.next() {
        if word == "--" {
            continue;
        }
        if !word.starts_with('-') || word == "-" {
            match line.verb {
                None if word == "help" && !line.help => line.help = true,
                None => match verbs::find(word) {
                    Some(spec) => line.verb = Some(spec),
                    None => return Err(Misuse::UnknownVerb(word.to_owned())),
                },
                Some(_) => line.resources.push(resource(word)?),
            }
            continue;
        }
        let (name, written) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, None),
        };
        // `--verbose` of status is the verb's own, and means as little.
        match GENERAL.iter().find(|(short, long, _)| name == *short || name == *long) {
            Some(&(_, long, has_value)) => {
                let value = match (has_value, written) {
                    (true, None) => match rest.next() {
                        Some(value) => Some(value.to_owned()),
                        None => return Err(Misuse::NoValue(name.to_owned())),
                    },
                    (_, written) => written,
                };
                general(&mut line, long, value);
            }
            None => {
                let takes_value = VALUE_OPTIONS.contains(&name) && written.is_none();
                let value = if takes_value { rest.next().map(str::to_owned) } else { written };
                waiting.push((name.to_owned(), value));
            }
        }
    }
    if line.help || line.version {
        return Ok(line);
    }
    let spec = line.verb.ok_or(Misuse::NoVerb)?;
    for (name, value) in waiting {
        options(&mut line, spec, &name, value)?;
    }
    if let Target::Refused(why) = spec.target {
        return Err(Misuse::NotHere { verb: spec.name, why });
    }
    if spec.resources == Resources::Required && line.resources.is_empty() {
        return Err(Misuse::NoResources(spec.name));
    }
    Ok(line)
}

/// Options of verbs that take their value as a word of its own.
const VALUE_OPTIONS: &[&str] = &[
    "--wfc-timeout",
    "--degr-wfc-timeout",
    "--outdated-wfc-timeout",
    "--size",
    "--start",
    "--stop",
    "--peer-max-bio-size",
];

fn general(line: &mut Line, long: &str, value: Option<String>) {
    match (long, value) {
        (
            "--config-file" | "--config-to-test" | "--run-dir" | "--node" | "--timeout",
            Some(value),
        ) => {
            let name = if long == "--config-to-test" { "--config-file" } else { long };
            line.general.extend([name.to_owned(), value]);
        }
        ("--json", _) => line.general.push("--json".to_owned()),
        ("--dry-run", _) => line.dry_run = true,
        ("--version", _) => line.version = true,
        ("--help", _) => line.help = true,
        // Which programs drbdadm would call, and how loud it is: nothing is called here.
        _ => {}
    }
}

fn options(
    line: &mut Line,
    spec: &'static VerbSpec,
    name: &str,
    value: Option<String>,
) -> Result<(), Misuse> {
    let Some(known) = spec.options.iter().find(|known| known.name == name) else {
        return Err(Misuse::UnknownOption(name.to_owned()));
    };
    if known.has_value && value.is_none() {
        return Err(Misuse::NoValue(name.to_owned()));
    }
    let Becomes::Option(own) = known.becomes else { return Ok(()) };
    // `--force=no` is no force.
    if !known.has_value && value.as_deref() == Some("no") {
        return Ok(());
    }
    match value.filter(|_| known.has_value) {
        // 0 is "for ever" there, and leaves the limit out here.
        Some(value) if own == "--timeout" && value == "0" => {}
        Some(value) => line.options.extend([own.to_owned(), value]),
        None => line.options.push(own.to_owned()),
    }
    Ok(())
}

/// `r0` or `r0/0`
fn resource(word: &str) -> Result<String, Misuse> {
    match word.split_once('/') {
        None => Ok(word.to_owned()),
        Some((name, "0")) => Ok(name.to_owned()),
        Some(_) => Err(Misuse::OtherVolume(word.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<String, Misuse> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words).map(|line| {
            let verb = line.verb.map_or("", |spec| spec.name).to_owned();
            [line.general, vec![verb], line.options, line.resources].concat().join(" ")
        })
    }

    #[test]
    fn old_and_new_order_of_options() {
        for (line, means) in [
            ("connect --discard-my-data r0", "connect --discard-my-data r0"),
            ("-- --discard-my-data connect r0", "connect --discard-my-data r0"),
            ("connect r0 -- --discard-my-data", "connect --discard-my-data r0"),
            ("-- --overwrite-data-of-peer primary r0", "primary --force r0"),
            ("primary -o r0", "primary --force r0"),
            ("primary --force=no r0", "primary r0"),
            ("-c /x up all", "--config-file /x up all"),
            ("--config-file=/x -d -v up r0 r1", "--config-file /x up r0 r1"),
            ("wait-connect --wfc-timeout=7 r0", "wait-connect --timeout 7 r0"),
            ("wait-connect --wfc-timeout 0 --wait-after-sb r0", "wait-connect r0"),
            ("primary r0/0", "primary r0"),
            ("dump", "dump"),
        ] {
            assert_eq!(parsed(line).as_deref(), Ok(means), "{line}");
        }
    }

    #[test]
    fn lines_that_mean_nothing() {
        let name = |text: &str| text.to_owned();
        assert_eq!(parsed(""), Err(Misuse::NoVerb));
        assert_eq!(parsed("frobnicate r0"), Err(Misuse::UnknownVerb(name("frobnicate"))));
        assert_eq!(parsed("primary --nosuch r0"), Err(Misuse::UnknownOption(name("--nosuch"))));
        assert_eq!(parsed("primary"), Err(Misuse::NoResources("primary")));
        assert_eq!(parsed("primary r0/1"), Err(Misuse::OtherVolume(name("r0/1"))));
        assert_eq!(parsed("up -c"), Err(Misuse::NoValue(name("-c"))));
        assert!(matches!(parsed("proxy-up r0"), Err(Misuse::NotHere { verb: "proxy-up", .. })));
    }
}
