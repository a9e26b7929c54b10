//! `vrrp_instance`.

use std::net::IpAddr;

use super::super::diagnostics::Diagnostic;
use super::super::tree::{Statement, Word};
use super::addresses;
use super::builder::Builder;
use super::global::{announcement, put, set};
use super::model::{
    Announcements, InitialState, Instance, Notify, Password, Trackers, UnicastPeer,
};
use super::service::drbd_resource;
use super::trackers::track;
use super::words::Block;

const SECOND_US: u64 = 1_000_000;
const SHORTEST_ADVERT_US: u64 = 10_000;
const LONGEST_ADVERT_US: u64 = 255 * SECOND_US;
const LONGEST_PREEMPT_DELAY_US: u64 = 1000 * SECOND_US;
/// The kernel's names of interfaces, without the zero at their end.
const INTERFACE_CHARS_MAX: usize = 15;
const PEERS_MAX: usize = 255;
/// Of the first bytes of a password, only these are sent.
const PASSWORD_BYTES: usize = 8;

pub fn vrrp_instance(b: &mut Builder, statement: &Statement, instances: &mut Vec<Instance>) {
    let known = instances.iter().map(|instance| (instance.name.as_str(), instance.span));
    let Some(name) = b.name(statement, known) else { return };
    let span = statement.words[1].span;
    let mut draft = Draft::new(Instance {
        name,
        span,
        initial_state: InitialState::Backup,
        interface: String::new(),
        virtual_router_id: 0,
        priority: 100,
        advert_interval_us: SECOND_US,
        version: None,
        preempt: true,
        preempt_delay_us: 0,
        password: None,
        addresses: Vec::new(),
        addresses_excluded: Vec::new(),
        source: None,
        multicast_group: None,
        unicast_peers: Vec::new(),
        check_unicast_source: false,
        announcements: Announcements::default(),
        down_timer_adverts: None,
        lower_prio_no_advert: None,
        higher_prio_send_advert: None,
        accept: true,
        v3_checksum_as_v2: false,
        trackers: Trackers::default(),
        notify: Notify::default(),
        drbd_resource: None,
    });
    if statement.body.is_none() {
        b.body(statement);
        return;
    }
    let body = b.body(statement);
    b.each(Block::Instance, body, |b, statement| draft.word(b, statement));
    draft.finish(b);
    instances.push(draft.instance);
}

struct Draft {
    instance: Instance,
    preempt: Option<Word>,
    preempt_delay: Option<Word>,
    /// Given, rightly or not: otherwise its absence is worth a message.
    has_router_id: bool,
    has_interface: bool,
    /// With `auth_type PASS`; said apart from the password.
    wants_password: Option<Word>,
}

impl Draft {
    fn new(instance: Instance) -> Self {
        Self {
            instance,
            preempt: None,
            preempt_delay: None,
            has_router_id: false,
            has_interface: false,
            wants_password: None,
        }
    }

    fn word(&mut self, b: &mut Builder, statement: &Statement) {
        let instance = &mut self.instance;
        match statement.keyword() {
            "state" => {
                let words = [("MASTER", InitialState::Master), ("BACKUP", InitialState::Backup)];
                put(&mut instance.initial_state, b.choice(statement, &words));
            }
            "interface" => {
                self.has_interface = true;
                put(&mut instance.interface, interface(b, statement));
            }
            "virtual_router_id" => {
                self.has_router_id = true;
                put(&mut instance.virtual_router_id, b.number(statement, 1, 255));
            }
            "priority" => put(&mut instance.priority, b.number(statement, 1, 255)),
            "advert_int" => {
                let us = b.seconds(statement, SHORTEST_ADVERT_US, LONGEST_ADVERT_US);
                put(&mut instance.advert_interval_us, us);
            }
            "version" => set(&mut instance.version, b.number(statement, 2, 3)),
            "preempt" => instance.preempt = true,
            "nopreempt" => {
                b.no_more_words(statement, 1);
                instance.preempt = false;
                self.preempt = Some(statement.words[0].clone());
            }
            "preempt_delay" => {
                let us = b.seconds(statement, 0, LONGEST_PREEMPT_DELAY_US);
                put(&mut instance.preempt_delay_us, us);
                self.preempt_delay = Some(statement.words[0].clone());
            }
            "authentication" => self.authentication(b, statement),
            "virtual_ipaddress" => {
                addresses::lines(b, statement, &mut instance.addresses);
            }
            "virtual_ipaddress_excluded" => {
                addresses::lines(b, statement, &mut instance.addresses_excluded);
            }
            "mcast_src_ip" | "unicast_src_ip" => {
                set(&mut instance.source, b.address(statement));
            }
            "mcast_dst_ip" => multicast_group(b, statement, &mut instance.multicast_group),
            "unicast_peer" => unicast_peers(b, statement, instance),
            "check_unicast_src" => instance.check_unicast_source = true,
            "down_timer_adverts" => {
                set(&mut instance.down_timer_adverts, b.number(statement, 1, 100));
            }
            "lower_prio_no_advert" => set(&mut instance.lower_prio_no_advert, b.flag(statement)),
            "higher_prio_send_advert" => {
                set(&mut instance.higher_prio_send_advert, b.flag(statement));
            }
            "accept" => instance.accept = true,
            "v3_checksum_as_v2" => put(&mut instance.v3_checksum_as_v2, b.flag(statement)),
            "drbd_resource" => drbd_resource(b, statement, &mut instance.drbd_resource),
            other if other.starts_with("garp_") => {
                announcement(b, statement, other, &mut instance.announcements);
            }
            other if other.starts_with("track_") => track(b, statement, &mut instance.trackers),
            _ => notify(b, statement, &mut instance.notify),
        }
    }

    fn authentication(&mut self, b: &mut Builder, statement: &Statement) {
        let body = b.body(statement);
        let mut has_type = false;
        b.each(Block::Authentication, body, |b, statement| match statement.keyword() {
            "auth_type" => {
                has_type = true;
                let Some(word) = b.argument(statement, "PASS") else { return };
                match word.text.as_str() {
                    "PASS" => self.wants_password = Some(word.clone()),
                    "AH" => {
                        let label = "auth_type AH is not provided: its peers would hear nothing";
                        b.error(word.span, "adverts cannot be signed with AH", label);
                    }
                    other => {
                        let message = format!("'{other}' is not a value of 'auth_type'");
                        b.error(word.span, message, "expected PASS");
                    }
                }
            }
            "auth_pass" => {
                let Some(word) = b.argument(statement, "a password") else { return };
                let (text, span) = (word.text.clone(), word.span);
                if text.len() > PASSWORD_BYTES {
                    let message = format!("Truncating auth_pass to {PASSWORD_BYTES} characters");
                    b.warning(span, message, "the rest is never sent");
                }
                self.instance.password = Some(Password { text, span });
            }
            other => debug_assert!(false, "no meaning for {other}"),
        });
        if self.instance.password.is_some() && !has_type {
            let message = "auth_pass without auth_type: taken as PASS";
            b.warning(statement.keyword_span(), message, "here");
        }
    }

    /// What one word makes of another.
    fn finish(&mut self, b: &mut Builder) {
        let instance = &mut self.instance;
        let span = instance.span;
        let name = instance.name.clone();
        if !self.has_router_id {
            let message = format!("vrrp_instance '{name}' has no virtual_router_id");
            b.error(span, message, "expected virtual_router_id, 1 to 255");
        }
        if !self.has_interface {
            let message = format!("vrrp_instance '{name}' has no interface");
            b.error(span, message, "expected interface NAME");
        }
        if instance.addresses.is_empty() {
            let message = format!("vrrp_instance '{name}' has no virtual_ipaddress");
            b.error(span, message, "expected an address at least");
        }
        if let Some(word) = &self.wants_password
            && instance.password.is_none()
        {
            b.error(word.span, "auth_type PASS without auth_pass", "expected a password");
        }
        let is_owner = instance.priority == 255;
        if instance.initial_state == InitialState::Master && !is_owner {
            if let Some(word) = &self.preempt {
                let message = "nopreempt has no effect with state MASTER";
                let help = "write state BACKUP on both nodes; the priority decides who begins";
                b.report(
                    Diagnostic::warning(word.span, message)
                        .label("taken as state BACKUP")
                        .help(help),
                );
                instance.initial_state = InitialState::Backup;
            } else if let Some(word) = self.preempt_delay.as_ref()
                && instance.preempt_delay_us > 0
            {
                let message = "preempt_delay has no effect with state MASTER";
                let help = "write state BACKUP on both nodes; the priority decides who begins";
                b.report(Diagnostic::warning(word.span, message).label("ignored").help(help));
                instance.preempt_delay_us = 0;
            }
        }
        if is_owner && let Some(word) = &self.preempt {
            let message = "nopreempt has no effect with priority 255";
            b.warning(word.span, message, "ignored: the owner of an address always serves it");
            instance.preempt = true;
        }
        // They are compared and sent in one packet, which has one family.
        let is_v6 = instance.addresses.first().is_some_and(|first| first.address.is_ipv6());
        for address in &instance.addresses {
            if address.address.is_ipv6() != is_v6 {
                let message = format!("{} is of another family than the first", address.address);
                let label = "expected in virtual_ipaddress_excluded";
                b.error(address.span, message, label);
            }
        }
    }
}

/// A name that the kernel would not take can only be a mistake.
pub fn interface(b: &mut Builder, statement: &Statement) -> Option<String> {
    let word = b.argument(statement, "the name of an interface")?;
    interface_name(b, word)
}

pub fn interface_name(b: &mut Builder, word: &Word) -> Option<String> {
    let fits = |character: char| character.is_ascii_graphic() && !"/:\"'".contains(character);
    let is_name = !word.text.is_empty()
        && word.text.len() <= INTERFACE_CHARS_MAX
        && !matches!(word.text.as_str(), "." | "..")
        && word.text.chars().all(fits);
    if !is_name {
        let message = format!("'{}' cannot be the name of an interface", word.text);
        b.error(word.span, message, format!("expected 1 to {INTERFACE_CHARS_MAX} characters"));
    }
    is_name.then(|| word.text.clone())
}

fn multicast_group(b: &mut Builder, statement: &Statement, group: &mut Option<IpAddr>) {
    let Some(address) = b.address::<IpAddr>(statement) else { return };
    if address.is_multicast() {
        *group = Some(address);
    } else {
        let message = format!("{address} is no multicast address");
        b.error(statement.words[1].span, message, "expected 224.0.0.0/4 or ff02::/16");
    }
}

/// `ADDRESS [min_ttl N] [max_ttl N]`
fn unicast_peers(b: &mut Builder, statement: &Statement, instance: &mut Instance) {
    b.no_more_words(statement, 1);
    for line in b.lines(statement) {
        let Some(address) = b.address_of(&line.words[0]) else { continue };
        let mut peer = UnicastPeer { address, min_ttl: None, max_ttl: None };
        let mut words = line.arguments().iter();
        while let Some(word) = words.next() {
            let ttl = match word.text.as_str() {
                "min_ttl" => &mut peer.min_ttl,
                "max_ttl" => &mut peer.max_ttl,
                other => {
                    let message = format!("'{other}' behind a peer");
                    b.error(word.span, message, "expected min_ttl, max_ttl or a line of its own");
                    break;
                }
            };
            match words.next() {
                Some(number) => *ttl = b.number_of(&word.text, number, 0, 255),
                None => b.error(word.span, format!("'{}' needs a value", word.text), "0 to 255"),
            }
        }
        if peer.min_ttl.is_some() || peer.max_ttl.is_some() {
            // As in keepalived: who looks at the way, looks at the sender.
            instance.check_unicast_source = true;
            let message =
                "min_ttl and max_ttl are not provided: the sender is checked, not the way";
            b.warning(line.span, message, "without effect");
        }
        if instance.unicast_peers.len() == PEERS_MAX {
            let message = format!("more than {PEERS_MAX} peers");
            return b.error(line.span, message, "this one is left out");
        }
        instance.unicast_peers.push(peer);
    }
}

/// Of an instance or a group.
pub fn notify(b: &mut Builder, statement: &Statement, notify: &mut Notify) {
    match statement.keyword() {
        "notify_master" => set(&mut notify.master, b.notify_command(statement)),
        "notify_backup" => set(&mut notify.backup, b.notify_command(statement)),
        "notify_fault" => set(&mut notify.fault, b.notify_command(statement)),
        "notify_stop" => set(&mut notify.stop, b.notify_command(statement)),
        "notify_deleted" => set(&mut notify.deleted, b.notify_command(statement)),
        "notify_master_rx_lower_pri" => {
            set(&mut notify.master_rx_lower_pri, b.notify_command(statement));
        }
        "notify" => set(&mut notify.any, b.notify_command(statement)),
        "notify_priority_changes" => set(&mut notify.priority_changes, b.flag(statement)),
        "smtp_alert" => set(&mut notify.smtp_alert, b.flag(statement)),
        other => debug_assert!(false, "no meaning for {other}"),
    }
}
