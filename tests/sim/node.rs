//! One machine: a disk that outlives crashes, and while it runs a process with the engine in it.

use std::collections::{BTreeMap, VecDeque};

use twinblk::engine::effect::Refusal;
use twinblk::engine::event::{DeviceRecord, DiskOpId, Event, Generations, Settings, Time, Timer};
use twinblk_proto::state::{DiskState, Role, State};
use twinblk_proto::units::SectorRange;

use crate::clock::Clock;
use crate::medium::{Loss, Medium};
use crate::metadata::{Metadata, MetadataWrite};
use crate::random::{Random, Stream};
use crate::slab::Slab;
use crate::stamp::{Content, unwritten};
use crate::subject::Subject;
use crate::swarm::{Beginning, Swarm};

/// How a process ends without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies; the machine, its caches and its kernel live on.
    Kill,
    /// The machine loses power, and with it what its disk had not made stable.
    PowerLoss,
}

#[derive(Clone, Debug)]
pub enum Work {
    Read { range: SectorRange },
    Write { range: SectorRange, content: Content, durable: bool },
    Flush { mark: u64 },
    Metadata(MetadataWrite),
}

/// A disk operation under way.
#[derive(Clone, Debug)]
pub struct Operation {
    pub op: DiskOpId,
    /// Which opening of the disk it belongs to.
    pub opening: u64,
    pub work: Work,
}

pub struct Node<E> {
    pub engine: Option<E>,
    /// Counts processes; what was planned for an earlier one is void.
    pub incarnation: u64,
    pub inbox: VecDeque<Event>,
    /// A look into the inbox is planned.
    pub awake: bool,
    pub paused: bool,
    pub clock: Clock,
    pub timers: BTreeMap<Timer, u64>,
    pub timers_set: u64,
    pub slab: Slab,
    pub medium: Medium,
    pub metadata: Metadata,
    /// Sectors of the backing disk.
    pub backing_sectors: u64,
    /// Of these the metadata has room for.
    pub usable_sectors: u64,
    /// The metadata moves to the end of the disk.
    pub looking: bool,
    pub disk_open: bool,
    pub opening: u64,
    pub opening_since_us: u64,
    pub operations: BTreeMap<u64, Operation>,
    pub operations_begun: u64,
    /// The driver dials and listens; the number tells attempts apart.
    pub connecting: Option<u64>,
    pub connecting_begun: u64,
    pub session: Option<u64>,
    pub commands: BTreeMap<u64, Option<Result<(), Refusal>>>,
    /// The state that the oracle saw last.
    pub seen: State,
    /// Dies after so many more effects.
    pub doom: Option<(u32, Crash)>,
    /// The oracle has not yet looked at the promotion.
    pub promotion_due: bool,
    /// A promotion by force is under way.
    pub forced: bool,
    pub generations: Random,
}

impl<E: Subject> Node<E> {
    pub fn new(seed: u64, index: usize, swarm: &Swarm) -> Self {
        let all = swarm.device_sectors;
        let sectors = swarm.growth.map_or(all, |growth| growth.from_sectors);
        let is_known = swarm.growth.is_some_and(|growth| growth.assume_clean);
        let beyond = |sector| if is_known { 0 } else { unwritten(index, sector) };
        let (record, medium) = match swarm.beginning {
            Beginning::InSync => {
                let generations =
                    Generations { current: 0x1111_2222_3333_4444, bitmap: 0, history: [0, 0] };
                let record = DeviceRecord {
                    generations,
                    agreed_sectors: sectors,
                    consistent: true,
                    was_up_to_date: true,
                    ..DeviceRecord::default()
                };
                (
                    record,
                    Medium::new(all, |sector| if sector < sectors { 0 } else { beyond(sector) }),
                )
            }
            Beginning::Created => {
                let generations = Generations { current: 4, bitmap: 0, history: [0, 0] };
                let record = DeviceRecord { generations, ..DeviceRecord::default() };
                let content = |sector| match sector < sectors {
                    true => unwritten(index, sector),
                    false => beyond(sector),
                };
                (record, Medium::new(all, content))
            }
        };
        Self {
            engine: None,
            incarnation: 0,
            inbox: VecDeque::new(),
            awake: false,
            paused: false,
            clock: swarm
                .service
                .as_ref()
                .map_or_else(Clock::default, |setup| Clock { drift_ppm: setup.drift_ppm[index] }),
            timers: BTreeMap::new(),
            timers_set: 0,
            slab: Slab::default(),
            medium,
            metadata: Metadata::new(record, all, sectors),
            backing_sectors: sectors,
            usable_sectors: sectors,
            looking: false,
            disk_open: false,
            opening: 0,
            opening_since_us: 0,
            operations: BTreeMap::new(),
            operations_begun: 0,
            connecting: None,
            connecting_begun: 0,
            session: None,
            commands: BTreeMap::new(),
            seen: State::default(),
            doom: None,
            promotion_due: false,
            forced: false,
            generations: Random::new(seed, Stream::Generations, index as u64),
        }
    }

    pub fn is_up(&self) -> bool {
        self.engine.is_some()
    }

    /// Up and not paused.
    pub fn is_running(&self) -> bool {
        self.engine.is_some() && !self.paused
    }

    pub fn state(&self) -> State {
        self.engine.as_ref().map_or_else(State::default, E::state)
    }

    pub fn is_primary(&self) -> bool {
        self.state().role == Role::Primary
    }

    pub fn has_data(&self) -> bool {
        self.state().disk == DiskState::UpToDate
    }

    pub fn start(&mut self, settings: Settings) {
        assert!(self.engine.is_none(), "one process at a time");
        self.incarnation += 1;
        self.engine = Some(E::new(settings));
        self.seen = self.state();
    }

    /// One event through the engine.
    pub fn handle(&mut self, now_us: u64, event: Event) -> Vec<twinblk::engine::effect::Effect> {
        let mut effects = Vec::new();
        let now = Time(self.clock.local(now_us));
        let generations = &mut self.generations;
        if let Some(engine) = &mut self.engine {
            engine.stock_random(&mut || generations.next());
            engine.handle(now, event, &mut effects);
        }
        effects
    }

    pub fn settle(&mut self, now_us: u64) -> Vec<twinblk::engine::effect::Effect> {
        let mut effects = Vec::new();
        let now = Time(self.clock.local(now_us));
        if let Some(engine) = &mut self.engine {
            engine.settle(now, &mut effects);
        }
        effects
    }

    /// What a disk that is left alone would hold: what it holds now, and the writes under way.
    pub fn view_soon(&self, sector: u64) -> u64 {
        let mut value = self.medium.view(sector);
        for operation in self.operations.values() {
            if let Work::Write { range, content, .. } = &operation.work
                && range.start.0 <= sector
                && sector < range.end().0
            {
                value = content[(sector - range.start.0) as usize];
            }
        }
        value
    }

    /// Whether a disk write that touches `sector` is under way.
    pub fn is_writing(&self, sector: u64) -> bool {
        self.operations.values().any(|operation| match &operation.work {
            Work::Write { range, .. } => range.start.0 <= sector && sector < range.end().0,
            _ => false,
        })
    }

    /// The end of the process, and of what was in the machine's memory.
    pub fn crash(&mut self, crash: Crash, loss: Loss, random: &mut Random) {
        self.engine = None;
        self.incarnation += 1;
        self.inbox.clear();
        self.awake = false;
        self.paused = false;
        self.timers.clear();
        self.slab.clear();
        self.disk_open = false;
        self.opening += 1;
        self.connecting = None;
        self.session = None;
        self.commands.clear();
        self.doom = None;
        self.promotion_due = false;
        self.forced = false;
        for operation in std::mem::take(&mut self.operations).into_values() {
            match &operation.work {
                Work::Write { range, content, .. } => {
                    self.medium.write_partly(*range, content, random);
                }
                Work::Metadata(write) => self.metadata.apply_partly(write, random),
                Work::Flush { mark } => self.medium.forget_flush(*mark),
                Work::Read { .. } => {}
            }
        }
        if std::mem::take(&mut self.looking) && random.percent(50) {
            self.usable_sectors = self.backing_sectors;
        }
        if crash == Crash::PowerLoss {
            self.medium.lose_power(loss, random);
        }
        self.seen = State::default();
    }
}
