//! keepalived.conf: the grammar of keepalived 2.2.7 and a block of this program, `drbd_resource`
//! (vrrp.md 2).
//!
//! ```text
//!   text -> lexer -> reader (blocks, included files, variables) -> builder -> Keepalived
//!                                    words: what may stand where, and what it does here
//! ```
//!
//! keepalived logs what it does not understand and goes on. So does this: such a file loads, with
//! warnings that name the place and the word. Where going on would make the node act on something
//! that nobody meant, it is an error, and the file does not load.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::diagnostics::{Diagnostic, Diagnostics, Severity};
use super::suggest::nearest;
use super::tree::Statement;

mod addresses;
mod builder;
mod checks;
pub mod command;
mod cross;
mod global;
mod groups;
mod instance;
mod lexer;
pub mod model;
mod reader;
mod servers;
mod service;
#[cfg(test)]
mod tests;
mod trackers;
mod words;

pub use command::{Command, Invocation};
pub use cross::cross_check;
pub use model::Keepalived;

use builder::Builder;
use model::{Global, Instance, Script, SyncGroup, Tracked, TrackedFile, Weight};
use reader::Reader;
use words::Block;

/// Where keepalived looks, too.
pub const DEFAULT_PATH: &str = "/etc/keepalived/keepalived.conf";

/// Reads a file and all that it includes, as the node named `node` (lines may be for one node only).
pub fn load(path: &Path, node: &str) -> Result<Keepalived, Diagnostics> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut reader = Reader::new(node);
    let statements = reader.read_main(&path);
    build(reader, &statements)
}

/// Reads a text as if it were in a file of that name.
pub fn parse(path: &Path, text: &str, node: &str) -> Result<Keepalived, Diagnostics> {
    let mut reader = Reader::new(node);
    let statements = reader.take_text(path, text.to_owned(), 0, 0);
    build(reader, &statements)
}

fn build(reader: Reader, statements: &[Statement]) -> Result<Keepalived, Diagnostics> {
    let sources = Arc::new(reader.sources);
    let mut builder = Builder::new(reader.diagnostics);
    let mut global = Global::default();
    let (mut scripts, mut processes, mut files) = (Vec::new(), Vec::new(), Vec::new());
    let (mut groups, mut instances) = (Vec::new(), Vec::new());
    let (mut server_groups, mut virtual_servers) = (Vec::new(), Vec::new());
    builder.each(Block::File, statements, |b, statement| match statement.keyword() {
        "global_defs" => global::global_defs(b, statement, &mut global),
        "vrrp_script" => trackers::vrrp_script(b, statement, &mut scripts),
        "vrrp_track_process" => trackers::vrrp_track_process(b, statement, &mut processes),
        "vrrp_track_file" | "track_file" => trackers::vrrp_track_file(b, statement, &mut files),
        "vrrp_sync_group" => groups::vrrp_sync_group(b, statement, &mut groups),
        "vrrp_instance" => instance::vrrp_instance(b, statement, &mut instances),
        "virtual_server_group" => groups::virtual_server_group(b, statement, &mut server_groups),
        "virtual_server" => servers::virtual_server(b, statement, &mut virtual_servers),
        other => debug_assert!(false, "no meaning for {other}"),
    });
    let is_error = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
    if !builder.diagnostics.iter().any(is_error) {
        // What leads nowhere is known only once everything that is there was understood.
        let script_names: BTreeSet<&str> =
            scripts.iter().map(|known| known.name.as_str()).collect();
        let processes: BTreeSet<&str> = processes.iter().map(|known| known.name.as_str()).collect();
        let file_names: BTreeSet<&str> = files.iter().map(|known| known.name.as_str()).collect();
        let instances = instances.iter().map(|instance| &instance.trackers);
        for trackers in instances.chain(groups.iter().map(|group| &group.trackers)) {
            trackers::check_names(&mut builder, &trackers.scripts, "vrrp_script", &script_names);
            let processes_at = &trackers.processes;
            trackers::check_names(&mut builder, processes_at, "vrrp_track_process", &processes);
            trackers::check_names(&mut builder, &trackers.files, "vrrp_track_file", &file_names);
        }
    }
    if !builder.diagnostics.iter().any(is_error) {
        check_instances(&mut builder, &global, &mut instances);
        check_groups(&mut builder, &instances, &groups);
        weights_in_groups(&mut builder, &scripts, &files, &groups, &mut instances);
    }
    let mut diagnostics = builder.diagnostics;
    if diagnostics.iter().any(is_error) {
        diagnostics.retain(is_error);
        return Err(Diagnostics::new(diagnostics, sources));
    }
    let is_note = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Note;
    let (notes, diagnostics) = diagnostics.into_iter().partition(is_note);
    Ok(Keepalived {
        global,
        scripts,
        processes,
        files,
        groups,
        instances,
        server_groups,
        virtual_servers,
        warnings: Diagnostics::new(diagnostics, sources.clone()),
        notes: Diagnostics::new(notes, sources.clone()),
        sources,
    })
}

/// What the version makes of other words, and two instances that would answer to the same adverts.
fn check_instances(b: &mut Builder, global: &Global, instances: &mut [Instance]) {
    const STEP_V2_US: u64 = 1_000_000;
    const STEP_V3_US: u64 = 10_000;
    const LONGEST_V3_US: u64 = 4095 * STEP_V3_US;
    let mut seen = BTreeMap::new();
    for instance in &mut *instances {
        let is_v6 = instance.addresses.first().is_some_and(|first| first.address.is_ipv6());
        let version = instance.version_in(global);
        if version == 3
            && let Some(password) = &instance.password
        {
            let message = "VRRP version 3 has no authentication";
            let help = "remove the block authentication, or use version 2";
            b.report(Diagnostic::error(password.span, message).label("never sent").help(help));
        }
        if is_v6 && (instance.version == Some(2) || global.version == Some(2)) {
            let message = format!("vrrp_instance '{}' has IPv6 addresses", instance.name);
            b.warning(instance.span, message, "taken as version 3");
        }
        if let Some(first) = instance.addresses.first()
            && let std::net::IpAddr::V6(address) = first.address
            && !address.is_unicast_link_local()
        {
            let message = format!("the first of the addresses, {address}, is not link-local");
            let help = "put an address of fe80::/10 first: RFC 9568 demands it";
            b.report(Diagnostic::error(first.span, message).label("here").help(help));
        }
        let own = [instance.source, instance.multicast_group].into_iter().flatten();
        for address in own.chain(instance.unicast_peers.iter().map(|peer| peer.address)) {
            if address.is_ipv6() != is_v6 {
                let message = format!("{address} is of another family than the virtual addresses");
                b.error(instance.span, message, "in this vrrp_instance");
            }
        }
        let step_us = if version == 2 { STEP_V2_US } else { STEP_V3_US };
        let given_us = instance.advert_interval_us;
        let rounded_us = ((given_us + step_us / 2) / step_us * step_us).max(step_us);
        if version == 3 && rounded_us > LONGEST_V3_US {
            let message = format!("vrrp_instance '{}' advertises too rarely", instance.name);
            b.error(instance.span, message, "version 3 knows up to 40.95 seconds");
        } else if rounded_us != given_us {
            let name = &instance.name;
            let message = format!(
                "vrrp_instance '{name}': advert_int rounded to {} s",
                rounded_us as f64 / 1e6
            );
            let label = format!("version {version} counts in steps of {} s", step_us as f64 / 1e6);
            b.warning(instance.span, message, label);
            instance.advert_interval_us = rounded_us;
        }
    }
    for instance in &*instances {
        let is_v6 = instance.addresses.first().is_some_and(|first| first.address.is_ipv6());
        // With unicast, only a common peer confuses them (keepalived allows it, too).
        let mut whom: Vec<_> =
            instance.unicast_peers.iter().map(|peer| Some(peer.address)).collect();
        if whom.is_empty() {
            whom.push(instance.multicast_group);
        }
        for whom in whom {
            let key = (&instance.interface, instance.virtual_router_id, is_v6, whom);
            let Some(first) = seen.insert(key, instance) else { continue };
            let (id, interface) = (instance.virtual_router_id, &instance.interface);
            let message = format!("virtual_router_id {id} is used twice on {interface}");
            b.report(
                Diagnostic::error(instance.span, message)
                    .label("used again here")
                    .related(first.span, "first used here")
                    .help("each instance of an interface needs a number of its own"),
            );
            break;
        }
    }
}

/// Every instance is in one group at most.
fn check_groups(b: &mut Builder, instances: &[Instance], groups: &[SyncGroup]) {
    let names: BTreeSet<&str> = instances.iter().map(|instance| instance.name.as_str()).collect();
    let mut taken = BTreeMap::new();
    for (name, span) in groups.iter().flat_map(|group| &group.members) {
        if !names.contains(name.as_str()) {
            if b.is_full(Severity::Error) {
                continue;
            }
            let label = match nearest(name, names.iter().copied()) {
                Some(near) => format!("did you mean '{near}'?"),
                None => "expected the name of a vrrp_instance".to_owned(),
            };
            b.error(*span, format!("there is no vrrp_instance '{name}'"), label);
        } else if let Some(first) = taken.insert(name, *span) {
            let message = format!("vrrp_instance '{name}' is in two groups");
            b.report(
                Diagnostic::error(*span, message)
                    .label("named again here")
                    .related(first, "first named here"),
            );
        }
    }
}

/// Members of a group serve together, so what weighs on one of them would set them apart. What
/// follows was measured with keepalived 2.2.7; it leaves the weight of a process as it is.
fn weights_in_groups(
    b: &mut Builder,
    scripts: &[Script],
    files: &[TrackedFile],
    groups: &[SyncGroup],
    instances: &mut [Instance],
) {
    let script_weights: BTreeMap<&str, i16> =
        scripts.iter().map(|script| (script.name.as_str(), script.weight.value)).collect();
    let file_weights: BTreeMap<&str, i16> =
        files.iter().map(|file| (file.name.as_str(), file.weight.value)).collect();
    let members: BTreeSet<&str> = groups
        .iter()
        .filter(|group| !group.tracking_weight)
        .flat_map(|group| group.members.iter().map(|(name, _)| name.as_str()))
        .collect();
    let help = "track it in the vrrp_sync_group, or add sync_group_tracking_weight there";
    for instance in instances.iter_mut().filter(|one| members.contains(one.name.as_str())) {
        let weighs = |tracked: &Tracked, own: Option<&i16>| match tracked.weight {
            Some(weight) => weight.value != 0,
            None => own.is_some_and(|weight| *weight != 0),
        };
        instance.trackers.scripts.retain(|tracked| {
            let is_left_out = weighs(tracked, script_weights.get(tracked.name.as_str()));
            if is_left_out {
                let message = format!("a weight of '{}' in a member of a group", tracked.name);
                b.report(
                    Diagnostic::warning(tracked.span, message).label("not tracked").help(help),
                );
            }
            !is_left_out
        });
        let interfaces = instance.trackers.interfaces.iter_mut().map(|one| (one, None));
        let files = instance.trackers.files.iter_mut().map(|one| {
            let own = file_weights.get(one.name.as_str());
            (one, own)
        });
        for (tracked, own) in interfaces.chain(files) {
            if weighs(tracked, own) {
                let message = format!("a weight of '{}' in a member of a group", tracked.name);
                let warning = Diagnostic::warning(tracked.span, message);
                b.report(warning.label("taken as weight 0").help(help));
                tracked.weight = Some(Weight::default());
            }
        }
    }
}

impl Instance {
    /// 2 or 3. IPv6 is version 3, whatever is written.
    pub fn version_in(&self, global: &Global) -> u8 {
        if self.addresses.first().is_some_and(|first| first.address.is_ipv6()) {
            return 3;
        }
        self.version.or(global.version).unwrap_or(2)
    }
}

impl Keepalived {
    pub fn instance(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.name == name)
    }
}
