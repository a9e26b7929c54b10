//! Faults on demand, for tests: the nth step of a kind fails or moves fewer bytes than asked.
//!
//! Given to [`super::Disk::open_with_faults`]; nothing outside the program can switch it on.

use std::sync::{Arc, Mutex, PoisonError};

use super::step::Action;

/// What a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    Any,
    Read,
    Write,
    Zero,
    Flush,
}

/// What happens to the step that is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not executed and ends with this error number (5 = EIO).
    Error(i32),
    /// Of what it moves, at most so many bytes count.
    Short(usize),
}

#[derive(Clone, Copy, Debug)]
struct Planned {
    kind: FaultKind,
    steps_until: u64,
    fault: Fault,
}

/// The plan; clones share it, so a test can add to it while a disk runs.
#[derive(Clone, Debug, Default)]
pub struct FaultInjection {
    planned: Arc<Mutex<Vec<Planned>>>,
}

impl FaultInjection {
    /// Strikes the `nth` step of `kind` from now on; 1 is the next.
    pub fn plan(&self, kind: FaultKind, nth: u64, fault: Fault) {
        assert!(nth > 0, "steps are counted from 1");
        let planned = Planned { kind, steps_until: nth, fault };
        self.planned.lock().unwrap_or_else(PoisonError::into_inner).push(planned);
    }

    /// Counts a step; the fault that strikes it, if any.
    pub(super) fn strike(&self, action: &Action) -> Option<Fault> {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        for fault in planned.iter_mut().filter(|fault| fault.kind.covers(action)) {
            fault.steps_until = fault.steps_until.saturating_sub(1);
        }
        let due =
            planned.iter().position(|fault| fault.steps_until == 0 && fault.kind.covers(action))?;
        Some(planned.remove(due).fault)
    }
}

impl FaultKind {
    fn covers(self, action: &Action) -> bool {
        match self {
            Self::Any => true,
            Self::Read => matches!(action, Action::Read { .. }),
            Self::Write => matches!(action, Action::Write { .. }),
            Self::Zero => matches!(action, Action::Zero { .. }),
            Self::Flush => matches!(action, Action::Sync),
        }
    }
}
