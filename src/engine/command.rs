//! What the operator asks, one command at a time; the others wait in order. Each ends with one
//! answer, and none waits without bound: what the peer does not answer within the ping timeout is
//! taken for a dead connection.

use std::collections::VecDeque;

use twinblk_proto::state::{ConnectionState as C, DiskState as D, Role};

use super::Engine;
use super::cluster::Wish;
use super::effect::{CloseManner, Effect, NoteLevel, Refusal};
use super::event::{CommandId, Timer, Verb};
use super::limits::PROMOTE_RETRY_MARGIN_MS;
use super::record::AfterBitmap;
use super::refusal::{Code, DISCARD_AS_PRIMARY, NET_CONFIGURED, NO_DISK};
use super::session::Outdating;
use super::verify::Wanted;

/// Where the running command is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Step {
    /// Not begun, or to be tried again at the next change.
    #[default]
    Begin,
    /// The peer was asked.
    AskedPeer(Wish),
    /// The peer is being fenced, that this node may be promoted without it.
    Fencing,
    /// Granted a detach; the peer's new generation is on its way.
    AwaitingGeneration,
    /// A Primary that gives its own disk up: what it answered becomes stable on the peer first.
    Settling,
    /// A refusal that may go away: tried again by the timer.
    Retrying,
    Opening,
    /// New requests are refused, the open ones finish.
    Draining,
    WritingBitmap,
    /// The answer waits for the disk.
    Finishing,
}

#[derive(Debug, Default)]
pub(super) struct Commands {
    waiting: VecDeque<(CommandId, Verb)>,
    running: Option<(CommandId, Verb)>,
    step: Step,
    retried: bool,
    fence_tried: bool,
}

/// Commands that may wait at once.
const MAX_WAITING: usize = 64;

impl Commands {
    /// Demotion has begun: clients' requests are refused.
    pub(super) const fn is_demoting(&self) -> bool {
        matches!(self.running, Some((_, Verb::Secondary { .. } | Verb::Down)))
            && matches!(self.step, Step::Draining | Step::WritingBitmap | Step::Finishing)
    }

    /// A cluster-wide request of ours is under way.
    pub(super) const fn has_request(&self) -> bool {
        matches!(self.step, Step::AskedPeer(_))
    }

    /// The peer was asked to let this node take everything from it.
    pub(super) const fn asks_to_be_target(&self) -> bool {
        matches!(self.step, Step::AskedPeer(Wish::FullSync { source: false }))
    }

    /// New writes wait: the peer is to have everything that was answered.
    pub(super) const fn is_giving_disk_up(&self) -> bool {
        matches!(self.step, Step::Settling) || self.asks_to_be_target()
    }

    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The running command's identity, when its answer is all that is left.
    pub(super) fn take_running(&mut self) -> Option<CommandId> {
        self.step = Step::Finishing;
        self.running.as_ref().map(|(command, _)| *command)
    }
}

impl Engine {
    pub(super) fn commanded(&mut self, command: CommandId, verb: Verb) {
        if self.commands.waiting.len() >= MAX_WAITING {
            let refusal = Code::InTransientState.refuse("too many commands wait", "try again");
            return self.emit(Effect::ReplyCommand { command, result: Err(refusal) });
        }
        if matches!(verb, Verb::ProbePeer) {
            // Commands under way may themselves wait for the peer.
            self.probe_peer();
            return self.emit(Effect::ReplyCommand { command, result: Ok(()) });
        }
        if matches!(verb, Verb::Detach { force: true })
            && self.commands.running.is_some()
            && self.state.disk > D::Failed
        {
            // Whatever is running may wait for a disk that never answers.
            self.detach_by_force();
        }
        self.commands.waiting.push_back((command, verb));
        self.pump_commands();
    }

    pub(super) fn reply_command(&mut self, command: CommandId, result: Result<(), Refusal>) {
        let running = self.commands.running.as_ref().is_some_and(|(id, _)| *id == command);
        if running {
            self.commands.running = None;
            self.commands.step = Step::Begin;
            self.commands.retried = false;
            self.commands.fence_tried = false;
            self.emit(Effect::ClearTimer(Timer::CommandRetry));
        }
        self.emit(Effect::ReplyCommand { command, result });
        self.release_held_for_target();
    }

    fn finish(&mut self, result: Result<(), Refusal>) {
        if let Some((command, _)) = self.commands.running {
            self.reply_command(command, result);
        }
    }

    /// Goes on with the running command, or begins the next.
    pub(super) fn pump_commands(&mut self) {
        loop {
            if self.commands.running.is_none() {
                let Some(next) = self.commands.waiting.pop_front() else { return };
                self.commands.running = Some(next);
                self.commands.step = Step::Begin;
            }
            let command = self.commands.running.as_ref().map(|(id, _)| *id);
            match self.commands.step {
                Step::Begin => {
                    // During the handshake nothing else may change: wait for its end.
                    let held =
                        self.state.connection == C::WFReportParams || self.resize.holds_commands();
                    if held && !self.may_interrupt() {
                        return;
                    }
                    let (_, verb) = self.commands.running.clone().expect("just seen");
                    self.begin(verb);
                }
                Step::Draining => self.go_on_draining(),
                Step::Settling => self.go_on_settling(),
                _ => return,
            }
            let same = self.commands.running.as_ref().map(|(id, _)| *id) == command;
            let waits = matches!(self.commands.step, Step::Begin | Step::Draining | Step::Settling);
            if same && waits {
                return;
            }
        }
    }

    fn may_interrupt(&self) -> bool {
        matches!(
            self.commands.running,
            Some((_, Verb::Disconnect { force: true } | Verb::Detach { force: true }))
        )
    }

    fn begin(&mut self, verb: Verb) {
        match verb {
            Verb::Attach => match self.state.disk {
                D::Diskless => {
                    self.commands.step = Step::Opening;
                    self.begin_attach();
                }
                _ => self.finish(Ok(())),
            },
            Verb::Connect { discard_my_data, dry_run } => self.connect(discard_my_data, dry_run),
            Verb::Disconnect { force } => self.disconnect(force),
            Verb::Primary { force } => self.promote(force),
            Verb::Secondary { force } => self.demote(force),
            Verb::Detach { force } => self.detach(force),
            Verb::SuspendIo => {
                self.suspend_io();
                self.finish(Ok(()));
            }
            Verb::ResumeIo => {
                self.resume_io();
                self.finish(Ok(()));
            }
            Verb::Invalidate => self.invalidate(false),
            Verb::InvalidateRemote => self.invalidate(true),
            Verb::Outdate => {
                if let Some(command) = self.commands.take_running() {
                    self.outdate(command);
                }
            }
            Verb::NewCurrentUuid { clear_bitmap } => {
                if let Some(command) = self.commands.take_running() {
                    self.new_current_uuid(command, clear_bitmap);
                }
            }
            Verb::Verify { start, stop, repair } => {
                self.begin_verify_command(Wanted { start, stop, repair });
            }
            Verb::Resize { sectors, assume_peer_has_space, assume_clean } => {
                let wanted = super::resize::Wanted { sectors, assume_peer_has_space, assume_clean };
                if let Some(command) = self.commands.take_running() {
                    self.begin_resize_command(command, wanted);
                }
            }
            Verb::Adjust(settings) => {
                self.adjust(*settings);
                self.finish(Ok(()));
            }
            Verb::PauseSync => {
                let result = self.pause_sync(true);
                self.finish(result);
            }
            Verb::ResumeSync => {
                let result = self.pause_sync(false);
                self.finish(result);
            }
            // Never queued: see above.
            Verb::ProbePeer => self.finish(Ok(())),
            Verb::AwaitOthers { waits } => {
                self.await_others(waits);
                self.finish(Ok(()));
            }
            Verb::Down => self.down(),
        }
    }

    pub(super) fn attach_ended(&mut self, result: Result<(), Refusal>) {
        if self.commands.step == Step::Opening {
            self.finish(result);
        }
    }

    pub(super) fn connection_ended(&mut self) {
        if let Some((_, Verb::Disconnect { .. })) = self.commands.running {
            self.finish(Ok(()));
        }
    }

    pub(super) fn clients_changed(&mut self, open: u32) {
        self.clients_open = open;
    }

    // --- connect, disconnect ---

    fn connect(&mut self, discard_my_data: bool, dry_run: bool) {
        if discard_my_data && self.is_primary() {
            return self.finish(Err(DISCARD_AS_PRIMARY.refuse(
                "this node is Primary: what clients see can not be given up under them",
                "twinblk secondary RES first",
            )));
        }
        if dry_run && self.state.connection != C::StandAlone {
            return self.finish(Err(NET_CONFIGURED.refuse(
                format!("the connection is {}: there is nothing to try", self.state.connection),
                "twinblk disconnect RES first",
            )));
        }
        if self.state.connection != C::StandAlone {
            if discard_my_data && self.session.is_none() {
                // Looking for the peer already: the next handshake says it.
                self.discard_my_data = true;
            }
            return self.finish(Ok(()));
        }
        self.discard_my_data = discard_my_data;
        self.dry_run = dry_run;
        self.status.hint.clear();
        self.status.verdict = None;
        self.change("connect", |s| s.connection = C::Unconnected);
        self.start_connecting(0);
        self.finish(Ok(()));
    }

    fn disconnect(&mut self, force: bool) {
        if self.state.connection == C::StandAlone {
            return self.finish(Ok(()));
        }
        if self.session.is_none() {
            self.stop_connecting();
            return self.finish(Ok(()));
        }
        if force || self.state.connection < C::Connected {
            return self.end_session(
                C::Disconnecting,
                "disconnected by command",
                Some(CloseManner::Now),
            );
        }
        // A Primary whose data is at the peer would have none (behaviour.md 1.5, -2).
        if self.is_primary()
            && let Err(code @ Code::NoUpToDateDisk) =
                self.check(|s| s.connection = C::Disconnecting)
        {
            return self.finish(Err(code.refuse(
                format!(
                    "this Primary serves the peer's data: the local disk is {}",
                    self.state.disk
                ),
                "twinblk wait-sync RES first, or: twinblk secondary RES",
            )));
        }
        self.ask_to_leave();
    }

    fn ask_to_leave(&mut self) {
        if self.is_primary() && self.fences() {
            self.ask(Wish::DisconnectOutdating(Outdating { peers: true, mine: false }));
        } else {
            self.ask(Wish::Disconnect);
        }
    }

    fn ask(&mut self, wish: Wish) {
        self.commands.step = Step::AskedPeer(wish);
        self.ask_peer(wish);
        // The peer answers a request at once; several round trips of patience.
        let patience = self.ping_timeout_ms() * 4;
        self.set_timer(Timer::CommandRetry, patience);
    }

    // --- promote ---

    fn promote(&mut self, force: bool) {
        if self.is_primary() {
            return self.finish(Ok(()));
        }
        if self.is_draining_peer_writes() {
            // What the lost Primary had answered is on its way to this disk; its end comes back here.
            return;
        }
        let forcible = force && self.state.disk >= D::Inconsistent
            // The peer can not go on alone: what is Consistent here is the newest.
            || self.state.disk == D::Consistent && self.state.peer_disk <= D::Outdated;
        let checked = self.check(|s| {
            s.role = Role::Primary;
            if forcible {
                s.disk = D::UpToDate;
            }
        });
        match checked {
            Ok(_) => {
                let forced = force && forcible && self.state.disk < D::UpToDate;
                // A sync target serves its peer's data; force does not make its own disk good.
                let forced = forced && self.state.connection <= C::Connected;
                if self.is_connected() {
                    self.ask(Wish::Promote { forced });
                } else {
                    self.become_primary(forced);
                }
            }
            Err(code)
                if !self.commands.fence_tried
                    && (code == Code::PrimaryNop || self.state.disk == D::Consistent) =>
            {
                self.commands.fence_tried = true;
                if self.begin_fencing() {
                    self.commands.step = Step::Fencing;
                } else {
                    self.promote(force);
                }
            }
            Err(Code::PrimaryNop) if force => {
                self.note(NoteLevel::Warning, "Forced into split brain situation!");
                self.change("Forced into split brain situation!", |s| s.peer_disk = D::Outdated);
                self.promote(force);
            }
            Err(Code::TwoPrimaries) if !self.commands.retried => {
                // A peer that just died may still be shown as Primary.
                self.commands.retried = true;
                self.commands.step = Step::Retrying;
                self.send_ping(None);
                let wait = self.ping_timeout_ms() + PROMOTE_RETRY_MARGIN_MS;
                self.set_timer(Timer::CommandRetry, wait);
            }
            Err(code) => {
                let refusal = self.explain(code);
                self.finish(Err(refusal));
            }
        }
    }

    fn explain(&self, code: Code) -> Refusal {
        let s = &self.state;
        match code {
            Code::TwoPrimaries => code.refuse(
                "the peer is Primary",
                "on the peer: twinblk secondary RES",
            ),
            Code::PrimaryNop => code.refuse(
                format!("the peer could not be fenced: {}", self.fence.complaint),
                "connect to the peer; or, when it is certain that it does not serve: twinblk primary --force RES",
            ),
            Code::NoUpToDateDisk => code.refuse(
                format!(
                    "this disk is {}, the connection {}: {}{}",
                    s.disk,
                    s.connection,
                    self.status.reason,
                    self.fence.story()
                ),
                "connect to a node with UpToDate data, or, if this is the data to keep: twinblk primary --force RES",
            ),
            _ => code.refuse(self.status.reason.clone(), self.status.hint.clone()),
        }
    }

    pub(super) fn fencing_ended_for_command(&mut self) {
        if self.commands.step == Step::Fencing {
            self.commands.step = Step::Begin;
            self.pump_commands();
        }
    }

    /// `P_STATE_CHG_REPLY`.
    pub(super) fn change_answered(&mut self, code: i32) {
        let Step::AskedPeer(wish) = self.commands.step else { return };
        self.emit(Effect::ClearTimer(Timer::CommandRetry));
        if code < 1 {
            let inner = Code::from_wire(code).unwrap_or(Code::Unknown);
            if wish == Wish::Disconnect
                && inner == Code::PrimaryNop
                && self.state.disk >= D::Outdated
            {
                // The Primary there wants this disk Outdated first (session.md 5.3).
                let mine = Outdating { mine: true, peers: false };
                return self.ask(Wish::DisconnectOutdating(mine));
            }
            if matches!(self.commands.running, Some((_, Verb::Down))) {
                // Asked out of courtesy; it goes down all the same.
                self.commands.step = Step::Begin;
                return;
            }
            // A peer that is busy as Primary would answer so for ever.
            let once = inner == Code::TwoPrimaries
                || inner == Code::InTransientState && matches!(wish, Wish::FullSync { .. });
            if matches!(inner, Code::ConcurrentChange | Code::InTransientState) && !once
                || once && !self.commands.retried
            {
                self.commands.retried |= once;
                self.commands.step = Step::Retrying;
                let wait = self.ping_timeout_ms() + PROMOTE_RETRY_MARGIN_MS;
                return self.set_timer(Timer::CommandRetry, wait);
            }
            let refusal = inner.refuse(
                format!("the peer refused: {}", inner.text()),
                "twinblk status RES on both nodes shows why",
            );
            return self.finish(Err(refusal));
        }
        match wish {
            Wish::Promote { forced } => self.become_primary(forced),
            Wish::Disconnect => self.end_session(
                C::Disconnecting,
                "disconnected by command",
                Some(CloseManner::AfterFlush),
            ),
            Wish::DisconnectOutdating(outdating) => self.end_session_outdating(
                C::Disconnecting,
                "disconnected by command",
                Some(CloseManner::AfterFlush),
                outdating,
            ),
            Wish::Verify(wanted) => self.verify_granted(wanted),
            Wish::Detach if self.is_primary() && self.shares_peers_generation() => {
                // The peer begins a generation for what this disk will miss: clients go on after
                // it is known, so that a lost connection finds the same data again.
                self.commands.step = Step::AwaitingGeneration;
                let patience = self.ping_timeout_ms() * 4;
                self.set_timer(Timer::CommandRetry, patience);
            }
            Wish::Detach => self.write_back_and_detach(),
            Wish::FullSync { source } => {
                self.commands.step = Step::Finishing;
                match self.check_full_sync(source) {
                    Ok(()) => self.begin_full_sync(source, "full resync by command"),
                    // Something failed between the question and the answer.
                    Err(code) => {
                        let refusal = self.refuse_full_sync(code, source);
                        self.finish(Err(refusal));
                    }
                }
            }
        }
    }

    fn shares_peers_generation(&self) -> bool {
        let mine = self.record.wanted().generations.current;
        self.peer_generations().is_some_and(|peer| super::generation::same(peer.current, mine))
    }

    /// `P_UUIDS` came.
    pub(super) fn generation_came_for_detach(&mut self) {
        if self.commands.step == Step::AwaitingGeneration && !self.shares_peers_generation() {
            self.write_back_and_detach();
        }
    }

    pub(super) fn command_timer(&mut self) {
        self.resize_timer();
        match self.commands.step {
            Step::Retrying => {
                self.commands.step = Step::Begin;
                self.pump_commands();
            }
            Step::AwaitingGeneration => self.write_back_and_detach(),
            Step::AskedPeer(_) => {
                self.drop_session(
                    C::NetworkFailure,
                    "the peer did not answer a state change request",
                );
            }
            _ => {}
        }
    }

    /// The connection is gone while the peer was asked: the command begins anew, alone.
    pub(super) fn cluster_peer_gone(&mut self) {
        if self.commands.has_request() || self.commands.step == Step::AwaitingGeneration {
            self.commands.step = Step::Begin;
        }
    }

    // --- demote ---

    fn demote(&mut self, force: bool) {
        if !self.is_primary() {
            return self.finish(Ok(()));
        }
        if self.clients_open > 0 && !force {
            return self.finish(Err(Code::DeviceInUse.refuse(
                format!("{} NBD client(s) hold the device open", self.clients_open),
                "disconnect the clients (twinblk status RES lists them), or: twinblk secondary --force RES",
            )));
        }
        if self.is_frozen() && !force && self.requests_held() {
            let why = self.freeze_story().map_or_else(String::new, |(why, ..)| why);
            return self.finish(Err(Code::InTransientState.refuse(
                format!("I/O is frozen ({why}) and requests wait"),
                "twinblk resume-io RES; to have them fail: twinblk secondary --force RES",
            )));
        }
        self.commands.step = Step::Draining;
        self.go_on_draining();
    }

    fn go_on_draining(&mut self) {
        self.fail_frozen();
        if self.writes_open() || !self.reads.is_empty() || !self.flushes.is_empty() {
            return;
        }
        // The Primary flag stands for what may differ after a crash: it stays until the peer has
        // everything on stable storage, or is gone and its blocks are marked.
        self.close_epoch();
        if self.epochs.newest().is_some() {
            return;
        }
        self.commands.step = Step::WritingBitmap;
        self.write_all_pages(AfterBitmap::Demote);
    }

    pub(super) fn demote_bitmap_written(&mut self) {
        if self.commands.step != Step::WritingBitmap {
            return;
        }
        self.change("demoted", |s| s.role = Role::Secondary);
        self.send_state();
        match self.commands.running {
            Some((_, Verb::Down)) => self.commands.step = Step::Begin,
            Some((command, _)) => {
                self.commands.step = Step::Finishing;
                self.after_record(super::record::AfterRecord::ReplyCommand(command));
            }
            None => {}
        }
    }

    // --- invalidate ---

    fn invalidate(&mut self, source: bool) {
        if self.state.disk < D::Inconsistent {
            return self.finish(Err(no_disk()));
        }
        if self.state.connection == C::StandAlone && self.is_primary() == source {
            if let Some(command) = self.commands.take_running() {
                match source {
                    true => self.invalidate_peer_alone(command),
                    false => self.invalidate_alone(command),
                }
            }
            return;
        }
        match self.check_full_sync(source) {
            Ok(()) if source => self.ask(Wish::FullSync { source }),
            Ok(()) => {
                self.commands.step = Step::Settling;
                self.go_on_settling();
            }
            Err(code) => {
                let refusal = self.refuse_full_sync(code, source);
                self.finish(Err(refusal));
            }
        }
    }

    /// The connection may be gone while this waits: then it is refused.
    fn go_on_settling(&mut self) {
        if let Err(code) = self.check_full_sync(false) {
            let refusal = self.refuse_full_sync(code, false);
            return self.finish(Err(refusal));
        }
        if self.is_settled() {
            self.ask(Wish::FullSync { source: false });
        }
    }

    /// Everything that was answered here is stable on the peer. Asked again when it is not.
    pub(super) fn is_settled(&mut self) -> bool {
        if self.writes_under_way() || self.log.has_waiting() {
            return false;
        }
        self.close_epoch();
        self.epochs.newest().is_none()
    }

    /// Everything that the command asked for is under way.
    pub(super) fn full_sync_command_ended(&mut self) {
        if let Some((command, Verb::Invalidate | Verb::InvalidateRemote)) = self.commands.running
            && self.commands.step == Step::Finishing
        {
            self.finish_after_record(command);
        }
    }

    /// The answer, once what the record says is durable.
    pub(super) fn finish_after_record(&mut self, command: CommandId) {
        self.after_record(super::record::AfterRecord::ReplyCommand(command));
    }

    // --- verify ---

    fn begin_verify_command(&mut self, wanted: Wanted) {
        match self.check_verify_command(&wanted) {
            Err(refusal) => self.finish(Err(refusal)),
            Ok(()) if self.state.connection == C::VerifyS => {
                self.adjust_verify(wanted);
                self.finish(Ok(()));
            }
            Ok(()) => self.ask(Wish::Verify(wanted)),
        }
    }

    fn verify_granted(&mut self, wanted: Wanted) {
        self.begin_verify(wanted);
        if self.state.connection == C::VerifyS {
            return self.finish(Ok(()));
        }
        let detail = format!("meanwhile the state changed: {}", self.status.reason);
        let hint = "look at twinblk status RES, then try again";
        self.finish(Err(Code::InTransientState.refuse(detail, hint)));
    }

    // --- detach ---

    fn detach(&mut self, force: bool) {
        if self.state.disk <= D::Failed {
            return self.finish(Ok(()));
        }
        if force {
            self.detach_by_force();
            self.commands.step = Step::Finishing;
            return;
        }
        match self.check(|s| s.disk = D::Failed) {
            Err(code) => {
                let refusal = self.explain(code);
                self.finish(Err(refusal));
            }
            Ok(_) if self.is_connected() => self.ask(Wish::Detach),
            Ok(_) => self.write_back_and_detach(),
        }
    }

    fn detach_by_force(&mut self) {
        self.fail_disk("detached by force");
        self.drop_operations("the disk was detached by force");
    }

    fn write_back_and_detach(&mut self) {
        self.commands.step = Step::Finishing;
        self.write_all_pages(AfterBitmap::Detach);
    }

    pub(super) fn detach_bitmap_written(&mut self) {
        self.fail_disk("detached by command");
    }

    pub(super) fn detach_ended(&mut self) {
        match self.commands.running {
            Some((_, Verb::Detach { .. })) => self.finish(Ok(())),
            Some((_, Verb::Down)) => self.commands.step = Step::Begin,
            _ => {}
        }
    }

    // --- down ---

    /// Demote, disconnect, detach, in this order; each step comes back here.
    fn down(&mut self) {
        if self.is_primary() {
            if self.clients_open > 0 {
                return self.finish(Err(Code::DeviceInUse.refuse(
                    format!("{} NBD client(s) hold the device open", self.clients_open),
                    "disconnect the clients, or: twinblk secondary --force RES, then down",
                )));
            }
            self.commands.step = Step::Draining;
            return self.go_on_draining();
        }
        if self.session.is_some() && self.is_connected() && !self.commands.retried {
            // Asked once; a peer that refuses or is silent does not keep a node up.
            self.commands.retried = true;
            return self.ask_to_leave();
        }
        if self.session.is_some() {
            self.end_session(C::Disconnecting, "taken down", Some(CloseManner::AfterFlush));
        }
        if self.state.connection != C::StandAlone {
            self.stop_connecting();
        }
        if self.state.disk == D::Attaching {
            return;
        }
        if self.state.disk > D::Failed {
            return self.write_back_and_detach();
        }
        if self.state.disk == D::Failed {
            self.commands.step = Step::Finishing;
            return;
        }
        self.note(NoteLevel::Info, "down");
        self.finish(Ok(()));
    }
}

pub(super) fn no_disk() -> Refusal {
    NO_DISK.refuse("this node is Diskless", "twinblk attach RES")
}
