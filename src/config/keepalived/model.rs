//! What a keepalived.conf says, with keepalived's defaults filled in (vrrp.md 2.3). Times are in
//! microseconds unless a name says otherwise.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::super::diagnostics::Diagnostics;
use super::super::source::Span;

#[derive(Debug)]
pub struct Keepalived {
    pub global: Global,
    pub scripts: Vec<Script>,
    pub processes: Vec<ProcessTracker>,
    pub files: Vec<FileTracker>,
    pub groups: Vec<SyncGroup>,
    pub instances: Vec<Instance>,
    pub servers: Vec<VirtualServer>,
    pub warnings: Diagnostics,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    pub mail_to: Vec<String>,
    pub mail_from: String,
    /// Host and port; absent: no mail.
    pub smtp_server: Option<(String, u16)>,
    pub smtp_helo: String,
    pub smtp_connect_timeout_us: u64,
    /// Mail for every instance and every check, unless they say otherwise.
    pub smtp_alert: bool,
    /// Empty: the host's name.
    pub router_id: String,
    pub script_user: Option<User>,
    pub script_security: bool,
    pub version: Option<u8>,
    pub announcements: Announcements,
    pub multicast_v4: Option<IpAddr>,
    pub multicast_v6: Option<IpAddr>,
    pub notify_fifo: Option<PathBuf>,
    pub notify_fifo_script: Option<String>,
    pub startup_delay_us: u64,
    pub lower_priority_no_advert: bool,
    pub higher_priority_send_advert: bool,
    pub check_unicast_source: bool,
    /// Of this program: a check whose program is missing is left out, as keepalived does, instead
    /// of failing its instances.
    pub missing_scripts_are_ignored: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub group: Option<String>,
}

/// Absent: as the level above says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announcements {
    pub delay_us: Option<u64>,
    pub repeat: Option<u32>,
    pub refresh_us: Option<u64>,
    pub refresh_repeat: Option<u32>,
    pub lower_priority_delay_us: Option<u64>,
    pub lower_priority_repeat: Option<u32>,
    pub spacing_us: Option<u64>,
}

/// `vrrp_script`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub name: String,
    pub span: Span,
    pub command: String,
    pub interval_us: u64,
    pub timeout_us: u64,
    pub weight: Weight,
    pub rise: u32,
    pub fall: u32,
    pub user: Option<User>,
    pub init_fail: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// -253 to 253; 0: bad is Fault.
    pub value: i16,
    pub reverse: bool,
}

/// `vrrp_track_process`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessTracker {
    pub name: String,
    pub span: Span,
    /// The program's name, or with arguments its whole command line.
    pub words: Vec<String>,
    pub weight: Weight,
    pub quorum: u32,
    pub quorum_max: Option<u32>,
    /// Until a process that came, or went, counts.
    pub fork_delay_us: u64,
    pub terminate_delay_us: u64,
    pub full_command: bool,
}

/// `vrrp_track_file`, whose number times the weight is added to the priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTracker {
    pub name: String,
    pub span: Span,
    pub path: PathBuf,
    pub weight: Weight,
    /// Written when the program starts; with `overwrite` even over what is there.
    pub init: Option<(i32, bool)>,
}

/// A word of `track_script`, `track_process`, `track_file`, `track_interface`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    pub name: String,
    pub span: Span,
    /// In place of the tracker's own.
    pub weight: Option<Weight>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trackers {
    pub scripts: Vec<Tracked>,
    pub processes: Vec<Tracked>,
    pub files: Vec<Tracked>,
    pub interfaces: Vec<Tracked>,
}

/// Programs that are told of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    pub master: Option<NotifyProgram>,
    pub backup: Option<NotifyProgram>,
    pub fault: Option<NotifyProgram>,
    pub stop: Option<NotifyProgram>,
    pub deleted: Option<NotifyProgram>,
    pub master_heard_lower: Option<NotifyProgram>,
    /// With what changed as further arguments.
    pub any: Option<NotifyProgram>,
    /// The priority of an instance counts as a change.
    pub priority_changes: bool,
    pub smtp_alert: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyProgram {
    pub command: String,
    pub user: Option<User>,
}

/// `vrrp_sync_group`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncGroup {
    pub name: String,
    pub span: Span,
    pub members: Vec<(String, Span)>,
    pub trackers: Trackers,
    pub notify: Notify,
    /// Trackers with a weight may be members of a group.
    pub tracking_weight: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialState {
    Master,
    Backup,
}

/// `vrrp_instance`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub name: String,
    pub span: Span,
    pub state: InitialState,
    pub interface: String,
    pub interface_span: Span,
    pub virtual_router_id: u8,
    pub priority: u8,
    pub advert_interval_us: u64,
    pub preempt: bool,
    pub preempt_delay_us: u64,
    pub version: Option<u8>,
    /// Of `auth_type PASS`.
    pub password: Option<String>,
    pub addresses: Vec<Address>,
    pub addresses_excluded: Vec<Address>,
    pub source: Option<IpAddr>,
    pub multicast: Option<IpAddr>,
    pub unicast_peers: Vec<IpAddr>,
    pub check_unicast_source: Option<bool>,
    pub accept: bool,
    pub checksum_as_v2: bool,
    pub down_timer_adverts: u8,
    pub lower_priority_no_advert: Option<bool>,
    pub higher_priority_send_advert: Option<bool>,
    pub announcements: Announcements,
    pub track_primary: bool,
    pub trackers: Trackers,
    pub notify: Notify,
    pub data: Option<DataService>,
}

/// A line of `virtual_ipaddress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub span: Span,
    pub address: IpAddr,
    pub prefix_length: u8,
    pub interface: Option<String>,
    pub broadcast: Option<Ipv4Addr>,
    pub label: Option<String>,
    pub scope: u8,
}

/// `drbd_resource NAME { ... }` in a vrrp_instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataService {
    pub resource: String,
    pub span: Span,
    /// In the order of the file.
    pub mounts: Vec<DataMount>,
    /// The first stop belongs to the first start, and so on.
    pub starts: Vec<LimitedCommand>,
    pub stops: Vec<LimitedCommand>,
    /// A block device of this machine, even without a mount.
    pub attach: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataMount {
    pub device: PathBuf,
    pub directory: PathBuf,
    pub file_system: Option<String>,
    pub options: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitedCommand {
    pub command: String,
    /// Absent: what the service layer takes.
    pub limit_us: Option<u64>,
}

/// `virtual_server`: health checks; nothing is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualServer {
    pub span: Span,
    /// `10.0.0.1 3306`, `fwmark 5`, `group G`: for the log.
    pub name: String,
    pub delay_loop_us: u64,
    pub quorum: u32,
    pub hysteresis: u32,
    pub quorum_up: Option<NotifyProgram>,
    pub quorum_down: Option<NotifyProgram>,
    /// Servers count as down until their first good check.
    pub alpha: bool,
    /// `notify_down` at the end of the program, too.
    pub omega: bool,
    pub servers: Vec<RealServer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    pub span: Span,
    pub address: SocketAddr,
    pub weight: u32,
    pub notify_up: Option<NotifyProgram>,
    pub notify_down: Option<NotifyProgram>,
    pub alpha: Option<bool>,
    pub smtp_alert: Option<bool>,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub span: Span,
    pub kind: CheckKind,
    /// Absent: the server's own.
    pub connect_to: SocketAddr,
    pub bind_to: Option<SocketAddr>,
    pub connect_timeout_us: u64,
    pub retry: u32,
    pub delay_before_retry_us: u64,
    pub warmup_us: u64,
    pub delay_loop_us: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    Tcp,
    Http { tls: bool, virtual_host: Option<String>, urls: Vec<Url> },
    Program { command: String, timeout_us: u64, dynamic: bool, user: Option<User> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub path: String,
    /// Lowest and highest of each range; empty: 200 to 299.
    pub status_codes: Vec<(u16, u16)>,
    /// MD5 of the body, in hexadecimal digits.
    pub digest: Option<String>,
    pub virtual_host: Option<String>,
}
