//! What a keepalived.conf says, with keepalived's defaults where they do not depend on another
//! block; times in microseconds.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::super::diagnostics::Diagnostics;
use super::super::source::{Sources, Span};
use super::command::Command;

#[derive(Clone, Debug)]
pub struct Keepalived {
    pub global: Global,
    pub scripts: Vec<Script>,
    pub processes: Vec<TrackedProcess>,
    pub files: Vec<TrackedFile>,
    pub groups: Vec<SyncGroup>,
    pub instances: Vec<Instance>,
    pub server_groups: Vec<ServerGroup>,
    pub virtual_servers: Vec<VirtualServer>,
    /// It loads, and something is not as the author may think.
    pub warnings: Diagnostics,
    /// It loads, and a word of it means nothing here and need not.
    pub notes: Diagnostics,
    pub sources: Arc<Sources>,
}

/// Whom a program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// Absent: that of the user.
    pub group: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    pub router_id: Option<String>,
    pub notification_emails: Vec<String>,
    pub notification_email_from: Option<String>,
    /// Name or address, and port.
    pub smtp_server: Option<(String, u16)>,
    pub smtp_helo_name: Option<String>,
    pub smtp_connect_timeout_us: u64,
    pub smtp_alert: Option<bool>,
    pub smtp_alert_vrrp: Option<bool>,
    pub smtp_alert_checker: Option<bool>,
    pub no_email_faults: bool,
    pub script_user: Option<User>,
    pub enable_script_security: bool,
    pub version: Option<u8>,
    pub multicast_group4: Option<Ipv4Addr>,
    pub multicast_group6: Option<std::net::Ipv6Addr>,
    pub announcements: Announcements,
    /// One announcement, and no second burst.
    pub min_garp: bool,
    pub lower_prio_no_advert: Option<bool>,
    pub higher_prio_send_advert: Option<bool>,
    pub down_timer_adverts: Option<u8>,
    pub check_unicast_source: bool,
    pub startup_delay_us: u64,
    pub notify_priority_changes: bool,
    pub startup_script: Option<Command>,
    pub startup_script_timeout_us: u64,
    pub shutdown_script: Option<Command>,
    pub shutdown_script_timeout_us: u64,
    pub notify_fifo: Fifo,
    pub vrrp_notify_fifo: Fifo,
    pub lvs_notify_fifo: Fifo,
    pub log_all_failures: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fifo {
    pub path: Option<String>,
    pub user: Option<User>,
    /// Reads it; gets its path as the last argument.
    pub script: Option<Command>,
}

/// Gratuitous ARP and neighbour advertisements (vrrp.md 1.6). Absent: the global value, then
/// keepalived's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announcements {
    pub master_delay_us: Option<u64>,
    pub master_repeat: Option<u32>,
    pub lower_prio_delay_us: Option<u64>,
    pub lower_prio_repeat: Option<u32>,
    pub refresh_us: Option<u64>,
    pub refresh_repeat: Option<u32>,
    /// Between two gratuitous ARPs.
    pub arp_interval_us: Option<u64>,
    /// Between two neighbour advertisements.
    pub neighbour_interval_us: Option<u64>,
}

/// What a tracker does to the priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// 0: bad is a fault.
    pub value: i16,
    pub reverse: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub name: String,
    pub span: Span,
    pub command: Command,
    pub interval_us: u64,
    pub timeout_us: u64,
    pub weight: Weight,
    /// Good results in a row until it counts as good.
    pub rise: u32,
    pub fall: u32,
    /// Bad until it was good.
    pub init_fail: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedProcess {
    pub name: String,
    pub span: Span,
    /// The program, then its arguments.
    pub words: Vec<String>,
    pub parameters: ParameterMatch,
    pub full_command: bool,
    pub weight: Weight,
    pub quorum: u32,
    pub quorum_max: Option<u32>,
    pub fork_delay_us: u64,
    pub terminate_delay_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterMatch {
    /// Exactly those; where none are given, any.
    Exact,
    /// Those, the last one may go on.
    Initial,
    /// Those first, then others.
    Partial,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedFile {
    pub name: String,
    pub span: Span,
    pub path: String,
    /// The number in the file is multiplied by it; 0: any number but 0 is a fault.
    pub weight: Weight,
    pub init: Option<InitFile>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitFile {
    pub value: i32,
    pub overwrite: bool,
}

/// A tracker where it is used; without a weight of its own it has that of its definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    pub name: String,
    pub span: Span,
    pub weight: Option<Weight>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trackers {
    pub interfaces: Vec<Tracked>,
    pub scripts: Vec<Tracked>,
    pub processes: Vec<Tracked>,
    pub files: Vec<Tracked>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    pub master: Option<Command>,
    pub backup: Option<Command>,
    pub fault: Option<Command>,
    pub stop: Option<Command>,
    pub deleted: Option<Command>,
    /// Of an instance only.
    pub master_rx_lower_pri: Option<Command>,
    /// Gets INSTANCE or GROUP, name, state and priority as arguments.
    pub any: Option<Command>,
    pub priority_changes: Option<bool>,
    pub smtp_alert: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncGroup {
    pub name: String,
    pub span: Span,
    /// Names of instances, each with its place.
    pub members: Vec<(String, Span)>,
    pub trackers: Trackers,
    pub notify: Notify,
    /// Otherwise trackers of members count as if they had no weight.
    pub tracking_weight: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialState {
    Master,
    Backup,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub name: String,
    pub span: Span,
    pub initial_state: InitialState,
    pub interface: String,
    pub virtual_router_id: u8,
    pub priority: u8,
    pub advert_interval_us: u64,
    /// Absent: the global one, then that of the family.
    pub version: Option<u8>,
    pub preempt: bool,
    pub preempt_delay_us: u64,
    pub password: Option<Password>,
    pub addresses: Vec<Address>,
    pub addresses_excluded: Vec<Address>,
    pub source: Option<IpAddr>,
    pub multicast_group: Option<IpAddr>,
    pub unicast_peers: Vec<UnicastPeer>,
    pub check_unicast_source: bool,
    pub announcements: Announcements,
    pub down_timer_adverts: Option<u8>,
    pub lower_prio_no_advert: Option<bool>,
    pub higher_prio_send_advert: Option<bool>,
    pub accept: bool,
    pub v3_checksum_as_v2: bool,
    pub trackers: Trackers,
    pub notify: Notify,
    pub drbd_resource: Option<DrbdResource>,
}

/// The first 8 bytes count.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    pub text: String,
    pub span: Span,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Password(..)")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnicastPeer {
    pub address: IpAddr,
    pub min_ttl: Option<u8>,
    pub max_ttl: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub address: IpAddr,
    pub prefix_length: u8,
    pub broadcast: Option<Ipv4Addr>,
    /// Absent: that of the instance.
    pub interface: Option<String>,
    /// As the kernel counts: 0 global, 200 site, 253 link, 254 host, 255 nowhere.
    pub scope: u8,
    pub label: Option<String>,
    pub span: Span,
}

/// What is served from the resource, in the order of starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrbdResource {
    pub name: String,
    pub span: Span,
    pub mount: Option<Mount>,
    pub start: Vec<ServiceCommand>,
    pub stop: Vec<ServiceCommand>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub device: String,
    pub directory: String,
    pub file_system: String,
    /// As behind `mount -o`; empty: none.
    pub options: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCommand {
    /// For a shell.
    pub text: String,
    pub timeout_us: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerGroup {
    pub name: String,
    pub span: Span,
    /// Addresses, ranges and marks, as written: nothing is forwarded for them.
    pub entries: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerTarget {
    Address { address: IpAddr, port: u16 },
    Mark(u32),
    Group(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualServer {
    pub target: ServerTarget,
    pub span: Span,
    pub protocol: Protocol,
    /// Sum of the weights of good servers from which on it serves.
    pub quorum: u32,
    pub hysteresis: u32,
    pub quorum_up: Option<Command>,
    pub quorum_down: Option<Command>,
    /// At the end, `notify_down` and `quorum_down` are run.
    pub omega: bool,
    /// Checks rest while its address is not on this machine.
    pub ha_suspend: bool,
    pub smtp_alert: Option<bool>,
    pub real_servers: Vec<RealServer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    pub address: IpAddr,
    /// 0: that of the virtual server does not matter either.
    pub port: u16,
    pub span: Span,
    pub weight: u32,
    pub notify_up: Option<Command>,
    pub notify_down: Option<Command>,
    /// It stays, with weight 0.
    pub inhibit_on_failure: bool,
    pub smtp_alert: Option<bool>,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub span: Span,
    pub kind: CheckKind,
    pub connect_ip: IpAddr,
    pub connect_port: u16,
    pub bind_to: Option<IpAddr>,
    pub bind_port: u16,
    pub connect_timeout_us: u64,
    /// Between two checks.
    pub delay_loop_us: u64,
    pub retry: u32,
    pub delay_before_retry_us: u64,
    /// The first check comes at a random moment in this time.
    pub warmup_us: u64,
    /// Bad until the first check.
    pub alpha: bool,
    pub log_all_failures: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    Tcp,
    Http(HttpCheck),
    Misc(MiscCheck),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// SSL_GET
    pub is_tls: bool,
    /// The name of the server is told in the handshake.
    pub sends_name: bool,
    pub protocol: HttpProtocol,
    pub urls: Vec<Url>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpProtocol {
    V1_0,
    /// With "Connection: close".
    V1_0Close,
    V1_1,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub path: String,
    /// MD5 of the answer, as genhash prints it.
    pub digest: Option<String>,
    /// From, to.
    pub status_codes: Vec<(u16, u16)>,
    pub virtual_host: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MiscCheck {
    pub command: Command,
    pub timeout_us: u64,
    /// Exit codes from 2 on set the weight (vrrp.md 2.4).
    pub dynamic: bool,
}
