//! Kills at random moments, under real work: a file-system image comes in by qemu-img or nbdcopy,
//! fio writes blocks that it can verify, and a storm of stamped blocks keeps its own ledger.
//! `TWINBLK_KILLS` says how many kills each test does, `TWINBLK_KILLS_SEED` where they begin.
//!
//! The device, in MiB:
//!
//! ```text
//!   0           24          40        63
//!   |   image    |    fio    |  storm  |
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::common::ledger::{BLOCK_BYTES, Ledger, Random, content};
use crate::common::nbd::{NbdClient, WRITE};
use crate::common::pair::{Node, Pair, PairOptions, RESOURCE, tool};

const MIB: u64 = 1 << 20;
const IMAGE_BYTES: u64 = 24 * MIB;
const FIO_OFFSET_BYTES: u64 = 24 * MIB;
const FIO_BYTES: u64 = 16 * MIB;
const STORM_OFFSET_BYTES: u64 = 40 * MIB;
const STORM_BLOCKS: u64 = (22 * MIB) / BLOCK_BYTES as u64;
const STORM_DEPTH: usize = 8;
/// A kill comes after at most this many answers of the storm: within the first 100 ms of the work.
const ANSWERS_BEFORE_KILL: u64 = 1500;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

struct Tools {
    fio: PathBuf,
    /// Each brings an image in; the rounds take turns.
    copiers: [PathBuf; 2],
    make_image: PathBuf,
}

impl Tools {
    fn find() -> Option<Self> {
        Some(Self {
            fio: tool("fio")?,
            copiers: [tool("qemu-img")?, tool("nbdcopy")?],
            make_image: tool("mke2fs")?,
        })
    }
}

/// What is written, and what is known of it.
struct Work {
    tools: Tools,
    folder: tempfile::TempDir,
    /// Two file systems that differ; `current` is on the device when no copy was cut off.
    images: [Vec<u8>; 2],
    current: Option<usize>,
    ledger: Ledger,
    random: Random,
    rounds: usize,
}

/// The work while it runs.
struct Running {
    storm: JoinHandle<Ledger>,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    fio: Child,
    fio_folder: PathBuf,
    copy: Child,
    image: usize,
}

impl Work {
    fn prepare() -> Option<Self> {
        let tools = Tools::find()?;
        let folder = tempfile::tempdir().expect("folder");
        let images = [0, 1].map(|number| {
            let content = folder.path().join(format!("content-{number}"));
            std::fs::create_dir(&content).expect("folder");
            let mut random = Random(0xfeed + number);
            for file in 0..12 {
                let words = (0..128 << 10).map(|_| random.next());
                let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
                std::fs::write(content.join(format!("file-{file}")), bytes).expect("content");
            }
            let image = folder.path().join(format!("image-{number}"));
            File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES)).expect("an image");
            let mut command = Command::new(&tools.make_image);
            command.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&content).arg(&image);
            assert!(command.status().expect("mke2fs").success(), "an image was made");
            std::fs::read(&image).expect("the image")
        });
        Some(Self {
            tools,
            folder,
            images,
            current: None,
            ledger: Ledger::default(),
            random: Random(0x9e37_79b9 ^ setting("TWINBLK_KILLS_SEED", 1)),
            rounds: 0,
        })
    }

    fn image_path(&self, image: usize) -> PathBuf {
        self.folder.path().join(format!("image-{image}"))
    }

    fn copy_command(&self, image: usize, node: &Node) -> Command {
        let copier = &self.tools.copiers[self.rounds % 2];
        let mut command = Command::new(copier);
        if copier.ends_with("qemu-img") {
            command.args(["convert", "-n", "-f", "raw", "-O", "raw", "-t", "none"]);
        } else {
            command.arg("--flush");
        }
        command.arg(self.image_path(image)).arg(node.uri());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn fio_command(&self, node: &Node, folder: &Path) -> Command {
        let mut command = Command::new(&self.tools.fio);
        command.current_dir(folder).args([
            "--name=blocks",
            "--ioengine=nbd",
            &format!("--uri={}", node.uri()),
            &format!("--offset={FIO_OFFSET_BYTES}"),
            &format!("--size={FIO_BYTES}"),
            "--bs=4k",
            "--rw=randwrite",
            // Deeper, fio's saved state calls writes complete that were never answered: its
            // verification fails with any server that is killed.
            "--iodepth=1",
            "--verify=crc32c",
            "--allrandrepeat=1",
            &format!("--randseed={}", self.rounds + 1),
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn start(&mut self, node: &Node) -> Running {
        self.rounds += 1;
        let mut client = node.nbd();
        let mut ledger = std::mem::take(&mut self.ledger);
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut random = Random(self.random.next());
        let storm = std::thread::spawn({
            let (stop, answers) = (stop.clone(), answers.clone());
            move || {
                // Fails when the server dies.
                let _ = ledger.storm(
                    &mut client,
                    STORM_BLOCKS,
                    STORM_DEPTH,
                    &mut random,
                    &stop,
                    &answers,
                );
                ledger
            }
        });
        let fio_folder = self.folder.path().join(format!("fio-{}", self.rounds));
        std::fs::create_dir(&fio_folder).expect("folder");
        let mut fio = self.fio_command(node, &fio_folder);
        let fio = fio.arg("--do_verify=0").arg("--verify_state_save=1").spawn().expect("fio");
        let image = self.current.map_or(0, |current| 1 - current);
        let copy = self.copy_command(image, node).spawn().expect("a copier");
        Running { storm, stop, answers, fio, fio_folder, copy, image }
    }

    /// After a random number of answers, so that every phase of copier and fio is met.
    fn wait_for_the_moment(&mut self, running: &Running) {
        let wanted = 1 + self.random.next() % ANSWERS_BEFORE_KILL;
        while running.answers.load(Ordering::Relaxed) < wanted {
            assert!(!running.storm.is_finished(), "the server went away early");
            std::thread::yield_now();
        }
    }

    /// What the node that goes on holds, compared with everything that was answered.
    fn check_after_kill(&mut self, running: Running, survivor: &Node) {
        let Running { storm, mut fio, fio_folder, mut copy, image, .. } = running;
        self.ledger = storm.join().expect("a writer");
        let mut client = survivor.nbd();
        self.ledger.check(&mut client).expect("every answered write of the storm");
        self.ledger.adopt(&mut client);

        let _ = fio.wait().expect("fio");
        if fio_folder.join("local-blocks-0-verify.state").exists() {
            let mut verify = self.fio_command(survivor, &fio_folder);
            verify.args(["--verify_only=1", "--verify_state_load=1"]);
            let output = verify.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
            let output = output.expect("fio");
            assert!(
                output.status.success(),
                "fio verify: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }

        let complete = copy.wait().expect("a copier").success();
        let held = read_image(&mut client);
        let old = self.current.map(|current| &self.images[current]);
        let new = &self.images[image];
        for (sector, bytes) in held.chunks(512).enumerate() {
            let span = sector * 512..sector * 512 + 512;
            // Sectors that were on their way may hold either; complete copies leave no choice.
            let is_old = match old {
                Some(old) => bytes == &old[span.clone()],
                None => bytes.iter().all(|byte| *byte == 0),
            };
            assert!(bytes == &new[span] || (is_old && !complete), "sector {sector} of the image");
        }
        drop(client);
        // From here on its content is known again.
        let status = self.copy_command(image, survivor).status().expect("a copier");
        assert!(status.success(), "a whole image comes in");
        let held = read_image(&mut survivor.nbd());
        assert!(held == self.images[image], "the image on the survivor");
        self.current = Some(image);
    }

    /// Both disks, byte by byte, and what is on them.
    fn check_disks(&self, pair: &Pair) {
        for node in [&pair.alice, &pair.bob] {
            node.wait_idle();
        }
        assert_eq!(pair.differing_blocks(), 0);
        let image = &self.images[self.current.expect("an image came in")];
        for node in [&pair.alice, &pair.bob] {
            let mut held = vec![0; image.len()];
            let disk = File::open(&node.disk).expect("disk");
            disk.read_exact_at(&mut held, 0).expect("data");
            assert!(held == *image, "the image on {}'s disk", node.name);
        }
    }
}

fn read_image(client: &mut NbdClient) -> Vec<u8> {
    let pieces = (0..IMAGE_BYTES).step_by(MIB as usize);
    pieces.flat_map(|offset| client.read(offset, MIB as u32).expect("the image")).collect()
}

fn campaign(protocol: char, kill_primary: bool) {
    let kills = setting("TWINBLK_KILLS", 2);
    let Some(mut work) = Work::prepare() else { return };
    work.ledger.begin_at(STORM_OFFSET_BYTES / BLOCK_BYTES as u64);
    let mut pair = Pair::in_sync(PairOptions { protocol, ..PairOptions::default() });
    for kill in 0..kills {
        // The roles change with every kill of a primary, so both disks take their turns.
        let (primary, secondary) = if kill_primary && kill % 2 == 1 {
            (&mut pair.bob, &mut pair.alice)
        } else {
            (&mut pair.alice, &mut pair.bob)
        };
        let running = work.start(primary);
        work.wait_for_the_moment(&running);
        if kill_primary {
            primary.kill();
            secondary.wait("the loss", |status| status.connection.as_str() != "Connected");
            secondary.succeed(&["primary", RESOURCE]);
            work.check_after_kill(running, secondary);
            primary.start();
            primary.succeed(&["up", RESOURCE]);
        } else {
            secondary.kill();
            work.wait_for_the_moment(&running);
            secondary.start();
            secondary.succeed(&["up", RESOURCE]);
            running.stop.store(true, Ordering::Relaxed);
            work.check_after_kill(running, primary);
        }
        pair.wait_in_sync();
        work.check_disks(&pair);
        if kills > 10 {
            println!("protocol {protocol}, kill {} of {kills}: nothing lost", kill + 1);
        }
    }
}

#[test]
fn primaries_killed_under_c_lose_nothing_answered() {
    campaign('C', true);
}

#[test]
fn primaries_killed_under_b_lose_nothing_answered() {
    campaign('B', true);
}

#[test]
fn secondaries_killed_under_c_disturb_nobody() {
    campaign('C', false);
}

#[test]
fn secondaries_killed_under_a_disturb_nobody() {
    campaign('A', false);
}

/// Under A answered writes may be lost with the primary, but never one in front of a flush when
/// one behind it survived.
#[test]
fn what_survives_a_primary_under_a_is_a_prefix() {
    const BLOCKS: u64 = 4000;
    const WRITES_BETWEEN_FLUSHES: usize = 6;
    let mut random = Random(0xa55 ^ setting("TWINBLK_KILLS_SEED", 1));
    let mut pair = Pair::in_sync(PairOptions { protocol: 'A', ..PairOptions::default() });
    for kill in 0..setting("TWINBLK_KILLS", 2) {
        let (primary, secondary) = match kill % 2 {
            0 => (&mut pair.alice, &mut pair.bob),
            _ => (&mut pair.bob, &mut pair.alice),
        };
        let mut client = primary.nbd();
        let answers = Arc::new(AtomicU64::new(0));
        let first_stamp = kill << 32 | 1;
        let mut choice = Random(random.next());
        // Block and stamp of each write, by group between flushes.
        let writer = std::thread::spawn({
            let answers = answers.clone();
            move || {
                let mut groups: Vec<Vec<(u64, u64)>> = Vec::new();
                let mut stamp = first_stamp;
                loop {
                    let mut group = Vec::new();
                    while group.len() < WRITES_BETWEEN_FLUSHES {
                        let block = choice.next() % BLOCKS;
                        if group.iter().all(|(other, _)| *other != block) {
                            group.push((block, stamp));
                            stamp += 1;
                        }
                    }
                    groups.push(group.clone());
                    let mut send = || -> std::io::Result<()> {
                        for (block, stamp) in &group {
                            let span = (block * BLOCK_BYTES as u64, BLOCK_BYTES as u32);
                            client.send(WRITE, 0, span, &content(*block, *stamp))?;
                        }
                        for _ in &group {
                            client.receive()?;
                        }
                        client.flush()
                    };
                    if send().is_err() {
                        return groups;
                    }
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let wanted = 1 + random.next() % 300;
        while answers.load(Ordering::Relaxed) < wanted {
            assert!(!writer.is_finished(), "the server went away early");
            std::thread::yield_now();
        }
        primary.kill();
        let groups = writer.join().expect("a writer");
        secondary.wait("the loss", |status| status.connection.as_str() != "Connected");
        secondary.succeed(&["primary", RESOURCE]);

        let mut survivor = secondary.nbd();
        let mut stamp_of = |block: u64| {
            let data = survivor.read(block * BLOCK_BYTES as u64, BLOCK_BYTES as u32);
            u64::from_le_bytes(data.expect("a read")[..8].try_into().expect("8 bytes"))
        };
        let held: Vec<Vec<u64>> = groups
            .iter()
            .map(|group| group.iter().map(|(block, _)| stamp_of(*block)).collect())
            .collect();
        let newest_group = (0..groups.len())
            .rev()
            .find(|&number| {
                groups[number].iter().zip(&held[number]).any(|((_, stamp), held)| held == stamp)
            })
            .unwrap_or(0);
        for (group, held) in groups.iter().zip(&held).take(newest_group) {
            for ((block, stamp), held) in group.iter().zip(held) {
                assert!(
                    held >= stamp,
                    "kill {kill}: block {block} holds {held}, older than {stamp}, although \
                     something behind the flush survived"
                );
            }
        }
        primary.start();
        primary.succeed(&["up", RESOURCE]);
        drop(survivor);
        pair.wait_in_sync();
        pair.alice.wait_idle();
        pair.bob.wait_idle();
        assert_eq!(pair.differing_blocks(), 0);
    }
}
