//! `global_defs`.

use super::super::tree::Statement;
use super::builder::Builder;
use super::model::{Announcements, Fifo, Global};
use super::words::Block;

const SECOND_US: u64 = 1_000_000;
const HOUR_US: u64 = 3600 * SECOND_US;
/// Beyond it a burst is a flood.
const REPEAT_MAX: i64 = 64;
const SMTP_PORT: u16 = 25;
const EMAILS_MAX: usize = 256;

impl Default for Global {
    fn default() -> Self {
        Self {
            router_id: None,
            notification_emails: Vec::new(),
            notification_email_from: None,
            smtp_server: None,
            smtp_helo_name: None,
            smtp_connect_timeout_us: 30 * SECOND_US,
            smtp_alert: None,
            smtp_alert_vrrp: None,
            smtp_alert_checker: None,
            no_email_faults: false,
            script_user: None,
            enable_script_security: false,
            version: None,
            multicast_group4: None,
            multicast_group6: None,
            announcements: Announcements::default(),
            min_garp: false,
            lower_prio_no_advert: None,
            higher_prio_send_advert: None,
            down_timer_adverts: None,
            check_unicast_source: false,
            startup_delay_us: 0,
            notify_priority_changes: false,
            startup_script: None,
            startup_script_timeout_us: 10 * SECOND_US,
            shutdown_script: None,
            shutdown_script_timeout_us: 10 * SECOND_US,
            notify_fifo: Fifo::default(),
            vrrp_notify_fifo: Fifo::default(),
            lvs_notify_fifo: Fifo::default(),
            log_all_failures: false,
        }
    }
}

/// Several `global_defs` add up.
pub fn global_defs(builder: &mut Builder, statement: &Statement, global: &mut Global) {
    builder.no_more_words(statement, 1);
    let body = builder.body(statement);
    builder.each(Block::GlobalDefs, body, |builder, statement| word(builder, statement, global));
}

fn word(builder: &mut Builder, statement: &Statement, global: &mut Global) {
    let b = builder;
    match statement.keyword() {
        "notification_email" => emails(b, statement, global),
        "notification_email_from" => set(&mut global.notification_email_from, joined(b, statement)),
        "smtp_server" => smtp_server(b, statement, global),
        "smtp_helo_name" => set(&mut global.smtp_helo_name, b.text(statement)),
        "smtp_connect_timeout" => {
            put(&mut global.smtp_connect_timeout_us, b.seconds(statement, SECOND_US, HOUR_US));
        }
        "smtp_alert" => set(&mut global.smtp_alert, b.flag(statement)),
        "smtp_alert_vrrp" => set(&mut global.smtp_alert_vrrp, b.flag(statement)),
        "smtp_alert_checker" => set(&mut global.smtp_alert_checker, b.flag(statement)),
        "no_email_faults" => global.no_email_faults = true,
        "router_id" => set(&mut global.router_id, b.text(statement)),
        "script_user" => match b.user_of(statement.arguments()) {
            Some(user) => global.script_user = Some(user),
            None => {
                let message = "'script_user' needs a user";
                b.error(statement.keyword_span(), message, "expected USER [GROUP]");
            }
        },
        "enable_script_security" => put(&mut global.enable_script_security, b.flag(statement)),
        "vrrp_version" => set(&mut global.version, b.number(statement, 2, 3)),
        "vrrp_mcast_group4" => set(&mut global.multicast_group4, b.address(statement)),
        "vrrp_mcast_group6" => set(&mut global.multicast_group6, b.address(statement)),
        "vrrp_min_garp" => put(&mut global.min_garp, b.flag(statement)),
        "vrrp_lower_prio_no_advert" => set(&mut global.lower_prio_no_advert, b.flag(statement)),
        "vrrp_higher_prio_send_advert" => {
            set(&mut global.higher_prio_send_advert, b.flag(statement));
        }
        "vrrp_down_timer_adverts" => {
            set(&mut global.down_timer_adverts, b.number(statement, 1, 100));
        }
        "vrrp_check_unicast_src" => global.check_unicast_source = true,
        "vrrp_startup_delay" => {
            put(&mut global.startup_delay_us, b.seconds(statement, 0, HOUR_US));
        }
        "vrrp_notify_priority_changes" => {
            put(&mut global.notify_priority_changes, b.flag(statement));
        }
        "startup_script" => set(&mut global.startup_script, b.notify_command(statement)),
        "shutdown_script" => set(&mut global.shutdown_script, b.notify_command(statement)),
        "startup_script_timeout" => {
            let seconds = b.seconds(statement, SECOND_US, 1000 * SECOND_US);
            put(&mut global.startup_script_timeout_us, seconds);
        }
        "shutdown_script_timeout" => {
            let seconds = b.seconds(statement, SECOND_US, 1000 * SECOND_US);
            put(&mut global.shutdown_script_timeout_us, seconds);
        }
        "notify_fifo" => fifo(b, statement, &mut global.notify_fifo),
        "vrrp_notify_fifo" => fifo(b, statement, &mut global.vrrp_notify_fifo),
        "lvs_notify_fifo" => fifo(b, statement, &mut global.lvs_notify_fifo),
        "notify_fifo_script" => {
            set(&mut global.notify_fifo.script, b.notify_command(statement));
        }
        "vrrp_notify_fifo_script" => {
            set(&mut global.vrrp_notify_fifo.script, b.notify_command(statement));
        }
        "lvs_notify_fifo_script" => {
            set(&mut global.lvs_notify_fifo.script, b.notify_command(statement));
        }
        "checker_log_all_failures" => put(&mut global.log_all_failures, b.flag(statement)),
        other => match other.strip_prefix("vrrp_") {
            Some(rest) => announcement(b, statement, rest, &mut global.announcements),
            None => debug_assert!(false, "no meaning for {other}"),
        },
    }
}

/// `garp_...` and `gna_interval`, in an instance and, with `vrrp_` before them, for all.
pub fn announcement(
    b: &mut Builder,
    statement: &Statement,
    name: &str,
    announcements: &mut Announcements,
) {
    let day_us = 24 * HOUR_US;
    match name {
        "garp_master_delay" => {
            set(&mut announcements.master_delay_us, b.seconds(statement, 0, HOUR_US));
        }
        "garp_master_repeat" => {
            set(&mut announcements.master_repeat, b.number(statement, 1, REPEAT_MAX));
        }
        "garp_lower_prio_delay" => {
            set(&mut announcements.lower_prio_delay_us, b.seconds(statement, 0, HOUR_US));
        }
        "garp_lower_prio_repeat" => {
            set(&mut announcements.lower_prio_repeat, b.number(statement, 0, REPEAT_MAX));
        }
        "garp_master_refresh" => {
            set(&mut announcements.refresh_us, b.seconds(statement, 0, day_us));
        }
        "garp_master_refresh_repeat" => {
            set(&mut announcements.refresh_repeat, b.number(statement, 1, REPEAT_MAX));
        }
        "garp_interval" => {
            set(&mut announcements.arp_interval_us, b.seconds(statement, 0, SECOND_US));
        }
        "gna_interval" => {
            set(&mut announcements.neighbour_interval_us, b.seconds(statement, 0, SECOND_US));
        }
        other => debug_assert!(false, "no meaning for {other}"),
    }
}

/// What was not understood leaves the value as it was.
pub fn set<T>(place: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *place = value;
    }
}

pub fn put<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// `Name <a@b>` is several words.
fn joined(b: &mut Builder, statement: &Statement) -> Option<String> {
    let words: Vec<&str> = statement.arguments().iter().map(|word| word.text.as_str()).collect();
    if words.is_empty() {
        return b.text(statement);
    }
    Some(words.join(" "))
}

fn emails(b: &mut Builder, statement: &Statement, global: &mut Global) {
    for line in b.lines(statement) {
        let words: Vec<&str> = line.words.iter().map(|word| word.text.as_str()).collect();
        if global.notification_emails.len() == EMAILS_MAX {
            let message = format!("more than {EMAILS_MAX} addresses for mail");
            return b.error(line.span, message, "this one is left out");
        }
        // Several on one line are as many addresses, unless one is a name.
        if words.iter().all(|word| word.contains('@') && !word.starts_with('<')) {
            global.notification_emails.extend(words.iter().map(|word| (*word).to_owned()));
        } else {
            global.notification_emails.push(words.join(" "));
        }
        if !words.iter().any(|word| word.contains('@')) {
            let message = format!("'{}' is no address for mail", words.join(" "));
            b.warning(line.span, message, "expected NAME@HOST");
        }
    }
}

fn smtp_server(b: &mut Builder, statement: &Statement, global: &mut Global) {
    let Some(host) = statement.arguments().first() else {
        let message = "'smtp_server' needs a value";
        return b.error(statement.keyword_span(), message, "expected HOST [PORT]");
    };
    b.no_more_words(statement, 3);
    let port = match statement.arguments().get(1) {
        Some(word) => b.number_of("smtp_server port", word, 1, 65_535),
        None => Some(SMTP_PORT),
    };
    if let Some(port) = port {
        global.smtp_server = Some((host.text.clone(), port));
    }
}

fn fifo(b: &mut Builder, statement: &Statement, fifo: &mut Fifo) {
    if let Some(command) = b.notify_command(statement) {
        fifo.path = Some(command.text);
        fifo.user = command.user;
    }
}
