//! `twinblk nbd-connect`: a mounted file system on a kernel device that lives through failovers of its
//! servers, and through the end of the process between them. The virtual address is a name, which is
//! looked up anew for each connection; the test moves it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::pair::{Node, Pair, PairOptions, RESOURCE};
use crate::guest::in_guest;
use crate::kernel_attach::{
    Fio, Mount, Writer, assert_no_errors, check_file_system, kernel_log, run, succeed, verify,
};

const DEVICE: &str = "/dev/nbd5";
const NAME: &str = "service.test";
const FAILOVERS: u32 = 6;
const LIMIT: Duration = Duration::from_secs(60);

/// The name leads to this node from now on.
fn point_to(node: &Node) {
    fs::write("/etc/nsswitch.conf", "hosts: files\n").expect("written");
    // In one step: who looks it up finds the old one or the new one.
    fs::write("/etc/hosts~", format!("{} {NAME}\n", node.nbd_address().ip())).expect("written");
    fs::rename("/etc/hosts~", "/etc/hosts").expect("renamed");
}

fn twinblk(pair: &Pair, arguments: &[&str]) -> (bool, String) {
    let folder = pair.alice.config().parent().expect("a folder").display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_twinblk"));
    command.args(["--run-dir", &folder]).args(arguments).stdin(Stdio::null());
    let output = command.output().expect("twinblk runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn connect(pair: &Pair) {
    let uri = format!("nbd://{NAME}:{}/{RESOURCE}", pair.alice.nbd_address().port());
    let (done, said) = twinblk(pair, &["nbd-connect", &uri, DEVICE]);
    assert!(done, "{said}");
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("nbd5.log")).unwrap_or_default()
}

/// The process in the background.
fn connector() -> Option<String> {
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&words).contains("nbd-connect") {
            return Some(entry.file_name().to_string_lossy().into_owned());
        }
    }
    None
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < limit, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn nodes(pair: &mut Pair, round: u32) -> (&mut Node, &mut Node) {
    match round.is_multiple_of(2) {
        true => (&mut pair.alice, &mut pair.bob),
        false => (&mut pair.bob, &mut pair.alice),
    }
}

#[test]
fn a_mounted_file_system_lives_through_failovers() {
    in_guest(&[], || {
        succeed("modprobe", &["nbd"]);
        let options = PairOptions { size_bytes: 48 << 20, ..PairOptions::default() };
        let mut pair = Pair::in_sync(options);
        let folder = pair.alice.config().parent().expect("a folder").to_owned();
        let folder = folder.as_path();
        point_to(&pair.alice);
        connect(&pair);
        let mount = Mount::make_on(DEVICE);
        let path = mount.point.join("records");
        let mut writer = Writer::start(&path);
        let fio = Fio::start(path.parent().expect("a folder"));
        writer.progress();
        for round in 0..FAILOVERS {
            let is_kill = round % 4 < 2;
            let (old, new) = nodes(&mut pair, round);
            let begun = Instant::now();
            if is_kill {
                old.kill();
                new.wait("alone", |status| status.connection.as_str() != "Connected");
            } else {
                old.succeed(&["secondary", "--force", RESOURCE]);
            }
            point_to(new);
            new.succeed(&["primary", RESOURCE]);
            writer.progress();
            println!("failover {round}, kill {is_kill}: written again after {:?}", begun.elapsed());
            if is_kill {
                old.start();
                old.succeed(&["up", RESOURCE]);
            }
            pair.wait_in_sync();
        }

        // Longer than the kernel waits: it gives its sockets up, is given new ones, and asks again.
        let (serving, _) = nodes(&mut pair, FAILOVERS);
        serving.succeed(&["secondary", "--force", RESOURCE]);
        wait_until("the kernel loses patience", || {
            log(folder).contains("the kernel dropped a connection")
        });
        serving.succeed(&["primary", RESOURCE]);
        writer.progress();

        // The process itself: what was in flight is asked again by the kernel.
        let before = connector().expect("it runs");
        succeed("kill", &["-9", &before]);
        wait_until("its end", || connector().is_none());
        let begun = Instant::now();
        connect(&pair);
        writer.progress();
        println!("connected again: written again after {:?}", begun.elapsed());

        let (done, said) = twinblk(&pair, &["nbd-disconnect", DEVICE]);
        assert!(!done && said.contains("mounted on /mnt/device"), "{said}");
        let rounds = fio.stop();
        println!("{rounds} rounds of fio verify");
        let written = writer.stop();
        verify(&path, &written);
        mount.unmount();
        check_file_system(DEVICE);
        assert_no_errors(&kernel_log());
        let (done, said) = twinblk(&pair, &["nbd-disconnect", DEVICE]);
        assert!(done, "{said}");
        wait_until("the end of the process", || connector().is_none());
        assert!(log(folder).contains("the device was ended"), "{}", log(folder));
        pair.alice.wait_idle();
        pair.bob.wait_idle();
        assert_eq!(pair.differing_blocks(), 0);
    });
}

#[test]
fn what_cannot_be_connected_is_said() {
    in_guest(&[], || {
        let options = PairOptions { size_bytes: 16 << 20, ..PairOptions::default() };
        let pair = Pair::in_sync(options);
        let uri = pair.alice.uri();
        let refused = |words: &[&str], wanted: &str| {
            let (done, said) = twinblk(&pair, words);
            assert!(!done && said.contains(wanted), "{words:?}: {said}");
        };
        refused(&["nbd-connect", &uri, DEVICE], "modprobe nbd");
        succeed("modprobe", &["nbd"]);
        refused(&["--timeout", "1", "nbd-connect", &pair.bob.uri(), DEVICE], "is Secondary");
        refused(&["nbd-disconnect", DEVICE], "is not set up");
        let (done, said) = twinblk(&pair, &["nbd-connect", &uri, DEVICE]);
        assert!(done, "{said}");
        refused(&["nbd-connect", &uri, DEVICE], "another process serves");
        refused(&["nbd-connect", &uri, "/dev/nbd6"], "is /dev/nbd5 already");
        // What others set up is theirs.
        let other = format!("{}x", pair.alice.uri());
        refused(&["nbd-connect", &other, DEVICE], "in use for something else");
        let size = fs::read_to_string("/sys/block/nbd5/size").expect("a size");
        let size: u64 = size.trim().parse().expect("a number");
        assert_eq!(size * 512, pair.alice.status().size_bytes);
        let settings = Path::new("/sys/block/nbd5/queue");
        let setting = |name| fs::read_to_string(settings.join(name)).expect("a setting");
        assert_eq!(setting("write_cache").trim(), "write back");
        assert_eq!(setting("fua").trim(), "1");
        assert_ne!(setting("discard_max_bytes").trim(), "0");
        // Somebody else's way of ending it.
        twinblk::nbd::kernel::disconnect(5).expect("ended");
        wait_until("the end of the process", || connector().is_none());
        assert!(!run("test", &["-e", "/sys/block/nbd5/pid"]).status.success());
    });
}
