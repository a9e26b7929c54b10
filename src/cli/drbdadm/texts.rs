//! drbdadm's own words: its help, and what it says under a message of the tool that it called.

use super::super::Context;
use super::verbs::{VERBS, VerbSpec};
use crate::config::{self, NodeView};
use crate::control::Outcome;
use crate::control::outcome::exit;

/// How many verbs its help shows; the rest is hidden.
const SHOWN: &str = "hidden-commands";

const GENERAL: &str = "
GENERAL OPTIONS:
  --stacked, -S
  --dry-run, -d
  --verbose, -v
  --config-file=..., -c ...
  --config-to-test=..., -t ...
  --drbdsetup=..., -s ...
  --drbdmeta=..., -m ...
  --drbd-proxy-ctl=..., -p ...
  --sh-varname=..., -n ...
  --peer=..., -P ...
  --version, -V
  --setup-option=..., -W ...
  --help, -h
";

/// The help, of one verb or of all.
pub(super) fn usage(verb: Option<&VerbSpec>) -> String {
    let mut out = match verb {
        Some(spec) => {
            format!("\nUSAGE: drbdadm {} [OPTION...] {{all|RESOURCE...}}\n{GENERAL}", spec.name)
        }
        None => format!("\nUSAGE: drbdadm COMMAND [OPTION...] {{all|RESOURCE...}}\n{GENERAL}"),
    };
    match verb {
        Some(spec) if !spec.options.is_empty() => {
            out += &format!("\nOPTIONS FOR {}:\n", spec.name);
            for option in spec.options.iter().filter(|option| option.name.starts_with("--")) {
                let value = if option.has_value { "=..." } else { "[=...]" };
                out += &format!("  {}{value}\n", option.name);
            }
        }
        Some(_) => {}
        None => {
            out += "\nCOMMANDS:\n";
            let last = VERBS.iter().position(|spec| spec.name == SHOWN).unwrap_or(VERBS.len() - 1);
            for pair in VERBS[..=last].chunks(2) {
                let line: String = pair.iter().map(|spec| format!(" {:<34}", spec.name)).collect();
                // The original ends each line with a space.
                out += &format!("{line} \n");
            }
        }
    }
    out + &format!("\nVersion: {} (api:1)\n", env!("CARGO_PKG_VERSION"))
}

/// How a refusal is worded under drbdadm's name.
#[derive(Debug)]
pub(in super::super) struct Texts {
    verb: &'static str,
    views: Vec<NodeView>,
}

impl Texts {
    pub(super) fn new(verb: &'static str, context: &Context) -> Self {
        let views = config::load(&context.config).map_or_else(
            |_| Vec::new(),
            |config| {
                let views = config.resources.iter();
                views.filter_map(|resource| resource.for_node(&context.node).ok()).collect()
            },
        );
        Self { verb, views }
    }

    /// The same end with drbdadm's object, and with what it says about the tool that it called.
    pub(in super::super) fn reworded(
        &self,
        resource: Option<&str>,
        mut outcome: Outcome,
    ) -> Outcome {
        let view = resource.and_then(|name| self.views.iter().find(|view| view.resource == name));
        let Some(view) = view.filter(|_| !outcome.is_done()) else { return outcome };
        let tool = self.tool(view);
        let of_setup = outcome.code != 0;
        if of_setup
            && let Some(rest) = outcome.message.strip_prefix(&format!("{}: ", view.resource))
        {
            outcome.message = format!("{}: {rest}", self.object(view));
        }
        if of_setup && outcome.code == super::super::live::NO_SUCH_RESOURCE {
            let minor = view.me.minor;
            outcome.message = format!(
                "{minor}: Failure: (127) Device minor not allocated\nadditional info from \
                 kernel:\nunknown minor"
            );
            outcome.code = 127;
        }
        if of_setup || outcome.exit_code == exit::WOULD_TRUNCATE || outcome.exit_code == exit::OTHER
        {
            let code = outcome.exit_code;
            outcome.message += &format!("\nCommand '{tool}' terminated with exit code {code}");
        }
        // drbdadm ends with 1 when a step of several fails.
        if self.verb == "up" && outcome.exit_code != exit::OK {
            outcome.exit_code = exit::USAGE;
        }
        outcome
    }

    /// What drbdsetup names in its message: the device, the resource, or nothing that is known.
    fn object(&self, view: &NodeView) -> String {
        match self.verb {
            "connect" => view.resource.clone(),
            "disconnect" => "??".to_owned(),
            _ => view.me.minor.to_string(),
        }
    }

    /// The command that drbdadm would have run.
    fn tool(&self, view: &NodeView) -> String {
        let minor = view.me.minor;
        let address = |address: std::net::SocketAddr| {
            format!("{}:{address}", if address.is_ipv4() { "ipv4" } else { "ipv6" })
        };
        let path = format!("{} {}", address(view.me.address), address(view.peer.address));
        let meta = |verb: &str| {
            let (disk, index) = match &view.me.meta_disk {
                config::MetaDiskPlace::Internal => (view.me.disk.display(), "internal".to_owned()),
                config::MetaDiskPlace::External(path) => {
                    (path.display(), "flex-external".to_owned())
                }
                config::MetaDiskPlace::Indexed(path, index) => (path.display(), index.to_string()),
            };
            format!("drbdmeta {minor} v08 {disk} {index} {verb}")
        };
        match self.verb {
            "connect" => format!("drbdsetup-84 connect {} {path}", view.resource),
            "disconnect" => format!("drbdsetup-84 disconnect {path}"),
            "up" | "attach" | "apply-al" => meta("apply-al"),
            "create-md" | "dump-md" | "wipe-md" | "get-gi" | "show-gi" => meta(self.verb),
            "down" | "status" => format!("drbdsetup-84 {} {}", self.verb, view.resource),
            verb => format!("drbdsetup-84 {verb} {minor}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_is_the_original_one() {
        let original = include_str!("../../../tests/data/drbdadm-help.txt");
        let ours = usage(None);
        assert_eq!(ours.split("\nVersion:").next(), Some(original));
    }

    #[test]
    fn the_help_of_a_verb_names_its_options() {
        let text = usage(super::super::verbs::find("primary"));
        assert!(text.contains("\nOPTIONS FOR primary:\n  --force[=...]\n"), "{text}");
        assert!(text.starts_with("\nUSAGE: drbdadm primary [OPTION...] {all|RESOURCE...}\n"));
    }
}
