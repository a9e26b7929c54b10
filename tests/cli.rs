//! The program itself: what it prints and the code it ends with, against a daemon that the test
//! plays, and against real metadata in files.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use twinblk::control::status::{GenerationStatus, NodeStatus, ResyncStatus};
use twinblk::control::{self, Handler, Outcome, ResourceStatus};
use twinblk_proto::state::{ConnectionState, DiskState, Role};

/// Two nodes on one machine, as somebody without root would write it.
const CONFIG: &str = "
resource r0 {
  device /dev/drbd0;
  meta-disk internal;
  on alice { address 127.0.0.1:17788; disk alice.img; }
  on bob   { address 127.0.0.1:17789; disk bob.img; }
}
resource r1 {
  device /dev/drbd1;
  disk alice1.img;
  meta-disk alice1.md;
  on alice { address 127.0.0.1:17790; }
  on bob   { address 127.0.0.1:17791; }
}
resource other {
  device minor 2; disk x;
  on bob   { address 127.0.0.1:17793; }
  on carol { address 127.0.0.1:17792; }
}
";

struct Site {
    directory: tempfile::TempDir,
}

#[derive(Debug, PartialEq, Eq)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Site {
    fn new() -> Self {
        let site = Self { directory: tempfile::tempdir().expect("temporary directory") };
        std::fs::write(site.path("drbd.conf"), CONFIG).expect("written");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, bytes: u64) {
        let file = std::fs::File::create(self.path(name)).expect("created");
        file.set_len(bytes).expect("sized");
    }

    /// Runs a verb as alice. Paths of the site are printed as `~`.
    fn run(&self, arguments: &str) -> Ended {
        self.run_with("drbd.conf", arguments)
    }

    fn run_with(&self, config: &str, arguments: &str) -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_twinblk"))
            .args(["-c", &self.path(config).display().to_string()])
            .args(["--run-dir", &self.path("run").display().to_string(), "--node", "alice"])
            .args(arguments.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .expect("started");
        let root = self.directory.path().display().to_string();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace(&root, "~");
        Ended {
            code: output.status.code().expect("not killed"),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// The end of a verb that should do nothing but fail.
    fn refused(&self, arguments: &str) -> (i32, String) {
        let ended = self.run(arguments);
        assert_eq!(ended.out, "", "{arguments}");
        (ended.code, ended.err)
    }
}

/// What the options of a site look like in a hint.
const GIVEN: &str = "-c ~/drbd.conf --run-dir ~/run --node alice";

fn healthy(name: &str) -> ResourceStatus {
    ResourceStatus {
        name: name.to_owned(),
        role: Role::Primary,
        peer_role: Role::Secondary,
        connection: ConnectionState::Connected,
        disk: DiskState::UpToDate,
        peer_disk: DiskState::UpToDate,
        peer: NodeStatus { name: "bob".to_owned(), address: "127.0.0.1:17789".to_owned() },
        generations: GenerationStatus { current: 0xABCD, ..GenerationStatus::default() },
        ..ResourceStatus::default()
    }
}

type Statuses = Arc<Mutex<Vec<ResourceStatus>>>;

struct PlayedDaemon {
    statuses: Statuses,
    changes: watch::Sender<u64>,
    asked: RefCell<u32>,
}

impl Handler for PlayedDaemon {
    async fn perform(&self, resource: Option<&str>, command: &control::Command) -> Outcome {
        *self.asked.borrow_mut() += 1;
        let name = resource.unwrap_or("twinblk");
        match command {
            control::Command::Primary { force: false } => Outcome::refused(
                name,
                -2,
                "Need access to UpToDate data",
                "the local disk is Inconsistent",
                "twinblk primary --force r0",
            ),
            control::Command::Secondary { .. } => Outcome::refused(
                name,
                -12,
                "Device is held open by someone",
                "clients: 127.0.0.1:40000",
                "end them",
            ),
            control::Command::Connect { .. } => Outcome::refused(
                name,
                125,
                "Device has a net-config (use disconnect first)",
                "",
                "",
            ),
            control::Command::Detach { force } => Outcome::failed(20, format!("force: {force}")),
            _ => Outcome::done(),
        }
    }

    async fn status(&self, resource: Option<&str>) -> Result<Vec<ResourceStatus>, Outcome> {
        let mut statuses = self.statuses.lock().expect("no panic").clone();
        // A resync ends while somebody waits for it.
        for status in self.statuses.lock().expect("no panic").iter_mut() {
            if status.connection == ConnectionState::SyncTarget {
                status.connection = ConnectionState::Connected;
                self.changes.send_modify(|count| *count += 1);
            }
        }
        match resource {
            None => Ok(statuses),
            Some(name) => {
                statuses.retain(|status| status.name == name);
                if statuses.is_empty() {
                    Err(Outcome::no_such_resource(name))
                } else {
                    Ok(statuses)
                }
            }
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Runs the test in a thread of its own, with a daemon behind the socket of the site.
fn with_daemon(site: &Site, statuses: Vec<ResourceStatus>, test: impl FnOnce() + Send) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let local = tokio::task::LocalSet::new();
    let handler = Rc::new(PlayedDaemon {
        statuses: Arc::new(Mutex::new(statuses)),
        changes: watch::Sender::new(0),
        asked: RefCell::default(),
    });
    std::thread::scope(|scope| {
        local.block_on(&runtime, async {
            let listener = control::listen(&site.path("run")).expect("bound");
            let (sender, tested) = tokio::sync::oneshot::channel::<()>();
            let thread = scope.spawn(move || {
                let _ended = sender;
                test();
            });
            tokio::select! {
                () = control::serve(listener, handler) => unreachable!("serves until dropped"),
                // The sender is dropped when the test ends, whichever way.
                _ = tested => {}
            }
            thread.join().expect("the test passed");
        });
    });
}

#[test]
fn refusals_have_the_words_and_codes_of_the_original_and_a_way_on() {
    let site = Site::new();
    with_daemon(&site, vec![healthy("r0")], || {
        assert_eq!(
            site.refused("primary r0"),
            (
                17,
                "r0: State change failed: (-2) Need access to UpToDate data\n  \
                 detail: the local disk is Inconsistent\n  hint: twinblk primary --force r0\n"
                    .to_owned()
            )
        );
        let (code, text) = site.refused("secondary r0");
        assert_eq!(code, 11);
        assert!(
            text.starts_with("r0: State change failed: (-12) Device is held open by someone\n")
        );
        let (code, text) = site.refused("connect --discard-my-data r0");
        assert_eq!(
            (code, text.as_str()),
            (10, "r0: Failure: (125) Device has a net-config (use disconnect first)\n")
        );
        assert_eq!(site.refused("detach --force r0"), (20, "force: true\n".to_owned()));
        let done = Ended { code: 0, out: String::new(), err: String::new() };
        assert_eq!(site.run("primary --force r0"), done);
        assert_eq!(site.run("up all"), done);
        assert_eq!(site.run("down all"), done);
    });
}

#[test]
fn names_that_nobody_knows() {
    let site = Site::new();
    let unknown = "'nosuch' not defined in your config (for this host).\n  \
                   detail: ~/drbd.conf has no such resource\n  hint: twinblk GIVEN dump\n"
        .replace("GIVEN", GIVEN);
    // With and without a daemon: a typing mistake is one.
    for verb in ["primary", "up", "role", "wait-connect", "create-md", "dump", "get-gi"] {
        assert_eq!(site.refused(&format!("{verb} nosuch")), (1, unknown.clone()), "{verb}");
    }
    let (code, text) = site.refused("up other");
    assert_eq!(code, 1);
    assert_eq!(
        text,
        "'other' not defined in your config (for this host).\n  hint: this node is 'alice', the \
         resource is for bob and carol; --node NAME names another\n"
    );
    with_daemon(&site, vec![healthy("r0"), healthy("unlisted")], || {
        assert_eq!(site.refused("status nosuch"), (1, unknown.clone()));
        let (code, text) = site.refused("status r1");
        assert_eq!(code, 10);
        assert_eq!(
            text,
            format!(
                "r1: No such resource\n  detail: r1 is not up on this node\n  hint: twinblk {GIVEN} up r1\n"
            )
        );
        // What was taken out of the file while it was up can still be controlled.
        assert_eq!(site.run("primary --force unlisted").code, 0);
        assert_eq!(site.run("role unlisted").out, "Primary/Secondary\n");
    });
}

#[test]
fn no_daemon() {
    let site = Site::new();
    for verb in ["up r0", "primary r0", "status", "role r0", "wait-sync r0", "shutdown"] {
        let (code, text) = site.refused(verb);
        assert_eq!(code, 20, "{verb}");
        assert_eq!(
            text,
            format!(
                "twinblk: no daemon is running: nobody listens on ~/run/twinblk.sock\n  \
                 detail: verbs are carried out by the daemon of this node\n  \
                 hint: start it: twinblk {GIVEN} daemon\n"
            ),
            "{verb}"
        );
    }
}

#[test]
fn usage() {
    let site = Site::new();
    let (code, text) = site.refused("frobnicate r0");
    assert_eq!(code, 1);
    assert_eq!(text, "twinblk: Unknown command 'frobnicate'\n  hint: twinblk --help\n");
    let (_, text) = site.refused("primry r0");
    assert!(text.contains("did you mean 'primary'?"), "{text}");
    let (code, text) = site.refused("primary");
    assert_eq!(code, 1);
    assert!(text.starts_with("No resource names specified\n"), "{text}");
    assert_eq!(site.refused("primary --nosuch r0").0, 1);
    assert_eq!(site.run("--version").out, concat!("twinblk ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(site.run("--help").code, 0);
}

#[test]
fn states_as_words_and_as_json() {
    let site = Site::new();
    let mut waiting = healthy("r1");
    waiting.role = Role::Secondary;
    waiting.peer_role = Role::Unknown;
    waiting.connection = ConnectionState::WFConnection;
    waiting.peer_disk = DiskState::DUnknown;
    with_daemon(&site, vec![healthy("r0"), waiting], || {
        assert_eq!(site.run("role all").out, "Primary/Secondary\nSecondary/Unknown\n");
        assert_eq!(site.run("cstate r0 r1").out, "Connected\nWFConnection\n");
        assert_eq!(site.run("dstate r1").out, "UpToDate/DUnknown\n");
        let json = |arguments| -> serde_json::Value {
            let ended = site.run(arguments);
            assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{arguments}");
            serde_json::from_str(&ended.out).expect(arguments)
        };
        assert_eq!(
            json("role all --json"),
            serde_json::json!([
                { "resource": "r0", "role": "Primary", "peer-role": "Secondary" },
                { "resource": "r1", "role": "Secondary", "peer-role": "Unknown" },
            ])
        );
        assert_eq!(
            json("--json cstate r1"),
            serde_json::json!([{ "resource": "r1", "connection-state": "WFConnection" }])
        );
        assert_eq!(json("--json up r0")[0]["exit-code"], 0);
        assert_eq!(json("--json status r1")[0]["name"], "r1");
        assert_eq!(json("--json get-gi r0")[0]["generations"]["current"], "000000000000ABCD");
        let refused = site.run("--json primary r0 nosuch");
        assert_eq!((refused.code, refused.err.as_str()), (17, ""));
        let refused: serde_json::Value = serde_json::from_str(&refused.out).expect("json");
        assert_eq!(refused[0]["code"], -2);
        assert_eq!(refused[0]["hint"], "twinblk primary --force r0");
        assert_eq!(
            (&refused[1]["resource"], &refused[1]["exit-code"]),
            (&"nosuch".into(), &1.into())
        );
    });
}

#[test]
fn status_says_what_and_why() {
    let site = Site::new();
    let mut alone = healthy("r0");
    alone.connection = ConnectionState::StandAlone;
    alone.reason = "split brain: both nodes were Primary".to_owned();
    alone.hint = "twinblk connect --discard-my-data r0 on the node that loses".to_owned();
    let mut syncing = healthy("r1");
    syncing.connection = ConnectionState::SyncSource;
    syncing.peer_disk = DiskState::Inconsistent;
    syncing.resync = Some(ResyncStatus { done_fraction: 0.5938, ..ResyncStatus::default() });
    with_daemon(&site, vec![alone, syncing], || {
        let expected = "r0 role:Primary
  disk:UpToDate open:no
  bob connection:StandAlone
  reason: split brain: both nodes were Primary
  hint: twinblk connect --discard-my-data r0 on the node that loses

r1 role:Primary
  disk:UpToDate open:no
  bob role:Secondary
    replication:SyncSource peer-disk:Inconsistent done:59.38

";
        let shown = Ended { code: 0, out: expected.to_owned(), err: String::new() };
        assert_eq!(site.run("status"), shown);
        assert_eq!(site.run("status all"), shown);
        let watched = site.run("status r0 --watch --timeout 1");
        assert_eq!(watched.code, 0);
        assert_eq!(
            watched.out,
            expected.split_inclusive("\n\n").next().expect("r0"),
            "no change, shown once"
        );
        let line = site.run("status --watch --json --timeout 1").out;
        assert_eq!(line.lines().count(), 1);
    });
    with_daemon(&site, Vec::new(), || {
        assert_eq!(site.run("status").out, "# No currently configured DRBD found.\n");
        assert_eq!(site.run("role r0").out, "Unconfigured\n");
    });
}

#[test]
fn waits_end() {
    let site = Site::new();
    let mut resyncing = healthy("r0");
    resyncing.connection = ConnectionState::SyncTarget;
    let mut waiting = healthy("r1");
    waiting.connection = ConnectionState::WFConnection;
    waiting.reason = "nobody answers".to_owned();
    with_daemon(&site, vec![resyncing, waiting], || {
        assert_eq!(
            site.run("wait-sync r0"),
            Ended { code: 0, out: String::new(), err: String::new() }
        );
        let (code, text) = site.refused("wait-connect r1 --timeout 1");
        assert_eq!(code, 5);
        assert_eq!(text, "r1: still WFConnection after 1 s\n  detail: nobody answers\n");
    });
}

#[test]
fn a_configuration_that_does_not_load() {
    let site = Site::new();
    let wrong = CONFIG.replace("meta-disk internal", "meta-disc internal");
    std::fs::write(site.path("wrong.conf"), wrong).expect("written");
    for verb in ["up r0", "dump", "create-md r0", "daemon"] {
        let ended = site.run_with("wrong.conf", verb);
        assert_eq!((ended.code, ended.out.as_str()), (10, ""), "{verb}");
        assert!(
            ended.err.contains("unknown keyword 'meta-disc' in resource 'r0'"),
            "{}",
            ended.err
        );
        assert!(ended.err.contains("~/wrong.conf:4:3"), "{}", ended.err);
        assert!(ended.err.contains("^^^"), "{}", ended.err);
        assert!(ended.err.contains("did you mean 'meta-disk'?"), "{}", ended.err);
        assert!(!ended.err.contains('\x1b'), "no colour without a terminal");
    }
    let missing = site.run_with("missing.conf", "dump");
    assert_eq!(missing.code, 10);
    assert_eq!(
        missing.err,
        "Error: Can not open '~/missing.conf': No such file or directory\n  name the file with -c FILE\n"
    );
    // What is up can be controlled all the same.
    with_daemon(&site, vec![healthy("r0")], || {
        let ended = site.run_with("wrong.conf", "role all");
        assert_eq!((ended.code, ended.out.as_str()), (0, "Primary/Secondary\n"));
        assert!(ended.err.ends_with("going on with what the daemon knows\n"), "{}", ended.err);
        assert_eq!(site.run_with("wrong.conf", "primary --force r0").code, 0);
        assert_eq!(site.run_with("wrong.conf", "status").code, 0);
    });
}

const ELECTION: &str = "! of alice
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    virtual_ipaddress {
        10.0.0.9
    }
    drbd_resource r0 {
        mount /dev/drbd0 /data ext4
    }
}
";

#[test]
fn both_configurations_are_checked_together() {
    let site = Site::new();
    let election = site.path("election").display().to_string();
    let write = |text: &str| std::fs::write(&election, text).expect("written");
    write(ELECTION);
    let warned = site.run(&format!("check --keepalived {election}"));
    assert_eq!((warned.code, &*warned.out), (0, "~/drbd.conf, ~/election: 0 errors, 1 warning\n"));
    assert!(warned.err.contains("Warning: resource 'r0' has takeover both: it can split"));
    assert!(warned.err.contains("~/election:8:19") && warned.err.contains("takeover witness"));

    write(&ELECTION.replace("id 51", "id 510"));
    let wrong = site.run(&format!("check --keepalived {election}"));
    assert_eq!((wrong.code, &*wrong.out), (10, "~/drbd.conf, ~/election: 1 error, 0 warnings\n"));
    assert!(wrong.err.contains("Error: virtual_router_id 510 is out of range"), "{}", wrong.err);

    write(&ELECTION.replace("drbd_resource r0", "drbd_resource r2"));
    let json = site.run(&format!("--json check --keepalived {election}"));
    assert_eq!((json.code, &*json.err), (10, ""));
    let document: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(document["errors"], 1);
    let finding = &document["findings"][0];
    assert_eq!((finding["severity"].as_str(), finding["line"].as_u64()), (Some("error"), Some(8)));
    assert_eq!(finding["message"], "there is no resource 'r2' in ~/drbd.conf");

    // Files of either kind, told apart by what is in them.
    let drbd = site.path("drbd.conf").display().to_string();
    write(
        &ELECTION
            .replace("    drbd_resource r0 {\n        mount /dev/drbd0 /data ext4\n    }\n", ""),
    );
    let clean = site.run(&format!("check {election} {drbd}"));
    assert_eq!((clean.code, &*clean.err), (0, ""));
    assert_eq!(clean.out, "~/election, ~/drbd.conf: 0 errors, 0 warnings\n");
    let missing = site.run("check --keepalived /nowhere/k");
    assert_eq!(missing.code, 10);
    assert!(missing.err.contains("cannot open '/nowhere/k': No such file"), "{}", missing.err);
}

#[test]
fn dumps() {
    let site = Site::new();
    let dump = site.run("dump r0");
    assert_eq!(
        dump,
        Ended {
            code: 0,
            out: "# resource r0 on alice: not ignored, not stacked
# defined at ~/drbd.conf:2
resource r0 {
    on alice {
        device           /dev/drbd0 minor 0;
        disk             alice.img;
        meta-disk        internal;
        address          ipv4 127.0.0.1:17788;
    }
    on bob {
        device           /dev/drbd0 minor 0;
        disk             bob.img;
        meta-disk        internal;
        address          ipv4 127.0.0.1:17789;
    }
}

"
            .to_owned(),
            err: String::new()
        }
    );
    let all = site.run("dump");
    assert!(all.out.starts_with("# ~/drbd.conf\n# resource r0 on alice"), "{}", all.out);
    assert!(all.out.contains("# resource other on alice: ignored, not stacked\n"), "{}", all.out);
    assert_eq!(site.run("dump all"), all);
    let json: serde_json::Value =
        serde_json::from_str(&site.run("--json dump r1").out).expect("json");
    assert_eq!(json["resources"][0]["hosts"][0]["volumes"][0]["meta-disk"], "alice1.md");
    assert_eq!(json["resources"][0]["hosts"][1]["address"], "127.0.0.1:17791");
}

#[test]
fn metadata_is_created_shown_and_protected() {
    let site = Site::new();
    let (code, text) = site.refused("create-md r0");
    assert_eq!(code, 20);
    assert_eq!(
        text,
        "open(~/alice.img) failed: No such file or directory\n  hint: correct the configuration, \
         or make a file of the size wanted: truncate -s 1G ~/alice.img\n"
    );
    site.file("alice.img", 256 << 20);
    let (code, text) = site.refused("get-gi r0");
    assert_eq!(code, 1);
    assert!(text.starts_with("No valid meta data found\n"), "{text}");
    assert!(text.contains(&format!("`twinblk {GIVEN} create-md r0`")), "{text}");

    let created = "initializing activity log\ninitializing bitmap (8 KB) to all zero\n\
                   Writing meta data...\nNew drbd meta data block successfully created.\n";
    let done = Ended { code: 0, out: created.to_owned(), err: String::new() };
    assert_eq!(site.run("create-md r0"), done);
    let fresh =
        "0000000000000004:0000000000000000:0000000000000000:0000000000000000:0:0:0:0:0:0:0\n";
    assert_eq!(site.run("get-gi r0").out, fresh);
    assert!(
        site.run("show-gi r0")
            .out
            .ends_with("flags: Secondary, StandAlone, Inconsistent\nmeta-data: clean\n")
    );
    let dump = site.run("dump-md r0");
    assert_eq!(dump.code, 0);
    assert!(dump.out.starts_with("# DRBD meta data dump\n"), "{}", dump.out);
    assert!(dump.out.contains("\nversion \"v08\";\n"), "{}", dump.out);
    assert!(dump.out.contains("uuid {\n    0x0000000000000004;"), "{}", dump.out);
    assert_eq!(site.run("apply-al r0"), Ended { code: 0, out: String::new(), err: String::new() });

    // Again: only with an explicit yes.
    let (code, text) = site.refused("create-md r0");
    assert_eq!(code, 1);
    assert_eq!(
        text,
        format!(
            "You want me to create a v08 style flexible-size internal meta data block.
There appears to be a v08 flexible-size internal meta data block
already in place on ~/alice.img at byte offset 268431360

Do you really want to overwrite the existing meta-data?
Operation cancelled.
  detail: stdin not a TTY, not waiting for confirmation
  hint: if it is what you want: twinblk {GIVEN} create-md --force r0
"
        )
    );
    let forced = site.run("create-md --force r0");
    assert_eq!((forced.code, forced.out.as_str()), (0, created));
    assert!(forced.err.ends_with("*** confirmation forced via --force option ***\n"));

    let (code, text) = site.refused("wipe-md r0");
    assert_eq!(code, 1);
    assert!(text.contains("Do you really want to wipe out the DRBD meta data?"), "{text}");
    assert_eq!(site.run("get-gi r0").out, fresh, "still there");
    assert_eq!(site.run("wipe-md --force r0").code, 0);
    assert_eq!(site.run("get-gi r0").code, 1);
}

#[test]
fn external_metadata() {
    let site = Site::new();
    site.file("alice1.img", 64 << 20);
    site.file("alice1.md", 2 << 20);
    assert_eq!(site.run("create-md r1").code, 0);
    let (_, text) = site.refused("create-md r1");
    assert!(
        text.contains("v08 flexible-size external meta data block\nalready in place on ~/alice1.md at byte offset 0\n"),
        "{text}"
    );
    assert_eq!(site.run("get-gi r1").out.len(), 82);
    assert_eq!(
        std::fs::read(site.path("alice1.img")).expect("there"),
        vec![0; 64 << 20],
        "data untouched"
    );
}

#[test]
fn data_in_the_way() {
    let site = Site::new();
    let mut disk = vec![0_u8; 64 << 20];
    disk[512] = 1;
    std::fs::write(site.path("alice.img"), &disk).expect("written");
    let (code, text) = site.refused("create-md r0");
    assert_eq!(code, 1);
    assert!(
        text.starts_with(
            "md_offset 67104768\nal_offset 67072000\nbm_offset 67067904\n\nFound some data\n"
        ),
        "{text}"
    );
    assert!(text.contains(" ==> This might destroy existing data! <==\n"), "{text}");
    assert_eq!(std::fs::read(site.path("alice.img")).expect("there"), disk, "nothing was changed");

    // An ext4 file system of 16384 blocks of 4 KiB fills the disk: no force helps.
    disk[1024 + 4..1024 + 8].copy_from_slice(&16384_u32.to_le_bytes());
    disk[1024 + 24] = 2;
    disk[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xEF]);
    std::fs::write(site.path("alice.img"), &disk).expect("written");
    let ended = site.run("create-md --force r0");
    assert_eq!(ended.code, 40);
    assert!(
        ended.out.contains("       65536 kB data area apparently used\n       65496 kB left usable by current configuration\n"),
        "{}",
        ended.out
    );
    assert!(ended.err.starts_with("Operation refused.\n"), "{}", ended.err);
    assert_eq!(std::fs::read(site.path("alice.img")).expect("there"), disk, "nothing was changed");
    site.file("alice.img", 16 << 10);
    assert_eq!(site.refused("create-md r0").0, 20, "too small");
}

#[test]
fn a_disk_in_use_is_left_alone() {
    let site = Site::new();
    site.file("alice.img", 64 << 20);
    with_daemon(&site, vec![healthy("r0")], || {
        let (code, text) = site.refused("create-md --force r0");
        assert_eq!(code, 20);
        assert_eq!(
            text,
            format!(
                "r0: Device '0' is configured!\n  detail: the daemon uses ~/alice.img\n  \
                 hint: twinblk {GIVEN} down r0\n"
            )
        );
        assert_eq!(
            site.run("get-gi r0").out,
            format!("{:016X}{}\n", 0xABCD, ":0000000000000000".repeat(3) + &":0".repeat(7))
        );
    });
    let held = std::fs::File::open(site.path("alice.img")).expect("there");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("free");
    let (code, text) = site.refused("create-md r0");
    assert_eq!(code, 20);
    assert!(text.starts_with("open(~/alice.img) failed: Device or resource busy\n"), "{text}");
}

#[test]
fn things_that_are_no_disk() {
    let site = Site::new();
    std::fs::create_dir(site.path("alice.img")).expect("created");
    assert_eq!(site.refused("create-md r0").0, 20);
    std::fs::remove_dir(site.path("alice.img")).expect("removed");
    std::os::unix::fs::symlink("/dev/null", site.path("alice.img")).expect("linked");
    let (code, text) = site.refused("create-md r0");
    assert_eq!(code, 20);
    assert!(text.starts_with("'~/alice.img' is neither a block device nor a file!"), "{text}");
    assert!(Path::new("/dev/null").exists());
}
