//! Checks that need the whole configuration: what is missing, and what two places claim for
//! themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::diagnostics::{Diagnostic, keep};
use super::model::{Host, HostKind, Resource, Volume};
use super::options::{Layers, OptionSet, Section, Value};
use super::source::Span;

/// Runs all of them.
pub fn check(common: &Arc<OptionSet>, resources: &[Resource], diagnostics: &mut Vec<Diagnostic>) {
    let mut claims = Claims::default();
    for resource in resources {
        check_hosts(resource, diagnostics);
        check_names(resource, resources, diagnostics);
        check_victim(common, resource, diagnostics);
        check_network(common, resource, diagnostics);
        check_fencing(common, resource, diagnostics);
        check_takeover(common, resource, diagnostics);
        for host in resource.hosts.iter().filter(|host| host.kind == HostKind::On) {
            claims.of_host(resource, host, diagnostics);
        }
    }
    for resource in resources {
        check_nbd(common, resource, &claims, diagnostics);
    }
}

fn check_hosts(resource: &Resource, diagnostics: &mut Vec<Diagnostic>) {
    if resource.hosts.is_empty() {
        let message = format!("resource '{}' has no hosts", resource.name);
        keep(
            diagnostics,
            Diagnostic::error(resource.span, message).label("defined here").help(
                "add an 'on HOST { address ADDRESS:PORT; ... }' section for each of two nodes",
            ),
        );
    }
    let mut named: BTreeMap<&str, Span> = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for host in &resource.hosts {
        for name in host.names.iter().filter(|_| host.kind == HostKind::On) {
            if let Some(first) = named.insert(name, host.span) {
                let message =
                    format!("conflicting use of host section '{}: on {name}'", resource.name);
                keep(diagnostics, conflict(host.span, message, first));
            }
        }
        check_complete(resource, host, diagnostics);
        let Some(address) = &host.address else {
            missing(resource, host, "address", diagnostics);
            continue;
        };
        if let Some(first) = addresses.insert(address.value.socket, address.span) {
            let message = format!("two hosts of '{}' have the same address", resource.name);
            keep(diagnostics, conflict(address.span, message, first));
        }
    }
}

/// Nothing may be missing once everything is inherited.
fn check_complete(resource: &Resource, host: &Host, diagnostics: &mut Vec<Diagnostic>) {
    let explicit =
        |volumes: &super::model::Volumes| !volumes.implicit && !volumes.by_number.is_empty();
    let (own, common) = (&host.volumes, &resource.volumes);
    if (own.implicit && explicit(common)) || (common.implicit && explicit(own)) {
        let message = format!(
            "in resource {}, {}: you must not mix implicit and explicit volumes",
            resource.name,
            host.title()
        );
        keep(diagnostics, Diagnostic::error(host.span, message));
        return;
    }
    let volumes = resource.volumes_of(host);
    // A stacked resource has the lower one as its disk.
    let stacked = host.kind == HostKind::Stacked;
    if volumes.is_empty() {
        for keyword in if stacked { &["device"][..] } else { &["device", "disk"] } {
            missing(resource, host, keyword, diagnostics);
        }
    }
    for volume in volumes.values() {
        if volume.device.is_none() {
            missing(resource, host, "device", diagnostics);
        }
        if volume.disk.is_none() && !stacked {
            missing(resource, host, "disk", diagnostics);
        }
    }
}

fn missing(resource: &Resource, host: &Host, keyword: &str, diagnostics: &mut Vec<Diagnostic>) {
    let message = format!(
        "in resource {}, {} {{ ... }}: '{keyword}' keyword missing.",
        resource.name,
        host.title()
    );
    let help = match keyword {
        "address" => "add: address ADDRESS:PORT;",
        "device" => "add: device /dev/drbdN;",
        _ => "add: disk PATH;",
    };
    keep(diagnostics, Diagnostic::error(host.span, message).label("in this section").help(help));
}

fn conflict(span: Span, message: String, first: Span) -> Diagnostic {
    Diagnostic::error(span, message).label("used again here").related(first, "first used here")
}

/// Other resources and nodes that are named.
fn check_names(resource: &Resource, resources: &[Resource], diagnostics: &mut Vec<Diagnostic>) {
    if let Some(setting) = resource.options.get(Section::Startup, "become-primary-on")
        && let Value::Words(names) = &setting.value
    {
        for name in names.iter().filter(|name| *name != "both") {
            if !resource.hosts.iter().any(|host| host.names.contains(name)) {
                let message = format!(
                    "become-primary-on contains '{name}', which is not named with the 'on' sections"
                );
                keep(diagnostics, Diagnostic::error(setting.span, message));
            }
        }
    }
    if let Some(setting) = resource.options.get(Section::Disk, "resync-after")
        && let Value::Text(after) = &setting.value
    {
        let name = after.split('/').next().unwrap_or(after);
        if !resources.iter().any(|other| other.name == name) {
            let message =
                format!("resource '{name}' mentioned in 'resync-after' option is not known");
            keep(diagnostics, Diagnostic::error(setting.span, message));
        } else if waits_for_itself(resource, resources) {
            let message =
                format!("'resync-after {after}' waits in the end for '{}'", resource.name);
            keep(diagnostics, Diagnostic::error(setting.span, message));
        }
    }
}

/// Whether following `resync-after` leads back.
fn waits_for_itself(resource: &Resource, resources: &[Resource]) -> bool {
    let mut at = resource;
    for _ in resources {
        let Some(setting) = at.options.get(Section::Disk, "resync-after") else { return false };
        let Value::Text(after) = &setting.value else { return false };
        let name = after.split('/').next().unwrap_or(after);
        let Some(next) = resources.iter().find(|other| other.name == name) else { return false };
        if next.name == resource.name {
            return true;
        }
        at = next;
    }
    false
}

/// `after-sb-0pri discard-node-NAME`: with a name that nobody has, each node would take the other for
/// the victim.
fn check_victim(common: &OptionSet, resource: &Resource, diagnostics: &mut Vec<Diagnostic>) {
    let layers = Layers(vec![common, &resource.options]);
    let Some(setting) = layers.get(Section::Net, "after-sb-0pri") else { return };
    let Some(name) = setting.written.strip_prefix("discard-node-") else { return };
    if !resource.is_for(name) {
        let message =
            format!("'{name}' of {} is not a host of '{}'", setting.written, resource.name);
        keep(diagnostics, Diagnostic::error(setting.span, message));
    }
}

/// Settings that make sense one by one, but not together.
fn check_network(common: &OptionSet, resource: &Resource, diagnostics: &mut Vec<Diagnostic>) {
    let layers = Layers(vec![common, &resource.options]);
    let timeout = layers.number(Section::Net, "timeout");
    for name in ["connect-int", "ping-int"] {
        // 0.1 s against s
        let limit = layers.number(Section::Net, name) * 10;
        if timeout >= limit {
            let span = layers.get(Section::Net, "timeout").map_or(resource.span, |set| set.span);
            let message = format!(
                "timeout ({timeout} x 0.1 s) must be smaller than {name} ({limit} x 0.1 s)"
            );
            keep(diagnostics, Diagnostic::warning(span, message));
        }
    }
    let algorithm = layers.get(Section::Net, "cram-hmac-alg");
    let secret = layers.get(Section::Net, "shared-secret");
    match (algorithm, secret) {
        (None, Some(secret)) => keep(
            diagnostics,
            Diagnostic::warning(
                secret.span,
                "shared-secret without cram-hmac-alg: peers are not authenticated",
            )
            .help("add: cram-hmac-alg sha256;"),
        ),
        (Some(algorithm), None) => keep(
            diagnostics,
            Diagnostic::warning(
                algorithm.span,
                "cram-hmac-alg without shared-secret: anybody passes",
            )
            .help("add: shared-secret \"...\";"),
        ),
        _ => {}
    }
}

/// Fencing rests on other options (behaviour.md 6).
fn check_fencing(common: &OptionSet, resource: &Resource, diagnostics: &mut Vec<Diagnostic>) {
    let layers = Layers(vec![common, &resource.options]);
    let Some(setting) = layers.get(Section::Disk, "fencing") else { return };
    let stonith = setting.written == "resource-and-stonith";
    if stonith && layers.text(Section::Net, "protocol") == Some("A") {
        keep(
            diagnostics,
            Diagnostic::error(setting.span, "fencing resource-and-stonith needs protocol B or C")
                .label("with protocol A answered writes may be lost with the fenced Primary"),
        );
    }
    if setting.written != "dont-care" && layers.get(Section::Handlers, "fence-peer").is_none() {
        let message = "fencing without a handler fence-peer: a node without its peer is stuck";
        keep(
            diagnostics,
            Diagnostic::warning(setting.span, message)
                .help("add: handlers { fence-peer \"/usr/lib/drbd/crm-fence-peer.sh\"; }"),
        );
    }
}

/// A takeover policy is a way to fence, and rests on the peer's acknowledgements (DESIGN.md 6).
fn check_takeover(common: &OptionSet, resource: &Resource, diagnostics: &mut Vec<Diagnostic>) {
    let layers = Layers(vec![common, &resource.options]);
    let Some(setting) = layers.get(Section::Options, "takeover") else { return };
    if setting.value == Value::Words(vec!["both".to_owned()]) {
        return;
    }
    if layers.text(Section::Net, "protocol") == Some("A") {
        keep(
            diagnostics,
            Diagnostic::error(setting.span, "this takeover policy needs protocol B or C").label(
                "with protocol A a node that was replaced would go on answering for a while",
            ),
        );
    }
    let own = [(Section::Disk, "fencing"), (Section::Handlers, "fence-peer")];
    for (section, name) in own {
        if layers.get(section, name).is_some_and(|known| known.written != "dont-care") {
            keep(
                diagnostics,
                Diagnostic::error(setting.span, format!("'takeover' and '{name}' are both set"))
                    .help(format!("the takeover policy fences by itself: remove {name}")),
            );
        }
    }
}

/// Clients and the peer cannot be served on one port.
fn check_nbd(
    common: &OptionSet,
    resource: &Resource,
    claims: &Claims,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for host in &resource.hosts {
        let layers = Layers(vec![common, &resource.options, &host.options]);
        for setting in layers.all(Section::Nbd, "listen") {
            let Value::Address(address) = setting.value else { continue };
            for name in &host.names {
                let claim = (name.clone(), "IP", address.to_string());
                if let Some(&first) = claims.taken.get(&claim) {
                    let message =
                        format!("nbd listens on {address}, which is the peer's port on '{name}'");
                    keep(diagnostics, conflict(setting.span, message, first));
                }
            }
        }
    }
}

/// What there is once per host: host, kind and value, and who has it.
#[derive(Default)]
struct Claims {
    taken: BTreeMap<(String, &'static str, String), Span>,
}

impl Claims {
    fn of_host(&mut self, resource: &Resource, host: &Host, diagnostics: &mut Vec<Diagnostic>) {
        for name in &host.names {
            if let Some(address) = &host.address {
                self.claim(name, "IP", address.value.socket.to_string(), address.span, diagnostics);
            }
            for volume in resource.volumes_of(host).values() {
                if let Some(device) = &volume.device {
                    let minor = device.value.minor.to_string();
                    self.claim(name, "device-minor", minor, device.span, diagnostics);
                }
                if let Some(disk) = &volume.disk
                    && disk.value.written != "none"
                {
                    let path = disk.value.absolute.display().to_string();
                    self.claim(name, "disk", path, disk.span, diagnostics);
                }
            }
        }
    }

    fn claim(
        &mut self,
        host: &str,
        kind: &'static str,
        value: String,
        span: Span,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let message = format!("conflicting use of {kind} '{host}:{value}'");
        if let Some(&first) = self.taken.get(&(host.to_owned(), kind, value.clone())) {
            keep(diagnostics, conflict(span, message, first));
        } else {
            self.taken.insert((host.to_owned(), kind, value), span);
        }
    }
}

impl Resource {
    /// The volumes of a host with what the resource says about all hosts.
    pub fn volumes_of(&self, host: &Host) -> BTreeMap<u32, Volume> {
        let mut volumes = self.volumes.by_number.clone();
        for (&number, own) in &host.volumes.by_number {
            let volume = volumes.entry(number).or_default();
            volume.device = own.device.clone().or_else(|| volume.device.take());
            volume.disk = own.disk.clone().or_else(|| volume.disk.take());
            volume.meta_disk = own.meta_disk.clone().or_else(|| volume.meta_disk.take());
            for setting in own.options.iter() {
                volume.options.set(setting.clone());
            }
        }
        volumes
    }
}
