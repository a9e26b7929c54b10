//! From `virtual_server` to its checkers.

use std::net::SocketAddr;
use std::time::Duration;

use super::plan::PlanError;
use super::watching::program;
use crate::config::keepalived::model::{
    Check, CheckKind, Global, HttpCheck, HttpProtocol, Protocol, RealServer, ServerTarget, Url,
    VirtualServer,
};
use crate::config::keepalived::{Command, Keepalived};
use crate::program::Program;
use crate::watch;

pub(super) fn servers(config: &Keepalived) -> Result<Vec<watch::VirtualServer>, PlanError> {
    config.virtual_servers.iter().map(|server| virtual_server(&config.global, server)).collect()
}

fn virtual_server(
    global: &Global,
    server: &VirtualServer,
) -> Result<watch::VirtualServer, PlanError> {
    let what = "virtual_server";
    let protocol = match server.protocol {
        Protocol::Tcp => watch::Protocol::Tcp,
        Protocol::Udp => watch::Protocol::Udp,
        Protocol::Sctp => watch::Protocol::Sctp,
    };
    let service = match &server.target {
        ServerTarget::Address { address, port } => {
            let address = SocketAddr::new(*address, *port);
            watch::Service::Address { address, protocol }
        }
        ServerTarget::Mark(mark) => watch::Service::FirewallMark(*mark),
        ServerTarget::Group(name) => watch::Service::Group(name.clone()),
    };
    let reals = server.real_servers.iter();
    Ok(watch::VirtualServer {
        service,
        quorum: server.quorum,
        hysteresis: server.hysteresis,
        quorum_up: optional(global, server.quorum_up.as_ref(), what)?,
        quorum_down: optional(global, server.quorum_down.as_ref(), what)?,
        is_omega: server.omega,
        real_servers: reals
            .map(|real| real_server(global, real, protocol))
            .collect::<Result<_, _>>()?,
    })
}

fn optional(
    global: &Global,
    command: Option<&Command>,
    what: &str,
) -> Result<Option<Program>, PlanError> {
    command.map(|command| program(global, command, what)).transpose()
}

fn real_server(
    global: &Global,
    server: &RealServer,
    protocol: watch::Protocol,
) -> Result<watch::RealServer, PlanError> {
    let address = SocketAddr::new(server.address, server.port);
    let what = format!("real_server {address}");
    let checks = server.checks.iter();
    Ok(watch::RealServer {
        service: watch::Service::Address { address, protocol },
        weight: server.weight,
        checkers: checks.map(|check| checker(global, check)).collect::<Result<_, _>>()?,
        notify_up: optional(global, server.notify_up.as_ref(), &what)?,
        notify_down: optional(global, server.notify_down.as_ref(), &what)?,
    })
}

fn checker(global: &Global, check: &Check) -> Result<watch::Checker, PlanError> {
    let target = watch::Target {
        address: SocketAddr::new(check.connect_ip, check.connect_port),
        source: check.bind_to.map(|address| SocketAddr::new(address, check.bind_port)),
        connect_timeout: Duration::from_micros(check.connect_timeout_us),
    };
    let kind = match &check.kind {
        CheckKind::Tcp => watch::Check::Tcp(target),
        CheckKind::Http(http) => watch::Check::Get(get(http, target)),
        CheckKind::Misc(misc) => {
            let mut program = program(global, &misc.command, "MISC_CHECK")?;
            program.limit = Some(Duration::from_micros(misc.timeout_us));
            let (path, is_dynamic) = (misc.command.text.clone(), misc.dynamic);
            watch::Check::Misc(watch::MiscCheck { program, path, is_dynamic })
        }
    };
    Ok(watch::Checker {
        check: kind,
        delay_loop: Duration::from_micros(check.delay_loop_us),
        retry: check.retry,
        delay_before_retry: Duration::from_micros(check.delay_before_retry_us),
        warmup: Duration::from_micros(check.warmup_us),
        begins_down: check.alpha,
        logs_all_failures: check.log_all_failures || global.log_all_failures,
    })
}

fn get(http: &HttpCheck, target: watch::Target) -> watch::GetCheck {
    let url = |url: &Url| watch::Url {
        path: url.path.clone(),
        virtual_host: url.virtual_host.clone(),
        status_codes: url.status_codes.iter().map(|(low, high)| *low..=*high).collect(),
        digest: url.digest.as_deref().and_then(watch::BodyDigest::from_text),
    };
    watch::GetCheck {
        target,
        is_tls: http.is_tls,
        sends_name: http.sends_name,
        protocol: match http.protocol {
            HttpProtocol::V1_0 => watch::HttpProtocol::V1_0,
            HttpProtocol::V1_0Close => watch::HttpProtocol::V1_0Close,
            HttpProtocol::V1_1 => watch::HttpProtocol::V1_1,
        },
        urls: http.urls.iter().map(url).collect(),
    }
}
