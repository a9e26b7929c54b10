//! Two switches in a host of their own, and what can go wrong with cables.

use std::process::Stdio;

use super::host::Host;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    Service,
    Replication,
}

impl Net {
    pub const BOTH: [Self; 2] = [Self::Service, Self::Replication];

    fn letter(self) -> char {
        match self {
            Self::Service => 's',
            Self::Replication => 'r',
        }
    }

    /// The interface of a host.
    pub fn interface(self) -> &'static str {
        match self {
            Self::Service => "eth0",
            Self::Replication => "eth1",
        }
    }

    pub fn address(self, number: u8) -> String {
        match self {
            Self::Service => format!("172.16.22.{number}"),
            Self::Replication => format!("10.78.0.{number}"),
        }
    }
}

pub struct Network {
    switches: Host,
}

impl Network {
    pub fn new() -> Option<Self> {
        let switches = Host::boot("switch")?;
        for net in Net::BOTH {
            let bridge = bridge(net);
            // Snooping and the spanning tree eat or delay the first adverts (vrrp.md 6.1).
            let options = "type bridge mcast_snooping 0 forward_delay 0";
            switches.shell(&format!("ip link add {bridge} {options}; ip link set {bridge} up"));
        }
        Some(Self { switches })
    }

    /// Gives a host its interfaces; a host that was killed has lost them.
    pub fn connect(&self, host: &Host, number: u8, nets: &[Net]) {
        for &net in nets {
            let (port, mac) = (port(net, host), hardware(net, number));
            let (bridge, interface, first) = (bridge(net), net.interface(), host.first_process());
            // From the machine's own namespaces, which know both processes.
            let switch = self.switches.first_process();
            let add = format!(
                "ip link add {port} netns {switch} type veth peer name {interface} netns {first} \
                 address {mac}"
            );
            let mut command = std::process::Command::new("sh");
            command.args(["-c", &add]).stdin(Stdio::null());
            assert!(command.status().expect("sh runs").success(), "{add}");
            self.switches.shell(&format!("ip link set {port} master {bridge} up"));
            let address = net.address(number);
            host.shell(&format!(
                "ip addr add {address}/24 dev {interface}; ip link set {interface} up"
            ));
        }
    }

    pub fn unplug(&self, host: &Host, net: Net) {
        self.switches.shell(&format!("ip link set {} down", port(net, host)));
    }

    pub fn plug(&self, host: &Host, net: Net) {
        self.switches.shell(&format!("ip link set {} up", port(net, host)));
    }

    /// Whatever this host sends to the other is lost; links stay up.
    pub fn lose(&self, from: u8, to: &Host, net: Net) {
        let (port, mac) = (port(net, to), hardware(net, from));
        self.switches.shell(&format!(
            "nft add table netdev lost; \
             nft 'add chain netdev lost to_{port} {{ type filter hook egress device {port} priority 0; }}'; \
             nft add rule netdev lost to_{port} ether saddr {mac} counter drop"
        ));
    }

    pub fn heal(&self) {
        self.switches.run(&["nft", "delete", "table", "netdev", "lost"]);
    }
}

fn bridge(net: Net) -> String {
    format!("br{}", net.letter())
}

fn port(net: Net, host: &Host) -> String {
    format!("p{}{}", net.letter(), host.name)
}

fn hardware(net: Net, number: u8) -> String {
    let net = if net == Net::Service { 10 } else { 11 };
    format!("02:77:{net:02x}:00:00:{number:02x}")
}
