//! Programs that the administrator wants run at certain moments (behaviour.md 6): the engine says
//! which and when, the driver runs it, and some of them decide how the engine goes on.
//!
//! A handler that is not configured is never asked for, so the engine goes on at once.

use std::collections::BTreeMap;

use super::Engine;
use super::effect::{Effect, NoteLevel};
use super::event::{HandlerRunId, RoleConflictPolicy};
use super::limits::MAX_HANDLERS_RUNNING;
use super::split_brain::Cause;

macro_rules! handlers {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)?) => {
        /// A moment that a program may be configured for, by DRBD's name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Handler { $($(#[$doc])* $variant),+ }

        impl Handler {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

handlers! {
    /// Make sure that the peer can not become Primary; the exit code says how (behaviour.md 6).
    FencePeer = "fence-peer",
    /// The peer has all data again: undo what fence-peer did.
    UnfencePeer = "unfence-peer",
    InitialSplitBrain = "initial-split-brain",
    SplitBrain = "split-brain",
    /// This Primary would have to become sync target (rr-conflict call-pri-lost).
    PriLost = "pri-lost",
    PriLostAfterSb = "pri-lost-after-sb",
    /// Primary without any UpToDate data.
    PriOnInconDegr = "pri-on-incon-degr",
    LocalIoError = "local-io-error",
    /// Another exit code than 0 keeps the resync from beginning.
    BeforeResyncTarget = "before-resync-target",
    AfterResyncTarget = "after-resync-target",
    /// Another exit code than 0 and 3 keeps the resync from beginning.
    BeforeResyncSource = "before-resync-source",
    /// An online verify found differing blocks.
    OutOfSync = "out-of-sync",
}

impl Handler {
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|handler| handler.name() == name)
    }
}

/// Which handlers are configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandlerSet(u32);

impl HandlerSet {
    pub const fn contains(self, handler: Handler) -> bool {
        self.0 & (1 << handler as u32) != 0
    }
}

impl FromIterator<Handler> for HandlerSet {
    fn from_iter<I: IntoIterator<Item = Handler>>(handlers: I) -> Self {
        Self(handlers.into_iter().fold(0, |bits, handler| bits | 1 << handler as u32))
    }
}

/// How a handler ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerOutcome {
    Exited(i32),
    /// It could not be started, was killed, or took too long: why.
    Failed(String),
    /// The takeover policy does not allow it: why.
    Denied(String),
}

impl std::fmt::Display for HandlerOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "returned {code}"),
            Self::Failed(why) | Self::Denied(why) => f.write_str(why),
        }
    }
}

/// Handlers under way.
#[derive(Debug, Default)]
pub(super) struct Handlers {
    begun: u64,
    running: BTreeMap<HandlerRunId, Handler>,
}

impl Handlers {
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.running.values().map(|handler| handler.name()).collect()
    }
}

/// What waits for a before-resync handler; it ends with its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldResync {
    Source(HandlerRunId),
    Target { run: HandlerRunId, uuid: u64 },
}

impl Engine {
    /// Has the handler run; None when it is not configured, or too many run already.
    pub(super) fn run_handler(&mut self, handler: Handler) -> Option<HandlerRunId> {
        if !self.settings.handlers.contains(handler) {
            return None;
        }
        if self.handlers.running.len() >= MAX_HANDLERS_RUNNING {
            let text = format!("{} is not run: too many handlers run already", handler.name());
            self.note(NoteLevel::Error, text);
            return None;
        }
        self.handlers.begun += 1;
        let run = HandlerRunId(self.handlers.begun);
        self.handlers.running.insert(run, handler);
        self.note(NoteLevel::Info, format!("helper command: {}", handler.name()));
        self.emit(Effect::RunHandler { run, handler });
        Some(run)
    }

    pub(super) fn handler_ended(&mut self, run: HandlerRunId, outcome: &HandlerOutcome) {
        let Some(handler) = self.handlers.running.remove(&run) else { return };
        let level = match outcome {
            HandlerOutcome::Exited(_) => NoteLevel::Info,
            HandlerOutcome::Failed(_) | HandlerOutcome::Denied(_) => NoteLevel::Warning,
        };
        self.note(level, format!("helper command: {}: {outcome}", handler.name()));
        match handler {
            Handler::FencePeer => self.fence_peer_ended(run, outcome),
            Handler::BeforeResyncSource | Handler::BeforeResyncTarget => {
                self.before_resync_ended(run, handler, outcome);
            }
            _ => {}
        }
    }

    /// The nodes can not go on together: whoever is to hear of it does (session.md 3.2).
    pub(super) fn report_refusal(&mut self, cause: Cause) {
        let calls_for_conflict = self.settings.rr_conflict == RoleConflictPolicy::CallPriLost;
        let handlers: &[Handler] = match cause {
            Cause::SplitBrain => &[Handler::SplitBrain],
            // Expected to reboot the node; the split brain stays unsolved if it does not.
            Cause::PrimaryLostAfterSplitBrain => &[Handler::PriLostAfterSb, Handler::SplitBrain],
            Cause::PrimaryLost if calls_for_conflict => &[Handler::PriLost],
            Cause::PrimaryLost | Cause::DryRun | Cause::Other => &[],
        };
        for handler in handlers {
            self.run_handler(*handler);
        }
    }

    /// A resync is about to begin and somebody has to be asked first: true when it waits.
    pub(super) fn hold_resync(
        &mut self,
        handler: Handler,
        held: impl FnOnce(HandlerRunId) -> HeldResync,
    ) -> bool {
        let Some(run) = self.run_handler(handler) else { return false };
        if let Some(session) = &mut self.session {
            session.held_resync = Some(held(run));
        }
        true
    }

    fn before_resync_ended(
        &mut self,
        run: HandlerRunId,
        handler: Handler,
        outcome: &HandlerOutcome,
    ) {
        let Some(session) = &mut self.session else { return };
        let held = match session.held_resync {
            Some(held @ (HeldResync::Source(of) | HeldResync::Target { run: of, .. }))
                if of == run =>
            {
                held
            }
            _ => return,
        };
        session.held_resync = None;
        let tolerated: &[i32] = match held {
            HeldResync::Source(_) => &[0, 3],
            HeldResync::Target { .. } => &[0],
        };
        if !matches!(outcome, HandlerOutcome::Exited(code) if tolerated.contains(code)) {
            return self.refuse_session(
                &format!("{} handler {outcome}, dropping connection.", handler.name()),
                "see why the handler refused the resync, then: twinblk connect RES",
            );
        }
        match held {
            HeldResync::Source(_) => self.become_source(),
            HeldResync::Target { uuid, .. } => self.become_target(uuid),
        }
    }
}
