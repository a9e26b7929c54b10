//! What a run is like: every seed draws its own mixture of workload and faults, many of them absent
//! (swarm testing). Rates are per million of a fault tick.

use twinblk::engine::event::{FencingPolicy, NoDataPolicy, RoleConflictPolicy, Settings};
use twinblk::engine::handler::Handler;
use twinblk_proto::packet::{ReplicationProtocol, SplitBrainPolicy};
use twinblk_proto::units::EXTENT_SECTORS;

use crate::link::Quality;
use crate::matrix::Setup;
use crate::random::{Random, Stream};

/// Seeds in which disks are verified, resyncs paused and done by checksum.
pub const FIRST_MAINTAINED: u64 = 3_000_000;
pub const MAINTAINED: u64 = 1_000_000;
/// Seeds in which disks, and links, are too slow.
pub const FIRST_SLOW: u64 = 4_000_000;
pub const SLOW: u64 = 1_000_000;

/// Seeds in which the disks, and then the device, grow.
pub const FIRST_GROWING: u64 = 5_000_000;
/// Seeds of pairs with a witness (DESIGN.md 6).
pub const FIRST_WITNESSED: u64 = 6_000_000;
pub const WITNESSED: u64 = 1_000_000;
pub const GROWING: u64 = 1_000_000;

/// Both disks become larger at some time, and then the device is to.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Size of the device at first; `device_sectors` is the size in the end.
    pub from_sectors: u64,
    /// The metadata moves to the new end; else it has room, and what is there is rubbish.
    pub internal: bool,
    /// What is new is the same on both disks, and called so.
    pub assume_clean: bool,
}

/// Who may promote what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// A node is promoted only when no other can be Primary and its data is the newest.
    Fenced,
    /// Whoever seems right to one side: split brain happens.
    Unfenced,
}

/// How both disks begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// As after "new-current-uuid --clear-bitmap": in sync, all zeroes.
    InSync,
    /// Just created with whatever was on them: one must be forced Primary.
    Created,
}

#[derive(Clone, Debug)]
pub struct Rates {
    pub kill: u32,
    pub power_loss: u32,
    pub power_loss_of_both: u32,
    pub pause: u32,
    pub cut: u32,
    pub cut_one_way: u32,
    pub cut_one_socket: u32,
    pub socket_dies: u32,
    pub disk_error: u32,
    pub command: u32,
    pub switchover: u32,
    /// The operator suspends I/O for a while.
    pub suspend_io: u32,
    /// One of two good copies is declared worthless.
    pub invalidate: u32,
    pub verify: u32,
    pub pause_sync: u32,
    /// A disk does not answer for a while.
    pub stall: u32,
}

impl Rates {
    pub const NONE: Self = Self {
        kill: 0,
        power_loss: 0,
        power_loss_of_both: 0,
        pause: 0,
        cut: 0,
        cut_one_way: 0,
        cut_one_socket: 0,
        socket_dies: 0,
        disk_error: 0,
        command: 0,
        switchover: 0,
        suspend_io: 0,
        invalidate: 0,
        verify: 0,
        pause_sync: 0,
        stall: 0,
    };
}

#[derive(Clone, Debug)]
pub struct DiskQuality {
    pub latency_us: u64,
    pub jitter_us: u64,
    pub outlier_us: u64,
    pub outlier_per_million: u32,
}

#[derive(Clone, Debug)]
pub struct Workload {
    pub clients: usize,
    /// Requests that a client keeps in flight.
    pub depth: u64,
    /// Requests of the whole run.
    pub requests: u64,
    /// Mean time between the requests of a client, which come in bursts.
    pub think_us: u64,
    pub read_percent: u32,
    pub zero_percent: u32,
    pub flush_percent: u32,
    pub fua_percent: u32,
    pub unaligned_percent: u32,
    pub largest_sectors: u64,
    /// Places that requests gather around, so that they overlap.
    pub hot_places: u64,
    pub hot_sectors: u64,
}

#[derive(Clone, Debug)]
pub struct Swarm {
    pub settings: Settings,
    pub device_sectors: u64,
    pub beginning: Beginning,
    pub promotion: Promotion,
    /// Effects are performed at the end of a batch of events instead of after each.
    pub batched: bool,
    pub disk: DiskQuality,
    pub link: Quality,
    pub workload: Workload,
    pub rates: Rates,
    /// Length of the phase with faults.
    pub faults_ms: u64,
    /// Both nodes know that the other is a twinblk node too.
    pub twins: bool,
    /// Zeroes may be named instead of sent.
    pub thin: bool,
    pub growth: Option<Growth>,
    /// At the end differences are planted, to be found and mended.
    pub plants: bool,
    /// Actors of the world act by themselves; off in scenarios.
    pub actors: bool,
    /// fence-peer is a question to a witness.
    pub witness: bool,
    /// Whole nodes: what runs above the engines.
    pub service: Option<Setup>,
    /// Longest that healing may take after the faults.
    pub healing_ms: u64,
}

/// The bound of I11: a ping interval, a few timeouts, a full sync at the slowest link, with slack.
const HEALING_MS: u64 = 600_000;

impl Swarm {
    /// A quiet world: quick disks, quick link, no actors.
    pub fn quiet(protocol: ReplicationProtocol) -> Self {
        Self {
            settings: settings(protocol, 1237),
            device_sectors: 4 * EXTENT_SECTORS,
            beginning: Beginning::InSync,
            promotion: Promotion::Fenced,
            batched: false,
            disk: DiskQuality {
                latency_us: 50,
                jitter_us: 100,
                outlier_us: 0,
                outlier_per_million: 0,
            },
            link: Quality {
                latency_us: 100,
                jitter_us: 50,
                bytes_per_ms: 100_000,
                outlier_us: 0,
                outlier_per_million: 0,
            },
            workload: Workload {
                clients: 1,
                depth: 4,
                requests: 200,
                think_us: 500,
                read_percent: 40,
                zero_percent: 5,
                flush_percent: 5,
                fua_percent: 3,
                unaligned_percent: 20,
                largest_sectors: 64,
                hot_places: 4,
                hot_sectors: 256,
            },
            rates: Rates::NONE,
            faults_ms: 0,
            twins: false,
            thin: false,
            growth: None,
            plants: false,
            actors: false,
            witness: false,
            service: None,
            healing_ms: HEALING_MS,
        }
    }

    /// The mixture of a seed.
    pub fn drawn(seed: u64) -> Self {
        let mut random = Random::new(seed, Stream::Options, 0);
        let protocol = *random.pick(&[
            ReplicationProtocol::A,
            ReplicationProtocol::B,
            ReplicationProtocol::C,
            ReplicationProtocol::C,
            ReplicationProtocol::C,
        ]);
        let al_extents = *random.pick(&[7, 7, 16, 67, 1237]);
        let mut settings = settings(protocol, al_extents);
        settings.use_rle = random.percent(70);
        settings.max_epoch_size = *random.pick(&[20, 2048]);
        settings.max_buffers = *random.pick(&[32, 2048]);
        let mut handlers = Random::new(seed, Stream::Handlers, 0);
        if handlers.percent(30) {
            settings.handlers = Handler::ALL.iter().copied().collect();
            settings.fencing = *handlers.pick(&[
                FencingPolicy::DontCare,
                FencingPolicy::ResourceOnly,
                FencingPolicy::ResourceAndStonith,
                FencingPolicy::ResourceAndStonith,
            ]);
        }
        if protocol == ReplicationProtocol::A
            && settings.fencing == FencingPolicy::ResourceAndStonith
        {
            settings.fencing = FencingPolicy::ResourceOnly;
        }
        if handlers.percent(25) {
            settings.on_no_data = NoDataPolicy::SuspendIo;
        }
        let suspend_io = if handlers.percent(20) { 40_000 } else { 0 };
        let slow_link = random.percent(30);
        let slow_disk = random.percent(30);
        let mut rate = |percent: u32, high: u64| -> u32 {
            if random.percent(percent) { random.skewed(3_000, high) as u32 } else { 0 }
        };
        let rates = Rates {
            kill: rate(40, 60_000),
            power_loss: rate(50, 60_000),
            power_loss_of_both: rate(20, 20_000),
            pause: rate(25, 40_000),
            cut: rate(40, 60_000),
            cut_one_way: rate(25, 40_000),
            cut_one_socket: rate(20, 40_000),
            socket_dies: rate(30, 60_000),
            disk_error: rate(25, 40_000),
            command: rate(40, 80_000),
            switchover: rate(40, 60_000),
            suspend_io,
            invalidate: {
                let mut own = Random::new(seed, Stream::Verbs, 1);
                if own.percent(20) { own.skewed(3_000, 40_000) as u32 } else { 0 }
            },
            ..Rates::NONE
        };
        let grows = (FIRST_GROWING..FIRST_GROWING + GROWING).contains(&seed);
        if !grows {
            draw_policies(&mut settings, seed);
        }
        draw_pace(&mut settings, seed);
        let witness = (FIRST_WITNESSED..FIRST_WITNESSED + WITNESSED).contains(&seed);
        if witness {
            settings.fencing = FencingPolicy::ResourceAndStonith;
            settings.fence_again_ms = 2000;
            settings.handlers = [Handler::FencePeer].into_iter().collect();
            if settings.protocol == ReplicationProtocol::A {
                settings.protocol = ReplicationProtocol::C;
            }
        }
        let faults_ms = random.between(5_000, 60_000);
        let clients = random.between(1, 3);
        let requests = random.between(300, 2000);
        // The work fills the time of the faults more or less: sometimes it ends early.
        let evenly_us = faults_ms * 1000 * clients / requests;
        let think_us = random.between(evenly_us / 4, evenly_us * 5 / 4);
        let extents = *random.pick(&[1, 2, 3, 9, 12]);
        // An odd end now and then: the last block of the device is short.
        let odd = if random.percent(20) { random.below(EXTENT_SECTORS / 2) } else { 0 };
        // Seeds of their own: others keep their stories.
        let maintained = (FIRST_MAINTAINED..FIRST_MAINTAINED + MAINTAINED).contains(&seed);
        let mut maintenance = Random::new(seed, Stream::Maintenance, 1);
        let mut drawn = |percent| maintained && maintenance.percent(percent);
        if drawn(50) {
            settings.csums_alg = "sha1".to_owned();
        }
        let verify = if drawn(60) { 40_000 } else { 0 };
        let pause_sync = if drawn(60) { 40_000 } else { 0 };
        let rates = Rates { verify, pause_sync, ..rates };
        let plants = drawn(60);
        let slow = (FIRST_SLOW..FIRST_SLOW + SLOW).contains(&seed);
        let mut slowness = Random::new(seed, Stream::Slow, 1);
        let mut drawn = |percent| slow && slowness.percent(percent);
        if drawn(70) {
            settings.disk_timeout = 10;
        }
        let stall = if drawn(60) { 40_000 } else { 0 };
        let rates = Rates { stall, ..rates };
        let device_sectors = extents * EXTENT_SECTORS - odd;
        let mut growing = Random::new(seed, Stream::Growth, 1);
        let growth = grows.then(|| Growth {
            from_sectors: growing.between(64, device_sectors - 64),
            internal: growing.percent(60),
            assume_clean: growing.percent(20),
        });
        let mut swarm = Self {
            settings,
            device_sectors,
            beginning: if random.percent(20) { Beginning::Created } else { Beginning::InSync },
            promotion: if random.percent(20) || witness {
                // Nobody but the witness keeps the nodes from going on both.
                Promotion::Unfenced
            } else {
                Promotion::Fenced
            },
            batched: random.percent(50),
            disk: DiskQuality {
                latency_us: if slow_disk { random.between(500, 8_000) } else { 40 },
                jitter_us: if slow_disk { 20_000 } else { 200 },
                outlier_us: 2_000_000,
                outlier_per_million: if random.percent(30) { 2_000 } else { 0 },
            },
            link: Quality {
                latency_us: if slow_link { random.between(1_000, 50_000) } else { 80 },
                jitter_us: if slow_link { 10_000 } else { 100 },
                bytes_per_ms: if slow_link { 10_000 } else { 200_000 },
                outlier_us: 3_000_000,
                outlier_per_million: if random.percent(30) { 1_000 } else { 0 },
            },
            workload: Workload {
                clients: clients as usize,
                depth: random.skewed(1, 16),
                requests,
                think_us,
                read_percent: random.between(10, 60) as u32,
                zero_percent: if random.percent(50) { 5 } else { 0 },
                flush_percent: if random.percent(70) { random.between(1, 15) as u32 } else { 0 },
                fua_percent: if random.percent(40) { 10 } else { 0 },
                unaligned_percent: if random.percent(50) { 30 } else { 0 },
                largest_sectors: *random.pick(&[8, 64, 64, 512, 2048]),
                hot_places: random.between(1, 12),
                hot_sectors: *random.pick(&[16, 64, 512, 4096]),
            },
            rates,
            faults_ms,
            twins: false,
            thin: maintained,
            growth,
            plants,
            actors: true,
            witness,
            service: None,
            healing_ms: HEALING_MS,
        };
        if let (Some(growth), Beginning::Created) = (&mut swarm.growth, swarm.beginning) {
            // What nobody wrote has a content of its own then.
            growth.assume_clean = false;
        }
        swarm
    }
}

/// Policies of automatic recovery, in a third of the seeds. A Primary never loses under the eyes of
/// its clients here: `rr-conflict violently` has scenarios of its own.
/// How fast a resync goes; the slowest takes 12 s for the largest device.
fn draw_pace(settings: &mut Settings, seed: u64) {
    let mut random = Random::new(seed, Stream::Maintenance, 2);
    settings.c_min_rate = *random.pick(&[250, 250, 0, 4000]);
    if random.percent(20) {
        settings.c_plan_ahead = 0;
        settings.resync_rate = *random.pick(&[4000, 40_000]);
    } else if random.percent(20) {
        settings.c_max_rate = 8000;
        settings.c_max_rate_limits = true;
    } else if random.percent(30) {
        settings.c_fill_target = *random.pick(&[0, 64, 4096]);
        settings.c_delay_target = *random.pick(&[1, 10]);
        settings.c_plan_ahead = *random.pick(&[5, 20]);
    }
}

fn draw_policies(settings: &mut Settings, seed: u64) {
    use SplitBrainPolicy::*;
    let mut own = Random::new(seed, Stream::Verbs, 2);
    if !own.percent(33) {
        return;
    }
    settings.after_sb_0pri = *own.pick(&[
        Disconnect,
        DiscardYoungerPrimary,
        DiscardOlderPrimary,
        DiscardZeroChanges,
        DiscardLeastChanges,
    ]);
    settings.after_sb_1pri =
        *own.pick(&[Disconnect, Consensus, DiscardSecondary, Violently, CallPriLost]);
    settings.after_sb_2pri = *own.pick(&[Disconnect, Violently, CallPriLost]);
    settings.always_asbp = own.percent(50);
    settings.rr_conflict =
        *own.pick(&[RoleConflictPolicy::Disconnect, RoleConflictPolicy::CallPriLost]);
}

/// Shorter times than DRBD's defaults, so that failures are noticed within few events.
fn settings(protocol: ReplicationProtocol, al_extents: u32) -> Settings {
    Settings {
        protocol,
        al_extents,
        verify_alg: "sha256".to_owned(),
        ping_interval_s: 2,
        ping_timeout: 5,
        timeout: 20,
        ko_count: 4,
        ..Settings::default()
    }
}
