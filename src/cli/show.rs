//! A status as text (behaviour.md 7.4), and why it is so.

use std::fmt::Write;

use twinblk_proto::state::{ConnectionState, DiskState, Role};

use crate::control::ResourceStatus;
use crate::control::status::{KernelDeviceStatus, ResyncStatus};

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
    for uri in &status.nbd.uris {
        let _ = writeln!(out, "  export:{uri}");
    }
    out += &kernel_device(&status.kernel_device);
    for client in status.nbd.clients.iter().filter(|client| !client.is_kernel) {
        let _ = writeln!(out, "  client:{} since:{}s", client.peer, client.since_s);
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
    use crate::control::status::{NbdClientStatus, NodeStatus};

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
