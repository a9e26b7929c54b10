//! What goes over the socket. Adding a field with a default keeps old and new programs talking.

use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use super::status::{InstanceStatus, ResourceStatus};

/// Longest line that either side accepts. A status of one resource is about 3 KiB; 128 NBD clients
/// add 16 KiB; 256 resources of that size are 5 MiB.
pub const LINE_BYTES_MAX: usize = 8 << 20;

/// One command for the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The resource; absent means all (status, watch) or the daemon itself (shutdown).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// How long the daemon may take. Absent: [`super::server::VERB_TIMEOUT`] for verbs; `wait-sync`
    /// then goes on for as long as blocks move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(flatten)]
    pub command: Command,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Command {
    Up,
    Down,
    Attach,
    Detach {
        #[serde(default)]
        force: bool,
    },
    Connect {
        #[serde(default)]
        discard_my_data: bool,
        /// Only say what would be done.
        #[serde(default)]
        tentative: bool,
    },
    Disconnect {
        #[serde(default)]
        force: bool,
    },
    Primary {
        #[serde(default)]
        force: bool,
    },
    Secondary {
        /// Clients that hold the device open are cut off.
        #[serde(default)]
        force: bool,
    },
    /// Freeze the clients' I/O.
    SuspendIo,
    /// Let it go on, whatever froze it.
    ResumeIo,
    /// Make the device of a primary a block device of this machine.
    AttachDevice,
    DetachDevice {
        /// Even while it is mounted or open: who uses it gets I/O errors.
        #[serde(default)]
        force: bool,
    },
    Invalidate,
    InvalidateRemote,
    Outdate,
    NewCurrentUuid {
        #[serde(default)]
        clear_bitmap: bool,
    },
    /// Compare both disks; in sectors.
    Verify {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        start: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stop: Option<u64>,
        /// Mend what differs, from the named node or, without a name, from the Primary.
        #[serde(default)]
        repair: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    /// Use what the backing disks have grown by, or change the size.
    Resize {
        /// Absent: as configured. 0: as large as both disks allow.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sectors: Option<u64>,
        #[serde(default)]
        assume_peer_has_space: bool,
        #[serde(default)]
        assume_clean: bool,
    },
    /// Make a changed configuration count; up where something is missing.
    Adjust,
    /// Hold a resync on.
    PauseSync,
    ResumeSync,
    /// See whether the peer answers; the answer shows in the state of the connection.
    ProbePeer,
    /// Give the service on top to the other node, in order.
    Handover,
    /// Take no part in elections, after giving up what is served here; or take part again.
    Standby {
        on: bool,
    },
    /// One status response.
    Status,
    /// A status response now and after every change, until the client closes.
    Watch,
    /// Until the peers are connected; status responses on the way.
    WaitConnect,
    /// Until no resync is left to do; status responses on the way.
    WaitSync,
    /// The VRRP instances of this node.
    Instances,
    /// Read keepalived.conf again; what it leaves alone goes on.
    Reload,
    /// Take every resource down and end the daemon.
    Shutdown,
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Response {
    Status { resources: Vec<ResourceStatus> },
    Instances { instances: Vec<InstanceStatus> },
    Outcome(Outcome),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_on_the_wire() {
        let request = Request {
            resource: Some("r0".to_owned()),
            timeout_ms: None,
            command: Command::Primary { force: true },
        };
        let text = serde_json::to_string(&request).expect("serializable");
        assert_eq!(text, r#"{"resource":"r0","verb":"primary","force":true}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).expect("readable"), request);
        let short: Request = serde_json::from_str(r#"{"verb":"wait-sync"}"#).expect("readable");
        assert_eq!(short.command, Command::WaitSync);
        assert!(serde_json::from_str::<Request>(r#"{"verb":"frobnicate"}"#).is_err());
    }

    #[test]
    fn responses_on_the_wire() {
        let text = serde_json::to_string(&Response::Outcome(Outcome::done())).expect("json");
        assert_eq!(
            text,
            r#"{"kind":"outcome","exit-code":0,"code":0,"message":"","detail":"","hint":""}"#
        );
        assert_eq!(
            serde_json::from_str::<Response>(&text).expect("readable"),
            Response::Outcome(Outcome::done())
        );
        assert!(serde_json::from_str::<Response>(r#"{"kind":"outcome"}"#).is_err(), "no success");
    }
}
