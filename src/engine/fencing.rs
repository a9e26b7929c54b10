//! Fencing (behaviour.md 6): a Primary that loses its peer, and a node about to be promoted without
//! one, make sure that the peer can not go on alone, before anything is answered that it would miss.
//!
//! | exit code of fence-peer | what it means for the peer's disk |
//! | --- | --- |
//! | 3 | Inconsistent or worse |
//! | 4 | Outdated now |
//! | 5 | unreachable; taken for Outdated if the own disk is UpToDate |
//! | 6 | it is Primary: the own disk is Outdated |
//! | 7 | its machine was switched off: Outdated |
//! | other | the handler is broken; nothing is known |

use twinblk_proto::state::{ConnectionState as C, DiskState as D, Role, State};

use super::Engine;
use super::effect::NoteLevel;
use super::event::{FencingPolicy, HandlerRunId, Timer};
use super::handler::{Handler, HandlerOutcome};

/// The run under way, and what the last one said.
#[derive(Debug, Default)]
pub(super) struct Fence {
    run: Option<HandlerRunId>,
    /// Sessions established before it began: a peer that came back meanwhile tells for itself.
    sessions: u64,
    /// The last answer: the peer is Primary, this node was too late.
    replaced: bool,
    /// For the operator; empty when nothing went wrong.
    pub(super) complaint: String,
}

impl Fence {
    /// To be added to a reason; empty when nothing went wrong.
    pub(super) fn story(&self) -> String {
        match self.complaint.as_str() {
            "" => String::new(),
            complaint => format!("; fencing: {complaint}"),
        }
    }
}

/// Nothing is known to keep the peer from going on alone.
pub(super) fn is_unfenced_primary(s: &State) -> bool {
    s.role == Role::Primary && s.connection < C::Connected && s.peer_disk > D::Outdated
}

impl Engine {
    pub(super) fn fences(&self) -> bool {
        self.settings.fencing != FencingPolicy::DontCare
    }

    /// This Primary lost its peer, and the peer is Primary now: what waits here is never answered.
    pub(super) fn is_replaced(&self) -> bool {
        self.fence.replaced && is_unfenced_primary(&self.state)
    }

    /// Frozen until the takeover policy has said whether this Primary goes on.
    pub(super) fn waits_for_policy(&self) -> bool {
        self.settings.fence_again_ms > 0 && self.state.suspended_fencing
    }

    pub(super) fn is_fencing(&self) -> bool {
        self.fence.run.is_some()
    }

    /// Has the peer fenced; false when nothing was begun.
    pub(super) fn begin_fencing(&mut self) -> bool {
        if !self.fences() || self.state.connection >= C::WFReportParams {
            return false;
        }
        if self.fence.run.is_none() {
            self.fence.run = self.run_handler(Handler::FencePeer);
            self.fence.sessions = self.sessions_established;
            if self.fence.run.is_none() {
                self.fence.complaint = "no handler fence-peer is configured".to_owned();
                self.note(NoteLevel::Error, "fencing is on, but no handler fence-peer can run");
            }
        }
        self.fence.run.is_some()
    }

    pub(super) fn fence_peer_ended(&mut self, run: HandlerRunId, outcome: &HandlerOutcome) {
        if self.fence.run != Some(run) {
            return;
        }
        self.fence.run = None;
        self.fence.complaint.clear();
        self.fence.replaced = false;
        let back = self.sessions_established != self.fence.sessions;
        if back || self.state.connection >= C::WFReportParams {
            let text = "Ignoring fence-peer exit code: the connection was reestablished";
            self.note(NoteLevel::Info, text);
            if is_unfenced_primary(&self.state) && self.state.suspended_fencing {
                // It was lost again meanwhile: nobody else would ask.
                self.begin_fencing();
            }
        } else {
            self.apply_fencing(outcome);
        }
        self.fencing_ended_for_command();
    }

    /// A witness that could not be reached may be there again, or have given the grant back.
    pub(super) fn fence_again(&mut self) {
        if self.state.suspended_fencing && is_unfenced_primary(&self.state) {
            self.begin_fencing();
        }
    }

    fn apply_fencing(&mut self, outcome: &HandlerOutcome) {
        let stonith = self.settings.fencing == FencingPolicy::ResourceAndStonith;
        match outcome {
            HandlerOutcome::Exited(3) => {
                self.peer_is_fenced(D::Inconsistent, "fenced: the peer is inconsistent or worse");
            }
            HandlerOutcome::Exited(4) => {
                self.peer_is_fenced(D::Outdated, "fenced: the peer was outdated");
            }
            HandlerOutcome::Exited(5) if self.state.disk == D::UpToDate => {
                let text = "fenced: the peer is unreachable, assumed to be dead";
                self.peer_is_fenced(D::Outdated, text);
            }
            HandlerOutcome::Exited(5) => {
                let disk = self.state.disk;
                self.complain(format!(
                    "the peer is unreachable, and the own disk is only {disk}: it may lack what \
                     the peer has"
                ));
            }
            HandlerOutcome::Exited(6) if self.is_primary() => {
                self.fence.replaced = true;
                self.complain("the peer is Primary as well: this node stays frozen".to_owned());
            }
            HandlerOutcome::Exited(6) => {
                self.complain("the peer is Primary".to_owned());
                if self.state.disk > D::Outdated {
                    self.change("Peer is primary, outdating myself.", |s| s.disk = D::Outdated);
                }
            }
            HandlerOutcome::Exited(7) => {
                if !stonith {
                    let text = "fence-peer says that it switched the peer off (7), but fencing is \
                                not resource-and-stonith";
                    self.note(NoteLevel::Warning, text);
                }
                self.peer_is_fenced(D::Outdated, "fenced: the peer was stonithed");
            }
            HandlerOutcome::Denied(why) => self.complain(why.clone()),
            other => self.complain(format!("fence-peer helper broken, {other}")),
        }
    }

    fn peer_is_fenced(&mut self, peer_disk: D, reason: &str) {
        // What is known already to be worse stays so.
        if self.state.peer_disk > peer_disk {
            self.change(reason, |s| s.peer_disk = peer_disk);
        }
    }

    fn complain(&mut self, text: String) {
        self.note(NoteLevel::Error, format!("fencing: {text}"));
        self.fence.complaint = text;
        if self.settings.fence_again_ms > 0 && self.is_primary() {
            self.set_timer(Timer::FenceAgain, self.settings.fence_again_ms);
        }
    }
}
