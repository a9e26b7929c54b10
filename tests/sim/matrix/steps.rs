//! The steps of a service as `src/failover/steps.rs` and `src/service` carry them out: each takes its
//! time, ends within a limit, and waits for the device where a real one would.

use twinblk::election::failover::{Event, StepKind};
use twinblk::engine::event::{Event as Input, Verb};
use twinblk_proto::units::SectorRange;

use super::seat::{Happening, Step, Told, Wait};
use crate::requests::{Reply, Wish};
use crate::subject::Subject;
use crate::world::World;

/// What waits is looked at this often.
const LOOK_US: u64 = 10_000;
const VERB_LIMIT_US: u64 = 60_000_000;
const DEVICE_LIMIT_US: u64 = 50_000_000;
const ADDRESS_LIMIT_US: u64 = 2_000_000;
/// Of an unmount, and of a stop command.
const STOP_LIMIT_US: u64 = 30_000_000;
/// The longest of steps that wait for nobody: attach, mount, a program that starts or stops.
pub const SLOWEST_US: u64 = 300_000;

/// The first block of a file system.
const SUPERBLOCK: SectorRange = SectorRange { start: twinblk_proto::units::Sector(0), count: 8 };

impl<E: Subject> World<E> {
    fn kind(&self, node: usize, step: usize) -> StepKind {
        let coordinator = self.service().seats[node].coordinator.as_ref().expect("it runs");
        coordinator.settings().steps[step].kind
    }

    pub(super) fn begin_step(&mut self, node: usize, index: usize, undo: Option<bool>) {
        let kind = self.kind(node, index);
        let wait = match (kind, undo) {
            (StepKind::Promote, None) => {
                Wait::Verb(self.command(node, Verb::Primary { force: false }))
            }
            (StepKind::Promote, Some(force)) => {
                Wait::Verb(self.command(node, Verb::Secondary { force }))
            }
            (StepKind::Mount, None) => {
                Wait::Request(self.request(node, None, Wish::Read(SUPERBLOCK)).0)
            }
            (StepKind::Addresses, _) => {
                self.tell(node, Told::Serve(undo.is_none()));
                Wait::Addresses(undo.is_none())
            }
            (StepKind::Attach, Some(false)) | (StepKind::Mount | StepKind::Command, Some(_)) => {
                Wait::Device
            }
            (StepKind::Attach, _) | (StepKind::Command, None) => Wait::Time,
        };
        if kind == StepKind::Attach && undo == Some(true) {
            self.detach(node);
        }
        let takes_us = match kind {
            StepKind::Promote | StepKind::Addresses => 0,
            _ => self.service_mut().random.skewed(1_000, SLOWEST_US),
        };
        let (since_us, until_us) = (self.now_us, self.now_us + takes_us);
        self.seat(node).step =
            Some(Step { index, undo, is_cancelled: false, since_us, until_us, wait });
        self.plan(node, LOOK_US, Happening::Step);
    }

    pub(super) fn poll_step(&mut self, node: usize) {
        let Some(step) = self.seat(node).step.clone() else { return };
        let kind = self.kind(node, step.index);
        let Some(result) = self.step_ends(node, kind, &step) else {
            return self.plan(node, LOOK_US, Happening::Step);
        };
        self.seat(node).step = None;
        match (kind, step.undo) {
            (StepKind::Attach, None) if result.is_ok() => self.attach(node),
            (StepKind::Attach, Some(false)) if result.is_ok() => self.detach(node),
            (StepKind::Command, None) if result.is_ok() => self.seat(node).program_runs = true,
            (StepKind::Command, Some(_)) => self.seat(node).program_runs = false,
            _ => {}
        }
        // What the step changed is known before its end is.
        self.look(node);
        self.give(node, Event::StepEnded(result));
    }

    fn step_ends(
        &mut self,
        node: usize,
        kind: StepKind,
        step: &Step,
    ) -> Option<Result<(), String>> {
        let spent_us = self.now_us - step.since_us;
        let late = |limit_us: u64| (spent_us > limit_us).then(|| Err("not in time".to_owned()));
        let can_be_cancelled = match kind {
            StepKind::Mount => step.undo.is_some(),
            StepKind::Command => true,
            _ => false,
        };
        if step.is_cancelled && can_be_cancelled {
            return Some(Err("it is not wanted any more".to_owned()));
        }
        if self.now_us < step.until_us {
            return None;
        }
        match step.wait {
            Wait::Time => Some(Ok(())),
            Wait::Verb(command) => match self.outcome(node, command).cloned() {
                None => late(VERB_LIMIT_US),
                Some(result) => Some(result.map_err(|refusal| format!("{refusal:?}"))),
            },
            Wait::Request(request) => match self.replies.remove(&request) {
                None => late(VERB_LIMIT_US),
                Some(Reply::Content(_) | Reply::Done) => Some(Ok(())),
                Some(Reply::Failed(error)) => Some(Err(format!("{error:?}"))),
                Some(Reply::Never) => None,
            },
            Wait::Device if !self.has_open_requests(node) => Some(Ok(())),
            Wait::Device => late(match kind {
                StepKind::Attach => DEVICE_LIMIT_US,
                _ => STOP_LIMIT_US,
            }),
            Wait::Addresses(wanted) if self.seat(node).has_addresses == wanted => Some(Ok(())),
            Wait::Addresses(_) => (spent_us > ADDRESS_LIMIT_US).then_some(Ok(())),
        }
    }

    fn has_open_requests(&mut self, node: usize) -> bool {
        self.seat(node).has_device() && self.pending.values().any(|pending| pending.node == node)
    }

    fn attach(&mut self, node: usize) {
        if !self.seat(node).has_device() {
            self.seat(node).device += 1;
            self.input(node, Input::ClientsChanged { open: 1 });
        }
    }

    /// Whoever waits for an answer gets an error.
    fn detach(&mut self, node: usize) {
        if self.seat(node).has_device() {
            self.seat(node).device += 1;
            self.input(node, Input::ClientsChanged { open: 0 });
        }
    }
}
