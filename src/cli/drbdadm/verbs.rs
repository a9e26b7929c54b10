//! drbdadm's verbs and what becomes of each (behaviour.md 7.1). docs/drbd-compatibility.md is checked
//! against this table.

/// One verb of drbdadm 8.4.
#[derive(Debug)]
pub(super) struct VerbSpec {
    pub name: &'static str,
    pub target: Target,
    pub options: &'static [OptionSpec],
    pub resources: Resources,
}

/// Who carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A verb of this program.
    Verb(&'static str),
    /// It is done with what is printed here.
    Script(Script),
    /// It would act upon the kernel module or a program that is not there.
    Refused(&'static str),
}

/// What scripts ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Status,
    Resources,
    Resource,
    Device,
    LowerDevice,
    MetaDevice,
    MetaIndex,
    Minor,
    Address,
    /// Checks that the configuration loads.
    Nothing,
    BecomePrimary,
    ModuleParameters,
    StatusVariables,
    HiddenCommands,
}

/// How many resources a verb takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resources {
    Required,
    Optional,
}

/// An option of a verb.
#[derive(Clone, Copy, Debug)]
pub(super) struct OptionSpec {
    pub name: &'static str,
    pub has_value: bool,
    pub becomes: Becomes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Becomes {
    /// The option of that name of this program.
    Option(&'static str),
    /// Nothing: what it asks for is so anyway.
    Nothing,
}

const fn option(name: &'static str) -> OptionSpec {
    OptionSpec { name, has_value: false, becomes: Becomes::Option(name) }
}

const fn value(name: &'static str, becomes: &'static str) -> OptionSpec {
    OptionSpec { name, has_value: true, becomes: Becomes::Option(becomes) }
}

const fn ignored(name: &'static str, has_value: bool) -> OptionSpec {
    OptionSpec { name, has_value, becomes: Becomes::Nothing }
}

const fn verb(name: &'static str, options: &'static [OptionSpec]) -> VerbSpec {
    VerbSpec { name, target: Target::Verb(name), options, resources: Resources::Required }
}

const fn other_name(
    name: &'static str,
    is: &'static str,
    options: &'static [OptionSpec],
) -> VerbSpec {
    VerbSpec { name, target: Target::Verb(is), options, resources: Resources::Required }
}

const fn script(name: &'static str, script: Script, resources: Resources) -> VerbSpec {
    VerbSpec { name, target: Target::Script(script), options: &[], resources }
}

const fn refused(name: &'static str, why: &'static str) -> VerbSpec {
    VerbSpec { name, target: Target::Refused(why), options: &[], resources: Resources::Required }
}

const FORCE: OptionSpec = option("--force");
const PROMOTE: &[OptionSpec] = &[
    FORCE,
    OptionSpec {
        name: "--overwrite-data-of-peer",
        has_value: false,
        becomes: Becomes::Option("--force"),
    },
    OptionSpec { name: "-o", has_value: false, becomes: Becomes::Option("--force") },
];
const WAITS: &[OptionSpec] = &[
    value("--wfc-timeout", "--timeout"),
    ignored("--degr-wfc-timeout", true),
    ignored("--outdated-wfc-timeout", true),
    ignored("--wait-after-sb", false),
];
const SHOWS: &[OptionSpec] =
    &[ignored("--verbose", false), ignored("--statistics", false), ignored("--color", false)];

const PROXY: &str = "there is no proxy in this program";
const MODULE: &str = "it is a step of 'up' in the kernel module; use up, attach or connect";
const SHAPE: &str = "metadata is made by create-md and changed by the daemon only";

/// In the order of drbdadm's own help, then what it hides.
pub(super) const VERBS: &[VerbSpec] = &[
    verb("attach", &[]),
    VerbSpec {
        name: "status",
        target: Target::Script(Script::Status),
        options: SHOWS,
        resources: Resources::Optional,
    },
    other_name("disk-options", "adjust", &[]),
    verb("detach", &[FORCE]),
    verb("connect", &[option("--discard-my-data"), option("--tentative")]),
    other_name("net-options", "adjust", &[]),
    verb("disconnect", &[FORCE]),
    verb("up", &[]),
    other_name("resource-options", "adjust", &[]),
    verb("down", &[]),
    verb("primary", PROMOTE),
    verb("secondary", &[FORCE]),
    verb("invalidate", &[FORCE]),
    verb("invalidate-remote", &[FORCE]),
    verb("outdate", &[]),
    verb(
        "resize",
        &[value("--size", "--size"), option("--assume-clean"), option("--assume-peer-has-space")],
    ),
    verb("verify", &[value("--start", "--start"), value("--stop", "--stop")]),
    verb("pause-sync", &[]),
    verb("resume-sync", &[]),
    verb("adjust", &[]),
    other_name("adjust-with-progress", "adjust", &[]),
    verb("wait-connect", WAITS),
    other_name("wait-con-int", "wait-connect", WAITS),
    verb("role", &[]),
    verb("cstate", &[]),
    verb("dstate", &[]),
    VerbSpec {
        name: "dump",
        target: Target::Verb("dump"),
        options: &[],
        resources: Resources::Optional,
    },
    refused("dump-xml", "twinblk --json dump prints the same for programs"),
    verb("create-md", &[FORCE, ignored("--peer-max-bio-size", true)]),
    verb("show-gi", &[]),
    verb("get-gi", &[]),
    verb("dump-md", &[FORCE]),
    verb("wipe-md", &[FORCE]),
    verb("apply-al", &[FORCE]),
    script("hidden-commands", Script::HiddenCommands, Resources::Optional),
    // Hidden ones.
    verb("suspend-io", &[]),
    verb("resume-io", &[]),
    verb("new-current-uuid", &[option("--clear-bitmap")]),
    verb("wait-sync", WAITS),
    other_name("state", "role", &[]),
    script("sh-nop", Script::Nothing, Resources::Optional),
    script("sh-resources", Script::Resources, Resources::Optional),
    script("sh-resource", Script::Resource, Resources::Required),
    script("sh-mod-parms", Script::ModuleParameters, Resources::Optional),
    script("sh-dev", Script::Device, Resources::Required),
    script("sh-minor", Script::Minor, Resources::Required),
    script("sh-ll-dev", Script::LowerDevice, Resources::Required),
    script("sh-md-dev", Script::MetaDevice, Resources::Required),
    script("sh-md-idx", Script::MetaIndex, Resources::Required),
    script("sh-ip", Script::Address, Resources::Required),
    script("sh-b-pri", Script::BecomePrimary, Resources::Required),
    script("sh-status", Script::StatusVariables, Resources::Optional),
    refused("sh-udev", "the block device is attached by the daemon, without rules of udev"),
    refused("sh-lr-of", "stacked resources are not supported"),
    refused("syncer", "its options are in the disk section; use adjust"),
    refused("new-resource", MODULE),
    refused("new-minor", MODULE),
    refused("proxy-up", PROXY),
    refused("proxy-down", PROXY),
    refused("set-gi", SHAPE),
    refused("check-resize", SHAPE),
];

pub(super) fn find(name: &str) -> Option<&'static VerbSpec> {
    VERBS.iter().find(|spec| spec.name == name)
}

#[cfg(test)]
mod tests {
    use super::super::is_there;
    use super::*;
    use twinblk_proto::state::{ConnectionState, DiskState, Role};

    const DOCUMENT: &str = include_str!("../../../docs/drbd-compatibility.md");

    fn row(spec: &VerbSpec) -> String {
        let here = match spec.target {
            Target::Verb(verb) if !is_there(verb) => "not yet".to_owned(),
            Target::Verb(verb) if verb != spec.name => format!("yes, as `{verb}`"),
            Target::Verb(_) | Target::Script(_) => "yes".to_owned(),
            Target::Refused(why) => format!("refused: {why}"),
        };
        format!("| {} | {here} |", spec.name)
    }

    fn rows(marker: &str) -> Vec<&'static str> {
        let after = DOCUMENT.split(&format!("<!-- {marker} -->")).nth(1);
        let block = after.and_then(|text| text.split("<!-- end -->").next()).unwrap_or_default();
        block.lines().filter(|line| line.starts_with("| ")).skip(1).collect()
    }

    #[test]
    fn every_verb_is_in_the_document_as_it_is_in_the_program() {
        let expected: Vec<String> = VERBS.iter().map(row).collect();
        let found = rows("verbs");
        for row in &expected {
            assert!(found.contains(&row.as_str()), "docs/drbd-compatibility.md: add {row}");
        }
        assert_eq!(found.len(), expected.len(), "a verb in the document that is not in the table");
    }

    #[test]
    fn every_state_is_in_the_document() {
        let found = rows("states");
        let connections = ConnectionState::ALL.iter().map(|state| ("Connection", state.as_str()));
        let disks = DiskState::ALL.iter().map(|state| ("Disk", state.as_str()));
        let roles = [Role::Unknown, Role::Primary, Role::Secondary];
        let roles = roles.iter().map(|role| ("Role", role.as_str()));
        for (of, word) in connections.chain(disks).chain(roles) {
            let start = format!("| {of} | {word} | ");
            assert!(found.iter().any(|row| row.starts_with(&start)), "{start}");
        }
    }

    #[test]
    fn a_name_is_there_once() {
        for (index, spec) in VERBS.iter().enumerate() {
            assert!(!VERBS[..index].iter().any(|other| other.name == spec.name), "{}", spec.name);
        }
    }
}
