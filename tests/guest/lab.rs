//! The kernel and twinblk as the two nodes of one resource, in one guest.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use twinblk::control::ResourceStatus;

use crate::common::device::{BlockDevice, Device, differing_blocks};
use crate::common::pair::{Node, RESOURCE};
use crate::guest::KERNEL_NAME;
use crate::kernel::{DEVICE, Kernel, KernelStatus, succeed};
use crate::load::{Load, Written};

const FOLDER: &str = "/lab";
const TWIN_NAME: &str = "twin";
/// NBD clients come here.
const TWIN_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The replication link: taking one of them away is pulling its cable.
const KERNEL_LINK: &str = "10.7.0.1";
const TWIN_LINK: &str = "10.7.0.2";

const LIMIT: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(30);
/// Lines of each log that a failed test shows.
const LOG_LINES: usize = 70;
/// Blocks at the beginning of the device that a background load leaves to others.
const LEFT_BLOCKS: u64 = 2048;
/// Writers of a background load.
const WRITERS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Kernel,
    Twin,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Kernel, Self::Twin];

    pub fn other(self) -> Self {
        match self {
            Self::Kernel => Self::Twin,
            Self::Twin => Self::Kernel,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    pub protocol: char,
    /// Lines for the `net` section of both.
    pub net: String,
    /// Lines for the `net` section of one.
    pub kernel_net: String,
    pub twin_net: String,
    /// Lines for the `disk` section of both.
    pub disk: String,
    /// Who uses which disk: a takeover exchanges them.
    pub kernel_disk: PathBuf,
    pub twin_disk: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            protocol: 'C',
            net: String::new(),
            kernel_net: String::new(),
            twin_net: String::new(),
            disk: String::new(),
            kernel_disk: "/dev/vda".into(),
            twin_disk: "/dev/vdb".into(),
        }
    }
}

#[derive(Debug)]
pub struct Lab {
    pub kernel: Kernel,
    pub twin: Node,
    options: Options,
}

impl Lab {
    /// Metadata on both disks, nothing up.
    pub fn prepare(options: Options) -> Self {
        let lab = Self::with_disks(options);
        for side in Side::BOTH {
            lab.call(side, &["create-md", "--force", RESOURCE]);
        }
        lab
    }

    /// Disks that have metadata already.
    pub fn with_disks(options: Options) -> Self {
        let folder = Path::new(FOLDER);
        std::fs::create_dir_all(folder).expect("a folder");
        let twin = Node::new(TWIN_NAME, TWIN_ADDRESS, folder, options.twin_disk.clone());
        let mut lab = Self { kernel: Kernel::new(folder), twin, options };
        lab.write_configuration();
        for link in [KERNEL_LINK, TWIN_LINK] {
            lab.plug(link);
        }
        lab.twin.start();
        lab
    }

    /// Up and connected, both Inconsistent.
    pub fn connected(options: Options) -> Self {
        let lab = Self::prepare(options);
        lab.up();
        lab.wait_for("Connected", |kernel| kernel.connection == "Connected");
        lab
    }

    /// This one is Primary, both are UpToDate.
    pub fn in_sync(options: Options, primary: Side) -> Self {
        let lab = Self::connected(options);
        lab.force_primary(primary);
        lab.wait_in_sync();
        lab
    }

    /// Takes both down and up again with other options.
    pub fn restart_with(&mut self, change: impl FnOnce(&mut Options)) {
        self.down();
        change(&mut self.options);
        self.write_configuration();
        self.up();
    }

    /// New metadata on both disks, connected again: both Inconsistent.
    pub fn begin_again(&self) {
        self.down();
        for side in Side::BOTH {
            self.call(side, &["create-md", "--force", RESOURCE]);
        }
        self.up();
        self.wait_for("Connected", |kernel| kernel.connection == "Connected");
    }

    pub fn options(&mut self) -> &mut Options {
        &mut self.options
    }

    pub fn write_configuration(&mut self) {
        self.twin.disk.clone_from(&self.options.twin_disk);
        let text = |net: &str, export: &str| {
            let Options { protocol, net: common, disk, kernel_disk, twin_disk, .. } = &self.options;
            format!(
                "global {{ usage-count no; }}
resource {RESOURCE} {{
    net {{ protocol {protocol}; connect-int 1; ping-int 2; ping-timeout 20; {common} {net} }}
    disk {{ {disk} }}
    on {KERNEL_NAME} {{
        device {DEVICE}; disk {kernel}; meta-disk internal; address {KERNEL_LINK}:7788;
    }}
    on {TWIN_NAME} {{
        device /dev/drbd1; disk {twin}; meta-disk internal; address {TWIN_LINK}:7788; {export}
    }}
}}
",
                kernel = kernel_disk.display(),
                twin = twin_disk.display(),
            )
        };
        let export = format!("nbd {{ listen {}; }}", self.twin.nbd_address());
        let kernel = text(&self.options.kernel_net, "");
        let twin = text(&self.options.twin_net, &export);
        std::fs::write(&self.kernel.config, kernel).expect("a configuration");
        std::fs::write(self.twin.config(), twin).expect("a configuration");
    }

    // ---- verbs

    /// drbdadm or twinblk with the same words.
    pub fn call(&self, side: Side, arguments: &[&str]) {
        match side {
            Side::Kernel => self.kernel.succeed(arguments),
            Side::Twin => self.twin.succeed(arguments),
        };
    }

    /// A verb that must be refused: exit code and words.
    pub fn refused(&self, side: Side, arguments: &[&str]) -> (i32, String) {
        match side {
            Side::Twin => self.twin.refused(arguments),
            Side::Kernel => {
                let output = self.kernel.run(arguments);
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said).into_owned();
                assert!(!output.status.success(), "kernel: {arguments:?} succeeded: {said}");
                (output.status.code().unwrap_or(-1), said)
            }
        }
    }

    pub fn up(&self) {
        for side in Side::BOTH {
            self.call(side, &["up", RESOURCE]);
        }
    }

    /// Both Secondary and down; whoever is Primary has no client any more.
    pub fn down(&self) {
        self.twin.wait_without_clients();
        for side in Side::BOTH {
            self.call(side, &["down", RESOURCE]);
        }
    }

    pub fn primary(&self, side: Side) {
        self.call(side, &["primary", RESOURCE]);
    }

    pub fn force_primary(&self, side: Side) {
        self.call(side, &["primary", "--force", RESOURCE]);
    }

    pub fn secondary(&self, side: Side) {
        if side == Side::Twin {
            self.twin.wait_without_clients();
        }
        self.call(side, &["secondary", RESOURCE]);
    }

    pub fn disconnect(&self, side: Side) {
        self.call(side, &["disconnect", RESOURCE]);
        self.wait_apart();
    }

    pub fn connect(&self, side: Side) {
        self.call(side, &["connect", RESOURCE]);
    }

    fn stands_alone(&self, side: Side) -> bool {
        match side {
            Side::Kernel => self.kernel.status().connection == "StandAlone",
            Side::Twin => self.twin.status().connection.as_str() == "StandAlone",
        }
    }

    /// Both StandAlone, whatever they were: drbdadm fails to disconnect what is.
    pub fn disconnect_both(&self) {
        for side in Side::BOTH {
            if !self.stands_alone(side) {
                self.call(side, &["disconnect", RESOURCE]);
            }
        }
    }

    /// Whoever stands alone looks for the other again.
    pub fn connect_both(&self) {
        for side in Side::BOTH {
            if self.stands_alone(side) {
                self.connect(side);
            }
        }
    }

    pub fn plug(&self, link: &str) {
        succeed(Command::new("ip").args(["addr", "add", &format!("{link}/32"), "dev", "lo"]));
    }

    /// The cable is pulled: nothing arrives, nobody is told.
    pub fn cut(&self) {
        succeed(Command::new("ip").args(["addr", "del", &format!("{TWIN_LINK}/32"), "dev", "lo"]));
    }

    pub fn mend(&self) {
        self.plug(TWIN_LINK);
    }

    // ---- the device of the Primary

    pub fn device(&self, side: Side) -> Box<dyn Device> {
        match side {
            Side::Kernel => Box::new(BlockDevice::open(Path::new(DEVICE), true).expect(DEVICE)),
            Side::Twin => Box::new(self.twin.nbd()),
        }
    }

    /// Background writes all over the device, but for its beginning.
    pub fn load(&self, side: Side, known: Written) -> Load {
        let devices: Vec<_> = (0..WRITERS).map(|_| self.device(side)).collect();
        let blocks = devices[0].size_bytes() / 4096;
        Load::start(devices, LEFT_BLOCKS..blocks, known)
    }

    // ---- states

    /// What /proc/drbd and `twinblk status --json` say at this moment.
    pub fn states(&self) -> (KernelStatus, ResourceStatus) {
        let mut status: Vec<ResourceStatus> = Vec::new();
        if let Some(known) = self.twin.try_status() {
            status.push(known);
        }
        (self.kernel.status(), status.pop().unwrap_or_default())
    }

    /// Waits for a state of the kernel, and until both tell the same about both.
    pub fn wait_for(&self, wanted: &str, done: impl Fn(&KernelStatus) -> bool) {
        let limit = Instant::now() + LIMIT;
        loop {
            let (kernel, twin) = self.states();
            if done(&kernel) && agree(&kernel, &twin) {
                return;
            }
            assert!(Instant::now() < limit, "waited in vain for {wanted} on both");
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    pub fn wait_in_sync(&self) {
        self.wait_for("Connected, UpToDate/UpToDate", |kernel| {
            kernel.connection == "Connected"
                && kernel.disk == "UpToDate"
                && kernel.peer_disk == "UpToDate"
        });
    }

    /// Neither sees the other.
    pub fn wait_apart(&self) {
        let alone = |state: &str| matches!(state, "StandAlone" | "WFConnection");
        self.kernel.wait("being alone", |status| alone(&status.connection));
        self.twin.wait("being alone", |status| alone(status.connection.as_str()));
    }

    /// Nothing is written any more: both disks are equal, both hold the same generations.
    pub fn assert_equal(&self) {
        self.wait_in_sync();
        self.twin.wait_without_clients();
        let (kernel, twin) = self.states();
        assert_eq!((kernel.counter("oos"), twin.out_of_sync_bytes), (0, 0), "out of sync");
        let found = &twin.generations;
        let ours = [found.current, found.bitmap, found.history_younger];
        let ours = ours.map(|identifier| identifier & !1);
        // The oldest differs after two resyncs in one connection: a target copies what its peer
        // told when they connected (session.md 2.3).
        let [current, bitmap, younger, _] = self.kernel.generations();
        let theirs = [current, bitmap, younger];
        assert_eq!(theirs, ours, "generations of the kernel and of twinblk: {theirs:x?} {ours:x?}");
        assert_eq!(self.differing(), Vec::<u64>::new(), "differing blocks");
    }

    /// Blocks that differ on the disks.
    pub fn differing(&self) -> Vec<u64> {
        let size = self.twin.status().size_bytes;
        assert!(size > 0, "a known size");
        // A Secondary under A and B may still be writing what the Primary demoted with.
        self.twin.wait_idle();
        self.kernel.wait("idleness", |status| {
            ["lo", "pe", "ua", "ap"].iter().all(|name| status.counter(name) == 0)
        });
        differing_blocks(&self.options.kernel_disk, &self.options.twin_disk, size)
    }

    /// Blocks that resyncs moved since twinblk's resource is up.
    pub fn moved(&self) -> u64 {
        self.twin.status().counters.resync_blocks_moved
    }
}

/// Each node's view is the mirror image of the other's.
fn agree(kernel: &KernelStatus, twin: &ResourceStatus) -> bool {
    const MIRRORED: [(&str, &str); 6] = [
        ("Connected", "Connected"),
        ("WFBitMapS", "WFBitMapT"),
        ("SyncSource", "SyncTarget"),
        ("PausedSyncS", "PausedSyncT"),
        ("VerifyS", "VerifyT"),
        ("Ahead", "Behind"),
    ];
    let (one, other) = (kernel.connection.as_str(), twin.connection.as_str());
    let states = [&kernel.role, &kernel.peer_role, &kernel.disk, &kernel.peer_disk];
    let mirror = [twin.peer_role.as_str(), twin.role.as_str()];
    let disks = [twin.peer_disk.as_str(), twin.disk.as_str()];
    MIRRORED.iter().any(|pair| *pair == (one, other) || *pair == (other, one))
        && states.into_iter().eq(mirror.into_iter().chain(disks))
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

impl Drop for Lab {
    fn drop(&mut self) {
        let complaints = self.kernel.complaints();
        if !std::thread::panicking() {
            assert_eq!(complaints, Vec::<String>::new(), "the kernel took offence");
            return;
        }
        eprintln!("--- complaints of the kernel ---\n{}", complaints.join("\n"));
        let proc = std::fs::read_to_string("/proc/drbd").unwrap_or_default();
        let gi = self.kernel.run(&["get-gi", RESOURCE]).stdout;
        eprintln!("--- kernel ---\n{proc}{}", String::from_utf8_lossy(&gi));
        match self.twin.is_running().then(|| self.twin.try_status()).flatten() {
            Some(status) => eprintln!("--- twinblk ---\n{status:#?}"),
            None => eprintln!("--- twinblk --- no status"),
        }
        eprintln!("--- log of the kernel ---\n{}", tail(&self.kernel.log()));
        eprintln!("--- log of twinblk ---\n{}", tail(&self.twin.log()));
    }
}
