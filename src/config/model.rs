//! A configuration as it was written: names resolved, values checked, nothing inherited yet. What
//! one node needs to know is in [`super::view`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use super::diagnostics::Diagnostics;
use super::options::OptionSet;
use super::source::{Sources, Span};

/// Everything that was read.
#[derive(Clone, Debug)]
pub struct Config {
    pub global: OptionSet,
    pub common: Arc<OptionSet>,
    /// In the order of the files.
    pub resources: Vec<Resource>,
    /// What loads but may not do what its author thinks.
    pub warnings: Diagnostics,
    /// What was accepted and has nothing to act upon here, such as settings of the kernel module.
    pub notes: Diagnostics,
    pub sources: Arc<Sources>,
    /// Whether there is a `global` section, and a `common` one.
    pub(super) has_global: bool,
    pub(super) has_common: bool,
}

impl Config {
    pub fn resource(&self, name: &str) -> Option<&Resource> {
        self.resources.iter().find(|resource| resource.name == name)
    }

    /// The main file.
    pub fn path(&self) -> &std::path::Path {
        self.sources.path(0)
    }
}

#[derive(Clone, Debug)]
pub struct Resource {
    pub name: String,
    /// `file:line` of its section.
    pub defined_at: String,
    pub span: Span,
    pub options: OptionSet,
    /// What is said of volumes outside of the host sections. Statements without a `volume` around
    /// them are those of volume 0.
    pub volumes: Volumes,
    pub hosts: Vec<Host>,
    /// Nodes that this file goes to but that have no part in the resource.
    pub ignored_on: Vec<String>,
    pub(super) common: Arc<OptionSet>,
}

/// Volumes by number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volumes {
    pub by_number: BTreeMap<u32, Volume>,
    /// Written without a `volume` section: then there is only number 0.
    pub implicit: bool,
}

/// What one place says about one volume; the rest is inherited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volume {
    pub device: Option<Placed<Device>>,
    pub disk: Option<Placed<DiskPath>>,
    pub meta_disk: Option<Placed<MetaDisk>>,
    /// Of a `disk` section.
    pub options: OptionSet,
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    pub value: T,
    pub span: Span,
}

impl<T: PartialEq> PartialEq for Placed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// `/dev/drbd0` or `/dev/drbd_name`; empty for `minor N`.
    pub name: String,
    pub minor: u32,
}

impl Device {
    /// The name, made from the minor number where there is none.
    pub fn path(&self) -> String {
        if self.name.is_empty() { format!("/dev/drbd{}", self.minor) } else { self.name.clone() }
    }
}

/// A path as written and made absolute: relative ones start at the file that names them.
#[derive(Clone, Debug)]
pub struct DiskPath {
    pub written: String,
    pub absolute: PathBuf,
}

impl PartialEq for DiskPath {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum MetaDisk {
    Internal,
    /// A file or device of its own, as large as it needs to be.
    External(DiskPath),
    /// Slot of 128 MiB on a device that several resources share.
    Indexed(DiskPath, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// `on NAME...`
    On,
    /// `floating ADDRESS`: whoever has the address.
    Floating,
    /// `stacked-on-top-of RESOURCE`
    Stacked,
}

#[derive(Clone, Debug)]
pub struct Host {
    pub kind: HostKind,
    /// Names; the lower resource of a stacked one; none of a floating one.
    pub names: Vec<String>,
    pub address: Option<Placed<Address>>,
    pub volumes: Volumes,
    /// Of `nbd` and `options` sections.
    pub options: OptionSet,
    pub span: Span,
}

impl Host {
    /// A floating host is whoever has its address (behaviour.md 7.8): the node that was named by
    /// that address, else the machine that can use it.
    pub(super) fn is_on(&self, node: &str) -> bool {
        match (self.kind, &self.address) {
            (HostKind::Floating, Some(address)) => match node.parse::<IpAddr>() {
                Ok(named) => named == address.value.socket.ip(),
                Err(_) => is_local(address.value.socket.ip()),
            },
            _ => self.names.iter().any(|name| name == node),
        }
    }

    /// The first name; the address of a floating host.
    pub(super) fn name(&self) -> String {
        match (self.names.first(), &self.address) {
            (Some(name), _) => name.clone(),
            (None, Some(address)) => address.value.socket.ip().to_string(),
            (None, None) => String::new(),
        }
    }

    /// For messages.
    pub fn title(&self) -> String {
        match (self.kind, &self.address) {
            (HostKind::Floating, Some(address)) => format!("floating {}", address.value.socket),
            (HostKind::Stacked, _) => format!("stacked-on-top-of {}", self.names.join(" ")),
            _ => format!("on {}", self.names.join(" ")),
        }
    }
}

/// Whether the address is one of this machine: only then a socket can have it.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    Ipv4,
    Ipv6,
    /// Dolphin SuperSockets, sockets direct: addresses look like IPv4.
    Ssocks,
    Sdp,
}

impl AddressFamily {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Ssocks => "ssocks",
            Self::Sdp => "sdp",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub family: AddressFamily,
    pub socket: SocketAddr,
}
