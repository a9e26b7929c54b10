//! `global_defs`.

use std::path::PathBuf;

use super::super::tree::Statement;
use super::model::{Announcements, Global};
use super::reader::Reader;
use super::words::GLOBAL;

/// keepalived's (vrrp.md 2.3); 25 is SMTP.
const SMTP_PORT: u16 = 25;
const SMTP_CONNECT_TIMEOUT_US: u64 = 30_000_000;

impl Default for Global {
    fn default() -> Self {
        Self {
            mail_to: Vec::new(),
            mail_from: String::new(),
            smtp_server: None,
            smtp_helo: String::new(),
            smtp_connect_timeout_us: SMTP_CONNECT_TIMEOUT_US,
            smtp_alert: false,
            router_id: String::new(),
            script_user: None,
            script_security: false,
            version: None,
            announcements: Announcements::default(),
            multicast_v4: None,
            multicast_v6: None,
            notify_fifo: None,
            notify_fifo_script: None,
            startup_delay_us: 0,
            lower_priority_no_advert: false,
            higher_priority_send_advert: false,
            check_unicast_source: false,
            missing_scripts_are_ignored: false,
        }
    }
}

pub fn read(reader: &mut Reader, statement: &Statement, global: &mut Global) {
    let body = reader.body(statement);
    reader.block("global_defs", GLOBAL, body, |reader, statement| one(reader, statement, global));
}

fn one(reader: &mut Reader, statement: &Statement, global: &mut Global) {
    let keyword = statement.keyword();
    match keyword {
        "notification_email" => {
            // One address a line, `Name <a@b>` with a blank in it.
            let lines = reader.body(statement).iter();
            global.mail_to = lines
                .map(|line| {
                    let words: Vec<&str> = line.words.iter().map(|word| &*word.text).collect();
                    words.join(" ")
                })
                .collect();
        }
        "notification_email_from" => {
            global.mail_from = reader.command(statement).unwrap_or_default();
        }
        "smtp_server" => {
            if let [host, rest @ ..] = statement.arguments() {
                let port = match rest {
                    [port, ..] => reader.number_in("smtp_server", port, 1..=u16::MAX),
                    [] => Some(SMTP_PORT),
                };
                global.smtp_server = port.map(|port| (host.text.clone(), port));
            } else {
                let _ = reader.word(statement);
            }
        }
        "smtp_helo_name" => global.smtp_helo = reader.text(statement).unwrap_or_default(),
        "smtp_connect_timeout" => {
            set(&mut global.smtp_connect_timeout_us, reader.seconds(statement))
        }
        "smtp_alert" | "smtp_alert_vrrp" => global.smtp_alert = reader.flag(statement),
        "router_id" => global.router_id = reader.text(statement).unwrap_or_default(),
        "script_user" => global.script_user = reader.user(statement),
        "enable_script_security" => global.script_security = reader.flag(statement),
        "vrrp_version" => global.version = reader.number(statement, 2..=3),
        "vrrp_mcast_group4" => {
            global.multicast_v4 = reader.word(statement).and_then(|word| reader.address(word));
        }
        "vrrp_mcast_group6" => {
            global.multicast_v6 = reader.word(statement).and_then(|word| reader.address(word));
        }
        "notify_fifo" | "vrrp_notify_fifo" => {
            global.notify_fifo = reader.text(statement).map(PathBuf::from);
        }
        "notify_fifo_script" | "vrrp_notify_fifo_script" => {
            global.notify_fifo_script = reader.command(statement);
        }
        "vrrp_startup_delay" => set(&mut global.startup_delay_us, reader.seconds(statement)),
        "vrrp_min_garp" => {
            if reader.flag(statement) {
                global.announcements.repeat = Some(1);
                global.announcements.delay_us = Some(0);
            }
        }
        "vrrp_lower_prio_no_advert" => global.lower_priority_no_advert = reader.flag(statement),
        "vrrp_higher_prio_send_advert" => {
            global.higher_priority_send_advert = reader.flag(statement);
        }
        "vrrp_check_unicast_src" => global.check_unicast_source = reader.flag(statement),
        "missing_scripts_are_ignored" => {
            global.missing_scripts_are_ignored = reader.flag(statement);
        }
        _ => {
            let word = keyword.strip_prefix("vrrp_").unwrap_or(keyword);
            announcement(reader, statement, word, &mut global.announcements);
        }
    }
}

/// `garp_...` of an instance, `vrrp_garp_...` of all.
pub fn announcement(
    reader: &mut Reader,
    statement: &Statement,
    word: &str,
    announcements: &mut Announcements,
) {
    let most = 64;
    match word {
        "garp_master_delay" => announcements.delay_us = reader.seconds(statement),
        "garp_master_repeat" => announcements.repeat = reader.number(statement, 0..=most),
        "garp_master_refresh" => announcements.refresh_us = reader.seconds(statement),
        "garp_master_refresh_repeat" => {
            announcements.refresh_repeat = reader.number(statement, 0..=most);
        }
        "garp_lower_prio_delay" => {
            announcements.lower_priority_delay_us = reader.seconds(statement);
        }
        "garp_lower_prio_repeat" => {
            announcements.lower_priority_repeat = reader.number(statement, 0..=most);
        }
        "garp_interval" => announcements.spacing_us = reader.seconds(statement),
        _ => unreachable!("the table of words and this list are compared by a test"),
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}
