//! What one node has to know of a resource: everything inherited, every default filled in, "me" and
//! "the peer" told apart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use twinblk_proto::packet::{ReplicationProtocol, SplitBrainPolicy};

use super::model::{AddressFamily, Host, HostKind, Resource, Volume};
use super::options::{Kind, Layers, Network, OptionSet, Section, Value};

/// The fewest activity log slots that DRBD 8.4 works with; older files name fewer.
const AL_EXTENTS_MIN: u32 = 67;

/// One resource as one node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    pub resource: String,
    /// `file:line`
    pub defined_at: String,
    pub me: Endpoint,
    pub peer: Endpoint,
    pub net: NetOptions,
    pub disk: DiskOptions,
    pub options: ResourceOptions,
    pub startup: StartupOptions,
    /// Command lines by the name of the event.
    pub handlers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub host: String,
    pub address: SocketAddr,
    /// `/dev/drbd0`
    pub device: String,
    pub minor: u32,
    pub disk: PathBuf,
    pub meta_disk: MetaDiskPlace,
    pub nbd: NbdListen,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaDiskPlace {
    Internal,
    External(PathBuf),
    Indexed(PathBuf, u32),
}

/// Where clients are served. Nothing set: on a socket in the run directory only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdListen {
    pub listen: Vec<SocketAddr>,
    pub unix: Option<PathBuf>,
    /// Who may come over TCP; empty: everybody.
    pub allow: Vec<Network>,
    /// A primary makes the device a block device of its own kernel.
    pub attach: bool,
}

impl Default for NbdListen {
    fn default() -> Self {
        Self { listen: Vec::new(), unix: None, allow: Vec::new(), attach: true }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetOptions {
    pub protocol: ReplicationProtocol,
    /// 0.1 s
    pub timeout: u32,
    pub connect_int_s: u32,
    pub ping_int_s: u32,
    /// 0.1 s
    pub ping_timeout: u32,
    /// 0.1 s; 0 = `ping_timeout`
    pub socket_check_timeout: u32,
    pub ko_count: u32,
    pub max_buffers: u32,
    pub max_epoch_size: u32,
    /// 0 = the system's automatic size.
    pub sndbuf_bytes: u32,
    pub rcvbuf_bytes: u32,
    pub allow_two_primaries: bool,
    /// Of the HMAC; `None`: peers are not authenticated.
    pub cram_hmac_alg: Option<String>,
    pub shared_secret: String,
    pub after_sb_0pri: SplitBrainPolicy,
    pub after_sb_1pri: SplitBrainPolicy,
    pub after_sb_2pri: SplitBrainPolicy,
    pub always_asbp: bool,
    pub rr_conflict: RoleConflict,
    pub data_integrity_alg: Option<String>,
    pub verify_alg: Option<String>,
    pub csums_alg: Option<String>,
    pub csums_after_crash_only: bool,
    pub use_rle: bool,
    pub on_congestion: Congestion,
    /// 0 = not looked at.
    pub congestion_fill_sectors: u32,
    pub congestion_extents: u32,
}

/// `on-congestion`: what protocol A does when the peer does not keep up (behaviour.md 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    Block,
    PullAhead,
    Disconnect,
}

/// `rr-conflict`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleConflict {
    Disconnect,
    CallPriLost,
    Violently,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    pub on_io_error: OnIoError,
    pub fencing: Fencing,
    /// 0 = as large as both disks allow.
    pub size_sectors: u64,
    pub disk_flushes: bool,
    pub resync_rate_kib_per_s: u32,
    pub resync_rate_is_set: bool,
    pub resync_after: Option<String>,
    pub al_extents: u32,
    pub al_updates: bool,
    /// 0.1 s
    pub c_plan_ahead: u32,
    /// 0.1 s
    pub c_delay_target: u32,
    pub c_fill_target_sectors: u32,
    pub c_max_rate_kib_per_s: u32,
    pub c_max_rate_is_set: bool,
    pub c_min_rate_kib_per_s: u32,
    /// 0.1 s; 0 = off
    pub disk_timeout: u32,
    /// 0 = off
    pub rs_discard_granularity_bytes: u32,
    pub discard_zeroes_if_aligned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnIoError {
    Detach,
    PassOn,
    CallLocalIoError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fencing {
    DontCare,
    ResourceOnly,
    ResourceAndStonith,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceOptions {
    pub backend: Backend,
    pub on_no_data_accessible: OnNoData,
    pub takeover: Takeover,
}

/// What a node may do without its peer (DESIGN.md 6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Takeover {
    /// Whatever `fencing` and its handlers say: without them both nodes may go on.
    #[default]
    Both,
    /// A Primary goes on, a Secondary waits for the operator.
    FavourPrimary,
    /// Who is granted it by the witness at `HOST:PORT`.
    Witness(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Auto,
    IoUring,
    Threads,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNoData {
    IoError,
    SuspendIo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupOptions {
    /// Seconds; 0 = no limit of its own.
    pub wfc_timeout_s: u32,
    pub degr_wfc_timeout_s: u32,
    pub outdated_wfc_timeout_s: u32,
    pub wait_after_sb: bool,
    pub become_primary_on: Vec<String>,
}

/// Why a resource of the file is not one that this node can run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The original's words; scripts look for them.
    #[error("'{resource}' not defined in your config (for this host).")]
    NotForThisHost { resource: String, node: String, hosts: String },
    #[error("{resource}: {what} not supported yet ({defined_at})")]
    NotSupported { resource: String, what: String, defined_at: String },
    #[error("{resource}: only '{node}' is in it; a second 'on' section is missing ({defined_at})")]
    NoPeer { resource: String, node: String, defined_at: String },
    #[error("{resource}: this machine has the addresses of both 'floating' hosts ({defined_at})")]
    Ambiguous { resource: String, defined_at: String },
}

impl ConfigError {
    /// What it means here, and what to try.
    pub fn hint(&self) -> String {
        match self {
            Self::NotForThisHost { node, hosts, .. } => {
                format!(
                    "this node is '{node}', the resource is for {hosts}; --node NAME names another"
                )
            }
            Self::NotSupported { .. } => "describe two hosts with one volume each".to_owned(),
            Self::Ambiguous { .. } => "say which one this node is: --node ADDRESS".to_owned(),
            Self::NoPeer { .. } => "add: on HOST { address ADDRESS:PORT; ... }".to_owned(),
        }
    }
}

impl Resource {
    /// What the node of that name needs to run the resource.
    pub fn for_node(&self, node: &str) -> Result<NodeView, ConfigError> {
        let not_supported = |what: &str| ConfigError::NotSupported {
            resource: self.name.clone(),
            what: what.to_owned(),
            defined_at: self.defined_at.clone(),
        };
        if self.hosts.iter().any(|host| host.kind == HostKind::Stacked) {
            return Err(not_supported("stacked resources are"));
        }
        let mine: Vec<&Host> = self.hosts.iter().filter(|host| host.is_on(node)).collect();
        let me = match mine[..] {
            [me] => me,
            [] => return Err(self.not_for(node)),
            // Names are there once: these are floating, and --node ADDRESS tells them apart.
            _ => {
                return Err(ConfigError::Ambiguous {
                    resource: self.name.clone(),
                    defined_at: self.defined_at.clone(),
                });
            }
        };
        let mut others = self.hosts.iter().filter(|&host| !std::ptr::eq(host, me));
        let peer = match (others.next(), others.next()) {
            (Some(peer), None) => peer,
            (Some(_), Some(_)) => return Err(not_supported("more than two hosts are")),
            (None, _) => {
                return Err(ConfigError::NoPeer {
                    resource: self.name.clone(),
                    node: node.to_owned(),
                    defined_at: self.defined_at.clone(),
                });
            }
        };
        let my_volumes = self.volumes_of(me);
        let Some(volume) = my_volumes.get(&0).filter(|_| my_volumes.len() == 1) else {
            let what = match my_volumes.len() {
                1 => "a volume with a number other than 0 is",
                _ => "more than one volume is",
            };
            return Err(not_supported(what));
        };
        let peer_volumes = self.volumes_of(peer);
        let peer_volume = peer_volumes
            .get(&0)
            .filter(|_| peer_volumes.len() == 1)
            .ok_or_else(|| not_supported("a peer with other volumes is"))?;
        let layers = Layers(vec![&self.common, &self.options, &me.options, &volume.options]);
        let peer_layers =
            Layers(vec![&self.common, &self.options, &peer.options, &peer_volume.options]);
        let me = self.endpoint(me, node, volume, &layers).map_err(|what| not_supported(&what))?;
        let peer = self
            .endpoint(peer, &peer.name(), peer_volume, &peer_layers)
            .map_err(|what| not_supported(&what))?;
        Ok(NodeView {
            resource: self.name.clone(),
            defined_at: self.defined_at.clone(),
            net: net_options(&layers, node),
            disk: disk_options(&layers),
            options: resource_options(&layers),
            startup: startup_options(&layers),
            handlers: handlers(&layers),
            me,
            peer,
        })
    }

    /// Whether the resource has a part on that node.
    pub fn is_for(&self, node: &str) -> bool {
        self.hosts.iter().any(|host| host.is_on(node))
    }

    fn not_for(&self, node: &str) -> ConfigError {
        let names = |host: &Host| match host.kind {
            HostKind::Floating => vec![host.name()],
            _ => host.names.clone(),
        };
        let names: Vec<String> = self.hosts.iter().flat_map(names).collect();
        ConfigError::NotForThisHost {
            resource: self.name.clone(),
            node: node.to_owned(),
            hosts: names.join(" and "),
        }
    }

    /// The checks of the load made sure that everything is there; what is not supported is named.
    fn endpoint(
        &self,
        host: &Host,
        name: &str,
        volume: &Volume,
        layers: &Layers<'_>,
    ) -> Result<Endpoint, String> {
        let missing = |what: &str| format!("'{}' without {what} is", host.title());
        let address = host.address.as_ref().ok_or_else(|| missing("an address"))?.value;
        if !matches!(address.family, AddressFamily::Ipv4 | AddressFamily::Ipv6) {
            return Err(format!("the address family {} is", address.family.name()));
        }
        let device = &volume.device.as_ref().ok_or_else(|| missing("a device"))?.value;
        let disk = &volume.disk.as_ref().ok_or_else(|| missing("a disk"))?.value;
        if disk.written == "none" {
            return Err("a node without a disk is".to_owned());
        }
        let meta_disk = match volume.meta_disk.as_ref().map(|placed| &placed.value) {
            None | Some(super::model::MetaDisk::Internal) => MetaDiskPlace::Internal,
            Some(super::model::MetaDisk::External(path)) => {
                MetaDiskPlace::External(path.absolute.clone())
            }
            Some(super::model::MetaDisk::Indexed(path, index)) => {
                MetaDiskPlace::Indexed(path.absolute.clone(), *index)
            }
        };
        Ok(Endpoint {
            host: name.to_owned(),
            address: address.socket,
            device: device.path(),
            minor: device.minor,
            disk: disk.absolute.clone(),
            meta_disk,
            nbd: nbd_listen(layers),
        })
    }
}

fn nbd_listen(layers: &Layers<'_>) -> NbdListen {
    let address = |value: &Value| match value {
        Value::Address(address) => Some(*address),
        _ => None,
    };
    let network = |value: &Value| match value {
        Value::Network(network) => Some(*network),
        _ => None,
    };
    let listen = layers.all(Section::Nbd, "listen");
    let allow = layers.all(Section::Nbd, "allow");
    NbdListen {
        listen: listen.into_iter().filter_map(|setting| address(&setting.value)).collect(),
        unix: layers.text(Section::Nbd, "unix").map(PathBuf::from),
        allow: allow.into_iter().filter_map(|setting| network(&setting.value)).collect(),
        attach: layers.flag(Section::Nbd, "attach"),
    }
}

/// The table's ranges are all within 32 bits.
fn small(layers: &Layers<'_>, section: Section, name: &str) -> u32 {
    u32::try_from(layers.number(section, name)).unwrap_or(u32::MAX)
}

fn net_options(layers: &Layers<'_>, node: &str) -> NetOptions {
    let number = |name| small(layers, Section::Net, name);
    let flag = |name| layers.flag(Section::Net, name);
    let text = |name| layers.text(Section::Net, name);
    let policy = |name| split_brain_policy(text(name).unwrap_or("disconnect"), node);
    NetOptions {
        protocol: match text("protocol") {
            Some("A") => ReplicationProtocol::A,
            Some("B") => ReplicationProtocol::B,
            _ => ReplicationProtocol::C,
        },
        timeout: number("timeout"),
        connect_int_s: number("connect-int"),
        ping_int_s: number("ping-int"),
        ping_timeout: number("ping-timeout"),
        socket_check_timeout: number("socket-check-timeout"),
        ko_count: number("ko-count"),
        max_buffers: number("max-buffers"),
        max_epoch_size: number("max-epoch-size"),
        sndbuf_bytes: number("sndbuf-size"),
        rcvbuf_bytes: number("rcvbuf-size"),
        allow_two_primaries: flag("allow-two-primaries"),
        cram_hmac_alg: text("cram-hmac-alg").map(str::to_owned),
        shared_secret: text("shared-secret").unwrap_or_default().to_owned(),
        after_sb_0pri: policy("after-sb-0pri"),
        after_sb_1pri: policy("after-sb-1pri"),
        after_sb_2pri: policy("after-sb-2pri"),
        always_asbp: flag("always-asbp"),
        rr_conflict: match text("rr-conflict") {
            Some("call-pri-lost") => RoleConflict::CallPriLost,
            Some("violently") => RoleConflict::Violently,
            _ => RoleConflict::Disconnect,
        },
        data_integrity_alg: text("data-integrity-alg").map(str::to_owned),
        verify_alg: text("verify-alg").map(str::to_owned),
        csums_alg: text("csums-alg").map(str::to_owned),
        csums_after_crash_only: flag("csums-after-crash-only"),
        use_rle: flag("use-rle"),
        on_congestion: match text("on-congestion") {
            Some("pull-ahead") => Congestion::PullAhead,
            Some("disconnect") => Congestion::Disconnect,
            _ => Congestion::Block,
        },
        congestion_fill_sectors: number("congestion-fill"),
        congestion_extents: number("congestion-extents"),
    }
}

/// `discard-node-NAME` is local on the node of that name and remote on the other (behaviour.md 6).
fn split_brain_policy(word: &str, node: &str) -> SplitBrainPolicy {
    use SplitBrainPolicy as P;
    match word {
        "discard-younger-primary" => P::DiscardYoungerPrimary,
        "discard-older-primary" => P::DiscardOlderPrimary,
        "discard-zero-changes" => P::DiscardZeroChanges,
        "discard-least-changes" => P::DiscardLeastChanges,
        "discard-local" => P::DiscardLocal,
        "discard-remote" => P::DiscardRemote,
        "consensus" => P::Consensus,
        "discard-secondary" => P::DiscardSecondary,
        "call-pri-lost-after-sb" => P::CallPriLost,
        "violently-as0p" => P::Violently,
        other => match other.strip_prefix("discard-node-") {
            Some(name) if name == node => P::DiscardLocal,
            Some(_) => P::DiscardRemote,
            None => P::Disconnect,
        },
    }
}

fn disk_options(layers: &Layers<'_>) -> DiskOptions {
    let number = |name| small(layers, Section::Disk, name);
    let flag = |name| layers.flag(Section::Disk, name);
    let text = |name| layers.text(Section::Disk, name);
    DiskOptions {
        on_io_error: match text("on-io-error") {
            Some("pass_on") => OnIoError::PassOn,
            Some("call-local-io-error") => OnIoError::CallLocalIoError,
            _ => OnIoError::Detach,
        },
        fencing: match text("fencing") {
            Some("resource-only") => Fencing::ResourceOnly,
            Some("resource-and-stonith") => Fencing::ResourceAndStonith,
            _ => Fencing::DontCare,
        },
        size_sectors: layers.number(Section::Disk, "size"),
        disk_flushes: flag("disk-flushes"),
        resync_rate_kib_per_s: number("resync-rate"),
        resync_rate_is_set: layers.get(Section::Disk, "resync-rate").is_some(),
        resync_after: text("resync-after").map(str::to_owned),
        al_extents: number("al-extents").max(AL_EXTENTS_MIN),
        al_updates: flag("al-updates"),
        c_plan_ahead: number("c-plan-ahead"),
        c_delay_target: number("c-delay-target"),
        c_fill_target_sectors: number("c-fill-target"),
        c_max_rate_kib_per_s: number("c-max-rate"),
        c_max_rate_is_set: layers.get(Section::Disk, "c-max-rate").is_some(),
        c_min_rate_kib_per_s: number("c-min-rate"),
        disk_timeout: number("disk-timeout"),
        rs_discard_granularity_bytes: number("rs-discard-granularity"),
        discard_zeroes_if_aligned: flag("discard-zeroes-if-aligned"),
    }
}

fn resource_options(layers: &Layers<'_>) -> ResourceOptions {
    ResourceOptions {
        backend: match layers.text(Section::Options, "backend") {
            Some("io_uring") => Backend::IoUring,
            Some("threads") => Backend::Threads,
            _ => Backend::Auto,
        },
        on_no_data_accessible: match layers.text(Section::Options, "on-no-data-accessible") {
            Some("suspend-io") => OnNoData::SuspendIo,
            _ => OnNoData::IoError,
        },
        takeover: takeover(layers),
    }
}

/// What the configuration has checked is one of three.
fn takeover(layers: &Layers<'_>) -> Takeover {
    let setting = layers.get(Section::Options, "takeover").map(|setting| &setting.value);
    match setting {
        Some(Value::Words(words)) => match words.as_slice() {
            [_, address] => Takeover::Witness(address.clone()),
            [word] if word == "favour-primary" => Takeover::FavourPrimary,
            _ => Takeover::Both,
        },
        _ => Takeover::Both,
    }
}

fn startup_options(layers: &Layers<'_>) -> StartupOptions {
    let number = |name| small(layers, Section::Startup, name);
    let become_primary_on = layers.get(Section::Startup, "become-primary-on");
    StartupOptions {
        wfc_timeout_s: number("wfc-timeout"),
        degr_wfc_timeout_s: number("degr-wfc-timeout"),
        outdated_wfc_timeout_s: number("outdated-wfc-timeout"),
        wait_after_sb: layers.flag(Section::Startup, "wait-after-sb"),
        become_primary_on: match become_primary_on.map(|setting| &setting.value) {
            Some(Value::Words(names)) => names.clone(),
            _ => Vec::new(),
        },
    }
}

fn handlers(layers: &Layers<'_>) -> BTreeMap<String, String> {
    let of = |set: &&OptionSet| -> Vec<(String, String)> {
        set.of(Section::Handlers)
            .filter(|setting| matches!(setting.spec.kind, Kind::Text { .. }))
            .map(|setting| (setting.spec.name.to_owned(), setting.written.clone()))
            .collect()
    };
    layers.0.iter().flat_map(of).collect()
}
