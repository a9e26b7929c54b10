//! Answers in JSON. The status has the keys of `drbdsetup status --json` (behaviour.md 7.5), so that
//! exporters and modules that read those read this; what is ours comes behind them.

use serde::Serialize;
use serde_json::{Value, json};
use twinblk_proto::state::ConnectionState;

use crate::config::options::{OptionSet, Section, Value as OptionValue};
use crate::config::{Config, Host, MetaDisk, Resource};
use crate::control::ResourceStatus;
use crate::control::status::{
    Counters, GenerationStatus, InstanceStatus, KernelDeviceStatus, NbdStatus, NodeStatus,
    PrimaryTimes, ResyncStatus, ServiceStatus, SplitBrainStatus, VerifiedStatus, VerifyStatus,
};

/// What DRBD prints when it does not know how long it will take.
const ETA_UNKNOWN_S: u64 = 987_654_321;

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct StatusEntry<'a> {
    name: &'a str,
    node_id: u32,
    role: &'static str,
    suspended: bool,
    suspended_user: bool,
    suspended_no_data: bool,
    suspended_fencing: bool,
    suspended_quorum: bool,
    write_ordering: &'static str,
    devices: [DeviceEntry<'a>; 1],
    connections: [ConnectionEntry<'a>; 1],
    connection_state: &'static str,
    protocol: &'a str,
    reason: &'a str,
    hint: &'a str,
    counters: &'a Counters,
    generations: &'a GenerationStatus,
    peer_generations: &'a Option<GenerationStatus>,
    resync: &'a Option<ResyncStatus>,
    verify: &'a Option<VerifyStatus>,
    verified: &'a Option<VerifiedStatus>,
    nbd: &'a NbdStatus,
    last_primary: &'a PrimaryTimes,
    split_brain: &'a Option<SplitBrainStatus>,
    kernel_device: &'a KernelDeviceStatus,
    service: &'a Option<ServiceStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct DeviceEntry<'a> {
    volume: u32,
    minor: u32,
    disk_state: &'static str,
    client: bool,
    open: bool,
    quorum: bool,
    /// KiB, as everything in this object.
    size: u64,
    read: u64,
    written: u64,
    al_writes: u64,
    bm_writes: u64,
    upper_pending: u64,
    lower_pending: u64,
    device: &'a str,
    backing_dev: &'a str,
    backend: &'a str,
    direct_io: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ConnectionEntry<'a> {
    peer_node_id: u32,
    name: &'a str,
    connection_state: &'static str,
    congested: bool,
    peer_role: &'static str,
    tls: bool,
    ap_in_flight: u64,
    rs_in_flight: u64,
    paths: [PathEntry; 1],
    #[serde(rename = "peer_devices")]
    peer_devices: [PeerDeviceEntry; 1],
}

#[derive(Serialize)]
struct PathEntry {
    this_host: AddressEntry,
    remote_host: AddressEntry,
    established: bool,
}

#[derive(Serialize)]
struct AddressEntry {
    address: String,
    port: u16,
    family: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct PeerDeviceEntry {
    volume: u32,
    replication_state: &'static str,
    peer_disk_state: &'static str,
    peer_client: bool,
    resync_suspended: String,
    received: u64,
    sent: u64,
    out_of_sync: u64,
    pending: u64,
    unacked: u64,
    has_sync_details: bool,
    has_online_verify_details: bool,
    percent_in_sync: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent_resync_done: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_seconds_to_finish: Option<u64>,
    #[serde(rename = "db/dt [MiB/s]", skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
}

/// The array of `status --json`.
pub(super) fn statuses(statuses: &[ResourceStatus]) -> String {
    let entries: Vec<StatusEntry<'_>> = statuses.iter().map(status).collect();
    serde_json::to_string_pretty(&entries).unwrap_or_default() + "\n"
}

pub(super) fn instances(instances: &[InstanceStatus]) -> String {
    serde_json::to_string_pretty(instances).unwrap_or_default() + "\n"
}

/// The same on one line, for a stream of them.
pub(super) fn statuses_line(statuses: &[ResourceStatus]) -> String {
    let entries: Vec<StatusEntry<'_>> = statuses.iter().map(status).collect();
    serde_json::to_string(&entries).unwrap_or_default() + "\n"
}

fn status(status: &ResourceStatus) -> StatusEntry<'_> {
    let counters = &status.counters;
    StatusEntry {
        name: &status.name,
        node_id: 0,
        role: status.role.as_str(),
        suspended: status.is_suspended(),
        suspended_user: status.suspended_user,
        suspended_no_data: status.suspended_no_data,
        suspended_fencing: status.suspended_fencing,
        suspended_quorum: false,
        write_ordering: match counters.wo.as_str() {
            "d" => "drain",
            "n" => "none",
            _ => "flush",
        },
        devices: [DeviceEntry {
            volume: 0,
            minor: status.minor,
            disk_state: status.disk.as_str(),
            client: false,
            open: status.is_open(),
            quorum: true,
            size: status.size_bytes / 1024,
            read: counters.dr,
            written: counters.dw,
            al_writes: counters.al,
            bm_writes: counters.bm,
            upper_pending: counters.ap,
            lower_pending: counters.lo,
            device: &status.device,
            backing_dev: &status.backing_disk,
            backend: &status.backend,
            direct_io: status.direct_io,
        }],
        connections: [connection(status)],
        connection_state: status.connection.as_str(),
        protocol: &status.protocol,
        reason: &status.reason,
        hint: &status.hint,
        counters,
        generations: &status.generations,
        peer_generations: &status.peer_generations,
        resync: &status.resync,
        verify: &status.verify,
        verified: &status.verified,
        nbd: &status.nbd,
        last_primary: &status.last_primary,
        split_brain: &status.split_brain,
        kernel_device: &status.kernel_device,
        service: &status.service,
    }
}

fn connection(status: &ResourceStatus) -> ConnectionEntry<'_> {
    let connected = status.connection >= ConnectionState::Connected;
    ConnectionEntry {
        peer_node_id: 1,
        name: &status.peer.name,
        // DRBD 9's split: what is beyond Connected is replication.
        connection_state: match status.connection {
            ConnectionState::WFConnection => "Connecting",
            _ if connected => "Connected",
            state => state.as_str(),
        },
        congested: false,
        peer_role: status.peer_role.as_str(),
        tls: false,
        ap_in_flight: status.counters.ap,
        rs_in_flight: 0,
        paths: [PathEntry {
            this_host: address(&status.local),
            remote_host: address(&status.peer),
            established: connected,
        }],
        peer_devices: [peer_device(status, connected)],
    }
}

fn address(node: &NodeStatus) -> AddressEntry {
    match node.address.parse::<std::net::SocketAddr>() {
        Ok(socket) => AddressEntry {
            address: socket.ip().to_string(),
            port: socket.port(),
            family: if socket.is_ipv4() { "ipv4" } else { "ipv6" },
        },
        Err(_) => AddressEntry { address: node.address.clone(), port: 0, family: "ipv4" },
    }
}

fn peer_device(status: &ResourceStatus, connected: bool) -> PeerDeviceEntry {
    let counters = &status.counters;
    let paused: Vec<&str> = [
        ("user", status.paused_user),
        ("peer", status.paused_peer),
        ("dependency", status.paused_dependency),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
    .collect();
    let in_sync = match status.size_bytes {
        0 => 0.0,
        size => 100.0 * (1.0 - status.out_of_sync_bytes as f64 / size as f64),
    };
    let resync = status.resync.as_ref();
    PeerDeviceEntry {
        volume: 0,
        replication_state: match status.connection {
            ConnectionState::Connected => "Established",
            _ if !connected => "Off",
            state => state.as_str(),
        },
        peer_disk_state: status.peer_disk.as_str(),
        peer_client: false,
        resync_suspended: if paused.is_empty() { "no".to_owned() } else { paused.join(",") },
        received: counters.nr,
        sent: counters.ns,
        out_of_sync: status.out_of_sync_bytes / 1024,
        pending: counters.pe,
        unacked: counters.ua,
        has_sync_details: resync.is_some(),
        has_online_verify_details: status.verify.is_some(),
        percent_in_sync: two_digits(in_sync),
        percent_resync_done: resync.map(|resync| two_digits(resync.done_fraction * 100.0)),
        estimated_seconds_to_finish: resync.map(|resync| resync.eta_s.unwrap_or(ETA_UNKNOWN_S)),
        rate: resync.map(|resync| two_digits(resync.rate_bytes_per_s as f64 / f64::from(1 << 20))),
    }
}

fn two_digits(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The configuration for `dump --json`.
pub(super) fn config(config: &Config, resources: &[Resource]) -> Value {
    let resources: Vec<Value> = resources.iter().map(resource).collect();
    json!({
        "file": config.path(),
        "global": sections(&config.global),
        "common": sections(&config.common),
        "resources": resources,
        "warnings": config.warnings.to_string().lines().collect::<Vec<&str>>(),
    })
}

fn resource(resource: &Resource) -> Value {
    let hosts: Vec<Value> = resource.hosts.iter().map(|host| self::host(resource, host)).collect();
    json!({
        "name": resource.name,
        "defined-at": resource.defined_at,
        "options": sections(&resource.options),
        "hosts": hosts,
    })
}

fn host(resource: &Resource, host: &Host) -> Value {
    let volumes: Vec<Value> = resource
        .volumes_of(host)
        .iter()
        .map(|(number, volume)| {
            let device = volume.device.as_ref().map(|device| &device.value);
            let meta_disk = volume.meta_disk.as_ref().map(|placed| match &placed.value {
                MetaDisk::Internal => "internal".to_owned(),
                MetaDisk::External(path) => path.written.clone(),
                MetaDisk::Indexed(path, index) => format!("{}[{index}]", path.written),
            });
            json!({
                "volume": number,
                "device": device.map(|device| device.path()),
                "minor": device.map(|device| device.minor),
                "disk": volume.disk.as_ref().map(|disk| &disk.value.written),
                "meta-disk": meta_disk.unwrap_or_else(|| "internal".to_owned()),
                "options": sections(&volume.options),
            })
        })
        .collect();
    json!({
        "names": host.names,
        "address": host.address.as_ref().map(|address| address.value.socket.to_string()),
        "options": sections(&host.options),
        "volumes": volumes,
    })
}

/// Sections of options that were set, by name.
fn sections(set: &OptionSet) -> Value {
    let mut all = serde_json::Map::new();
    for section in Section::OF_RESOURCE.into_iter().chain([Section::Global]) {
        let mut options = serde_json::Map::new();
        for setting in set.of(section) {
            let value = match &setting.value {
                OptionValue::Flag(flag) => json!(flag),
                OptionValue::Words(words) => json!(words),
                OptionValue::Address(_) | OptionValue::Network(_) => {
                    let entry = options.entry(setting.spec.name).or_insert_with(|| json!([]));
                    if let Value::Array(entries) = entry {
                        entries.push(json!(setting.written));
                    }
                    continue;
                }
                _ => json!(setting.written),
            };
            options.insert(setting.spec.name.to_owned(), value);
        }
        if !options.is_empty() {
            all.insert(section.name().to_owned(), Value::Object(options));
        }
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinblk_proto::state::{DiskState, Role};

    /// Every key, in order: whoever adds one changes this test and nothing else breaks; whoever
    /// loses one is told here.
    #[test]
    fn the_keys_of_a_status_are_stable() {
        let status = ResourceStatus {
            name: "r0".to_owned(),
            role: Role::Primary,
            peer_role: Role::Secondary,
            connection: ConnectionState::SyncSource,
            disk: DiskState::UpToDate,
            peer_disk: DiskState::Inconsistent,
            paused_user: true,
            size_bytes: 268_390_400,
            out_of_sync_bytes: 67_097_600,
            device: "/dev/drbd0".to_owned(),
            backing_disk: "/dev/sda3".to_owned(),
            backend: "io_uring".to_owned(),
            resync: Some(ResyncStatus {
                done_fraction: 0.5,
                rate_bytes_per_s: 10 << 20,
                ..ResyncStatus::default()
            }),
            local: NodeStatus { name: "alice".to_owned(), address: "10.0.0.1:7788".to_owned() },
            peer: NodeStatus { name: "bob".to_owned(), address: "[::2]:7789".to_owned() },
            ..ResourceStatus::default()
        };
        let text = statuses(&[status]);
        assert_eq!(
            text.lines().take(78).collect::<Vec<&str>>().join("\n"),
            r#"[
  {
    "name": "r0",
    "node-id": 0,
    "role": "Primary",
    "suspended": false,
    "suspended-user": false,
    "suspended-no-data": false,
    "suspended-fencing": false,
    "suspended-quorum": false,
    "write-ordering": "flush",
    "devices": [
      {
        "volume": 0,
        "minor": 0,
        "disk-state": "UpToDate",
        "client": false,
        "open": false,
        "quorum": true,
        "size": 262100,
        "read": 0,
        "written": 0,
        "al-writes": 0,
        "bm-writes": 0,
        "upper-pending": 0,
        "lower-pending": 0,
        "device": "/dev/drbd0",
        "backing-dev": "/dev/sda3",
        "backend": "io_uring",
        "direct-io": false
      }
    ],
    "connections": [
      {
        "peer-node-id": 1,
        "name": "bob",
        "connection-state": "Connected",
        "congested": false,
        "peer-role": "Secondary",
        "tls": false,
        "ap-in-flight": 0,
        "rs-in-flight": 0,
        "paths": [
          {
            "this_host": {
              "address": "10.0.0.1",
              "port": 7788,
              "family": "ipv4"
            },
            "remote_host": {
              "address": "::2",
              "port": 7789,
              "family": "ipv6"
            },
            "established": true
          }
        ],
        "peer_devices": [
          {
            "volume": 0,
            "replication-state": "SyncSource",
            "peer-disk-state": "Inconsistent",
            "peer-client": false,
            "resync-suspended": "user",
            "received": 0,
            "sent": 0,
            "out-of-sync": 65525,
            "pending": 0,
            "unacked": 0,
            "has-sync-details": true,
            "has-online-verify-details": false,
            "percent-in-sync": 75.0,
            "percent-resync-done": 50.0,
            "estimated-seconds-to-finish": 987654321,
            "db/dt [MiB/s]": 10.0
          }
        ]
      }"#
        );
        let read: Value = serde_json::from_str(&text).expect("valid");
        let ours: Vec<&str> = [
            "connection-state",
            "protocol",
            "reason",
            "hint",
            "counters",
            "generations",
            "peer-generations",
            "resync",
            "verify",
            "verified",
            "nbd",
            "last-primary",
            "split-brain",
            "kernel-device",
        ]
        .into_iter()
        .filter(|key| read[0].get(key).is_some())
        .collect();
        assert_eq!(ours.len(), 14, "{ours:?}");
        assert_eq!(read[0]["connection-state"], "SyncSource");
        assert_eq!(statuses(&[]), "[]\n");
    }
}
