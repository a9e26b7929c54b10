//! A status as text (behaviour.md 7.4), and why it is so.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use twinblk_proto::state::{ConnectionState, DiskState, Role};

use crate::control::ResourceStatus;
use crate::control::status::{InstanceStatus, KernelDeviceStatus, ResyncStatus, ServiceStatus};

/// What nobody is told by an empty screen.
pub(super) const NOTHING_UP: &str = "# No currently configured DRBD found.\n";

/// What the reader can show.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Style {
    pub colour: bool,
    /// A bar for a running resync.
    pub bar: bool,
}

/// All resources, a blank line after each.
pub(super) fn resources(statuses: &[ResourceStatus], style: Style) -> String {
    if statuses.is_empty() {
        return NOTHING_UP.to_owned();
    }
    statuses.iter().map(|status| resource(status, style) + "\n").collect()
}

/// A line for each.
pub(super) fn instances(instances: &[InstanceStatus]) -> String {
    let line = |instance: &InstanceStatus| {
        let InstanceStatus { name, interface, state, priority, .. } = instance;
        let mut out = format!("{name} {state} interface:{interface} priority:{priority}");
        if instance.has_addresses {
            out += " addresses:here";
        }
        if !instance.master.is_empty() {
            let _ = write!(out, " master:{}", instance.master);
        }
        if instance.rejected > 0 {
            let _ = write!(out, " rejected:{}", instance.rejected);
        }
        out + "\n"
    };
    instances.iter().map(line).collect()
}

fn service(service: &ServiceStatus) -> String {
    let mut out = format!("  service:{} vrrp:{} {}", service.phase, service.instance, service.vrrp);
    if !service.step.is_empty() {
        let _ = write!(out, " step: {}", service.step);
    }
    if service.is_standby {
        out += " standby";
    }
    out.push('\n');
    if !service.reason.is_empty() {
        let _ = writeln!(out, "    does not serve: {}", service.reason);
    }
    if let Some(last) = service.decisions.last() {
        let ago_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs().saturating_sub(last.at_s));
        let _ = writeln!(out, "    last decision, {ago_s} s ago: {}", last.text);
    }
    out
}

fn resource(status: &ResourceStatus, style: Style) -> String {
    let mut out = format!("{} role:{}", status.name, style.role(status.role));
    let suspended = reasons(&[
        ("user", status.suspended_user),
        ("no-data", status.suspended_no_data),
        ("fencing", status.suspended_fencing),
    ]);
    if !suspended.is_empty() {
        let _ = write!(out, " suspended:{suspended}");
    }
    let _ = write!(out, "\n  disk:{}", style.disk(status.disk));
    if !status.backend.is_empty() {
        let direct = if status.direct_io { "yes" } else { "no" };
        let _ = write!(out, " backend:{} direct-io:{direct}", status.backend);
    }
    let open = if status.is_open() { "yes" } else { "no" };
    let _ = writeln!(out, " open:{open}");
    out += &peer(status, style);
    if let Some(resync) = status.resync.as_ref().filter(|_| style.bar) {
        let _ = writeln!(out, "    {}", bar(resync));
    }
    if let Some(verify) = &status.verify {
        let found = size(verify.found_bytes);
        let rate = size(verify.rate_bytes_per_s);
        let left = size(verify.left_bytes);
        let _ = writeln!(out, "    verify: {left} left, {rate}/s, {found} found different");
    } else if let Some(verified) = status.verified.as_ref().filter(|last| last.found_bytes > 0) {
        let found = size(verified.found_bytes);
        let _ = writeln!(out, "    verified: {found} found different");
    }
    if status.split_brain.is_some() {
        out += &split_brain(status);
    }
    for uri in &status.nbd.uris {
        let _ = writeln!(out, "  export:{uri}");
    }
    out += &kernel_device(&status.kernel_device);
    for client in status.nbd.clients.iter().filter(|client| !client.is_kernel) {
        let _ = writeln!(out, "  client:{} since:{}s", client.peer, client.since_s);
    }
    if let Some(found) = &status.service {
        out += &service(found);
    }
    if let Some(frozen) = &status.frozen {
        let _ = writeln!(
            out,
            "  frozen: {} for {}s; ends with {}",
            frozen.why, frozen.for_s, frozen.until
        );
    }
    for (label, text) in [("reason", &status.reason), ("hint", &status.hint)] {
        if !text.is_empty() {
            let _ = writeln!(out, "  {label}: {text}");
        }
    }
    out
}

fn peer(status: &ResourceStatus, style: Style) -> String {
    let name = if status.peer.name.is_empty() { "peer" } else { &status.peer.name };
    let connected = status.connection >= ConnectionState::Connected;
    let mut out = if connected {
        format!("  {name} role:{}\n", style.role(status.peer_role))
    } else {
        format!("  {name} connection:{}\n", style.connection(status.connection))
    };
    // A disk that was known to be outdated or inconsistent when the peer went is remembered.
    let remembered = matches!(status.peer_disk, DiskState::Inconsistent | DiskState::Outdated);
    if !connected && !remembered {
        return out;
    }
    out += "    ";
    if status.connection > ConnectionState::Connected {
        let _ = write!(out, "replication:{} ", status.connection);
    }
    let _ = write!(out, "peer-disk:{}", style.disk(status.peer_disk));
    if let Some(verify) = &status.verify {
        let _ = write!(out, " done:{:.2}", verify.done_fraction * 100.0);
    }
    if let Some(resync) = &status.resync {
        let _ = write!(out, " done:{:.2}", resync.done_fraction * 100.0);
    }
    let paused = reasons(&[
        ("user", status.paused_user),
        ("peer", status.paused_peer),
        ("dependency", status.paused_dependency),
    ]);
    if !paused.is_empty() {
        let _ = write!(out, " resync-suspended:{paused}");
    }
    out.push('\n');
    out
}

/// `device:/dev/nbd0 link:/dev/drbd0 attached sockets:2 mounted on /mnt`
fn kernel_device(device: &KernelDeviceStatus) -> String {
    let mut out = String::new();
    if !device.path.is_empty() {
        let _ = write!(out, "  device:{}", device.path);
        if !device.link.is_empty() {
            let _ = write!(out, " link:{}", device.link);
        }
        let _ = write!(out, " {} sockets:{}", device.state, device.sockets);
        if !device.holders.is_empty() {
            let _ = write!(out, " {}", device.holders.join(", "));
        }
        out.push('\n');
    }
    if !device.reason.is_empty() {
        let _ = write!(out, "  no device: {}", device.reason);
        if !device.hint.is_empty() {
            let _ = write!(out, "; {}", device.hint);
        }
        out.push('\n');
    }
    out
}

fn reasons(named: &[(&str, bool)]) -> String {
    let set: Vec<&str> = named.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    set.join(",")
}

/// Both sides of a split brain: what each would lose, when it was Primary, how to go on.
pub(super) fn split_brain(status: &ResourceStatus) -> String {
    let Some(found) = &status.split_brain else { return String::new() };
    let (me, peer) = (&status.local.name, &status.peer.name);
    let at_split = |was| if was { "yes" } else { "no" };
    let mut out = "  split-brain: both nodes were written to while apart\n".to_owned();
    let _ = writeln!(
        out,
        "    {me} changed:{} primary-at-split:{} last-primary:{}",
        size(found.local_changed_bytes),
        at_split(found.local_was_primary),
        last_primary(status)
    );
    let _ = writeln!(
        out,
        "    {peer} changed:{} primary-at-split:{} last-primary:unknown (twinblk status {} there)",
        size(found.peer_changed_bytes),
        at_split(found.peer_was_primary),
        status.name
    );
    for (kept, [here, there]) in [(me, &found.keep_local), (peer, &found.keep_peer)] {
        let _ = writeln!(out, "    keep {kept}: here: {here}; on {peer}: {there}");
    }
    out
}

fn last_primary(status: &ResourceStatus) -> String {
    let times = &status.last_primary;
    match (times.from_s, times.until_s) {
        (None, None) => "unknown".to_owned(),
        (Some(from), None) if status.role == Role::Primary => format!("{}..now", utc(from)),
        (Some(from), None) => format!("{}..crash", utc(from)),
        (None, Some(until)) => format!("..{}", utc(until)),
        (Some(from), Some(until)) => format!("{}..{}", utc(from), utc(until)),
    }
}

/// `2026-11-23T08:40:57Z`: the proleptic Gregorian calendar, in eras of 400 years from 1 March.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `[=====>..............] 28.3%  183 MiB of 256 MiB left, 93 MiB/s, 0:00:02 to go`
pub(super) fn bar(resync: &ResyncStatus) -> String {
    // The drawing of /proc/drbd (behaviour.md 7.3).
    let filled = ((resync.done_fraction * 20.0) as usize).min(20);
    let (left, total) = (size(resync.left_bytes), size(resync.total_bytes));
    let mut out = format!(
        "[{}>{}] {:.1}%  {left} of {total} left",
        "=".repeat(filled.saturating_sub(1)),
        ".".repeat(20 - filled),
        resync.done_fraction * 100.0
    );
    if resync.rate_bytes_per_s > 0 {
        let _ = write!(out, ", {}/s", size(resync.rate_bytes_per_s));
    }
    if let Some(seconds) = resync.eta_s {
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        let _ = write!(out, ", {hours}:{minutes:02}:{:02} to go", seconds % 60);
    }
    out
}

/// For people: three digits or so.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            let digits = usize::from(value < 10.0 && unit != "B");
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

impl Style {
    fn paint(self, text: &str, code: Option<u8>) -> String {
        match code.filter(|_| self.colour) {
            Some(code) => format!("\x1b[1;{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }

    fn role(self, role: Role) -> String {
        let cyan = (role == Role::Primary).then_some(36);
        self.paint(role.as_str(), cyan)
    }

    fn disk(self, disk: DiskState) -> String {
        let code = match disk {
            DiskState::UpToDate => Some(32),
            DiskState::Diskless | DiskState::Failed | DiskState::Inconsistent => Some(31),
            _ => None,
        };
        self.paint(disk.as_str(), code)
    }

    fn connection(self, connection: ConnectionState) -> String {
        let red = (connection == ConnectionState::StandAlone).then_some(31);
        self.paint(connection.as_str(), red)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{NbdClientStatus, NodeStatus, PrimaryTimes, SplitBrainStatus};

    const PLAIN: Style = Style { colour: false, bar: false };

    fn healthy() -> ResourceStatus {
        ResourceStatus {
            name: "r0".to_owned(),
            role: Role::Primary,
            peer_role: Role::Secondary,
            connection: ConnectionState::Connected,
            disk: DiskState::UpToDate,
            peer_disk: DiskState::UpToDate,
            backend: "io_uring".to_owned(),
            direct_io: true,
            peer: NodeStatus { name: "bob".to_owned(), address: "10.0.0.2:7788".to_owned() },
            ..ResourceStatus::default()
        }
    }

    #[test]
    fn times_are_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_336_857, "2026-11-22T08:40:57Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn a_split_brain_shows_both_sides() {
        let mut status = healthy();
        status.connection = ConnectionState::StandAlone;
        status.local.name = "alice".to_owned();
        status.last_primary = PrimaryTimes { from_s: Some(0), until_s: None };
        status.split_brain = Some(SplitBrainStatus {
            local_changed_bytes: 120 << 10,
            peer_changed_bytes: 4096,
            local_was_primary: true,
            keep_local: ["k".to_owned(), "d".to_owned()],
            keep_peer: ["d".to_owned(), "k".to_owned()],
            ..SplitBrainStatus::default()
        });
        let text = resources(&[status], PLAIN);
        assert!(
            text.contains(
                "  split-brain: both nodes were written to while apart
    alice changed:120 KiB primary-at-split:yes last-primary:1970-01-01T00:00:00Z..now
    bob changed:4.0 KiB primary-at-split:no last-primary:unknown (twinblk status r0 there)
    keep alice: here: k; on bob: d
    keep bob: here: d; on bob: k
"
            ),
            "{text}"
        );
    }

    #[test]
    fn healthy_and_served() {
        let mut status = healthy();
        status.nbd.uris = vec!["nbd://127.0.0.1:10809/r0".to_owned()];
        status.nbd.clients = vec![NbdClientStatus {
            peer: "127.0.0.1:50000".to_owned(),
            since_s: 7,
            ..NbdClientStatus::default()
        }];
        assert_eq!(
            resources(&[status], PLAIN),
            "r0 role:Primary
  disk:UpToDate backend:io_uring direct-io:yes open:yes
  bob role:Secondary
    peer-disk:UpToDate
  export:nbd://127.0.0.1:10809/r0
  client:127.0.0.1:50000 since:7s

"
        );
    }

    #[test]
    fn waiting_for_the_peer() {
        let status = ResourceStatus {
            role: Role::Secondary,
            connection: ConnectionState::WFConnection,
            disk: DiskState::Diskless,
            peer_disk: DiskState::DUnknown,
            backend: String::new(),
            reason: "nobody answers at 10.0.0.2:7788".to_owned(),
            hint: "twinblk up r0 on bob".to_owned(),
            ..healthy()
        };
        assert_eq!(
            resources(std::slice::from_ref(&status), PLAIN),
            "r0 role:Secondary
  disk:Diskless open:no
  bob connection:WFConnection
  reason: nobody answers at 10.0.0.2:7788
  hint: twinblk up r0 on bob

"
        );
        let remembered = ResourceStatus { peer_disk: DiskState::Outdated, ..status };
        assert!(resources(&[remembered], PLAIN).contains("\n    peer-disk:Outdated\n"));
    }

    #[test]
    fn resyncing_paused_and_suspended() {
        let status = ResourceStatus {
            connection: ConnectionState::PausedSyncT,
            disk: DiskState::Inconsistent,
            suspended_user: true,
            suspended_fencing: true,
            paused_user: true,
            paused_peer: true,
            resync: Some(ResyncStatus {
                done_fraction: 0.1234,
                left_bytes: 235 << 20,
                total_bytes: 268 << 20,
                rate_bytes_per_s: 98_000_000,
                eta_s: Some(3725),
                ..ResyncStatus::default()
            }),
            ..healthy()
        };
        assert_eq!(
            resources(std::slice::from_ref(&status), PLAIN),
            "r0 role:Primary suspended:user,fencing
  disk:Inconsistent backend:io_uring direct-io:yes open:no
  bob role:Secondary
    replication:PausedSyncT peer-disk:UpToDate done:12.34 resync-suspended:user,peer

"
        );
        let with_bar = resources(&[status], Style { bar: true, ..PLAIN });
        assert!(
            with_bar.contains(
                "\n    [=>..................] 12.3%  235 MiB of 268 MiB left, 93 MiB/s, 1:02:05 to go\n"
            ),
            "{with_bar}"
        );
    }

    #[test]
    fn bars_are_those_of_proc_drbd() {
        let at = |done_fraction| {
            let text = bar(&ResyncStatus { done_fraction, ..ResyncStatus::default() });
            text[..text.find(']').expect("closed") + 1].to_owned()
        };
        assert_eq!(at(0.016), "[>....................]");
        assert_eq!(at(0.125), "[=>..................]");
        assert_eq!(at(0.454), "[========>...........]");
        assert_eq!(at(1.0), "[===================>]");
        assert_eq!(at(7.0), "[===================>]");
    }

    #[test]
    fn nothing_and_sizes_and_colours() {
        assert_eq!(resources(&[], PLAIN), "# No currently configured DRBD found.\n");
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10 << 20, "10 MiB"),
            (1 << 31, "2.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        let coloured = resources(&[healthy()], Style { colour: true, bar: true });
        assert!(coloured.contains("role:\x1b[1;36mPrimary\x1b[0m"), "{coloured:?}");
        assert!(coloured.contains("disk:\x1b[1;32mUpToDate\x1b[0m"), "{coloured:?}");
    }
}
