//! What a resource looks like from outside: the snapshot that `status`, `role`, `cstate`, `dstate`,
//! the waits and the demo read. Sizes are in bytes here; rendering turns them into what people know.

use serde::{Deserialize, Serialize};
use twinblk_proto::state::{ConnectionState, DiskState, Role, State};

/// One resource that is up, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ResourceStatus {
    pub name: String,
    #[serde(with = "word")]
    pub role: Role,
    #[serde(with = "word")]
    pub peer_role: Role,
    #[serde(with = "word")]
    pub connection: ConnectionState,
    #[serde(with = "word")]
    pub disk: DiskState,
    #[serde(with = "word")]
    pub peer_disk: DiskState,
    pub suspended_user: bool,
    pub suspended_no_data: bool,
    pub suspended_fencing: bool,
    pub paused_user: bool,
    pub paused_peer: bool,
    pub paused_dependency: bool,
    /// Why the state is what it is, a sentence; empty when nothing needs explaining.
    pub reason: String,
    /// The next command to try; empty when there is nothing to do.
    pub hint: String,
    /// `A`, `B` or `C`.
    pub protocol: String,
    /// As configured, `/dev/drbd0`.
    pub device: String,
    pub minor: u32,
    /// 0 while the size is not known.
    pub size_bytes: u64,
    /// Path of the backing disk.
    pub backing_disk: String,
    /// `io_uring`, `threads`, `inline`; empty while diskless.
    pub backend: String,
    pub direct_io: bool,
    pub out_of_sync_bytes: u64,
    /// Present while a resync runs or is paused.
    pub resync: Option<ResyncStatus>,
    /// Present while both disks are compared.
    pub verify: Option<VerifyStatus>,
    /// The end of the last comparison since the resource came up.
    pub verified: Option<VerifiedStatus>,
    pub counters: Counters,
    pub generations: GenerationStatus,
    /// Present when the peer told its own in this connection.
    pub peer_generations: Option<GenerationStatus>,
    pub nbd: NbdStatus,
    pub kernel_device: KernelDeviceStatus,
    /// Host name and address of this node, as configured.
    pub local: NodeStatus,
    pub peer: NodeStatus,
    /// Agreed protocol version, 0 while there is no connection.
    pub protocol_version: u32,
    pub held: HeldStatus,
    /// When this node was last Primary.
    pub last_primary: PrimaryTimes,
    /// What the last handshake decided, or would have (`connect --tentative`).
    pub verdict: Option<VerdictStatus>,
    /// Met by the last handshake and not resolved.
    pub split_brain: Option<SplitBrainStatus>,
    /// Names of the handlers that run now.
    pub handlers_running: Vec<String>,
    /// Present while I/O is frozen.
    pub frozen: Option<FrozenStatus>,
    /// The takeover policy, or fence-peer, said that the peer went on without this Primary.
    pub is_replaced: bool,
    /// Present where a service of keepalived.conf runs on the resource.
    pub service: Option<ServiceStatus>,
}

impl Default for ResourceStatus {
    fn default() -> Self {
        let state = State::default();
        let mut status = Self {
            name: String::new(),
            role: state.role,
            peer_role: state.peer,
            connection: state.connection,
            disk: state.disk,
            peer_disk: state.peer_disk,
            suspended_user: false,
            suspended_no_data: false,
            suspended_fencing: false,
            paused_user: false,
            paused_peer: false,
            paused_dependency: false,
            reason: String::new(),
            hint: String::new(),
            protocol: "C".to_owned(),
            device: String::new(),
            minor: 0,
            size_bytes: 0,
            backing_disk: String::new(),
            backend: String::new(),
            direct_io: false,
            out_of_sync_bytes: 0,
            resync: None,
            verify: None,
            verified: None,
            counters: Counters::default(),
            generations: GenerationStatus::default(),
            peer_generations: None,
            nbd: NbdStatus::default(),
            kernel_device: KernelDeviceStatus::default(),
            local: NodeStatus::default(),
            peer: NodeStatus::default(),
            protocol_version: 0,
            held: HeldStatus::default(),
            last_primary: PrimaryTimes::default(),
            verdict: None,
            split_brain: None,
            handlers_running: Vec::new(),
            frozen: None,
            is_replaced: false,
            service: None,
        };
        status.set_state(state);
        status
    }
}

impl ResourceStatus {
    /// Takes over roles, states and flags of the engine's state word.
    pub fn set_state(&mut self, state: State) {
        self.role = state.role;
        self.peer_role = state.peer;
        self.connection = state.connection;
        self.disk = state.disk;
        self.peer_disk = state.peer_disk;
        self.suspended_user = state.suspended_user;
        self.suspended_no_data = state.suspended_no_data;
        self.suspended_fencing = state.suspended_fencing;
        self.paused_user = state.paused_user;
        self.paused_peer = state.paused_peer;
        self.paused_dependency = state.paused_after;
    }

    /// Somebody uses the device: a client, or on this machine a file system or the like.
    pub fn is_open(&self) -> bool {
        !self.kernel_device.holders.is_empty()
            || self.nbd.clients.iter().any(|client| !client.is_kernel)
    }

    pub fn is_suspended(&self) -> bool {
        self.suspended_user || self.suspended_no_data || self.suspended_fencing
    }

    /// A resync is under way in either direction, paused or not, or about to start.
    pub fn is_resyncing(&self) -> bool {
        use ConnectionState as C;
        matches!(
            self.connection,
            C::StartingSyncS
                | C::StartingSyncT
                | C::WFBitMapS
                | C::WFBitMapT
                | C::WFSyncUUID
                | C::SyncSource
                | C::SyncTarget
                | C::PausedSyncS
                | C::PausedSyncT
                | C::Ahead
                | C::Behind
        )
    }
}

/// Seconds since 1970; absent: not known, or (the end) not yet, or by a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct PrimaryTimes {
    pub from_s: Option<u64>,
    pub until_s: Option<u64>,
}

/// What a handshake would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct VerdictStatus {
    /// `none`, `source`, `target`, `refused`.
    pub direction: String,
    /// What would be copied is between these.
    pub least_bytes: u64,
    pub most_bytes: u64,
    pub why: String,
}

/// Both nodes were written to while apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct SplitBrainStatus {
    pub local_changed_bytes: u64,
    pub peer_changed_bytes: u64,
    /// Was Primary when they parted.
    pub local_was_primary: bool,
    pub peer_was_primary: bool,
    /// Commands for this node, and for the peer.
    pub keep_local: [String; 2],
    pub keep_peer: [String; 2],
}

/// What runs on top of a resource, by the decision of VRRP and of the data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ServiceStatus {
    /// The vrrp_instance.
    pub instance: String,
    pub resource: String,
    /// `serves`, `idle`, `starting`, `stopping`.
    pub phase: String,
    /// The step under way.
    pub step: String,
    /// `MASTER`, `BACKUP`, `FAULT`, `INIT`, `DOUBT`.
    pub vrrp: String,
    pub is_standby: bool,
    /// Why it does not serve, while it does not.
    pub reason: String,
    /// The last decisions, the latest last.
    pub decisions: Vec<DecisionStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DecisionStatus {
    /// Seconds since 1970.
    pub at_s: u64,
    pub text: String,
}

/// A vrrp_instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct InstanceStatus {
    pub name: String,
    pub interface: String,
    /// `MASTER`, `BACKUP`, `FAULT`, `INIT`, `STOP`.
    pub state: String,
    pub priority: u8,
    /// The master that was heard last; empty: none.
    pub master: String,
    /// The virtual addresses are on this node.
    pub has_addresses: bool,
    pub adverts_received: u64,
    pub adverts_sent: u64,
    pub became_master: u64,
    pub rejected: u64,
}

/// Why clients wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct FrozenStatus {
    pub why: String,
    /// What ends it.
    pub until: String,
    pub for_s: u64,
}

/// A running or paused resync.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ResyncStatus {
    /// 0.0 ..= 1.0
    pub done_fraction: f64,
    pub left_bytes: u64,
    /// What was out of sync when it began.
    pub total_bytes: u64,
    /// Recent speed.
    pub rate_bytes_per_s: u64,
    /// `None` while the rate is not known or nothing moves.
    pub eta_s: Option<u64>,
    /// As target: blocks asked for, received, and written.
    pub requested_blocks: u64,
    pub received_blocks: u64,
    pub written_blocks: u64,
}

/// A comparison of both disks under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct VerifyStatus {
    /// 0.0 ..= 1.0
    pub done_fraction: f64,
    pub left_bytes: u64,
    pub total_bytes: u64,
    pub rate_bytes_per_s: u64,
    pub eta_s: Option<u64>,
    /// Found different so far.
    pub found_bytes: u64,
}

/// A comparison that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct VerifiedStatus {
    pub from_sector: u64,
    /// First sector that was not compared.
    pub to_sector: u64,
    pub found_bytes: u64,
    /// It reached where it should.
    pub complete: bool,
}

/// The counters of a DRBD device (behaviour.md 7.3): sizes in KiB, the rest plain counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Counters {
    /// Sent to the peer.
    pub ns: u64,
    /// Received from the peer.
    pub nr: u64,
    /// Written to the local disk.
    pub dw: u64,
    /// Read from the local disk.
    pub dr: u64,
    /// Activity log updates.
    pub al: u64,
    /// Bitmap updates.
    pub bm: u64,
    /// Local disk requests under way.
    pub lo: u64,
    /// Sent to the peer, not answered.
    pub pe: u64,
    /// Received from the peer, not answered.
    pub ua: u64,
    /// Client requests under way.
    pub ap: u64,
    /// Epochs.
    pub ep: u64,
    /// Write ordering: `f`, `d`, `n`.
    pub wo: String,
    /// Out of sync.
    pub oos: u64,
    /// 4 KiB blocks moved by resync since the resource came up, sent or received.
    pub resync_blocks_moved: u64,
    /// 4 KiB blocks of which csums-alg said that both have the same.
    pub resync_blocks_equal: u64,
}

/// Generation identifiers and flags, as `get-gi` prints them (behaviour.md 2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct GenerationStatus {
    #[serde(with = "hex")]
    pub current: u64,
    #[serde(with = "hex")]
    pub bitmap: u64,
    #[serde(with = "hex")]
    pub history_younger: u64,
    #[serde(with = "hex")]
    pub history_older: u64,
    pub consistent: bool,
    pub was_up_to_date: bool,
    pub primary: bool,
    pub connected: bool,
    pub full_sync: bool,
    pub peer_outdated: bool,
    pub crashed_primary: bool,
}

/// Where clients find the device, and who is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct NbdStatus {
    /// NBD URIs, `nbd://127.0.0.1:10809/r0`, `nbd+unix:///r0?socket=...`.
    pub uris: Vec<String>,
    pub clients: Vec<NbdClientStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct NbdClientStatus {
    /// Address of a TCP client; `pid N` of one on the unix socket.
    pub peer: String,
    pub since_s: u64,
    pub requests: u64,
    pub in_flight: u64,
    /// Of the requests: FLUSH, writes with FUA, and TRIM or WRITE_ZEROES.
    pub flushes: u64,
    pub fuas: u64,
    pub zeroes: u64,
    /// A connection of this machine's own block device.
    pub is_kernel: bool,
}

/// The device as a block device of this machine's kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct KernelDeviceStatus {
    /// `/dev/nbd0`; empty while there is none.
    pub path: String,
    /// The configured device, as far as it is a link to it.
    pub link: String,
    /// `attached`; `waiting` while nobody serves it and its requests wait; empty.
    pub state: String,
    pub sockets: u64,
    /// `mounted on /mnt`
    pub holders: Vec<String>,
    /// Why there is none, or something about it is not as it should be.
    pub reason: String,
    pub hint: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct NodeStatus {
    pub name: String,
    /// `ADDRESS:PORT`
    pub address: String,
}

/// What the daemon holds for work under way: all 0 while nothing happens, or something leaks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct HeldStatus {
    pub payloads: u64,
    pub requests: u64,
    pub disk_actions: u64,
    pub peer_writes: u64,
}

/// States by their names.
mod word {
    use serde::de::{Error, Unexpected};
    use serde::{Deserialize, Deserializer, Serializer};
    use twinblk_proto::state::{ConnectionState, DiskState, Role};

    pub trait Word: Copy + 'static {
        fn all() -> &'static [Self];
        fn name(self) -> &'static str;
    }

    macro_rules! words {
        ($($name:ident),+) => { $(
            impl Word for $name {
                fn all() -> &'static [Self] { Self::ALL }
                fn name(self) -> &'static str { self.as_str() }
            }
        )+ };
    }
    words!(Role, ConnectionState, DiskState);

    pub fn serialize<W: Word, S: Serializer>(value: &W, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.name())
    }

    pub fn deserialize<'de, W: Word, D: Deserializer<'de>>(deserializer: D) -> Result<W, D::Error> {
        let text = String::deserialize(deserializer)?;
        W::all()
            .iter()
            .copied()
            .find(|word| word.name() == text)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &"the name of a state"))
    }
}

/// Identifiers of 64 bits as 16 hexadecimal digits: JSON numbers lose bits in many readers.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:016X}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_the_socket() {
        let mut status = ResourceStatus { name: "r0".to_owned(), ..ResourceStatus::default() };
        status.role = Role::Primary;
        status.connection = ConnectionState::WFConnection;
        status.generations.current = 0xF328_C701_0133_DB93;
        status.resync = Some(ResyncStatus { done_fraction: 0.25, ..ResyncStatus::default() });
        let text = serde_json::to_string(&status).expect("serializable");
        assert!(text.contains(r#""role":"Primary""#), "{text}");
        assert!(text.contains(r#""current":"F328C7010133DB93""#), "{text}");
        assert_eq!(serde_json::from_str::<ResourceStatus>(&text).expect("readable"), status);
    }

    #[test]
    fn a_status_of_an_older_daemon_is_read_with_defaults() {
        let status: ResourceStatus =
            serde_json::from_str(r#"{"name":"r0","disk":"UpToDate"}"#).expect("readable");
        assert_eq!(status.disk, DiskState::UpToDate);
        assert_eq!(status.connection, ConnectionState::StandAlone);
        assert!(serde_json::from_str::<ResourceStatus>(r#"{"disk":"Shiny"}"#).is_err());
    }
}
