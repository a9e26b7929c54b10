//! What an option is: its name, section, kind, default and whether the program acts upon it. The
//! table itself is in [`super::table`]; parsing, validation, defaults and dump all come from it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::source::Span;
use super::table::{ALIASES, TABLE};

/// A section of options. `syncer` exists in DRBD 8.3 files only and is spread over the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    Global,
    Net,
    Disk,
    Startup,
    Options,
    Handlers,
    Proxy,
    Syncer,
    Nbd,
}

impl Section {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Net => "net",
            Self::Disk => "disk",
            Self::Startup => "startup",
            Self::Options => "options",
            Self::Handlers => "handlers",
            Self::Proxy => "proxy",
            Self::Syncer => "syncer",
            Self::Nbd => "nbd",
        }
    }

    /// The sections that `common` and a resource may have, in the order in which `dump` prints
    /// them (`syncer` is never printed).
    pub const OF_RESOURCE: [Self; 8] = [
        Self::Options,
        Self::Net,
        Self::Disk,
        Self::Startup,
        Self::Proxy,
        Self::Handlers,
        Self::Nbd,
        Self::Syncer,
    ];
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a number without a suffix counts; with `s`, `K`, `M` or `G` it counts bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things, or bytes.
    One,
    Kib,
    Sectors,
}

impl Unit {
    pub const fn bytes(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Kib => 1024,
            Self::Sectors => 512,
        }
    }

    pub const fn suffix(self) -> &'static str {
        match self {
            Self::One => "",
            Self::Kib => "k",
            Self::Sectors => "s",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `NAME;`, `NAME yes;`, `NAME no;`, `no-NAME;`
    Flag,
    Number {
        min: u64,
        max: u64,
        unit: Unit,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text of up to so many characters.
    Text {
        chars_max: usize,
    },
    /// One or more words.
    Words,
    /// `ADDRESS:PORT`, may be given several times.
    Listen,
    /// `ADDRESS/BITS`, may be given several times.
    Network,
    /// `both`, `favour-primary` or `witness HOST:PORT` (DESIGN.md 6).
    Takeover,
}

/// What happens when nothing is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    Unset,
    Flag(bool),
    Number(u64),
    Word(&'static str),
}

/// What the program makes of the option today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does what the option says.
    Acts,
    /// Known from DRBD, accepted, and named in a warning when it is set to something that DRBD
    /// would do differently.
    NotYet,
    /// Nothing that could matter in this program: obsolete, or about the kernel module.
    Irrelevant,
    /// Going on without it would be dangerous: an error that says why.
    Refused(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Spec {
    pub section: Section,
    pub name: &'static str,
    pub kind: Kind,
    pub default: Default,
    pub effect: Effect,
}

/// An older or other place and name of an option.
#[derive(Debug)]
pub struct Alias {
    pub section: Section,
    pub name: &'static str,
    /// `None`: known once, ignored.
    pub target: Option<(Section, &'static str)>,
}

/// What a name means in a section.
#[derive(Clone, Copy, Debug)]
pub enum Meaning {
    Option {
        spec: &'static Spec,
        negated: bool,
    },
    /// Ignored without a word, as DRBD does.
    Ignored,
}

/// The option of that name as written in `section`, older names and `no-` forms included.
pub fn find(section: Section, name: &str) -> Option<Meaning> {
    if let Some(spec) = spec(section, name) {
        return Some(Meaning::Option { spec, negated: false });
    }
    if let Some(alias) = ALIASES.iter().find(|alias| (alias.section, alias.name) == (section, name))
    {
        return Some(match alias.target {
            Some((section, name)) => Meaning::Option { spec: spec(section, name)?, negated: false },
            None => Meaning::Ignored,
        });
    }
    match find(section, name.strip_prefix("no-")?)? {
        Meaning::Option { spec, negated: false } if spec.kind == Kind::Flag => {
            Some(Meaning::Option { spec, negated: true })
        }
        _ => None,
    }
}

/// The option of exactly that section and name.
pub fn spec(section: Section, name: &str) -> Option<&'static Spec> {
    TABLE.iter().find(|spec| spec.section == section && spec.name == name)
}

/// Every name that may be written in a section.
pub fn names(section: Section) -> impl Iterator<Item = &'static str> {
    let own = TABLE.iter().filter(move |spec| spec.section == section).map(|spec| spec.name);
    let older = ALIASES.iter().filter(move |alias| alias.section == section);
    own.chain(older.map(|alias| alias.name))
}

/// An address with the number of its leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub prefix_bits: u8,
}

impl Network {
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|&bits| bits <= most)?,
            None => most,
        };
        Some(Self { address, prefix_bits })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = u32::from(self.prefix_bits);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= bits
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= bits
            }
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Flag(bool),
    /// In the option's own unit.
    Number(u64),
    Text(String),
    Words(Vec<String>),
    Address(SocketAddr),
    Network(Network),
}

/// An option as it was set.
#[derive(Clone, Debug)]
pub struct Setting {
    pub spec: &'static Spec,
    pub value: Value,
    /// As written, for `dump`.
    pub written: String,
    pub span: Span,
}

impl PartialEq for Setting {
    /// Where it was written does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec && self.value == other.value
    }
}

/// What one place sets, in the order of writing. An option is in it once, but for the kinds that
/// may be given several times.
#[derive(Clone, Debug, PartialEq, std::default::Default)]
pub struct OptionSet {
    settings: Vec<Setting>,
}

impl OptionSet {
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.settings.iter()
    }

    pub fn of(&self, section: Section) -> impl Iterator<Item = &Setting> {
        self.settings.iter().filter(move |setting| setting.spec.section == section)
    }

    pub fn get(&self, section: Section, name: &str) -> Option<&Setting> {
        self.of(section).find(|setting| setting.spec.name == name)
    }

    /// Sets; what was set before in the same place is handed back.
    pub fn set(&mut self, setting: Setting) -> Option<Setting> {
        let several = matches!(setting.spec.kind, Kind::Listen | Kind::Network);
        let same = |known: &Setting| {
            known.spec == setting.spec && (!several || known.value == setting.value)
        };
        let before = self.settings.iter().position(same);
        let before = before.map(|at| self.settings.remove(at));
        self.settings.push(setting);
        before
    }
}

/// Sets of settings from general to special: the most special one that knows an option counts.
#[derive(Clone, Debug)]
pub struct Layers<'a>(pub Vec<&'a OptionSet>);

impl<'a> Layers<'a> {
    pub fn get(&self, section: Section, name: &str) -> Option<&'a Setting> {
        self.0.iter().rev().find_map(|set| set.get(section, name))
    }

    /// All settings of an option that may be given several times, of the most special place.
    pub fn all(&self, section: Section, name: &str) -> Vec<&'a Setting> {
        let of = |set: &&'a OptionSet| -> Vec<&'a Setting> {
            let set: &'a OptionSet = set;
            set.of(section).filter(|setting| setting.spec.name == name).collect()
        };
        self.0.iter().rev().map(of).find(|found| !found.is_empty()).unwrap_or_default()
    }

    pub fn flag(&self, section: Section, name: &str) -> bool {
        match (self.get(section, name).map(|setting| &setting.value), default(section, name)) {
            (Some(Value::Flag(value)), _) => *value,
            (None, Default::Flag(value)) => value,
            _ => unreachable!("{section} {name} is not a flag"),
        }
    }

    pub fn number(&self, section: Section, name: &str) -> u64 {
        match (self.get(section, name).map(|setting| &setting.value), default(section, name)) {
            (Some(Value::Number(value)), _) => *value,
            (None, Default::Number(value)) => value,
            _ => unreachable!("{section} {name} is not a number"),
        }
    }

    /// Of choices and texts; `None` when it has no default and is not set.
    pub fn text(&self, section: Section, name: &str) -> Option<&'a str> {
        match (self.get(section, name).map(|setting| &setting.value), default(section, name)) {
            (Some(Value::Text(value)), _) => Some(value),
            (None, Default::Word(value)) => Some(value),
            (None, Default::Unset) => None,
            _ => unreachable!("{section} {name} is not a text"),
        }
    }
}

/// Whoever asks for an option that the table does not have made a mistake in this program, which
/// the tests of the view find.
fn default(section: Section, name: &str) -> Default {
    match spec(section, name) {
        Some(spec) => spec.default,
        None => unreachable!("no option {name} in section {section}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let network = Network::parse("10.0.0.0/24").expect("valid");
        assert!(network.contains("10.0.0.7".parse().expect("address")));
        assert!(network.contains("::ffff:10.0.0.7".parse().expect("mapped address")));
        assert!(!network.contains("10.0.1.7".parse().expect("address")));
        assert!(!network.contains("::1".parse().expect("address")));
        assert!(Network::parse("0.0.0.0/0").expect("valid").contains([1, 2, 3, 4].into()));
        assert!(Network::parse("::/0").expect("valid").contains("::1".parse().expect("address")));
        assert_eq!(Network::parse("::1").expect("valid").prefix_bits, 128);
        for bad in ["10.0.0.0/33", "10.0.0.0/", "host/8", "::/129", "10.0.0.0/-1"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn older_names_and_negations_are_found() {
        let name = |section, name| match find(section, name) {
            Some(Meaning::Option { spec, negated }) => {
                format!("{} {}{}", spec.section, if negated { "!" } else { "" }, spec.name)
            }
            Some(Meaning::Ignored) => "ignored".to_owned(),
            None => "unknown".to_owned(),
        };
        assert_eq!(name(Section::Disk, "no-disk-flushes"), "disk !disk-flushes");
        assert_eq!(name(Section::Disk, "no-no-disk-flushes"), "unknown");
        assert_eq!(name(Section::Net, "no-timeout"), "unknown");
        assert_eq!(name(Section::Syncer, "rate"), "disk resync-rate");
        assert_eq!(name(Section::Syncer, "after"), "disk resync-after");
        assert_eq!(name(Section::Syncer, "verify-alg"), "net verify-alg");
        assert_eq!(name(Section::Syncer, "delay-probe-volume"), "ignored");
        assert_eq!(name(Section::Handlers, "outdate-peer"), "handlers fence-peer");
        assert_eq!(name(Section::Net, "rate"), "unknown");
    }

    #[test]
    fn the_table_is_consistent() {
        for (index, spec) in TABLE.iter().enumerate() {
            let name = spec.name;
            assert!(
                !TABLE[..index]
                    .iter()
                    .any(|other| other.name == name && other.section == spec.section),
                "{name} is in the table once"
            );
            match (spec.kind, spec.default) {
                (Kind::Flag, Default::Flag(_)) => {}
                (Kind::Number { min, max, .. }, Default::Number(value)) => {
                    assert!((min..=max).contains(&value), "{name}");
                }
                (Kind::Choice(words), Default::Word(word)) => {
                    assert!(words.contains(&word), "{name}")
                }
                (Kind::Text { .. }, Default::Word(_))
                | (
                    Kind::Choice(_) | Kind::Text { .. } | Kind::Words | Kind::Takeover,
                    Default::Unset,
                )
                | (Kind::Listen | Kind::Network, Default::Unset) => {}
                _ => panic!("{name}: default does not fit the kind"),
            }
        }
        for alias in ALIASES {
            if let Some((section, name)) = alias.target {
                assert!(spec(section, name).is_some(), "{} leads to nothing", alias.name);
            }
            assert!(spec(alias.section, alias.name).is_none(), "{} is hidden", alias.name);
        }
    }
}
