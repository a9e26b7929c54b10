//! The block device of a primary: a mounted file system, whoever serves it. The peer is a second
//! twinblk node; the kernel's part is its nbd driver.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use twinblk::control::ResourceStatus;

use crate::common::pair::{Pair, PairOptions, RESOURCE};
use crate::guest::in_guest;

/// No pause is longer: the restart, the handshake, and the 5 s after which the kernel asks again.
const PAUSE_LIMIT: Duration = Duration::from_secs(60);
const LINK: &str = "/dev/drbd0";
/// Ended under one writer; 20 of the daemons of both tests are killed.
const DAEMONS: u32 = 12;

pub fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}"))
}

pub fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}{errors}");
    text
}

/// Alice is Primary and in sync, with the driver loaded.
fn attached_pair() -> Pair {
    succeed("modprobe", &["nbd"]);
    let net = "timeout 30;".to_owned();
    Pair::in_sync(PairOptions { net, size_bytes: 48 << 20, attach: true, ..PairOptions::default() })
}

fn is_attached(status: &ResourceStatus) -> bool {
    status.kernel_device.state == "attached" && status.kernel_device.sockets == 2
}

/// FLUSH, FUA and TRIM that have arrived over the device's sockets.
fn arrived(status: &ResourceStatus) -> [u64; 3] {
    let kernel = status.nbd.clients.iter().filter(|client| client.is_kernel);
    kernel.fold([0; 3], |[flushes, fuas, zeroes], client| {
        [flushes + client.flushes, fuas + client.fuas, zeroes + client.zeroes]
    })
}

/// ext4 on a device.
pub struct Mount {
    pub point: PathBuf,
    device: &'static str,
}

impl Drop for Mount {
    /// A test that failed must end, and so must what waits for the device.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for index in 0..8 {
                let _ = twinblk::nbd::kernel::disconnect(index);
            }
        }
    }
}

impl Mount {
    fn make() -> Self {
        Self::make_on(LINK)
    }

    pub fn make_on(device: &'static str) -> Self {
        succeed("mke2fs", &["-q", "-t", "ext4", device]);
        let point = PathBuf::from("/mnt/device");
        fs::create_dir_all(&point).expect("mount point");
        let mount = Self { point, device };
        mount.mount();
        mount
    }

    fn mount(&self) {
        succeed("mount", &["-t", "ext4", self.device, &self.point.display().to_string()]);
    }

    pub fn unmount(&self) {
        succeed("umount", &[&self.point.display().to_string()]);
    }
}

const RECORD_BYTES: u64 = 4096;
const RECORDS: u64 = 1024;

/// Sequence number and place in each record, and a checksum over both: a lost, old or misplaced
/// write is seen.
fn record(place: u64, sequence: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD_BYTES as usize);
    bytes.extend_from_slice(&place.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    while bytes.len() < RECORD_BYTES as usize - 4 {
        bytes.push((sequence.wrapping_mul(31) + bytes.len() as u64 * 7 + place) as u8);
    }
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// Writes records all over a file, syncs, and remembers what must be there.
pub struct Writer {
    stop: Arc<AtomicBool>,
    /// Records that are written and synced.
    done: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<std::io::Result<BTreeMap<u64, u64>>>>,
}

impl Writer {
    pub fn start(path: &Path) -> Self {
        let file = File::create(path).expect("a file on the device");
        file.set_len(RECORDS * RECORD_BYTES).expect("room");
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, done) = (stop.clone(), done.clone());
            move || {
                let mut written = BTreeMap::new();
                for sequence in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let place = sequence.wrapping_mul(0x9E37_79B9) % RECORDS;
                    file.write_all_at(&record(place, sequence), place * RECORD_BYTES)?;
                    written.insert(place, sequence);
                    if sequence % 8 == 7 {
                        file.sync_data()?;
                        done.store(sequence + 1, Ordering::Relaxed);
                    }
                }
                file.sync_all()?;
                Ok(written)
            }
        });
        Self { stop, done, thread: Some(thread) }
    }

    /// Waits until something was written and synced that was not before.
    pub fn progress(&self) -> Duration {
        let started = Instant::now();
        let before = self.done.load(Ordering::Relaxed);
        // The first sync may have been under way.
        while self.done.load(Ordering::Relaxed) < before + 16 {
            assert!(started.elapsed() < PAUSE_LIMIT, "nothing is written any more");
            let thread = self.thread.as_ref().expect("not stopped");
            assert!(!thread.is_finished(), "the writer met an I/O error");
            std::thread::sleep(Duration::from_millis(10));
        }
        started.elapsed()
    }

    /// What the file must hold.
    pub fn stop(&mut self) -> BTreeMap<u64, u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("stopped once");
        thread.join().expect("the writer's thread").expect("no I/O error")
    }
}

/// fio beside it, past the page cache: writes blocks all over a file and reads each of them back, again
/// and again. Any difference or I/O error ends it with an error.
pub struct Fio {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u32>>,
}

impl Fio {
    pub fn start(folder: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let place = format!("--directory={}", folder.display());
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut rounds = 0;
                while !stop.load(Ordering::Relaxed) {
                    let job = "--name=fio --rw=randwrite --bs=4k --size=2m --direct=1 --fsync=16 \
                        --ioengine=psync --verify=crc32c --verify_fatal=1 --verify_backlog=32 \
                        --thread --output-format=terse";
                    let mut arguments: Vec<&str> = job.split_whitespace().collect();
                    let seed = format!("--randseed={}", rounds + 1);
                    arguments.extend([place.as_str(), seed.as_str()]);
                    succeed("fio", &arguments);
                    rounds += 1;
                }
                rounds
            }
        });
        Self { stop, thread: Some(thread) }
    }

    /// Waits for the round under way.
    pub fn stop(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("stopped once").join().expect("fio met an error")
    }
}

/// Reads everything back from the device, not from memory.
pub fn verify(path: &Path, written: &BTreeMap<u64, u64>) {
    fs::write("/proc/sys/vm/drop_caches", "3\n").expect("dropped");
    let file = File::open(path).expect("the file");
    assert!(!written.is_empty());
    for (place, sequence) in written {
        let mut bytes = vec![0; RECORD_BYTES as usize];
        file.read_exact_at(&mut bytes, place * RECORD_BYTES).expect("read");
        assert!(bytes == record(*place, *sequence), "record {place} is not write {sequence}");
    }
}

pub fn check_file_system(device: &str) {
    succeed("e2fsck", &["-f", "-n", device]);
}

pub fn kernel_log() -> String {
    succeed("dmesg", &[])
}

/// Ends one daemon after the other under a writer, some of them in good order, and starts the next.
/// `go_on` is what there is to do beside `up`.
fn end_daemons(pair: &mut Pair, path: &Path, go_on: impl Fn(&Pair)) -> BTreeMap<u64, u64> {
    let mut writer = Writer::start(path);
    writer.progress();
    let fio = Fio::start(path.parent().expect("a folder"));
    let device = pair.alice.status().kernel_device.path;
    for cycle in 1..=DAEMONS {
        let orderly = cycle % 6 == 0;
        if orderly {
            pair.alice.terminate();
        } else {
            pair.alice.kill();
        }
        pair.alice.start();
        pair.alice.succeed(&["up", RESOURCE]);
        go_on(pair);
        let status = pair.alice.wait("attached again", is_attached);
        assert_eq!(status.kernel_device.path, device, "the same device");
        let pause = writer.progress();
        println!("cycle {cycle}, orderly {orderly}: written again after {pause:?}");
    }
    let rounds = fio.stop();
    println!("{rounds} rounds of fio verify");
    let written = writer.stop();
    verify(path, &written);
    written
}

pub fn assert_no_errors(log: &str) {
    assert!(!log.contains("I/O error") && !log.contains("EXT4-fs error"), "{log}");
}

/// The peer is there: a new daemon goes on by itself.
#[test]
fn a_mounted_file_system_survives_its_daemons() {
    in_guest(&[], || {
        let mut pair = attached_pair();
        let mount = Mount::make();
        let path = mount.point.join("records");
        let written = end_daemons(&mut pair, &path, |_| ());
        mount.unmount();
        check_file_system(LINK);
        assert_no_errors(&kernel_log());
        pair.wait_in_sync();
        pair.alice.succeed(&["secondary", RESOURCE]);
        assert!(!Path::new(LINK).exists() && fs::read_link(LINK).is_err());
        assert_eq!(pair.differing_blocks(), 0);
        // What the writer was told is with the peer too.
        pair.bob.succeed(&["primary", RESOURCE]);
        pair.bob.wait("attached", is_attached);
        mount.mount();
        verify(&path, &written);
        mount.unmount();
        pair.bob.succeed(&["down", RESOURCE]);
    });
}

/// The peer is away: a new daemon does not know whether it was promoted, and is told.
#[test]
fn a_mounted_file_system_survives_its_daemons_without_the_peer() {
    in_guest(&[], || {
        let mut pair = attached_pair();
        let mount = Mount::make();
        let path = mount.point.join("records");
        pair.bob.kill();
        pair.alice.wait("alone", |status| status.connection.as_str() != "Connected");
        end_daemons(&mut pair, &path, |pair| {
            let status = pair.alice.status();
            assert_eq!(status.role.as_str(), "Secondary", "not by itself");
            assert_eq!(status.kernel_device.state, "waiting");
            pair.alice.succeed(&["primary", RESOURCE]);
        });
        mount.unmount();
        check_file_system(LINK);
        assert_no_errors(&kernel_log());
        pair.bob.start();
        pair.bob.succeed(&["up", RESOURCE]);
        pair.wait_in_sync();
        pair.alice.succeed(&["secondary", RESOURCE]);
        assert_eq!(pair.differing_blocks(), 0);
    });
}

/// The kernel gives up a connection whose requests are not answered, and asks again. What the daemon
/// had taken of the old one must be done before.
#[test]
fn a_daemon_that_sleeps_too_long_is_asked_again() {
    in_guest(&[], || {
        let pair = attached_pair();
        let mount = Mount::make();
        let path = mount.point.join("records");
        let mut writer = Writer::start(&path);
        writer.progress();
        let id = pair.alice.process_id().to_string();
        for round in 1..=2 {
            // Prints it and clears it.
            succeed("dmesg", &["-c"]);
            succeed("kill", &["-STOP", &id]);
            let limit = Instant::now() + PAUSE_LIMIT;
            while !kernel_log().contains("timed out, retrying") {
                assert!(Instant::now() < limit, "the kernel waits and waits");
                std::thread::sleep(Duration::from_millis(50));
            }
            succeed("kill", &["-CONT", &id]);
            let pause = writer.progress();
            println!("round {round}: written again after {pause:?}");
            pair.alice.wait("attached again", is_attached);
        }
        let written = writer.stop();
        verify(&path, &written);
        mount.unmount();
        check_file_system(LINK);
        pair.wait_in_sync();
        pair.alice.succeed(&["secondary", RESOURCE]);
        assert_eq!(pair.differing_blocks(), 0);
    });
}

#[test]
fn what_must_arrive_arrives_and_what_is_in_use_is_not_detached() {
    in_guest(&[], || {
        let mut pair = attached_pair();
        let status = pair.alice.wait("attached", is_attached);
        assert_eq!(fs::read_link(LINK).expect("a link"), Path::new(&status.kernel_device.path));
        assert_eq!(status.kernel_device.link, LINK);
        let setting = |name: &str| {
            let path = status.kernel_device.path.replace("/dev/", "/sys/block/");
            fs::read_to_string(format!("{path}/queue/{name}")).expect(name).trim().to_owned()
        };
        assert_eq!(setting("max_sectors_kb"), "1024");
        assert_eq!(setting("logical_block_size"), "512");
        assert_eq!((setting("write_cache").as_str(), setting("fua").as_str()), ("write back", "1"));
        assert_ne!(setting("discard_max_bytes"), "0");

        let mount = Mount::make();
        let before = arrived(&pair.alice.status());
        let mut file = File::create(mount.point.join("file")).expect("a file");
        for _ in 0..10 {
            file.write_all(&[7; 4096]).expect("written");
            file.sync_all().expect("synced");
        }
        let after = arrived(&pair.alice.status());
        assert!(after[0] >= before[0] + 10, "FLUSH: {before:?} {after:?}");
        assert!(after[1] >= before[1] + 10, "FUA, of the journal's commits: {before:?} {after:?}");
        succeed("fstrim", &[&mount.point.display().to_string()]);
        assert!(arrived(&pair.alice.status())[2] > after[2], "TRIM");

        for verb in
            [&["secondary", RESOURCE][..], &["down", RESOURCE], &["detach-device", RESOURCE]]
        {
            let (code, text) = pair.alice.refused(verb);
            assert_eq!(code, 11, "{text}");
            assert!(text.contains("(-12) Device is held open by someone"), "{text}");
            assert!(text.contains("mounted on /mnt/device"), "{text}");
        }
        assert!(pair.alice.refused(&["shutdown"]).1.contains("mounted on /mnt/device"));
        drop(file);
        mount.unmount();

        let open = File::open(LINK).expect("opened");
        // Another process than the daemon: this one.
        let (_, text) = pair.alice.refused(&["secondary", RESOURCE]);
        assert!(text.contains(&format!("process {} (", std::process::id())), "{text}");
        drop(open);
        pair.alice.succeed(&["detach-device", RESOURCE]);
        assert!(fs::symlink_metadata(LINK).is_err(), "the link went with it");
        assert_eq!(pair.alice.status().kernel_device.path, "");
        pair.alice.succeed(&["attach-device", RESOURCE]);
        assert!(is_attached(&pair.alice.status()));

        // Not in use: an orderly end leaves nothing behind.
        let disk = pair.alice.status().kernel_device.path.replace("/dev/", "/sys/block/");
        assert!(Path::new(&disk).join("pid").exists());
        pair.alice.terminate();
        assert!(!Path::new(&disk).join("pid").exists(), "the device was ended");
        assert!(fs::symlink_metadata(LINK).is_err());
    });
}

/// What a mounted file system remembers must not reach data that went on without it.
#[test]
fn a_device_that_waited_too_long_gets_errors_instead_of_the_peers_data() {
    in_guest(&[], || {
        let mut pair = attached_pair();
        let mount = Mount::make();
        fs::write(mount.point.join("file"), "of alice").expect("written");
        succeed("sync", &[]);
        pair.alice.kill();
        // The peer takes over and writes.
        pair.bob.wait("alone", |status| status.connection.as_str() != "Connected");
        pair.bob.succeed(&["primary", RESOURCE]);
        let mut client = pair.bob.nbd();
        client.write(8 << 20, &[9; 4096]).expect("written");
        client.flush().expect("flushed");
        let status = pair.alice.try_status();
        assert!(status.is_none(), "{status:?}");
        let waiting = std::thread::spawn({
            let path = mount.point.join("late");
            move || File::create(path).and_then(|file| file.sync_all())
        });
        pair.alice.start();
        pair.alice.succeed(&["up", RESOURCE]);
        pair.alice.wait("the device ended", |status| status.kernel_device.path.is_empty());
        assert!(pair.alice.log().contains("the peer's data took over"), "said in the log");
        assert!(waiting.join().expect("a thread").is_err(), "the file system met an error");
        let _ = run("umount", &["-l", &mount.point.display().to_string()]);
        let status = pair.alice.wait("in sync", |status| status.disk.as_str() == "UpToDate");
        assert_eq!(status.role.as_str(), "Secondary");
        assert_eq!(client.read(8 << 20, 4096).expect("read"), [9; 4096]);
        drop(client);
    });
}

#[test]
fn without_the_driver_it_is_said_what_to_do() {
    in_guest(&[], || {
        let options = PairOptions { attach: true, size_bytes: 16 << 20, ..PairOptions::default() };
        let pair = Pair::in_sync(options);
        let (_, text) = pair.bob.refused(&["attach-device", RESOURCE]);
        assert!(text.contains("only a primary has a device"), "{text}");
        let (_, text) = pair.alice.refused(&["attach-device", RESOURCE]);
        assert!(text.contains("no nbd driver loaded") && text.contains("modprobe nbd"), "{text}");
        succeed("modprobe", &["nbd", "nbds_max=1"]);
        pair.alice.succeed(&["attach-device", RESOURCE]);
        assert!(is_attached(&pair.alice.status()));
        // Somebody ends it behind our back: it stays ended until asked for.
        let path = pair.alice.status().kernel_device.path;
        let index = path.trim_start_matches("/dev/nbd").parse().expect("a number");
        twinblk::nbd::kernel::disconnect(index).expect("ended");
        pair.alice.wait("noticed", |status| status.kernel_device.path.is_empty());
        pair.alice.succeed(&["attach-device", RESOURCE]);
        pair.alice.succeed(&["down", RESOURCE]);
    });
}
