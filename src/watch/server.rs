//! A virtual server: what its checkers find becomes what is to be told, and which programs to run.
//! keepalived would now change the kernel's table of servers; here nothing is forwarded.

use std::fmt;
use std::net::SocketAddr;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::checker::{self, Checker, Finding};
use super::pool::{Change, CheckerState, Member, Pool};
use super::{Outlet, Report};
use crate::program::Program;

/// Checkers have one finding under way each; who has more waits.
const FINDINGS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualServer {
    pub service: Service,
    pub quorum: u32,
    pub hysteresis: u32,
    pub quorum_up: Option<Program>,
    pub quorum_down: Option<Program>,
    /// At the end, everything that is up is told to be down.
    pub is_omega: bool,
    pub real_servers: Vec<RealServer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    pub service: Service,
    pub weight: u32,
    pub checkers: Vec<Checker>,
    pub notify_up: Option<Program>,
    pub notify_down: Option<Program>,
}

/// How a server is named, in keepalived's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    Address { address: SocketAddr, protocol: Protocol },
    FirewallMark(u32),
    Group(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Service {
    /// As keepalived.conf writes it: `10.0.0.1 80`, `fwmark 5`, `group NAME`.
    pub fn from_words(words: &str) -> Self {
        let (first, second) = words.split_once(' ').unwrap_or((words, "0"));
        let second = second.trim();
        if let (Ok(address), Ok(port)) = (first.parse(), second.parse()) {
            let address = SocketAddr::new(address, port);
            return Self::Address { address, protocol: Protocol::Tcp };
        }
        match (first, second.parse()) {
            ("fwmark", Ok(mark)) => Self::FirewallMark(mark),
            ("group", _) => Self::Group(second.to_owned()),
            _ => Self::Group(words.to_owned()),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, protocol } => {
                let protocol = match protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                    Protocol::Sctp => "sctp",
                };
                write!(formatter, "[{}]:{protocol}:{}", address.ip(), address.port())
            }
            Self::FirewallMark(mark) => write!(formatter, "FWM {mark}"),
            Self::Group(name) => write!(formatter, "[{name}]"),
        }
    }
}

pub(super) async fn watch(server: VirtualServer, place: usize, outlet: Outlet) {
    let (findings, mut inbox) = mpsc::channel::<Finding>(FINDINGS_MAX);
    let mut tasks = JoinSet::new();
    for (index, real) in server.real_servers.iter().enumerate() {
        for (number, checker) in real.checkers.iter().enumerate() {
            let (findings, outlet) = (findings.clone(), outlet.clone());
            let service = real.service.to_string();
            let place = (index, number);
            tasks.spawn(checker::watch(checker.clone(), service, place, findings, outlet));
        }
    }
    let mut pool = server.pool();
    server.tell(place, pool.begin(), "", &outlet).await;
    while let Some(Some(finding)) = outlet.unless_stopping(inbox.recv()).await {
        let changes = pool.found(finding.server, finding.checker, finding.state);
        server.tell(place, changes, &finding.reason, &outlet).await;
    }
    // Programs of checkers have their time to end.
    drop(inbox);
    while tasks.join_next().await.is_some() {}
    if server.is_omega {
        server.tell(place, pool.end(), "the service is being stopped", &outlet).await;
    }
}

impl VirtualServer {
    fn pool(&self) -> Pool {
        let member = |real: &RealServer| {
            let begin =
                |checker: &Checker| CheckerState { is_up: !checker.begins_down, weight: None };
            let checkers = real.checkers.iter().map(begin).collect();
            Member { weight: i64::from(real.weight), checkers }
        };
        let members = self.real_servers.iter().map(member).collect();
        Pool::new(members, self.quorum, self.hysteresis)
    }

    async fn tell(&self, place: usize, changes: Vec<Change>, reason: &str, outlet: &Outlet) {
        for change in changes {
            tracing::info!("{}", self.describe(&change));
            let run = self.program(&change).cloned();
            let reason = reason.to_owned();
            // Without a reader everything ends soon.
            let _ =
                outlet.reports.send(Report::Server { server: place, change, reason, run }).await;
        }
    }

    fn program(&self, change: &Change) -> Option<&Program> {
        let of_server = |server: usize| &self.real_servers[server];
        match change {
            Change::Server { server, is_up: true } => of_server(*server).notify_up.as_ref(),
            Change::Server { server, is_up: false } => of_server(*server).notify_down.as_ref(),
            Change::Weight { .. } => None,
            Change::Quorum { is_gained: true, .. } => self.quorum_up.as_ref(),
            Change::Quorum { is_gained: false, .. } => self.quorum_down.as_ref(),
        }
    }

    fn describe(&self, change: &Change) -> String {
        let vs = &self.service;
        let rs = |server: usize| &self.real_servers[server].service;
        let (quorum, hysteresis) = (self.quorum, self.hysteresis);
        match change {
            Change::Server { server, is_up: true } => {
                format!("Adding service {} to VS {vs}", rs(*server))
            }
            Change::Server { server, is_up: false } => {
                format!("Removing service {} from VS {vs}", rs(*server))
            }
            Change::Weight { server, weight } => {
                format!("Changing weight of service {} of VS {vs} to {weight}", rs(*server))
            }
            Change::Quorum { is_gained: true, threshold, weight } => {
                format!("Gained quorum {quorum}+{hysteresis}={threshold} <= {weight} for VS {vs}")
            }
            Change::Quorum { is_gained: false, threshold, weight } => {
                format!("Lost quorum {quorum}-{hysteresis}={threshold} > {weight} for VS {vs}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_servers() {
        for (words, expected) in [
            ("10.0.0.1 3306", "[10.0.0.1]:tcp:3306"),
            ("2001:db8::1 80", "[2001:db8::1]:tcp:80"),
            ("10.0.0.1", "[10.0.0.1]:tcp:0"),
            ("fwmark 5", "FWM 5"),
            ("group web", "[web]"),
            ("fwmark five", "[fwmark five]"),
        ] {
            assert_eq!(Service::from_words(words).to_string(), expected);
        }
    }
}
