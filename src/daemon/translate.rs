//! From drbd.conf to what the parts of a resource are told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use twinblk_proto::digest::Algorithm;

use super::listeners::Place;
use super::options::DaemonOptions;
use crate::config::view;
use crate::config::{self, NodeView};
use crate::control::Outcome;
use crate::control::outcome::exit;
use crate::disk::{BackendChoice, DirectIo, DiskOptions, Sharing};
use crate::driver::{BackingPlace, HandlerPlan, ResourceSetup, SizeNote, Takeover};
use crate::engine::event::{
    FencingPolicy, IoErrorPolicy, NoDataPolicy, RoleConflictPolicy, Settings,
};
use crate::engine::handler::Handler;
use crate::link::{Authentication, LinkSettings};
use crate::meta::Placement;
use crate::nbd::allow::Network;
use crate::witness::Cluster;
use crate::witness::client::Witness;

/// What fits into the activity log of 32 KiB that all metadata has at least (metadata.md 4): seven
/// turns of 919 slots.
const LOG_SLOTS_MAX: u32 = 7 * 919;

/// A frozen Primary asks its witness this often: the question takes up to 3 s.
const FENCE_AGAIN_MS: u64 = 2000;

/// What is needed to start a resource.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub view: NodeView,
    pub setup: ResourceSetup,
    /// Where NBD clients are served.
    pub places: Vec<Place>,
    /// Who may come over TCP; empty: everybody.
    pub allow: Vec<Network>,
}

/// Reads the configuration anew and translates one resource.
pub(super) fn plan(options: &DaemonOptions, name: &str, polling: bool) -> Result<Plan, Outcome> {
    let config = config::load(&options.config)
        .map_err(|diagnostics| Outcome::failed(exit::FAILURE, diagnostics.to_string()))?;
    let Some(resource) = config.resource(name) else {
        let message = format!("'{name}' not defined in your config (for this host).");
        return Err(Outcome::failed(exit::USAGE, message)
            .with_detail(format!("{} has no such resource", options.config.display())));
    };
    let view = resource
        .for_node(&options.node)
        .map_err(|error| Outcome::failed(exit::USAGE, error.to_string()).with_hint(error.hint()))?;
    let link = link_settings(&view)?;
    let handlers = handler_plan(options, &view)?;
    let setup = ResourceSetup {
        name: name.to_owned(),
        engine: Settings { handlers: handlers.configured(), ..engine_settings(&view) },
        link,
        backing: BackingPlace {
            size_note: Some(SizeNote::of(&options.run_dir, name)),
            ..backing_place(&view)
        },
        handlers,
        peer_host: view.peer.host.clone(),
        peer_uris: uris(name, &view.peer.nbd.listen, None),
        roles_file: Some(options.run_dir.join(format!("{name}.roles"))),
        polling,
    };
    let mut places: Vec<Place> = view.me.nbd.listen.iter().copied().map(Place::Tcp).collect();
    places.push(Place::Unix(own_socket(&options.run_dir, name)));
    places.extend(view.me.nbd.unix.clone().map(Place::Unix));
    places.sort();
    places.dedup();
    let allow = networks(&view);
    Ok(Plan { view, setup, places, allow })
}

/// The same networks in the words of the listeners; the configuration has checked them.
fn networks(view: &NodeView) -> Vec<Network> {
    let parse = |network: &config::Network| network.to_string().parse().ok();
    let networks: Vec<Network> = view.me.nbd.allow.iter().filter_map(parse).collect();
    assert_eq!(networks.len(), view.me.nbd.allow.len(), "nobody may drop out of a list of guards");
    networks
}

/// The socket that every resource has.
fn own_socket(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.nbd"))
}

/// NBD URIs of an export.
pub(super) fn uris(
    name: &str,
    listen: &[std::net::SocketAddr],
    socket: Option<&Path>,
) -> Vec<String> {
    let over_tcp = listen.iter().map(|address| format!("nbd://{address}/{name}"));
    let over_unix = socket.map(|path| format!("nbd+unix:///{name}?socket={}", path.display()));
    over_tcp.chain(over_unix).collect()
}

impl Plan {
    /// NBD URIs of this node.
    pub(super) fn uris(&self) -> Vec<String> {
        let name = &self.setup.name;
        let own = self.places.iter().map(|place| match place {
            Place::Tcp(address) => uris(name, &[*address], None),
            Place::Unix(path) => uris(name, &[], Some(path)),
        });
        own.flatten().collect()
    }
}

fn engine_settings(view: &NodeView) -> Settings {
    let (net, disk) = (&view.net, &view.disk);
    let name = |algorithm: &Option<String>| algorithm.clone().unwrap_or_default();
    let takes_over = view.options.takeover != view::Takeover::Both;
    Settings {
        protocol: net.protocol,
        after_sb_0pri: net.after_sb_0pri,
        after_sb_1pri: net.after_sb_1pri,
        after_sb_2pri: net.after_sb_2pri,
        always_asbp: net.always_asbp,
        rr_conflict: match net.rr_conflict {
            view::RoleConflict::Disconnect => RoleConflictPolicy::Disconnect,
            view::RoleConflict::CallPriLost => RoleConflictPolicy::CallPriLost,
            view::RoleConflict::Violently => RoleConflictPolicy::Violently,
        },
        integrity_alg: name(&net.data_integrity_alg),
        verify_alg: name(&net.verify_alg),
        csums_alg: name(&net.csums_alg),
        csums_after_crash_only: net.csums_after_crash_only,
        timeout: net.timeout,
        ping_interval_s: net.ping_int_s,
        ping_timeout: net.ping_timeout,
        ko_count: net.ko_count,
        max_buffers: net.max_buffers,
        max_epoch_size: net.max_epoch_size,
        use_rle: net.use_rle,
        on_io_error: match disk.on_io_error {
            view::OnIoError::PassOn => IoErrorPolicy::PassOn,
            view::OnIoError::Detach => IoErrorPolicy::Detach,
            view::OnIoError::CallLocalIoError => IoErrorPolicy::CallHandler,
        },
        on_no_data: match view.options.on_no_data_accessible {
            view::OnNoData::IoError => NoDataPolicy::IoError,
            view::OnNoData::SuspendIo => NoDataPolicy::SuspendIo,
        },
        fencing: match disk.fencing {
            // Frozen until the policy has spoken.
            _ if takes_over => FencingPolicy::ResourceAndStonith,
            view::Fencing::DontCare => FencingPolicy::DontCare,
            view::Fencing::ResourceOnly => FencingPolicy::ResourceOnly,
            view::Fencing::ResourceAndStonith => FencingPolicy::ResourceAndStonith,
        },
        fence_again_ms: if takes_over { FENCE_AGAIN_MS } else { 0 },
        disk_timeout: disk.disk_timeout,
        user_sectors: disk.size_sectors,
        al_extents: disk.al_extents.min(LOG_SLOTS_MAX),
        disk_flushes: disk.disk_flushes,
        resync_rate: disk.resync_rate_kib_per_s,
        c_plan_ahead: disk.c_plan_ahead,
        c_delay_target: disk.c_delay_target,
        c_fill_target: disk.c_fill_target_sectors,
        c_max_rate: disk.c_max_rate_kib_per_s,
        c_max_rate_limits: disk.c_max_rate_is_set,
        c_min_rate: disk.c_min_rate_kib_per_s,
        ..Settings::default()
    }
}

/// The handlers of this node with DRBD's variables (behaviour.md 6). Those of the resource would be
/// lists with more than one volume.
fn handler_plan(options: &DaemonOptions, view: &NodeView) -> Result<HandlerPlan, Outcome> {
    let commands = view.handlers.iter().filter_map(|(name, command)| {
        Handler::from_name(name).map(|handler| (handler, command.clone()))
    });
    let (me, peer) = (&view.me, &view.peer);
    let family = if peer.address.is_ipv4() { "ipv4" } else { "ipv6" };
    let variables = [
        ("DRBD_RESOURCE", view.resource.clone()),
        ("DRBD_MINOR", me.minor.to_string()),
        ("DRBD_VOLUME", "0".to_owned()),
        ("DRBD_LL_DISK", me.disk.display().to_string()),
        ("DRBD_CONF", options.config.display().to_string()),
        ("DRBD_NODENAME", me.host.clone()),
        ("DRBD_PEER_AF", family.to_owned()),
        ("DRBD_PEER_ADDRESS", peer.address.ip().to_string()),
        ("DRBD_PEER", peer.host.clone()),
        ("DRBD_PEERS", peer.host.clone()),
    ];
    Ok(HandlerPlan {
        commands: commands.collect(),
        environment: variables.map(|(name, value)| (name.to_owned(), value)).into(),
        takeover: takeover(view)?,
    })
}

fn takeover(view: &NodeView) -> Result<Takeover, Outcome> {
    Ok(match &view.options.takeover {
        view::Takeover::Both => Takeover::Both,
        view::Takeover::FavourPrimary => Takeover::FavourPrimary,
        view::Takeover::Witness(address) => {
            let (me, peer) = (&view.me.host, &view.peer.host);
            let cluster = Cluster::new(&view.resource, me, peer).map_err(|error| {
                Outcome::failed(exit::FAILURE, format!("takeover witness: {error}"))
            })?;
            Takeover::Witness(Witness { address: address.clone(), cluster, node: me.clone() })
        }
    })
}

fn link_settings(view: &NodeView) -> Result<LinkSettings, Outcome> {
    let net = &view.net;
    let tenths = |value: u32| Duration::from_millis(u64::from(value) * 100);
    let mut link = LinkSettings::new(view.me.address, view.peer.address);
    link.connect_interval = Duration::from_secs(u64::from(net.connect_int_s));
    link.ping_timeout = tenths(net.ping_timeout);
    link.socket_check = match net.socket_check_timeout {
        0 => tenths(net.ping_timeout),
        value => tenths(value),
    };
    link.send_timeout = tenths(net.timeout);
    link.ko_count = net.ko_count;
    link.send_buffer_bytes = net.sndbuf_bytes as usize;
    link.receive_buffer_bytes = net.rcvbuf_bytes as usize;
    link.authentication = match &net.cram_hmac_alg {
        None => None,
        Some(name) => {
            let algorithm = Algorithm::from_name(name).ok_or_else(|| {
                Outcome::refused(
                    &view.resource,
                    120,
                    "Can not use the specified cram-hmac-alg.",
                    &format!("cram-hmac-alg {name} is not known to this program"),
                    "choose sha256, sha1 or md5, the same on both nodes",
                )
            })?;
            Some(Authentication { algorithm, secret: net.shared_secret.clone() })
        }
    };
    Ok(link)
}

fn backing_place(view: &NodeView) -> BackingPlace {
    let (metadata, placement) = match &view.me.meta_disk {
        view::MetaDiskPlace::Internal => (None, Placement::Internal),
        view::MetaDiskPlace::External(path) => (Some(path.clone()), Placement::FlexibleExternal),
        view::MetaDiskPlace::Indexed(path, index) => {
            (Some(path.clone()), Placement::Indexed(*index))
        }
    };
    let backend = match view.options.backend {
        view::Backend::Auto => BackendChoice::Auto,
        view::Backend::IoUring => BackendChoice::IoUring,
        view::Backend::Threads => BackendChoice::Threads,
    };
    BackingPlace {
        data: view.me.disk.clone(),
        metadata,
        placement,
        options: DiskOptions { backend, direct: DirectIo::Auto, sharing: Sharing::Exclusive },
        size_note: None,
    }
}
