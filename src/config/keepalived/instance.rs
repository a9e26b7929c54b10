//! `vrrp_instance`, `vrrp_sync_group` and `drbd_resource`.

use std::net::IpAddr;
use std::path::PathBuf;

use super::super::tree::{Statement, Word};
use super::global::announcement;
use super::model::{
    Address, Announcements, DataMount, DataService, InitialState, Instance, LimitedCommand, Notify,
    SyncGroup, Trackers,
};
use super::reader::Reader;
use super::trackers::{name, notify, track};
use super::words::{AUTHENTICATION, DATA, GROUP, INSTANCE};

const SECOND_US: u64 = 1_000_000;
/// keepalived's limit of `auth_pass`.
const PASSWORD_BYTES: usize = 8;
/// As the kernel counts scopes of addresses.
const SCOPES: [(&str, u8); 5] =
    [("global", 0), ("universe", 0), ("site", 200), ("link", 253), ("host", 254)];

pub fn group(reader: &mut Reader, statement: &Statement) -> Option<SyncGroup> {
    let mut group = SyncGroup {
        name: name(reader, statement)?,
        span: statement.span,
        members: Vec::new(),
        trackers: Trackers::default(),
        notify: Notify::default(),
        tracking_weight: false,
    };
    let body = reader.body(statement);
    reader.block("vrrp_sync_group", GROUP, body, |reader, statement| match statement.keyword() {
        "group" => {
            for line in reader.body(statement) {
                let members = line.words.iter().map(|word| (word.text.clone(), word.span));
                group.members.extend(members);
            }
        }
        "sync_group_tracking_weight" | "global_tracking" => {
            group.tracking_weight = reader.flag(statement);
        }
        _ => {
            let known = track(reader, statement, &mut group.trackers)
                || notify(reader, statement, &mut group.notify);
            debug_assert!(known, "compared with the table by a test");
        }
    });
    if group.members.is_empty() {
        let message = format!("vrrp_sync_group {} has no members", group.name);
        reader.warn(statement.span, message, "add: group { INSTANCE ... }");
    }
    Some(group)
}

/// What has no default.
#[derive(Default)]
struct Needed {
    interface: Option<Word>,
    virtual_router_id: Option<u8>,
    nopreempt: Option<super::super::source::Span>,
    is_master: bool,
}

pub fn instance(reader: &mut Reader, statement: &Statement) -> Option<Instance> {
    let mut needed = Needed::default();
    let mut instance = Instance {
        name: name(reader, statement)?,
        span: statement.span,
        state: InitialState::Backup,
        interface: String::new(),
        interface_span: statement.span,
        virtual_router_id: 0,
        priority: 100,
        advert_interval_us: SECOND_US,
        preempt: true,
        preempt_delay_us: 0,
        version: None,
        password: None,
        addresses: Vec::new(),
        addresses_excluded: Vec::new(),
        source: None,
        multicast: None,
        unicast_peers: Vec::new(),
        check_unicast_source: None,
        accept: true,
        checksum_as_v2: false,
        down_timer_adverts: 3,
        lower_priority_no_advert: None,
        higher_priority_send_advert: None,
        announcements: Announcements::default(),
        track_primary: true,
        trackers: Trackers::default(),
        notify: Notify::default(),
        data: None,
    };
    let body = reader.body(statement);
    reader.block("vrrp_instance", INSTANCE, body, |reader, statement| {
        one(reader, statement, &mut instance, &mut needed);
    });
    finish(reader, statement, instance, needed)
}

fn one(reader: &mut Reader, statement: &Statement, instance: &mut Instance, needed: &mut Needed) {
    let keyword = statement.keyword();
    match keyword {
        "state" => {
            if let Some(word) = reader.word(statement) {
                match word.text.as_str() {
                    "MASTER" => needed.is_master = true,
                    "BACKUP" => needed.is_master = false,
                    other => {
                        let message = format!("state '{other}': MASTER or BACKUP; taken as BACKUP");
                        reader.warn(word.span, message, "");
                    }
                }
            }
        }
        "interface" => needed.interface = reader.word(statement).cloned(),
        "virtual_router_id" => needed.virtual_router_id = reader.number(statement, 1..=255),
        "priority" => instance.priority = reader.number(statement, 1..=255).unwrap_or(100),
        "advert_int" => {
            instance.advert_interval_us = reader.seconds(statement).unwrap_or(SECOND_US)
        }
        "nopreempt" => {
            if reader.flag(statement) {
                needed.nopreempt = Some(statement.keyword_span());
            }
        }
        "preempt" => instance.preempt = reader.flag(statement),
        "preempt_delay" => instance.preempt_delay_us = reader.seconds(statement).unwrap_or(0),
        "authentication" => instance.password = authentication(reader, statement),
        "virtual_ipaddress" => {
            let lines = reader.body(statement).iter();
            instance.addresses.extend(lines.filter_map(|line| address(reader, line)));
        }
        "virtual_ipaddress_excluded" => {
            let lines = reader.body(statement).iter();
            instance.addresses_excluded.extend(lines.filter_map(|line| address(reader, line)));
        }
        "dont_track_primary" => instance.track_primary = !reader.flag(statement),
        "mcast_src_ip" | "unicast_src_ip" => {
            instance.source = reader.word(statement).and_then(|word| reader.address(word));
        }
        "mcast_dst_ip" => {
            instance.multicast = reader.word(statement).and_then(|word| reader.address(word));
        }
        "unicast_peer" => {
            for line in reader.body(statement) {
                instance.unicast_peers.extend(reader.address(&line.words[0]));
            }
        }
        "version" => instance.version = reader.number(statement, 2..=3),
        "accept" => instance.accept = reader.flag(statement),
        "down_timer_adverts" => {
            instance.down_timer_adverts = reader.number(statement, 1..=100).unwrap_or(3);
        }
        "lower_prio_no_advert" => {
            instance.lower_priority_no_advert = Some(reader.flag(statement));
        }
        "higher_prio_send_advert" => {
            instance.higher_priority_send_advert = Some(reader.flag(statement));
        }
        "check_unicast_src" => instance.check_unicast_source = Some(reader.flag(statement)),
        "v3_checksum_as_v2" => instance.checksum_as_v2 = reader.flag(statement),
        "v3_checksum_type" => {
            let word = reader.text(statement);
            instance.checksum_as_v2 = word.is_some_and(|word| word == "rfc9568");
        }
        "drbd_resource" => data(reader, statement, instance),
        _ if track(reader, statement, &mut instance.trackers) => {}
        _ if notify(reader, statement, &mut instance.notify) => {}
        _ => announcement(reader, statement, keyword, &mut instance.announcements),
    }
}

/// What would make it another node than the author meant does not load.
fn finish(
    reader: &mut Reader,
    statement: &Statement,
    mut instance: Instance,
    needed: Needed,
) -> Option<Instance> {
    let name = instance.name.clone();
    match needed.interface {
        Some(word) => (instance.interface, instance.interface_span) = (word.text, word.span),
        None => {
            let message = format!("vrrp_instance {name} has no interface");
            reader.error(statement.span, message, "add: interface NAME");
            return None;
        }
    }
    let Some(number) = needed.virtual_router_id else {
        let message = format!("vrrp_instance {name} has no virtual_router_id");
        reader.error(
            statement.span,
            message,
            "add: virtual_router_id NUMBER, the same on both nodes",
        );
        return None;
    };
    instance.virtual_router_id = number;
    if instance.addresses.is_empty() {
        let message = format!("vrrp_instance {name} has no virtual address");
        reader.error(statement.span, message, "add: virtual_ipaddress { ADDRESS }");
        return None;
    }
    if needed.is_master {
        instance.state = InitialState::Master;
    }
    if let Some(span) = needed.nopreempt {
        instance.preempt = false;
        if needed.is_master {
            reader.warn(
                span,
                format!("vrrp_instance {name}: nopreempt does not go with state MASTER"),
                "it starts as BACKUP: write state BACKUP on both nodes, and leave the choice to the priority",
            );
            instance.state = InitialState::Backup;
        }
    }
    let is_v6 = instance.addresses[0].address.is_ipv6();
    if instance.password.is_some() && (is_v6 || instance.version == Some(3)) {
        let message = format!("vrrp_instance {name}: VRRP version 3 has no passwords: not sent");
        reader.warn(statement.span, message, "remove the authentication block");
        instance.password = None;
    }
    Some(instance)
}

fn authentication(reader: &mut Reader, statement: &Statement) -> Option<String> {
    let mut kind = None;
    let mut password = None;
    let body = reader.body(statement);
    reader.block("authentication", AUTHENTICATION, body, |reader, statement| {
        match statement.keyword() {
            "auth_type" => kind = reader.word(statement).cloned(),
            _ => password = reader.word(statement).cloned(),
        }
    });
    let kind = kind?;
    match kind.text.as_str() {
        "PASS" => {}
        "AH" => {
            let help = "use PASS, or a network that needs none";
            reader.error(kind.span, "auth_type AH: IPsec is not provided", help);
            return None;
        }
        other => {
            let message = format!("auth_type '{other}': PASS");
            reader.error(kind.span, message, "");
            return None;
        }
    }
    let Some(password) = password else {
        reader.error(kind.span, "auth_type without auth_pass", "add: auth_pass PASSWORD");
        return None;
    };
    if password.text.len() > PASSWORD_BYTES {
        let message = format!("Truncating auth_pass to {PASSWORD_BYTES} characters");
        reader.warn(password.span, message, "the rest is not sent, and not compared");
    }
    Some(password.text)
}

/// `ADDRESS[/LENGTH] [brd A] [dev IF] [scope S] [label L] ...`
fn address(reader: &mut Reader, line: &Statement) -> Option<Address> {
    let first = &line.words[0];
    let (text, length) = match first.text.split_once('/') {
        Some((text, length)) => (text, Some(length)),
        None => (first.text.as_str(), None),
    };
    let Ok(ip) = text.parse::<IpAddr>() else {
        reader.error(first.span, format!("'{}' is no IP address", first.text), "");
        return None;
    };
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let prefix_length = match length.map(|length| length.parse::<u8>()) {
        None => longest,
        Some(Ok(length)) if length <= longest => length,
        Some(_) => {
            let message = format!("'{}': the prefix length goes to {longest}", first.text);
            reader.error(first.span, message, "");
            return None;
        }
    };
    let mut address = Address {
        span: first.span,
        address: ip,
        prefix_length,
        interface: None,
        broadcast: None,
        label: None,
        scope: 0,
    };
    let mut rest = line.arguments().iter();
    while let Some(word) = rest.next() {
        match word.text.as_str() {
            "dev" => address.interface = rest.next().map(|word| word.text.clone()),
            "label" => address.label = rest.next().map(|word| word.text.clone()),
            "brd" | "broadcast" => {
                let next = rest.next();
                // `brd +`: all ones in the host part.
                let all_ones = next.is_some_and(|word| word.text == "+" || word.text == "-");
                address.broadcast = match (ip, next) {
                    (IpAddr::V4(v4), Some(_)) if all_ones => {
                        let host = u32::MAX.checked_shr(u32::from(prefix_length)).unwrap_or(0);
                        Some((v4.to_bits() | host).into())
                    }
                    (_, Some(word)) => match reader.address(word) {
                        Some(IpAddr::V4(v4)) => Some(v4),
                        _ => None,
                    },
                    (_, None) => None,
                };
            }
            "scope" => {
                if let Some(word) = rest.next() {
                    let known = SCOPES.iter().find(|(name, _)| *name == word.text);
                    let number =
                        known.map(|(_, number)| *number).or_else(|| word.text.parse().ok());
                    match number {
                        Some(number) => address.scope = number,
                        None => reader.error(word.span, format!("scope '{}'", word.text), ""),
                    }
                }
            }
            // With one argument; nothing that an address needs.
            "preferred_lft" | "peer" | "proto" | "use_vmac" => {
                let message = format!("'{}' of an address has no effect", word.text);
                reader.warn(word.span, message, "");
                rest.next();
            }
            "no_track" | "track_group" | "home" | "-nodad" | "mngtmpaddr" | "noprefixroute"
            | "autojoin" => {}
            other => {
                let message = format!("unknown word '{other}' behind an address: ignored");
                reader.warn(word.span, message, "");
            }
        }
    }
    Some(address)
}

fn data(reader: &mut Reader, statement: &Statement, instance: &mut Instance) {
    let Some(resource) = reader.text(statement) else { return };
    if let Some(other) = &instance.data {
        let message = format!("a second drbd_resource ({} is the first)", other.resource);
        let help = "one instance moves one resource: put a second instance into the sync group";
        return reader.error(statement.span, message, help);
    }
    let mut service = DataService {
        resource,
        span: statement.span,
        mounts: Vec::new(),
        starts: Vec::new(),
        stops: Vec::new(),
        attach: false,
    };
    let body = statement.body.as_deref().unwrap_or_default();
    reader.block("drbd_resource", DATA, body, |reader, statement| match statement.keyword() {
        "mount" => service.mounts.extend(mount(reader, statement)),
        "start" => service.starts.extend(limited(reader, statement)),
        "stop" => service.stops.extend(limited(reader, statement)),
        _ => service.attach = reader.flag(statement),
    });
    instance.data = Some(service);
}

/// `mount DEVICE DIRECTORY [TYPE [OPTIONS]]`
fn mount(reader: &mut Reader, statement: &Statement) -> Option<DataMount> {
    let [device, directory, rest @ ..] = statement.arguments() else {
        let help = "mount /dev/drbd0 /var/lib/mysql ext4 noatime";
        let message = "'mount' takes a device and a directory, then perhaps a type and options";
        reader.error(statement.keyword_span(), message, help);
        return None;
    };
    for path in [device, directory] {
        if !path.text.starts_with('/') {
            reader.error(path.span, format!("'{}' is no absolute path", path.text), "");
        }
    }
    let options = rest.iter().skip(1).flat_map(|word| word.text.split(','));
    Some(DataMount {
        device: PathBuf::from(&device.text),
        directory: PathBuf::from(&directory.text),
        file_system: rest.first().map(|word| word.text.clone()),
        options: options.filter(|option| !option.is_empty()).map(str::to_owned).collect(),
    })
}

/// `start "COMMAND" [timeout SECONDS]`
fn limited(reader: &mut Reader, statement: &Statement) -> Option<LimitedCommand> {
    match statement.arguments() {
        [command @ .., keyword, limit] if keyword.text == "timeout" && !command.is_empty() => {
            let words: Vec<&str> = command.iter().map(|word| &*word.text).collect();
            let limit_us = reader.seconds_in("timeout", limit);
            if limit_us == Some(0) {
                reader.error(limit.span, "timeout 0: nothing could be done in that time", "");
            }
            Some(LimitedCommand { command: words.join(" "), limit_us })
        }
        _ => {
            let command = reader.command(statement)?;
            Some(LimitedCommand { command, limit_us: None })
        }
    }
}
