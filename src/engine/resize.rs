//! A device that grows while it is in use (session.md 5.7, wire.md 3.5).
//!
//! ```text
//!   resize here            peer
//!   look at the disk
//!   P_SIZES, "answer" ---> look at the disk
//!                          new size: bits, then record, durable
//!                   <----- P_SIZES
//!   new size: bits, then record, durable
//!   clients are told; the Primary is the source of a resync of what is new
//! ```
//!
//! To look at the disk is the driver's work: it finds the present size and moves internal metadata
//! to the new end. Meanwhile no metadata is written from here.
//!
//! The size in memory grows at once, because the peer may write to the new space as soon as it has
//! grown itself. The record says the new size only when the bits of the new space are on disk, and
//! clients hear of it only when the record is (I7): after a crash in between, the device has its old
//! size and grows again at the next handshake.

use twinblk_proto::packet::{Sizes, sizes_flags};
use twinblk_proto::state::{ConnectionState as C, DiskState as D, Role};
use twinblk_proto::units::BLOCK_SECTORS;

use super::Engine;
use super::bitmap::bits_of;
use super::command::no_disk;
use super::effect::{Effect, NoteLevel, Refusal};
use super::event::{CommandId, GrowFailure, SessionId, Timer};
use super::limits::RESIZE_ANSWER_MS;
use super::record::{AfterBitmap, AfterRecord};
use super::refusal::{
    Code, DISK_TOO_SMALL, IMPLICIT_SHRINK, NEED_PRIMARY, NEED_VERSION_93, RESIZE_IN_RESYNC,
};

/// What the operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// In sectors; none: as configured, 0: as large as both disks allow.
    pub(super) sectors: Option<u64>,
    pub(super) assume_peer_has_space: bool,
    pub(super) assume_clean: bool,
}

/// Whether the driver looks at the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Look {
    #[default]
    No,
    /// Metadata writes under way end first.
    Quiescing,
    /// Answered by `Event::DiskGrown`.
    Asked,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    command: CommandId,
    wanted: Wanted,
    /// The peer was told, and is to say what it has.
    awaits_peer: bool,
}

/// The size in memory is larger than what the record, or the clients, know.
#[derive(Debug)]
struct Growth {
    /// What the record may say.
    recorded: u64,
    /// What clients know.
    told: u64,
    /// Counts growths: only the end of the last one counts.
    number: u64,
    /// The new bits are on disk.
    bits_durable: bool,
    /// The disk has to be usable first.
    deferred: bool,
    /// The peer waits for an answer, with these flags.
    answer: Option<(SessionId, u16)>,
    /// What is new is to be resynced.
    resync: Option<SessionId>,
}

#[derive(Debug, Default)]
pub(super) struct Resize {
    look: Look,
    asked: Option<Asked>,
    /// What the peer says waits until this node has looked at its own disk.
    peer_asks: Option<Sizes>,
    growth: Option<Growth>,
    growths: u64,
    giving: Giving,
    /// This node is to be the target of what is new, once its source says so.
    taking: Option<SessionId>,
}

/// The way to being the source of what is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Giving {
    #[default]
    No,
    /// A command that may change who has which generation ends first.
    Due(SessionId),
    /// A generation is being begun; no command begins meanwhile.
    Beginning(SessionId),
}

impl Resize {
    /// No metadata may be written: it may be moving.
    pub(super) fn holds_metadata(&self) -> bool {
        self.look == Look::Asked
    }

    /// No new transaction of the log: those under way are to end.
    pub(super) fn holds_log(&self) -> bool {
        self.look != Look::No
    }

    /// No command may begin: the peer does not know of this node's generation yet.
    pub(super) const fn holds_commands(&self) -> bool {
        matches!(self.giving, Giving::Beginning(_))
    }

    /// The new space is being prepared, or may soon be.
    fn is_under_way(&self) -> bool {
        self.growth.is_some() || self.peer_asks.is_some() || self.asked.is_some()
    }
}

impl Engine {
    /// The size that the record may say.
    pub(super) fn recordable_sectors(&self) -> u64 {
        match &self.resize.growth {
            Some(growth) if !growth.bits_durable => growth.recorded,
            _ => self.sectors,
        }
    }

    /// The size that clients know.
    pub(super) fn told_sectors(&self) -> u64 {
        self.resize.growth.as_ref().map_or(self.sectors, |growth| growth.told)
    }

    // --- the command ---

    pub(super) fn begin_resize_command(&mut self, command: CommandId, wanted: Wanted) {
        if let Err(refusal) = self.check_resize(wanted) {
            return self.reply_command(command, Err(refusal));
        }
        self.resize.asked = Some(Asked { command, wanted, awaits_peer: false });
        self.examine_disk();
    }

    fn check_resize(&self, wanted: Wanted) -> Result<(), Refusal> {
        let s = &self.state;
        if s.connection > C::Connected {
            let detail = format!("the connection is {}", s.connection);
            return Err(RESIZE_IN_RESYNC.refuse(detail, "twinblk wait-sync RES, then again"));
        }
        if s.role == Role::Secondary && s.peer == Role::Secondary {
            return Err(NEED_PRIMARY.refuse(
                "with two Secondaries nobody could say whose content of the new space counts",
                "on one of the nodes: twinblk primary RES",
            ));
        }
        if s.disk < D::Inconsistent {
            return Err(no_disk());
        }
        if s.connection < C::Connected {
            if wanted.assume_peer_has_space {
                return Ok(());
            }
            return Err(Code::NeedConnection.refuse(
                format!(
                    "the connection is {}: what the peer's disk offers is not known",
                    s.connection
                ),
                "twinblk connect RES first, or: twinblk resize --assume-peer-has-space RES",
            ));
        }
        if s.peer_disk < D::Inconsistent {
            return Err(Code::NoRemoteDisk.refuse(
                format!("the peer's disk is {}: what it offers is not known", s.peer_disk),
                "on the peer: twinblk attach RES",
            ));
        }
        let version = self.session.as_ref().map_or(0, |session| session.version);
        if wanted.assume_clean && version < 93 {
            let detail = format!("the peer speaks version {version}");
            return Err(NEED_VERSION_93.refuse(detail, "twinblk resize RES"));
        }
        Ok(())
    }

    /// This node knows what its disk offers: tell the peer, or go on without it.
    fn resize_looked(&mut self) {
        let Some(Asked { command, wanted, awaits_peer: false }) = self.resize.asked else {
            return;
        };
        // The connection may have come or gone meanwhile.
        if let Err(refusal) = self.check_resize(wanted) {
            return self.end_resize_command(Err(refusal));
        }
        let usable = self.disk_info.map_or(0, |info| info.usable_sectors);
        let user = wanted.sectors.unwrap_or(self.settings.user_sectors);
        if user > usable {
            return self.end_resize_command(Err(DISK_TOO_SMALL.refuse(
                format!("{user} sectors were asked for, the backing disk offers {usable}"),
                "grow the backing disk first, or ask for less",
            )));
        }
        let alone = self.state.connection < C::Connected;
        let new = if user == 0 { usable } else { user };
        if new < self.sectors && (user == 0 || alone) {
            return self.end_resize_command(Err(IMPLICIT_SHRINK.refuse(
                format!("the device has {} sectors, it would have {new}", self.sectors),
                "to make it smaller, on connected nodes: twinblk resize --size SIZE RES",
            )));
        }
        self.settings.user_sectors = user;
        if alone {
            self.note(NoteLevel::Warning, "Resize while not connected was forced by the user!");
            self.change_size(new, !wanted.assume_clean, None, None);
            if self.resize.growth.is_none() {
                self.end_resize_command(Ok(()));
            }
            return;
        }
        let flags = if wanted.assume_clean { sizes_flags::NO_RESYNC } else { 0 };
        self.send_uuids(0);
        self.send_sizes_flagged(true, flags);
        self.resize.asked = Some(Asked { command, wanted, awaits_peer: true });
        self.set_timer(Timer::CommandRetry, RESIZE_ANSWER_MS);
    }

    /// The peer said what it has, and everything that follows from it is done.
    fn resize_answered(&mut self) {
        if !self.resize.asked.as_ref().is_some_and(|asked| asked.awaits_peer) {
            return;
        }
        let usable = self.disk_info.map_or(0, |info| info.usable_sectors);
        let wanted = match self.settings.user_sectors {
            0 => usable,
            user => user,
        };
        let peers = self.session.as_ref().and_then(|session| session.peer_sizes);
        let peers = peers.map_or(0, |sizes| sizes.disk_sectors);
        let result = if self.sectors < wanted && peers < wanted {
            Err(DISK_TOO_SMALL.refuse(
                format!("the peer's disk offers {peers} sectors, this one {usable}"),
                "grow the peer's backing disk too, then: twinblk resize RES",
            ))
        } else {
            Ok(())
        };
        self.end_resize_command(result);
    }

    fn end_resize_command(&mut self, result: Result<(), Refusal>) {
        if let Some(asked) = self.resize.asked.take() {
            self.reply_command(asked.command, result);
        }
    }

    /// The peer is silent about its size.
    pub(super) fn resize_timer(&mut self) {
        if self.resize.asked.as_ref().is_some_and(|asked| asked.awaits_peer)
            && self.resize.growth.is_none()
        {
            self.end_resize_command(Err(Code::InTransientState.refuse(
                format!("the peer did not say what its disk offers within {RESIZE_ANSWER_MS} ms"),
                "look at the peer's log; this node grows as soon as the answer comes",
            )));
        }
    }

    /// The connection is gone.
    pub(super) fn resize_lost_peer(&mut self) {
        self.resize.peer_asks = None;
        if self.resize.asked.as_ref().is_some_and(|asked| asked.awaits_peer)
            && self.resize.growth.is_none()
        {
            self.end_resize_command(Err(Code::NeedConnection.refuse(
                "the connection was lost while the peer was asked what its disk offers",
                "twinblk connect RES, then: twinblk resize RES",
            )));
        }
    }

    /// The disk is gone.
    pub(super) fn resize_lost_disk(&mut self) {
        self.resize.look = Look::No;
        if let Some(sizes) = self.resize.peer_asks.take() {
            self.apply_sizes(sizes);
        }
        if self.resize.growth.is_none() {
            self.end_resize_command(Err(no_disk()));
        }
    }

    // --- looking at the disk ---

    fn examine_disk(&mut self) {
        if self.resize.look == Look::No {
            self.resize.look = Look::Quiescing;
        }
    }

    /// Asks the driver when no metadata write is under way.
    pub(super) fn pump_resize(&mut self) {
        self.begin_giving();
        let idle = !self.log.is_busy() && self.metadata_writes_are_done();
        if self.resize.look == Look::Quiescing && idle {
            self.resize.look = Look::Asked;
            let asked = self.resize.asked.as_ref().and_then(|asked| asked.wanted.sectors);
            let peers = self.resize.peer_asks.map(|sizes| sizes.user_sectors);
            let wanted_sectors = asked.or(peers).unwrap_or(self.settings.user_sectors);
            self.emit(Effect::GrowDisk { wanted_sectors });
        }
    }

    pub(super) fn disk_grown(&mut self, result: Result<u64, GrowFailure>) {
        if self.resize.look != Look::Asked {
            return;
        }
        self.resize.look = Look::No;
        match result {
            Ok(usable_sectors) => {
                if let Some(info) = &mut self.disk_info {
                    info.usable_sectors = usable_sectors;
                }
            }
            Err(GrowFailure::Unchanged(text)) => {
                self.note(NoteLevel::Warning, format!("the disk is used as before: {text}"));
                let hint = "correct it, then: twinblk resize RES";
                self.end_resize_command(Err(DISK_TOO_SMALL.refuse(text, hint)));
            }
            Err(GrowFailure::Broken(failure)) => self.metadata_error("metadata's move", &failure),
        }
        if let Some(sizes) = self.resize.peer_asks.take() {
            self.apply_sizes(sizes);
        }
        self.resize_looked();
        self.update_record();
    }

    // --- P_SIZES while connected ---

    /// True: what the peer says waits until this node has looked at its own disk.
    pub(super) fn holds_sizes(&mut self, sizes: Sizes) -> bool {
        if let Some(held) = &mut self.resize.peer_asks {
            *held = Sizes { current_sectors: 0, ..sizes };
            return true;
        }
        let asks = sizes.current_sectors == 0;
        if !asks || self.state.connection != C::Connected || !self.local_usable() {
            return false;
        }
        self.resize.peer_asks = Some(sizes);
        self.examine_disk();
        true
    }

    /// What follows when `P_SIZES` of a connected peer has been taken in.
    pub(super) fn sizes_applied(&mut self, sizes: Sizes) {
        if sizes.current_sectors != 0 && self.resize.growth.is_none() {
            self.resize_answered();
        }
    }

    // --- the new size ---

    /// `answer`, `resync`: what to do when the new size is durable.
    pub(super) fn change_size(
        &mut self,
        sectors: u64,
        set_new: bool,
        answer: Option<(SessionId, u16)>,
        resync: Option<SessionId>,
    ) {
        let from = self.sectors;
        let recorded = self.record.wanted().agreed_sectors;
        let told = self.told_sectors();
        let has_disk = self.disk_info.is_some();
        if sectors <= from || from == 0 || !has_disk {
            self.resize.growth = None;
            self.resize(sectors, set_new);
            if self.local_usable() {
                self.update_record();
            }
            return self.answer_sizes(answer);
        }
        self.sectors = sectors;
        self.bitmap.resize(sectors, set_new);
        if set_new && self.marks_last_block() {
            self.bitmap.set_range(from / BLOCK_SECTORS..bits_of(from));
        }
        self.note(NoteLevel::Info, format!("the device grows from {from} to {sectors} sectors"));
        self.begin_growth(recorded, told, answer, resync);
    }

    /// A last block that was short grows too. A kernel peer does not see that (its bitmap has a bit
    /// for the block already), and as a target would never ask for it.
    fn marks_last_block(&self) -> bool {
        let asked_for = self.session.as_ref().is_none_or(super::session::Session::peer_is_twinblk);
        asked_for || !self.gives_new_space()
    }

    /// The disk that is being attached was last used at a smaller size than the device has.
    pub(super) fn grow_attached(&mut self, recorded: u64) {
        self.bitmap.set_range(recorded / BLOCK_SECTORS..bits_of(recorded));
        let told = self.sectors;
        self.begin_growth(recorded, told, None, None);
    }

    fn begin_growth(
        &mut self,
        recorded: u64,
        told: u64,
        answer: Option<(SessionId, u16)>,
        resync: Option<SessionId>,
    ) {
        self.resize.growths += 1;
        let former = self.resize.growth.take();
        let answer = answer.or_else(|| former.as_ref()?.answer);
        let resync = resync.or_else(|| former.as_ref()?.resync);
        self.resize.growth = Some(Growth {
            recorded: former.as_ref().map_or(recorded, |former| former.recorded),
            told,
            number: self.resize.growths,
            bits_durable: false,
            deferred: true,
            answer,
            resync,
        });
        self.go_on_growing();
    }

    /// The bits of the new space go to disk as soon as there is one to write to.
    pub(super) fn go_on_growing(&mut self) {
        let usable = self.local_usable();
        if let Some(growth) = &mut self.resize.growth
            && growth.deferred
            && usable
        {
            growth.deferred = false;
            let number = growth.number;
            self.write_all_pages(AfterBitmap::Grown(number));
        }
    }

    pub(super) fn growth_bits_written(&mut self, number: u64) {
        let sectors = self.sectors;
        if let Some(growth) = &mut self.resize.growth
            && growth.number == number
        {
            growth.bits_durable = true;
            self.record.edit(|record| record.agreed_sectors = sectors);
            self.after_record(AfterRecord::Grown(number));
        }
    }

    pub(super) fn growth_recorded(&mut self, number: u64) {
        if self.resize.growth.as_ref().is_none_or(|growth| growth.number != number) {
            return;
        }
        let Some(growth) = self.resize.growth.take() else { return };
        self.answer_sizes(growth.answer);
        if growth.told != self.sectors {
            self.emit(Effect::SizeChanged { sectors: self.sectors });
        }
        match self.local_usable() {
            true => self.end_resize_command(Ok(())),
            false => self.end_resize_command(Err(no_disk())),
        }
        if let Some(session) = growth.resync.filter(|session| self.is_session(*session)) {
            self.resync_new_space(session);
        }
    }

    /// The disk is gone for good: what its record would have said does not matter any more.
    pub(super) fn abandon_growth(&mut self) {
        if let Some(growth) = &self.resize.growth {
            self.growth_recorded(growth.number);
        }
    }

    /// An answer that needs nothing of its own: at once, or with that of the growth under way.
    pub(super) fn answer_when_grown(&mut self, answer: Option<(SessionId, u16)>) {
        match &mut self.resize.growth {
            Some(growth) if answer.is_some() => growth.answer = answer,
            _ => self.answer_sizes(answer),
        }
    }

    fn answer_sizes(&mut self, answer: Option<(SessionId, u16)>) {
        if let Some((session, flags)) = answer
            && self.is_session(session)
        {
            self.send_sizes_flagged(false, flags);
        }
    }

    /// Whether this node gives the content of what is new (session.md 5.7).
    fn gives_new_space(&self) -> bool {
        if self.state.role == self.state.peer {
            self.session.as_ref().is_some_and(|session| session.resolve)
        } else {
            self.is_primary()
        }
    }

    /// The source's `P_SYNC_UUID` may come before this node has prepared the new space.
    pub(super) fn awaits_new_space(&self) -> bool {
        self.state.connection == C::Connected
            && self.resize.is_under_way()
            && !self.gives_new_space()
    }

    fn may_resync_new_space(&mut self) -> bool {
        let s = &self.state;
        let good = if self.gives_new_space() { s.disk } else { s.peer_disk };
        let both = s.disk >= D::Inconsistent && s.peer_disk >= D::Inconsistent;
        let may = s.connection == C::Connected && both && good == D::UpToDate;
        if !may {
            let text = "the new space stays marked as different until the next handshake";
            self.note(NoteLevel::Warning, text);
        }
        may
    }

    /// A generation of its own, told to the peer, before the peer is the target of it.
    fn begin_giving(&mut self) {
        let Giving::Due(session) = self.resize.giving else { return };
        if self.commands.is_running() {
            // A detach, say, for which the peer begins a generation just now.
            return;
        }
        if !self.is_session(session) || !self.may_resync_new_space() {
            self.resize.giving = Giving::No;
            return;
        }
        self.resize.giving = Giving::Beginning(session);
        if self.record.wanted().generations.bitmap == 0 {
            self.begin_generation();
        }
        self.after_record(AfterRecord::GiveNewSpace(session));
    }

    pub(super) fn give_new_space(&mut self, session: SessionId) {
        if self.resize.giving != Giving::Beginning(session) {
            return;
        }
        self.resize.giving = Giving::No;
        if !self.is_session(session) {
            return;
        }
        self.send_uuids(0);
        if self.may_resync_new_space() {
            self.change("the device grew", |s| s.connection = C::StartingSyncS);
            self.begin_as_source();
        }
    }

    /// Both set the bits of the new space: no bitmap is exchanged. The target hears of it only by
    /// `P_SYNC_UUID`; should it never, then this node goes on in a generation of its own (I10).
    fn resync_new_space(&mut self, session: SessionId) {
        if !self.may_resync_new_space() {
            return;
        }
        if self.gives_new_space() {
            self.resize.giving = Giving::Due(session);
            return self.begin_giving();
        }
        // Connected until the source says so: a target holds the writes of its source back, and a
        // kernel source, which grows last, waits for all of them before it does.
        self.resize.taking = Some(session);
        if let Some(uuid) = self.status.held_sync_uuid.take()
            && let Err(why) = self.sync_uuid(uuid)
        {
            self.drop_session(C::ProtocolError, &why);
        }
    }

    /// The source of the new space says that it is.
    pub(super) fn take_new_space(&mut self) {
        let wanted = self.resize.taking.take();
        if wanted.is_some_and(|session| self.is_session(session))
            && self.state.connection == C::Connected
        {
            self.change("the device grew", |s| s.connection = C::WFSyncUUID);
        }
    }
}
