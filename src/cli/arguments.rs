//! What may be written on the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};

use super::Context;
use crate::config;
use crate::control::outcome::exit;

pub(super) const RUN_DIR: &str = "/run/twinblk";

#[derive(Debug, Parser)]
#[command(
    name = "twinblk",
    version,
    about = "DRBD in userspace: a replicated block device, exported over NBD",
    override_usage = "twinblk [OPTION...] VERB [OPTION...] {all|RESOURCE...}",
    subcommand_help_heading = "Verbs",
    subcommand_value_name = "VERB",
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done; 1 usage, unknown resource, cancelled; 5 a wait that ran out; 10 failure, wrong
configuration; 11 state change refused; 16 no local disk; 17 no UpToDate data; 20 anything else;
40 create-md would cut off data."
)]
pub(super) struct Arguments {
    /// The drbd.conf to read [default: drbd-84.conf, ..., drbd.conf in /etc]
    #[arg(short = 'c', long = "config-file", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Where the daemon's sockets are
    #[arg(long, value_name = "DIR", default_value = RUN_DIR, global = true)]
    run_dir: PathBuf,
    /// Name of this node, as in 'on NAME' [default: uname -n]
    #[arg(long, value_name = "NAME", global = true)]
    node: Option<String>,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
    /// Longest time a verb may take
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000),
          global = true)]
    timeout: Option<u64>,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Resources {
    /// Names of resources, or all
    #[arg(value_name = "RESOURCE", required = true)]
    pub resources: Vec<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the daemon that serves the resources of this node, in the foreground
    Daemon {
        /// Speak VRRP and move services as this keepalived.conf says
        #[arg(long, value_name = "FILE")]
        keepalived: Option<PathBuf>,
    },
    /// Write new metadata
    CreateMd {
        /// Do not ask before data or metadata is overwritten
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Attach the disk, connect to the peer
    Up(Resources),
    /// Demote, disconnect, detach
    Down(Resources),
    /// Take the role that serves clients
    Primary {
        /// Even if the local data is not UpToDate: it is declared to be
        #[arg(long, short = 'o', alias = "overwrite-data-of-peer")]
        force: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Give the role up
    Secondary {
        /// Even if clients hold the device open: they are cut off
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Connect to the peer
    Connect {
        /// After a split brain: give up what only this node wrote
        #[arg(long)]
        discard_my_data: bool,
        /// Only say what would be done, and change nothing
        #[arg(long)]
        tentative: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Disconnect from the peer
    Disconnect {
        /// Without asking the peer
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// End a split brain: show what is thrown away, ask, carry it through
    Resolve {
        /// Name of the node whose data is kept
        #[arg(long, value_name = "NODE", conflicts_with = "discard_local")]
        keep: Option<String>,
        /// Give up what only this node wrote
        #[arg(long)]
        discard_local: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Name of the resource
        #[arg(value_name = "RESOURCE")]
        resource: String,
    },
    /// Throw the local data away: everything is copied from the peer
    Invalidate {
        /// Do not ask
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Throw the peer's data away: everything is copied to it
    InvalidateRemote {
        /// Do not ask
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Mark the local data as no longer the newest
    Outdate(Resources),
    /// Begin a new generation of the data
    NewCurrentUuid {
        /// Declare the peer equal: of two new disks, none is copied
        #[arg(long)]
        clear_bitmap: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Make a changed configuration count
    Adjust(Resources),
    /// Attach the local disk
    Attach(Resources),
    /// Detach the local disk
    Detach {
        /// Without waiting for requests under way
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Freeze the clients' I/O: it waits
    SuspendIo(Resources),
    /// Let the clients' I/O go on, whatever froze it
    ResumeIo(Resources),
    /// Make the device of a primary a block device of this machine
    AttachDevice(Resources),
    /// Remove the block device of this machine
    DetachDevice {
        /// Even while it is mounted or open: who uses it gets I/O errors
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Show what resources do, and why
    Status {
        /// Go on showing it after each change
        #[arg(long)]
        watch: bool,
        /// Names of resources [default: all]
        #[arg(value_name = "RESOURCE")]
        resources: Vec<String>,
    },
    /// Show the roles of this node and the peer
    Role(Resources),
    /// Show the connection state
    Cstate(Resources),
    /// Show the disk states of this node and the peer
    Dstate(Resources),
    /// Use what the backing disks have grown by, or change the size
    Resize {
        /// The new size [default: as configured, else as large as both disks allow]
        #[arg(long, value_name = "SIZE", value_parser = sector)]
        size: Option<u64>,
        /// Without a connection: the peer's disk is large enough
        #[arg(long)]
        assume_peer_has_space: bool,
        /// Do not resync what is new
        #[arg(long)]
        assume_clean: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Compare both disks; without --start it goes on where an interrupted verify was
    Verify {
        /// First sector to compare
        #[arg(long, value_name = "SECTOR", value_parser = sector)]
        start: Option<u64>,
        /// Sector to stop at
        #[arg(long, value_name = "SECTOR", value_parser = sector)]
        stop: Option<u64>,
        /// Mend exactly what differs, with the Primary's data
        #[arg(long)]
        repair: bool,
        /// The node whose data is right, instead of the Primary
        #[arg(long, value_name = "NODE", requires = "repair")]
        from: Option<String>,
        #[command(flatten)]
        on: Resources,
    },
    /// Hold a resync on, also one that begins later
    PauseSync(Resources),
    /// Let a paused resync go on
    ResumeSync(Resources),
    /// Wait until the peer is connected
    WaitConnect(Resources),
    /// Wait until nothing is left to resync
    WaitSync(Resources),
    /// Print the configuration as it was understood
    Dump {
        /// Also name what is accepted and has nothing to act upon
        #[arg(long, short)]
        verbose: bool,
        /// Names of resources [default: all]
        #[arg(value_name = "RESOURCE")]
        resources: Vec<String>,
    },
    /// Look for mistakes in drbd.conf and keepalived.conf, alone and together
    Check {
        /// The keepalived.conf to read [default: that of keepalived, if it is there]
        #[arg(long, value_name = "FILE")]
        keepalived: Option<PathBuf>,
        /// Files to look at instead, of either kind
        #[arg(value_name = "FILE", conflicts_with = "keepalived")]
        files: Vec<PathBuf>,
    },
    /// Print the metadata of a disk that is not in use
    DumpMd {
        /// Even if the activity log was not applied
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Show the generation identifiers, explained
    ShowGi(Resources),
    /// Show the generation identifiers
    GetGi(Resources),
    /// Apply the activity log of a disk that is not in use
    ApplyAl {
        /// Take an unreadable log as "everything may have been written to"
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Remove the metadata of a disk that is not in use
    WipeMd {
        /// Do not ask
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        on: Resources,
    },
    /// Give the service on top of a resource to the other node, in order
    Handover(Resources),
    /// Give services up and take no part in elections, or take part again
    Standby {
        #[arg(value_name = "on|off", value_parser = ["on", "off"])]
        state: String,
        #[command(flatten)]
        on: Resources,
    },
    /// Show the VRRP instances of this node
    Instances,
    /// Read keepalived.conf again: what it leaves alone goes on
    Reload,
    /// Remove virtual addresses when the daemon dies
    #[command(hide = true)]
    AddressGuard,
    /// Stop services when the daemon dies
    #[command(hide = true)]
    ServiceGuard,
    /// Take all resources down and end the daemon
    Shutdown,
    /// Run a witness on a third host: it lets one node of a pair go on alone
    Witness {
        /// Where nodes ask
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:7790")]
        listen: std::net::SocketAddr,
        /// What it remembers; on a disk, not in memory
        #[arg(long, value_name = "FOLDER", default_value = "/var/lib/twinblk/witness")]
        state: PathBuf,
        /// Begin with an empty memory: once, when it is set up
        #[arg(long)]
        create: bool,
        /// Who may ask; repeatable, everybody without it
        #[arg(long, value_name = "NETWORK")]
        allow: Vec<crate::nbd::allow::Network>,
        /// Print who holds a grant, and end
        #[arg(long, conflicts_with_all = ["create", "allow", "listen"])]
        show: bool,
    },
    /// Use an export of another host as a block device, through failovers
    NbdConnect(super::nbd_client::ConnectOptions),
    /// End such a device
    NbdDisconnect {
        /// The block device
        #[arg(value_name = "/dev/nbdN", value_parser = super::nbd_client::device)]
        device: u32,
        /// Even while it is in use: who uses it gets I/O errors
        #[arg(long)]
        force: bool,
    },
    /// See it on this machine: two nodes, a killed primary, nothing lost; without root
    Demo {
        /// Leave the pair running, and say how to play with it
        #[arg(long)]
        keep: bool,
    },
}

impl Arguments {
    pub(super) fn context(&self) -> Context {
        let mut given = String::new();
        let mut give = |option: &str, value: &str| given += &format!("{option} {} ", quoted(value));
        if let Some(config) = &self.config {
            give("-c", &config.to_string_lossy());
        }
        if self.run_dir.as_os_str() != RUN_DIR {
            give("--run-dir", &self.run_dir.to_string_lossy());
        }
        if let Some(node) = &self.node {
            give("--node", node);
        }
        Context {
            is_config_given: self.config.is_some(),
            config: self.config.clone().unwrap_or_else(config::default_path),
            run_dir: self.run_dir.clone(),
            node: self.node.clone().unwrap_or_else(node_name),
            json: self.json,
            timeout: self.timeout.map(Duration::from_secs),
            given,
        }
    }
}

/// `uname -n`
pub(super) fn node_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// For a shell, if it needs to be.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A place on the device as drbdsetup takes it: sectors, or with a unit behind it.
fn sector(text: &str) -> Result<u64, String> {
    let (digits, unit_bytes) = match text.char_indices().next_back() {
        Some((end, unit)) if unit.is_ascii_alphabetic() => {
            let bytes: u64 = match unit.to_ascii_lowercase() {
                's' => 512,
                'k' => 1 << 10,
                'm' => 1 << 20,
                'g' => 1 << 30,
                't' => 1 << 40,
                _ => return Err(format!("'{unit}' is no unit: s (sectors), k, m, g or t")),
            };
            (&text[..end], bytes)
        }
        _ => (text, 512),
    };
    let number: u64 =
        digits.parse().map_err(|_| "a number of sectors, like 2048 or 1m".to_owned())?;
    let bytes = number.checked_mul(unit_bytes).ok_or_else(|| "too large".to_owned())?;
    Ok(bytes / 512)
}

/// The arguments, or the exit code when help was asked for or something is wrong.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, u8> {
    Arguments::try_parse_from(arguments).map_err(|error| {
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                let _ = error.print();
                return exit::OK;
            }
            // The original's words.
            ErrorKind::InvalidSubcommand => {
                let context = |kind| match error.get(kind) {
                    Some(ContextValue::String(text)) => Some(text.clone()),
                    Some(ContextValue::Strings(texts)) => texts.first().cloned(),
                    _ => None,
                };
                let verb = context(ContextKind::InvalidSubcommand).unwrap_or_default();
                eprintln!("twinblk: Unknown command '{verb}'");
                if let Some(near) = context(ContextKind::SuggestedSubcommand) {
                    eprintln!("  did you mean '{near}'?");
                }
                eprintln!("  hint: twinblk --help");
            }
            ErrorKind::MissingRequiredArgument => {
                eprintln!("No resource names specified");
                eprintln!("  hint: name resources, or say all; twinblk VERB --help");
            }
            _ => {
                let _ = error.print();
            }
        }
        exit::USAGE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(line: &str) -> Result<Arguments, u8> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_stand_before_and_behind_the_verb() {
        for line in [
            "twinblk -c /x --run-dir /r --node alice --json primary --force r0",
            "twinblk primary r0 --force -c /x --run-dir /r --node alice --json",
        ] {
            let arguments = parsed(line).expect(line);
            let context = arguments.context();
            assert_eq!((context.node.as_str(), context.json), ("alice", true), "{line}");
            assert_eq!(context.command("up r0"), "twinblk -c /x --run-dir /r --node alice up r0");
            let Verb::Primary { force, on } = arguments.verb else { panic!("{line}") };
            assert!(force && on.resources == ["r0"], "{line}");
        }
        let context = parsed("twinblk up all").expect("valid").context();
        assert_eq!(context.command("status"), "twinblk status");
        assert_eq!(context.node, node_name());
    }

    #[test]
    fn old_spellings_are_known() {
        for option in ["--force", "-o", "--overwrite-data-of-peer"] {
            let arguments = parsed(&format!("twinblk primary {option} r0")).expect(option);
            assert!(matches!(arguments.verb, Verb::Primary { force: true, .. }), "{option}");
        }
    }

    #[test]
    fn what_is_wrong_ends_with_1_as_in_drbdadm() {
        for line in [
            "twinblk",
            "twinblk frobnicate r0",
            "twinblk primary",
            "twinblk primary --nosuch r0",
            "twinblk wait-sync --timeout soon r0",
            "twinblk wait-sync --timeout 0 r0",
            "twinblk verify --start 5x r0",
            "twinblk verify --from alice r0",
        ] {
            assert_eq!(parsed(line).expect_err(line), exit::USAGE, "{line}");
        }
        assert_eq!(parsed("twinblk --help").expect_err("help"), exit::OK);
    }

    /// The help names every verb of the manual, one line each.
    #[test]
    fn help_lists_the_verbs() {
        let help = Arguments::command().render_help().to_string();
        for verb in [
            "daemon",
            "create-md",
            "up",
            "down",
            "primary",
            "secondary",
            "resolve",
            "invalidate",
            "invalidate-remote",
            "outdate",
            "new-current-uuid",
            "connect",
            "disconnect",
            "attach",
            "detach",
            "attach-device",
            "detach-device",
            "status",
            "role",
            "cstate",
            "dstate",
            "verify",
            "pause-sync",
            "resume-sync",
            "wait-connect",
            "wait-sync",
            "dump",
            "check",
            "dump-md",
            "show-gi",
            "get-gi",
            "apply-al",
            "wipe-md",
            "nbd-connect",
            "nbd-disconnect",
            "shutdown",
        ] {
            assert!(help.contains(&format!("\n  {verb} ")), "{verb} is in\n{help}");
        }
        assert!(help.contains("Exit codes: 0 done; 1 usage"), "{help}");
        let longest = help.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(100), "{longest:?}\n{help}");
    }

    #[test]
    fn sectors_may_have_a_unit() {
        let at = |text| sector(text).ok();
        assert_eq!(
            (at("2048"), at("2048s"), at("1m"), at("1K")),
            (Some(2048), Some(2048), Some(2048), Some(2))
        );
        assert_eq!((at(""), at("x"), at("-1"), at("99999999999t")), (None, None, None, None));
    }

    #[test]
    fn values_are_quoted_for_a_shell() {
        assert_eq!(quoted("/run/x-1"), "/run/x-1");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
