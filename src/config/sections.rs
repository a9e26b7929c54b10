//! Statements to the model: which words may stand where, and what they set.

use std::path::Path;
use std::sync::Arc;

use super::diagnostics::{Diagnostic, keep};
use super::model::{Host, HostKind, Placed, Resource, Volume, Volumes};
use super::options::{self, Effect, Meaning, OptionSet, Section, Setting, Value};
use super::source::{Sources, Span};
use super::suggest::nearest;
use super::tree::{Statement, Word};
use super::value::{self, BadValue};

const FILE_WORDS: [&str; 5] = ["global", "common", "resource", "include", "skip"];
const VOLUME_WORDS: [&str; 4] = ["device", "disk", "meta-disk", "flexible-meta-disk"];
const HOST_WORDS: [&str; 5] = ["address", "volume", "nbd", "options", "node-id"];
const RESOURCE_WORDS: [&str; 6] =
    ["protocol", "on", "floating", "stacked-on-top-of", "ignore-on", "volume"];

/// Volume numbers of DRBD.
const VOLUMES_MAX: u32 = 65_535;

/// What the statements of all files add up to.
#[derive(Debug)]
pub struct Builder<'a> {
    sources: &'a Sources,
    pub diagnostics: Vec<Diagnostic>,
    pub global: OptionSet,
    pub common: OptionSet,
    pub resources: Vec<Resource>,
    pub global_at: Option<Span>,
    pub common_at: Option<Span>,
}

/// The sections that were seen in one place, for the check that each is there once.
type Seen = Vec<(&'static str, Span)>;

impl<'a> Builder<'a> {
    pub fn new(sources: &'a Sources, diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            sources,
            diagnostics,
            global: OptionSet::default(),
            common: OptionSet::default(),
            resources: Vec::new(),
            global_at: None,
            common_at: None,
        }
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        keep(&mut self.diagnostics, diagnostic);
    }

    /// A statement outside of all sections.
    pub fn file_statement(&mut self, statement: &Statement) {
        match statement.keyword() {
            "global" => self.global_section(statement),
            "common" => self.common_section(statement),
            "resource" => self.resource_section(statement),
            _ => self.unknown(statement, "outside of a section", &FILE_WORDS, None),
        }
    }

    fn global_section(&mut self, statement: &Statement) {
        self.once("global", statement.keyword_span(), self.global_at);
        self.global_at = Some(statement.keyword_span());
        let mut set = std::mem::take(&mut self.global);
        self.option_section(Section::Global, statement, &mut set);
        self.global = set;
    }

    fn common_section(&mut self, statement: &Statement) {
        self.once("common", statement.keyword_span(), self.common_at);
        self.common_at = Some(statement.keyword_span());
        self.no_more_words(statement, 1);
        let mut set = std::mem::take(&mut self.common);
        let mut seen = Seen::new();
        for inner in self.body(statement) {
            if let Some(section) = resource_section_named(inner.keyword()) {
                self.section_once(section, inner, &mut seen);
                self.option_section(section, inner, &mut set);
            } else if inner.keyword() == "protocol" {
                self.option(Section::Net, inner, &mut set);
            } else {
                let known: Vec<&str> = section_names().chain(["protocol"]).collect();
                self.unknown(inner, "in section 'common'", &known, None);
            }
        }
        self.common = set;
    }

    fn resource_section(&mut self, statement: &Statement) {
        let Some(name) = statement.arguments().first() else {
            let diagnostic =
                Diagnostic::error(statement.keyword_span(), "the resource has no name");
            return self.report(diagnostic.help("resource NAME { ... }"));
        };
        self.no_more_words(statement, 2);
        self.check_resource_name(name);
        if let Some(first) = self.resources.iter().find(|known| known.name == name.text) {
            let message = format!("conflicting use of resource section '{}'", name.text);
            let first = first.span;
            self.report(
                Diagnostic::error(name.span, message)
                    .label("defined again here")
                    .related(first, "first defined here"),
            );
        }
        let mut resource = Resource {
            name: name.text.clone(),
            defined_at: self.sources.place(statement.keyword_span()),
            span: name.span,
            options: OptionSet::default(),
            volumes: Volumes::default(),
            hosts: Vec::new(),
            ignored_on: Vec::new(),
            common: Arc::default(),
        };
        let mut seen = Seen::new();
        for inner in self.body(statement) {
            self.resource_statement(inner, &mut resource, &mut seen);
        }
        self.resources.push(resource);
    }

    /// The name becomes part of file names and of NBD export names.
    fn check_resource_name(&mut self, name: &Word) {
        let fits =
            |character: char| character.is_ascii_alphanumeric() || "._-+".contains(character);
        let message = if name.text == "all" {
            "'all' stands for every resource and cannot be the name of one".to_owned()
        } else if name.text.is_empty()
            || name.text.starts_with(['.', '-'])
            || !name.text.chars().all(fits)
        {
            format!("'{}' cannot be the name of a resource", name.text)
        } else {
            return;
        };
        let help = "letters, digits and . _ - + make a name; the first is neither . nor -";
        self.report(Diagnostic::error(name.span, message).help(help));
    }

    fn resource_statement(
        &mut self,
        statement: &Statement,
        resource: &mut Resource,
        seen: &mut Seen,
    ) {
        let keyword = statement.keyword();
        match keyword {
            "protocol" => self.option(Section::Net, statement, &mut resource.options),
            "on" | "floating" | "stacked-on-top-of" => {
                if let Some(host) = self.host_section(statement) {
                    resource.hosts.push(host);
                }
            }
            "ignore-on" => {
                resource
                    .ignored_on
                    .extend(statement.arguments().iter().map(|word| word.text.clone()));
                self.no_body(statement);
            }
            _ if self.volume_words(statement, &mut resource.volumes) => {}
            _ => match resource_section_named(keyword) {
                Some(section) => {
                    self.section_once(section, statement, seen);
                    self.option_section(section, statement, &mut resource.options);
                }
                None => {
                    let known: Vec<&str> =
                        section_names().chain(RESOURCE_WORDS).chain(VOLUME_WORDS).collect();
                    let help = match keyword {
                        "connection" | "connection-mesh" | "template-file" | "path" => Some(
                            "this is DRBD 9 syntax; write two 'on HOST' sections with addresses",
                        ),
                        _ => None,
                    };
                    let place = format!("in resource '{}'", resource.name);
                    self.unknown(statement, &place, &known, help);
                }
            },
        }
    }

    fn host_section(&mut self, statement: &Statement) -> Option<Host> {
        let kind = match statement.keyword() {
            "on" => HostKind::On,
            "floating" => HostKind::Floating,
            _ => HostKind::Stacked,
        };
        let mut host = Host {
            kind,
            names: Vec::new(),
            address: None,
            volumes: Volumes::default(),
            options: OptionSet::default(),
            span: statement.keyword_span(),
        };
        if kind == HostKind::Floating {
            let (address, used) = self.value(statement, value::address(statement.arguments()))?;
            let span = statement.words[used].span;
            host.address = Some(Placed { value: address, span });
            self.no_more_words(statement, used + 1);
        } else if statement.arguments().is_empty() {
            let message = format!("'{}' needs a name", statement.keyword());
            self.report(Diagnostic::error(statement.keyword_span(), message));
            return None;
        } else {
            host.names = statement.arguments().iter().map(|word| word.text.clone()).collect();
            host.span = statement.arguments()[0].span;
        }
        let mut seen = Seen::new();
        let body = match &statement.body {
            None if kind == HostKind::Floating => &[][..],
            _ => self.body(statement),
        };
        for inner in body {
            self.host_statement(inner, &mut host, &mut seen);
        }
        Some(host)
    }

    fn host_statement(&mut self, statement: &Statement, host: &mut Host, seen: &mut Seen) {
        match statement.keyword() {
            "address" => {
                let parsed = value::address(statement.arguments());
                let Some((address, used)) = self.value(statement, parsed) else { return };
                self.no_more_words(statement, used + 1);
                self.no_body(statement);
                let placed = Placed { value: address, span: statement.words[used].span };
                if let Some(first) = host.address.replace(placed) {
                    self.twice(statement, first.span);
                }
            }
            "disk" if statement.body.is_some() => {
                self.section_once(Section::Disk, statement, seen);
                self.option_section(Section::Disk, statement, &mut host.options);
            }
            "nbd" | "options" => {
                let section =
                    if statement.keyword() == "nbd" { Section::Nbd } else { Section::Options };
                self.section_once(section, statement, seen);
                self.option_section(section, statement, &mut host.options);
            }
            // DRBD 9 numbers its nodes; this wire protocol has two and needs no numbers.
            "node-id" => self.no_body(statement),
            _ if self.volume_words(statement, &mut host.volumes) => {}
            _ => {
                let known: Vec<&str> = HOST_WORDS.into_iter().chain(VOLUME_WORDS).collect();
                let place = format!("in section '{}'", host.title());
                self.unknown(statement, &place, &known, None);
            }
        }
    }

    /// `volume N { }` and the statements of a volume without it; false if it is none of them.
    fn volume_words(&mut self, statement: &Statement, volumes: &mut Volumes) -> bool {
        let keyword = statement.keyword();
        if keyword == "volume" {
            self.volume_section(statement, volumes);
            return true;
        }
        if !VOLUME_WORDS.contains(&keyword) || (keyword == "disk" && statement.body.is_some()) {
            return false;
        }
        if !volumes.implicit && !volumes.by_number.is_empty() {
            self.mixed(statement);
        }
        volumes.implicit = true;
        self.volume_statement(statement, volumes.by_number.entry(0).or_default());
        true
    }

    fn mixed(&mut self, statement: &Statement) {
        let message = "you must not mix implicit and explicit volumes";
        let help = "put this statement into the volume it belongs to";
        self.report(Diagnostic::error(statement.keyword_span(), message).help(help));
    }

    fn volume_section(&mut self, statement: &Statement, volumes: &mut Volumes) {
        let Some(word) = statement.arguments().first() else {
            let diagnostic = Diagnostic::error(statement.keyword_span(), "'volume' needs a number");
            return self.report(diagnostic);
        };
        let Some(number) = word.text.parse().ok().filter(|&number: &u32| number <= VOLUMES_MAX)
        else {
            let message = format!("{} is not a valid volume number", word.text);
            let label = format!("expected 0 to {VOLUMES_MAX}");
            return self.report(Diagnostic::error(word.span, message).label(label));
        };
        self.no_more_words(statement, 2);
        if volumes.implicit {
            self.mixed(statement);
        }
        if volumes.by_number.contains_key(&number) {
            let message = format!("conflicting use of volume section '{number}'");
            self.report(Diagnostic::error(word.span, message).label("written again here"));
        }
        let mut volume = Volume::default();
        let mut seen = Seen::new();
        for inner in self.body(statement) {
            if inner.keyword() == "disk" && inner.body.is_some() {
                self.section_once(Section::Disk, inner, &mut seen);
                self.option_section(Section::Disk, inner, &mut volume.options);
            } else if VOLUME_WORDS.contains(&inner.keyword()) {
                self.volume_statement(inner, &mut volume);
            } else {
                let place = format!("in section 'volume {number}'");
                self.unknown(inner, &place, &VOLUME_WORDS, None);
            }
        }
        volumes.by_number.insert(number, volume);
    }

    fn volume_statement(&mut self, statement: &Statement, volume: &mut Volume) {
        self.no_body(statement);
        let base =
            self.sources.path(statement.span.file).parent().unwrap_or_else(|| Path::new("/"));
        let words = statement.arguments();
        let span = words.first().map_or_else(|| statement.keyword_span(), |word| word.span);
        let (used, first) = match statement.keyword() {
            "device" => {
                let Some((device, used)) = self.value(statement, value::device(words)) else {
                    return;
                };
                let placed = Placed { value: device, span };
                (used, volume.device.replace(placed).map(|first| first.span))
            }
            "disk" => {
                let Some(word) = words.first() else {
                    let message = "'disk' needs the path of a device or file";
                    return self.report(Diagnostic::error(span, message));
                };
                let placed = Placed { value: value::disk_path(base, &word.text), span };
                (1, volume.disk.replace(placed).map(|first| first.span))
            }
            keyword => {
                let flexible = keyword == "flexible-meta-disk";
                let parsed = value::meta_disk(base, words, flexible);
                let Some((meta_disk, used)) = self.value(statement, parsed) else { return };
                let placed = Placed { value: meta_disk, span };
                (used, volume.meta_disk.replace(placed).map(|first| first.span))
            }
        };
        self.no_more_words(statement, used + 1);
        if let Some(first) = first {
            self.twice(statement, first);
        }
    }

    /// `net { ... }` and its like.
    fn option_section(&mut self, section: Section, statement: &Statement, set: &mut OptionSet) {
        self.no_more_words(statement, 1);
        for inner in self.body(statement) {
            if section == Section::Proxy && inner.body.is_some() {
                let message = "DRBD Proxy and its plugins have no effect here";
                self.report(Diagnostic::warning(inner.keyword_span(), message));
                continue;
            }
            self.option(section, inner, set);
        }
    }

    /// One option.
    fn option(&mut self, section: Section, statement: &Statement, set: &mut OptionSet) {
        let keyword = statement.keyword();
        let (spec, negated) = match options::find(section, keyword) {
            None => return self.unknown_option(section, statement),
            Some(Meaning::Ignored) => {
                let message = format!("'{keyword}' is of DRBD 8.3 and has no effect");
                return self.report(Diagnostic::note(statement.keyword_span(), message));
            }
            Some(Meaning::Option { spec, negated }) => (spec, negated),
        };
        let words = statement.arguments();
        let Some(mut value) = self.value(statement, value::option_value(spec, words)) else {
            return;
        };
        let used = match &value {
            Value::Words(words) => words.len(),
            Value::Flag(_) => words.len().min(1),
            _ => 1,
        };
        self.no_more_words(statement, used + 1);
        self.no_body(statement);
        if let (Value::Flag(flag), true) = (&mut value, negated) {
            *flag = !*flag;
        }
        let written = match &value {
            Value::Flag(true) => "yes".to_owned(),
            Value::Flag(false) => "no".to_owned(),
            Value::Words(words) => words.join(" "),
            Value::Text(text) => text.clone(),
            _ => words[0].text.clone(),
        };
        let span = statement.keyword_span();
        let setting = Setting { spec, value, written, span };
        self.judge_effect(&setting);
        if let Some(before) = set.set(setting) {
            let message = format!("'{}' is set twice here; the last one counts", spec.name);
            self.report(
                Diagnostic::warning(span, message)
                    .label("this one counts")
                    .related(before.span, "this one does not"),
            );
        }
    }

    /// Says so when the program would not do what the option asks for.
    fn judge_effect(&mut self, setting: &Setting) {
        let spec = setting.spec;
        let is_default = match (&setting.value, spec.default) {
            (Value::Flag(value), options::Default::Flag(default)) => *value == default,
            (Value::Number(value), options::Default::Number(default)) => *value == default,
            (Value::Text(value), options::Default::Word(default)) => value == default,
            _ => false,
        };
        match spec.effect {
            _ if is_default => {}
            Effect::Acts => {}
            Effect::Irrelevant => {
                let message = format!("'{}' has nothing to act upon in this program", spec.name);
                self.report(Diagnostic::note(setting.span, message));
            }
            Effect::NotYet => {
                let what = if spec.section == Section::Handlers { "handler " } else { "" };
                let message = format!("{what}'{}' has no effect yet", spec.name);
                let label = "accepted, but this program does not act upon it";
                self.report(Diagnostic::warning(setting.span, message).label(label));
            }
            Effect::Refused(why) => {
                let message = format!("'{}' cannot be used: {why}", spec.name);
                self.report(Diagnostic::error(setting.span, message));
            }
        }
    }

    fn unknown_option(&mut self, section: Section, statement: &Statement) {
        let keyword = statement.keyword();
        let span = statement.keyword_span();
        let message = format!("unknown option '{keyword}' in section '{section}'");
        let elsewhere = Section::OF_RESOURCE
            .into_iter()
            .find(|&other| other != section && options::spec(other, keyword).is_some());
        let diagnostic = Diagnostic::error(span, message);
        self.report(match (elsewhere, nearest(keyword, options::names(section))) {
            (Some(other), _) => diagnostic.label(format!("belongs into section '{other}'")),
            (None, Some(near)) => diagnostic.label(format!("did you mean '{near}'?")),
            (None, None) => diagnostic
                .label("not known")
                .help(format!("the options of '{section}': {}", names(section))),
        });
    }

    /// A keyword that cannot stand where it does.
    fn unknown(&mut self, statement: &Statement, place: &str, known: &[&str], help: Option<&str>) {
        let keyword = statement.keyword();
        let message = format!("unknown keyword '{keyword}' {place}");
        let diagnostic = Diagnostic::error(statement.keyword_span(), message);
        let belongs = Section::OF_RESOURCE
            .into_iter()
            .find(|&section| statement.body.is_none() && options::find(section, keyword).is_some());
        let diagnostic = match (nearest(keyword, known.iter().copied()), belongs) {
            (_, Some(section)) => diagnostic.label(format!("belongs into section '{section}'")),
            (Some(near), _) if near != keyword => {
                diagnostic.label(format!("did you mean '{near}'?"))
            }
            (Some(_), _) => diagnostic.label("misplaced"),
            (None, None) => diagnostic.label(format!("expected {}", value::alternatives(known))),
        };
        self.report(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
    }

    fn value<T>(&mut self, statement: &Statement, parsed: Result<T, BadValue>) -> Option<T> {
        parsed.map_err(|bad| self.bad_value(statement, bad)).ok()
    }

    fn bad_value(&mut self, statement: &Statement, bad: BadValue) {
        let at = bad.at.min(usize::MAX - 1) + 1;
        let word = statement.words.get(at);
        // A keyword on the next line where a value should be: the line before was not finished.
        if let Some(word) = word
            && self.sources.line(word.span) > self.sources.line(statement.words[at - 1].span)
        {
            return self.missing_semicolon(&statement.words[at - 1]);
        }
        let span = word.map_or_else(
            || statement.words.last().map_or(statement.span, |last| last.span),
            |word| word.span,
        );
        self.report(Diagnostic::error(span, bad.message).label(bad.label));
    }

    fn missing_semicolon(&mut self, after: &Word) {
        let message = format!("';' is missing after '{}'", after.text);
        self.report(Diagnostic::error(after.span, message).label("after this"));
    }

    /// The statement should have ended after `used` words.
    fn no_more_words(&mut self, statement: &Statement, used: usize) {
        let Some(extra) = statement.words.get(used) else { return };
        let last = &statement.words[used - 1];
        if self.sources.line(extra.span) > self.sources.line(last.span) {
            return self.missing_semicolon(last);
        }
        let expected = if statement.body.is_some() { "'{'" } else { "';'" };
        let message = format!("unexpected '{}' after '{}'", extra.text, last.text);
        self.report(Diagnostic::error(extra.span, message).label(format!("expected {expected}")));
    }

    fn no_body(&mut self, statement: &Statement) {
        if statement.body.is_some() {
            let message = format!("'{}' takes a value, not a section", statement.keyword());
            self.report(Diagnostic::error(statement.keyword_span(), message).label("expected ';'"));
        }
    }

    fn body<'s>(&mut self, statement: &'s Statement) -> &'s [Statement] {
        match &statement.body {
            Some(body) => body,
            None => {
                let message = format!("'{}' is a section", statement.keyword());
                let span = statement.keyword_span();
                self.report(Diagnostic::error(span, message).label("expected '{'"));
                &[]
            }
        }
    }

    fn once(&mut self, what: &str, span: Span, first: Option<Span>) {
        if let Some(first) = first {
            let message = format!("conflicting use of {what} section");
            self.report(
                Diagnostic::error(span, message)
                    .label("written again here")
                    .related(first, "first used here"),
            );
        }
    }

    fn section_once(&mut self, section: Section, statement: &Statement, seen: &mut Seen) {
        let first = seen.iter().find(|(name, _)| *name == section.name()).map(|&(_, span)| span);
        self.once(section.name(), statement.keyword_span(), first);
        seen.push((section.name(), statement.keyword_span()));
    }

    fn twice(&mut self, statement: &Statement, first: Span) {
        let message = format!("conflicting use of {} statement", statement.keyword());
        self.report(
            Diagnostic::error(statement.keyword_span(), message)
                .label("written again here")
                .related(first, "first used here"),
        );
    }
}

fn resource_section_named(name: &str) -> Option<Section> {
    Section::OF_RESOURCE.into_iter().find(|section| section.name() == name)
}

fn section_names() -> impl Iterator<Item = &'static str> {
    Section::OF_RESOURCE.into_iter().map(Section::name)
}

fn names(section: Section) -> String {
    let names: Vec<&str> = options::names(section).collect();
    names.join(", ")
}
