//! keepalived.conf beside drbd.conf: what one of them says of the other.

use std::collections::BTreeMap;

use super::super::diagnostics::{Diagnostic, Diagnostics, keep};
use super::super::suggest::nearest;
use super::super::view::{Fencing, NodeView, Takeover};
use super::super::{Config, Resource};
use super::model::{DrbdResource, Keepalived};

/// What is wrong with the two together, as `node` sees them. Places are those of keepalived.conf.
pub fn cross_check(keepalived: &Keepalived, config: &Config, node: &str) -> Diagnostics {
    let mut found = Vec::new();
    let mut bound = BTreeMap::new();
    for instance in &keepalived.instances {
        let Some(service) = &instance.drbd_resource else { continue };
        if let Some(first) = bound.insert(&service.name, service.span) {
            let message = format!("resource '{}' follows two instances", service.name);
            let help = "put the addresses into one, or both instances into a vrrp_sync_group \
                        and the resource into one of them";
            let second = Diagnostic::error(service.span, message).label("bound again here");
            keep(&mut found, second.related(first, "first bound here").help(help));
        }
        match config.resource(&service.name) {
            Some(resource) => follows(service, resource, node, &mut found),
            None => {
                let names = config.resources.iter().map(|resource| resource.name.as_str());
                let label = match nearest(&service.name, names) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => "expected a resource of drbd.conf".to_owned(),
                };
                let path = config.path().display();
                let message = format!("there is no resource '{}' in {path}", service.name);
                keep(&mut found, Diagnostic::error(service.span, message).label(label));
            }
        }
    }
    Diagnostics::new(found, keepalived.sources.clone())
}

fn follows(service: &DrbdResource, resource: &Resource, node: &str, found: &mut Vec<Diagnostic>) {
    let name = &service.name;
    let view = match resource.for_node(node) {
        Ok(view) => view,
        Err(error) => {
            let diagnostic = Diagnostic::error(service.span, error.to_string());
            return keep(found, diagnostic.label("it could not be served here").help(error.hint()));
        }
    };
    if view.options.takeover == Takeover::Both && view.disk.fencing == Fencing::DontCare {
        let message = format!("resource '{name}' has takeover both: it can split");
        let help = "when the nodes lose each other both go on, and one side's writes are thrown \
                    away afterwards; write options { takeover witness HOST:PORT; }";
        let diagnostic = Diagnostic::warning(service.span, message);
        keep(found, diagnostic.label("taken over without asking anybody").help(help));
    }
    let Some(mount) = &service.mount else { return };
    if !names_device(&mount.device, &view) {
        let device = &view.me.device;
        let message = format!("'{}' is mounted, but resource '{name}' is {device}", mount.device);
        let help = "is it another resource's device?";
        let diagnostic = Diagnostic::warning(service.span, message);
        keep(found, diagnostic.label(format!("expected {device}")).help(help));
    }
}

/// Also by its number, and by the names that udev gives it.
fn names_device(path: &str, view: &NodeView) -> bool {
    let by_resource = format!("/dev/drbd/by-res/{}", view.resource);
    path == view.me.device
        || path == format!("/dev/drbd{}", view.me.minor)
        || path == by_resource
        || path.strip_prefix(&by_resource).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::{Severity, parse as parse_drbd};
    use super::*;

    const RESOURCE: &str = "resource r0 {\n  device /dev/drbd0;\n  meta-disk internal;\n  OPTIONS\n\
        on alice { address 10.0.0.1:7788; disk /dev/sda1; }\n\
        on bob { address 10.0.0.2:7788; disk /dev/sda1; }\n}\n";

    fn said(options: &str, service: &str, node: &str) -> Vec<(Severity, String)> {
        let drbd = parse_drbd(Path::new("drbd.conf"), &RESOURCE.replace("OPTIONS", options));
        let text = super::super::tests::instance_with(service);
        let keepalived = super::super::parse(Path::new("k"), &text, node).expect("right");
        let found = cross_check(&keepalived, &drbd.expect("right"), node);
        let _ = found.render(false);
        found.list.into_iter().map(|one| (one.severity, one.message)).collect()
    }

    #[test]
    fn a_resource_that_can_split_is_said_to() {
        let can_split =
            (Severity::Warning, "resource 'r0' has takeover both: it can split".to_owned());
        assert_eq!(said("", "drbd_resource r0", "alice"), [can_split]);
        let witness = "options { takeover witness 10.0.0.3:7790; }";
        assert_eq!(said(witness, "drbd_resource r0", "alice"), []);
        assert_eq!(said("disk { fencing resource-only; }", "drbd_resource r0", "alice"), []);
        assert_eq!(said("", "", "alice"), []);
    }

    #[test]
    fn resources_and_devices_that_are_others() {
        let error = |service: &str, node: &str| {
            let found = said("options { takeover favour-primary; }", service, node);
            let [(Severity::Error, message)] = &found[..] else { panic!("{found:?}") };
            message.clone()
        };
        assert_eq!(error("drbd_resource r1", "alice"), "there is no resource 'r1' in drbd.conf");
        assert!(error("drbd_resource r0", "carol").contains("r0"));
        let mount = |device: &str| {
            let service = format!("drbd_resource r0 {{\nmount {device} /d ext4\n}}");
            said("options { takeover favour-primary; }", &service, "alice").len()
        };
        for own in ["/dev/drbd0", "/dev/drbd/by-res/r0", "/dev/drbd/by-res/r0/0"] {
            assert_eq!(mount(own), 0, "{own}");
        }
        assert_eq!((mount("/dev/drbd1"), mount("/dev/drbd/by-res/r01")), (1, 1));
    }
}
