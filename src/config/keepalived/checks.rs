//! What only the whole file shows: names used twice, trackers that nobody defined, two instances
//! that are one to their neighbours.

use std::collections::BTreeMap;

use super::super::diagnostics::{Diagnostic, keep};
use super::super::source::Span;
use super::super::suggest;
use super::model::{Instance, Keepalived, Tracked, Trackers};
use super::reader::Reader;

pub fn check(reader: &mut Reader, config: &mut Keepalived) {
    unique(reader, "vrrp_instance", config.instances.iter().map(|one| (&one.name, one.span)));
    unique(reader, "vrrp_sync_group", config.groups.iter().map(|one| (&one.name, one.span)));
    unique(reader, "vrrp_script", config.scripts.iter().map(|one| (&one.name, one.span)));
    unique(reader, "vrrp_track_process", config.processes.iter().map(|one| (&one.name, one.span)));
    unique(reader, "vrrp_track_file", config.files.iter().map(|one| (&one.name, one.span)));
    virtual_routers(reader, &config.instances);
    resources(reader, &config.instances);
    let known = Known {
        scripts: config.scripts.iter().map(|one| one.name.clone()).collect(),
        processes: config.processes.iter().map(|one| one.name.clone()).collect(),
        files: config.files.iter().map(|one| one.name.clone()).collect(),
    };
    let instances = config.instances.iter_mut().map(|instance| &mut instance.trackers);
    for trackers in instances.chain(config.groups.iter_mut().map(|group| &mut group.trackers)) {
        known.check(reader, trackers);
    }
    members(reader, config);
}

fn unique<'a>(reader: &mut Reader, what: &str, names: impl Iterator<Item = (&'a String, Span)>) {
    let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
    for (name, span) in names {
        if let Some(first) = seen.insert(name, span) {
            let message = format!("{what} {name} is there twice");
            let diagnostic = Diagnostic::error(span, message).related(first, "the first one");
            keep(&mut reader.diagnostics, diagnostic);
        }
    }
}

/// The number is the identity of a virtual router on its network (RFC 9568, 5.2.3).
fn virtual_routers(reader: &mut Reader, instances: &[Instance]) {
    let mut seen = BTreeMap::new();
    for instance in instances {
        let is_v6 = instance.addresses[0].address.is_ipv6();
        let number = instance.virtual_router_id;
        let place = (instance.interface.as_str(), is_v6, number, instance.unicast_peers.first());
        if let Some(first) = seen.insert(place, instance.span) {
            let message =
                format!("virtual_router_id {number} is there twice on {}", instance.interface);
            let diagnostic =
                Diagnostic::error(instance.span, message).related(first, "the first one");
            keep(&mut reader.diagnostics, diagnostic);
        }
    }
}

fn resources(reader: &mut Reader, instances: &[Instance]) {
    let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
    for data in instances.iter().filter_map(|instance| instance.data.as_ref()) {
        if let Some(first) = seen.insert(&data.resource, data.span) {
            let message = format!("two instances move drbd_resource {}", data.resource);
            let diagnostic = Diagnostic::error(data.span, message)
                .related(first, "the first one")
                .help("put both instances into a vrrp_sync_group, and the resource into one");
            keep(&mut reader.diagnostics, diagnostic);
        }
    }
}

struct Known {
    scripts: Vec<String>,
    processes: Vec<String>,
    files: Vec<String>,
}

impl Known {
    /// keepalived goes on without a tracker that it does not know; so does this, loudly.
    fn check(&self, reader: &mut Reader, trackers: &mut Trackers) {
        let lists = [
            ("vrrp_script", &self.scripts, &mut trackers.scripts),
            ("vrrp_track_process", &self.processes, &mut trackers.processes),
            ("vrrp_track_file", &self.files, &mut trackers.files),
        ];
        for (what, known, used) in lists {
            used.retain(|tracked| {
                let is_known = known.contains(&tracked.name);
                if !is_known {
                    unknown_tracker(reader, what, known, tracked);
                }
                is_known
            });
        }
    }
}

fn unknown_tracker(reader: &mut Reader, what: &str, known: &[String], tracked: &Tracked) {
    let message = format!("no {what} '{}': not tracked", tracked.name);
    let near = suggest::nearest(&tracked.name, known.iter().map(String::as_str));
    let label = near.map(|near| format!("did you mean '{near}'?")).unwrap_or_default();
    let diagnostic = Diagnostic::warning(tracked.span, message).label(label);
    keep(&mut reader.diagnostics, diagnostic);
}

fn members(reader: &mut Reader, config: &mut Keepalived) {
    let names: Vec<&str> = config.instances.iter().map(|one| one.name.as_str()).collect();
    let mut grouped: BTreeMap<String, Span> = BTreeMap::new();
    for group in &mut config.groups {
        group.members.retain(|(name, span)| {
            if !names.contains(&name.as_str()) {
                let message = format!("vrrp_sync_group: no vrrp_instance '{name}': not a member");
                let near = suggest::nearest(name, names.iter().copied());
                let label = near.map(|near| format!("did you mean '{near}'?")).unwrap_or_default();
                let diagnostic = Diagnostic::warning(*span, message).label(label);
                keep(&mut reader.diagnostics, diagnostic);
                return false;
            }
            if let Some(first) = grouped.insert(name.clone(), *span) {
                let message = format!("vrrp_instance {name} is a member twice");
                let diagnostic = Diagnostic::error(*span, message).related(first, "here first");
                keep(&mut reader.diagnostics, diagnostic);
            }
            true
        });
    }
}
