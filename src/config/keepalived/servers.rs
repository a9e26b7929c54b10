//! `virtual_server` and `real_server`: here, sets of checks with somebody to be told (vrrp.md 2.5).

use std::net::IpAddr;

use super::super::diagnostics::Diagnostic;
use super::super::source::Span;
use super::super::tree::{Statement, Word};
use super::builder::Builder;
use super::checks::{Check as DraftCheck, Times};
use super::global::{put, set};
use super::model::{Protocol, RealServer, ServerTarget, VirtualServer};
use super::words::Block;

const SERVERS_MAX: usize = 4096;
const REAL_SERVERS_MAX: usize = 1024;
const CHECKS_MAX: usize = 64;
const WEIGHT_MAX: i64 = 65_535;

pub fn virtual_server(b: &mut Builder, statement: &Statement, servers: &mut Vec<VirtualServer>) {
    let span = statement.span;
    let Some(target) = target(b, statement) else { return };
    if servers.len() == SERVERS_MAX {
        let message = format!("more than {SERVERS_MAX} of virtual_server");
        return b.error(span, message, "this one is left out");
    }
    let mut server = VirtualServer {
        target,
        span,
        protocol: Protocol::Tcp,
        quorum: 1,
        hysteresis: 0,
        quorum_up: None,
        quorum_down: None,
        omega: false,
        ha_suspend: false,
        smtp_alert: None,
        real_servers: Vec::new(),
    };
    let mut times = Times::default();
    let (mut inhibit_on_failure, mut virtual_host) = (false, None);
    let mut drafts: Vec<RealDraft> = Vec::new();
    let body = b.body(statement);
    b.each(Block::VirtualServer, body, |b, statement| match statement.keyword() {
        "real_server" => real_server(b, statement, &mut drafts),
        "protocol" => {
            let words = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
            put(&mut server.protocol, b.choice(statement, &words));
        }
        "quorum" => put(&mut server.quorum, b.number(statement, 1, i64::from(u32::MAX))),
        "hysteresis" => put(&mut server.hysteresis, b.number(statement, 0, i64::from(u32::MAX))),
        "quorum_up" => set(&mut server.quorum_up, b.notify_command(statement)),
        "quorum_down" => set(&mut server.quorum_down, b.notify_command(statement)),
        "omega" => put(&mut server.omega, b.flag(statement)),
        "ha_suspend" => server.ha_suspend = true,
        "smtp_alert" => set(&mut server.smtp_alert, b.flag(statement)),
        "inhibit_on_failure" => put(&mut inhibit_on_failure, b.flag(statement)),
        "virtualhost" => set(&mut virtual_host, b.text(statement)),
        _ => times.word(b, statement),
    });
    for mut draft in drafts {
        let times = draft.times.or(times);
        let virtual_host = draft.virtual_host.as_ref().or(virtual_host.as_ref());
        let place = (draft.server.address, draft.server.port);
        let checks = draft.checks.into_iter();
        draft.server.checks =
            checks.filter_map(|check| check.finish(b, times, place, virtual_host)).collect();
        draft.server.inhibit_on_failure = draft.inhibit_on_failure.unwrap_or(inhibit_on_failure);
        server.real_servers.push(draft.server);
    }
    servers.push(server);
}

/// `ADDRESS [PORT]`, `fwmark NUMBER` or `group NAME`
fn target(b: &mut Builder, statement: &Statement) -> Option<ServerTarget> {
    match statement.arguments() {
        [word, number] if word.text == "fwmark" => {
            let mark = b.number_of("fwmark", number, 0, i64::from(u32::MAX))?;
            Some(ServerTarget::Mark(mark))
        }
        [word, name] if word.text == "group" => Some(ServerTarget::Group(name.text.clone())),
        words => {
            let (address, port) = address_and_port(b, statement, words)?;
            Some(ServerTarget::Address { address, port })
        }
    }
}

fn address_and_port(
    b: &mut Builder,
    statement: &Statement,
    words: &[Word],
) -> Option<(IpAddr, u16)> {
    let Some(address) = words.first() else {
        let message = format!("this {} has no address", statement.keyword());
        b.error(statement.keyword_span(), message, "expected ADDRESS PORT");
        return None;
    };
    b.no_more_words(statement, 3);
    let address = b.address_of(address)?;
    let port = match words.get(1) {
        Some(word) => b.number_of("port", word, 0, 65_535)?,
        None => 0,
    };
    Some((address, port))
}

/// What a real server says itself; the rest is known when its virtual server has ended.
struct RealDraft {
    server: RealServer,
    times: Times,
    inhibit_on_failure: Option<bool>,
    virtual_host: Option<String>,
    checks: Vec<DraftCheck>,
}

fn real_server(b: &mut Builder, statement: &Statement, drafts: &mut Vec<RealDraft>) {
    let span = statement.span;
    let Some((address, port)) = address_and_port(b, statement, statement.arguments()) else {
        return;
    };
    if drafts.len() == REAL_SERVERS_MAX {
        let message = format!("more than {REAL_SERVERS_MAX} of real_server");
        return b.error(span, message, "this one is left out");
    }
    let same = |known: &&RealDraft| (known.server.address, known.server.port) == (address, port);
    if let Some(first) = drafts.iter().find(same) {
        return twice(b, span, first.server.span);
    }
    let mut draft = RealDraft {
        server: RealServer {
            address,
            port,
            span,
            weight: 1,
            notify_up: None,
            notify_down: None,
            inhibit_on_failure: false,
            smtp_alert: None,
            checks: Vec::new(),
        },
        times: Times::default(),
        inhibit_on_failure: None,
        virtual_host: None,
        checks: Vec::new(),
    };
    let body = b.body(statement);
    b.each(Block::RealServer, body, |b, statement| {
        let server = &mut draft.server;
        match statement.keyword() {
            "weight" => put(&mut server.weight, b.number(statement, 0, WEIGHT_MAX)),
            "notify_up" => set(&mut server.notify_up, b.notify_command(statement)),
            "notify_down" => set(&mut server.notify_down, b.notify_command(statement)),
            "smtp_alert" => set(&mut server.smtp_alert, b.flag(statement)),
            "inhibit_on_failure" => set(&mut draft.inhibit_on_failure, b.flag(statement)),
            "virtualhost" => set(&mut draft.virtual_host, b.text(statement)),
            "TCP_CHECK" | "HTTP_GET" | "SSL_GET" | "MISC_CHECK" => {
                if draft.checks.len() == CHECKS_MAX {
                    let message = format!("more than {CHECKS_MAX} checks of one server");
                    return b.error(statement.span, message, "this one is left out");
                }
                draft.checks.extend(DraftCheck::read(b, statement));
            }
            _ => draft.times.word(b, statement),
        }
    });
    drafts.push(draft);
}

fn twice(b: &mut Builder, span: Span, first: Span) {
    b.report(
        Diagnostic::warning(span, "the same real_server twice")
            .label("ignored")
            .related(first, "first here"),
    );
}
