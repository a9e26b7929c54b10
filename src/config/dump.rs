//! The configuration printed back as `drbdadm dump` prints it (behaviour.md 7.7): what was written,
//! in its modern form, nothing inherited, no defaults.

use std::fmt::Write;

use super::lexer::is_bare;
use super::model::{Config, Host, HostKind, MetaDisk, Resource, Volume, Volumes};
use super::options::{Default, Kind, OptionSet, Section, Setting, Value};
use super::table::TABLE;

const INDENT: &str = "    ";

impl Config {
    /// Everything: global, common and all resources of this node.
    pub fn dump(&self, node: &str) -> String {
        let mut out = format!("# {}\n", self.path().display());
        if self.has_global {
            out += "global {\n";
            for spec in TABLE.iter().filter(|spec| spec.section == Section::Global) {
                match self.global.get(Section::Global, spec.name) {
                    Some(set) if spec.kind == Kind::Flag && set.written == "yes" => {
                        let _ = writeln!(out, "{INDENT}{};", spec.name);
                    }
                    Some(set) => {
                        let _ = writeln!(out, "{INDENT}{} {};", spec.name, quoted(&set.written));
                    }
                    // What drbdadm uses itself is in its dump whether it was written or not.
                    None if matches!(spec.name, "cmd-timeout-medium" | "cmd-timeout-long") => {
                        let Default::Number(value) = spec.default else { continue };
                        let _ = writeln!(out, "{INDENT}{} {value};", spec.name);
                    }
                    None => {}
                }
            }
            out += "}\n\n";
        }
        if self.has_common {
            out += "common {\n";
            write_sections(&mut out, 1, &self.common);
            out += "}\n\n";
        }
        for resource in &self.resources {
            out += &resource.dump(node);
        }
        out
    }
}

impl Resource {
    /// The resource alone.
    pub fn dump(&self, node: &str) -> String {
        let floating = self.hosts.iter().any(|host| host.kind == HostKind::Floating);
        let ignored = !self.is_for(node) && !floating;
        let stacked = self.hosts.iter().any(|host| host.kind == HostKind::Stacked);
        let not = |yes: bool| if yes { "" } else { "not " };
        let mut out = format!(
            "# resource {} on {node}: {}ignored, {}stacked\n# defined at {}\nresource {} {{\n",
            self.name,
            not(ignored),
            not(stacked),
            self.defined_at,
            quoted(&self.name),
        );
        for host in &self.hosts {
            write_host(&mut out, self, host);
        }
        for name in &self.ignored_on {
            let _ = writeln!(out, "{INDENT}ignore-on {};", quoted(name));
        }
        write_sections(&mut out, 1, &self.options);
        out += "}\n\n";
        out
    }
}

fn write_host(out: &mut String, resource: &Resource, host: &Host) {
    let address = host
        .address
        .as_ref()
        .map(|address| format!("{} {}", address.value.family.name(), address.value.socket));
    let title = match host.kind {
        HostKind::On => "on",
        HostKind::Floating => "floating",
        HostKind::Stacked => "stacked-on-top-of",
    };
    let names: Vec<String> = match host.kind {
        HostKind::Floating => address.iter().cloned().collect(),
        _ => host.names.iter().map(|name| quoted(name)).collect(),
    };
    let _ = writeln!(out, "{INDENT}{title} {} {{", names.join(" "));
    let implicit = host.volumes.implicit || resource.volumes.implicit;
    let volumes = Volumes { by_number: resource.volumes_of(host), implicit };
    for (number, volume) in &volumes.by_number {
        if volumes.implicit {
            write_volume(out, 2, volume);
        } else {
            let _ = writeln!(out, "{INDENT}{INDENT}volume {number} {{");
            write_volume(out, 3, volume);
            let _ = writeln!(out, "{INDENT}{INDENT}}}");
        }
    }
    if let Some(address) = address.filter(|_| host.kind != HostKind::Floating) {
        write_line(out, 2, "address", &address);
    }
    write_sections(out, 2, &host.options);
    let _ = writeln!(out, "{INDENT}}}");
}

fn write_volume(out: &mut String, depth: usize, volume: &Volume) {
    // The names of a volume's statements are padded to the same column at every depth but one:
    // drbdadm forgets it for a meta-disk of its own.
    let width = 24 - 4 * depth;
    let mut line = |name: &str, width: usize, value: &str| {
        let _ = writeln!(out, "{}{name:width$} {value:>3};", INDENT.repeat(depth));
    };
    if let Some(device) = &volume.device {
        let minor = format!("minor {}", device.value.minor);
        let name = &device.value.name;
        let value = if name.is_empty() { minor } else { format!("{name} {minor}") };
        line("device", width, &value);
    }
    if let Some(disk) = &volume.disk {
        line("disk", width, &quoted(&disk.value.written));
    }
    match volume.meta_disk.as_ref().map(|placed| &placed.value) {
        None => {}
        Some(MetaDisk::Internal) => line("meta-disk", width, "internal"),
        Some(MetaDisk::External(path)) => line("meta-disk", 16, &quoted(&path.written)),
        Some(MetaDisk::Indexed(path, index)) => {
            line("meta-disk", 16, &format!("{} [{index}]", quoted(&path.written)));
        }
    }
    write_sections(out, depth, &volume.options);
}

fn write_sections(out: &mut String, depth: usize, set: &OptionSet) {
    for section in Section::OF_RESOURCE {
        if set.of(section).next().is_none() {
            continue;
        }
        let indent = INDENT.repeat(depth);
        let _ = writeln!(out, "{indent}{section} {{");
        for setting in set.of(section) {
            write_setting(out, depth + 1, setting);
        }
        let _ = writeln!(out, "{indent}}}");
    }
}

fn write_setting(out: &mut String, depth: usize, setting: &Setting) {
    let value = match &setting.value {
        Value::Words(words) => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        _ => quoted(&setting.written),
    };
    write_line(out, depth, setting.spec.name, &value);
}

fn write_line(out: &mut String, depth: usize, name: &str, value: &str) {
    let _ = writeln!(out, "{}{name:16} {value:>3};", INDENT.repeat(depth));
}

/// In quotes, if it could not be read back without.
fn quoted(text: &str) -> String {
    if !text.is_empty() && text.chars().all(is_bare) && !text.contains('[') {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
