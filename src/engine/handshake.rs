//! The introduction of two nodes: settings, sizes, generations, states, and the decision that both
//! take from them (wire.md 3, session.md 1 and 3).

use twinblk_proto::packet::{
    Packet, ProtocolSettings, QueueLimits, Sizes, SplitBrainPolicy, SyncParam, Uuids, features,
    sizes_flags, uuid_flags,
};
use twinblk_proto::state::{ConnectionState as C, DiskState as D, Role, State, StateWord};

use super::Engine;
use super::effect::{Effect, NoteLevel};
use super::event::Generations;
use super::generation::{Circumstances, Outcome, compare, same};
use super::handler::Handler;
use super::record::AfterBitmap;
use super::refusal::Code;
use super::split_brain::{Cause, Decision, Situation, decide};

/// Largest request this node takes: the protocol's own limit.
const MAX_BIO_BYTES: u32 = 1 << 20;

impl Engine {
    /// Everything that each node sends without waiting.
    pub(super) fn send_introduction(&mut self) {
        let mine = self.my_protocol();
        let algorithm = mine.integrity_alg.clone();
        self.send_data(Packet::Protocol(mine), None);
        let session = self.session.as_ref().expect("just established").id;
        self.emit(Effect::UseIntegrity { session, mine: Some(algorithm), peers: None });
        let s = &self.settings;
        let parameters = SyncParam {
            resync_rate: s.resync_rate,
            verify_alg: s.verify_alg.clone(),
            csums_alg: s.csums_alg.clone(),
            c_plan_ahead: s.c_plan_ahead,
            c_delay_target: s.c_delay_target,
            c_fill_target: s.c_fill_target,
            c_max_rate: s.c_max_rate,
        };
        self.send_data(Packet::SyncParam(parameters), None);
        self.send_sizes();
        if self.state.disk >= D::Inconsistent {
            let flags = self.uuid_flags(false);
            self.send_uuids(flags);
        }
        // The first state still says WFConnection, as the kernel's does (wire.md 3.8).
        let first = State { connection: C::WFConnection, ..self.state };
        self.send_data(Packet::State(StateWord::from(first)), None);
    }

    fn my_protocol(&self) -> ProtocolSettings {
        let session = self.session.as_ref().expect("called in a session");
        let s = &self.settings;
        let integrity_alg = match s.integrity_alg.as_str() {
            // Both hold private copies of the data: a digest costs little and never lies.
            "" if session.peer_is_twinblk() => "crc32c".to_owned(),
            "none" => String::new(),
            other => other.to_owned(),
        };
        ProtocolSettings {
            protocol: s.protocol,
            after_sb_0pri: s.after_sb_0pri,
            after_sb_1pri: s.after_sb_1pri,
            after_sb_2pri: s.after_sb_2pri,
            discard_my_data: self.discard_my_data,
            dry_run: self.dry_run,
            two_primaries: false,
            integrity_alg,
        }
    }

    pub(super) fn uuid_flags(&self, inconsistent: bool) -> u64 {
        let mut flags = 0;
        if self.discard_my_data {
            flags |= uuid_flags::DISCARD_MY_DATA;
        }
        if self.crashed_primary {
            flags |= uuid_flags::CRASHED_PRIMARY;
        }
        if inconsistent {
            flags |= uuid_flags::INCONSISTENT;
        }
        flags
    }

    /// Not sent without a disk (wire.md 3.6).
    pub(super) fn send_uuids(&mut self, flags: u64) {
        if self.state.disk < D::Negotiating {
            return;
        }
        let generations = self.record.wanted().generations;
        let dirty_bits = self.bitmap.count();
        if let Some(session) = &mut self.session {
            session.my_bits_told = dirty_bits;
        }
        let uuids = Uuids {
            current: generations.current,
            bitmap: generations.bitmap,
            history: generations.history,
            dirty_bits,
            flags,
        };
        self.send_data(Packet::Uuids(uuids), None);
    }

    pub(super) fn send_state(&mut self) {
        self.send_data(Packet::State(StateWord::from(self.state)), None);
    }

    pub(super) fn send_sizes(&mut self) {
        self.send_sizes_flagged(false, 0);
    }

    pub(super) fn send_sizes_flagged(&mut self, trigger_reply: bool, flags: u16) {
        let Some(session) = &self.session else { return };
        let with_limits = session.features & features::WSAME != 0;
        let info = self.disk_info;
        let sizes = Sizes {
            disk_sectors: info.map_or(0, |info| info.usable_sectors),
            user_sectors: self.settings.user_sectors,
            current_sectors: if trigger_reply { 0 } else { self.sectors },
            max_bio_bytes: MAX_BIO_BYTES,
            queue_order_type: 0,
            flags,
            limits: with_limits.then(|| QueueLimits {
                physical_block_bytes: info.map_or(512, |info| info.physical_block_bytes),
                logical_block_bytes: info.map_or(512, |info| info.logical_block_bytes),
                alignment_offset_bytes: 0,
                io_min_bytes: info.map_or(512, |info| info.physical_block_bytes),
                io_opt_bytes: 0,
                discard_enabled: info.is_some_and(|info| info.discard),
                discard_zeroes_data: false,
                write_same_capable: false,
            }),
        };
        self.send_data(Packet::Sizes(sizes), None);
    }

    // --- what the peer says ---

    pub(super) fn peer_protocol(&mut self, peer: ProtocolSettings) {
        let mine = self.my_protocol();
        let mirrored = |policy: SplitBrainPolicy| match policy {
            SplitBrainPolicy::DiscardLocal => SplitBrainPolicy::DiscardRemote,
            SplitBrainPolicy::DiscardRemote => SplitBrainPolicy::DiscardLocal,
            other => other,
        };
        let differs = |name: &str, a: String, b: String| {
            (a != b).then(|| format!("incompatible {name} settings: {a} here, {b} on the peer"))
        };
        let policy = |name, a: SplitBrainPolicy, b| {
            differs(name, format!("{a:?}"), format!("{:?}", mirrored(b)))
        };
        let problem =
            differs("protocol", format!("{:?}", mine.protocol), format!("{:?}", peer.protocol))
                .or_else(|| policy("after-sb-0pri", mine.after_sb_0pri, peer.after_sb_0pri))
                .or_else(|| policy("after-sb-1pri", mine.after_sb_1pri, peer.after_sb_1pri))
                .or_else(|| policy("after-sb-2pri", mine.after_sb_2pri, peer.after_sb_2pri))
                .or_else(|| {
                    (mine.discard_my_data && peer.discard_my_data)
                        .then(|| "incompatible discard-my-data settings: set on both nodes".into())
                })
                .or_else(|| {
                    let yes_no = |flag| if flag { "yes" } else { "no" }.to_owned();
                    let (a, b) = (yes_no(mine.two_primaries), yes_no(peer.two_primaries));
                    differs("allow-two-primaries", a, b)
                })
                .or_else(|| {
                    let name =
                        |alg: &str| if alg.is_empty() { "none".to_owned() } else { alg.to_owned() };
                    let (a, b) = (name(&mine.integrity_alg), name(&peer.integrity_alg));
                    differs("data-integrity-alg", a, b)
                });
        if let Some(problem) = problem {
            return self.refuse_session(
                &problem,
                "make the option the same on both nodes, then: twinblk connect RES",
            );
        }
        let session = self.session.as_mut().expect("packets come from the session");
        session.protocol_seen = true;
        session.peer_discards = peer.discard_my_data;
        session.peer_dry_run = peer.dry_run;
        let id = session.id;
        self.emit(Effect::UseIntegrity {
            session: id,
            mine: None,
            peers: Some(peer.integrity_alg),
        });
    }

    /// An option was changed on the peer while connected: adopt what concerns this node.
    pub(super) fn peer_protocol_update(&mut self, peer: ProtocolSettings) {
        self.settings.protocol = peer.protocol;
        let id = self.session.as_ref().expect("packets come from the session").id;
        self.note(NoteLevel::Info, format!("the peer switched to protocol {:?}", peer.protocol));
        self.emit(Effect::UseIntegrity {
            session: id,
            mine: None,
            peers: Some(peer.integrity_alg),
        });
    }

    pub(super) fn peer_sync_param(&mut self, peer: SyncParam) {
        if self.state.connection != C::WFReportParams {
            // Changed on the peer while connected: both nodes follow the last change (wire.md 3.4).
            let s = &mut self.settings;
            s.resync_rate = peer.resync_rate;
            s.verify_alg = peer.verify_alg;
            s.csums_alg = peer.csums_alg;
            s.c_plan_ahead = peer.c_plan_ahead;
            s.c_delay_target = peer.c_delay_target;
            s.c_fill_target = peer.c_fill_target;
            s.c_max_rate_limits |= s.c_max_rate != peer.c_max_rate;
            s.c_max_rate = peer.c_max_rate;
            return;
        }
        let pairs = [
            ("verify-alg", &self.settings.verify_alg, &peer.verify_alg),
            ("csums-alg", &self.settings.csums_alg, &peer.csums_alg),
        ];
        let name = |alg: &str| if alg.is_empty() { "none".to_owned() } else { alg.to_owned() };
        let problem = pairs.into_iter().find(|(_, mine, peers)| mine != peers).map(
            |(option, mine, peers)| {
                format!(
                    "incompatible {option} settings: {} here, {} on the peer",
                    name(mine),
                    name(peers)
                )
            },
        );
        if let Some(problem) = problem {
            self.refuse_session(
                &problem,
                "make the option the same on both nodes, then: twinblk connect RES",
            );
        }
    }

    /// `P_SIZES` (wire.md 3.5).
    pub(super) fn peer_sizes(&mut self, sizes: Sizes) {
        if !self.holds_sizes(sizes) {
            self.apply_sizes(sizes);
        }
    }

    pub(super) fn apply_sizes(&mut self, sizes: Sizes) {
        let Some(session) = &self.session else { return };
        let (id, peer_dry_run) = (session.id, session.peer_dry_run);
        let connecting = self.state.connection < C::Connected;
        let user = match (self.settings.user_sectors, sizes.user_sectors) {
            _ if !connecting => sizes.user_sectors,
            (0, other) | (other, 0) => other,
            (mine, peers) => mine.min(peers),
        };
        let new = match self.disk_info {
            Some(info) => {
                let both = match (info.usable_sectors, sizes.disk_sectors) {
                    (mine, 0) if self.sectors != 0 => mine.min(self.sectors),
                    (mine, 0) => mine,
                    (mine, peers) => mine.min(peers),
                };
                if user != 0 { user.min(both) } else { both }
            }
            // A peer that asks what I have may be about to grow, and says so when it has.
            None if sizes.current_sectors == 0 && self.sectors != 0 => self.sectors,
            None => [sizes.current_sectors, sizes.user_sectors, sizes.disk_sectors]
                .into_iter()
                .find(|&size| size != 0)
                .unwrap_or(self.sectors),
        };
        let has_data = match self.disk_info {
            Some(_) => {
                self.state.disk >= D::Outdated
                    || self.state.disk == D::Negotiating && self.record.wanted().consistent
            }
            None => self.is_primary(),
        };
        let only_asked = connecting && (self.dry_run || peer_dry_run);
        if new < self.sectors && has_data && (connecting || sizes.disk_sectors == 0) {
            let why = format!(
                "The peer's disk size is too small! ({new} < {} sectors): a device with data is \
                 never shrunk by connecting",
                self.sectors
            );
            return self.refuse_session(&why, "give the peer a disk of at least the same size");
        }
        self.session.as_mut().expect("as above").peer_sizes = Some(sizes);
        if only_asked {
            // Nothing is to change.
            return;
        }
        self.settings.user_sectors = user;
        let answer = (!connecting && sizes.current_sectors != new).then_some((id, sizes.flags));
        let clean = sizes.flags & sizes_flags::NO_RESYNC != 0;
        let resync = (self.state.connection == C::Connected && !clean).then_some(id);
        if new == self.sectors {
            self.answer_when_grown(answer);
        } else {
            self.change_size(new, !clean, answer, resync);
        }
        self.sizes_applied(sizes);
    }

    /// `P_UUIDS` (wire.md 3.6).
    pub(super) fn peer_uuids(&mut self, uuids: Uuids) {
        if self.is_primary()
            && self.state.disk < D::Inconsistent
            && let Some(exposed) = self.status.exposed_generation
            && self.state.connection < C::Connected
            && !same(exposed, uuids.current)
        {
            return self.refuse_session(
                &format!("Can only connect to data with current UUID={exposed:016X}"),
                "this diskless Primary serves another generation: twinblk secondary RES first",
            );
        }
        let session = self.session.as_mut().expect("packets come from the session");
        session.peer_uuids = Some(uuids);
        if !same(uuids.current, self.record.wanted().generations.current) {
            self.generation_came();
            self.generation_came_for_detach();
        }
        // Of a peer whose disk is not good this node serves nothing.
        let served =
            self.state.peer_disk == D::UpToDate || self.status.exposed_generation.is_none();
        if self.is_primary() && self.state.disk < D::Inconsistent && served {
            self.status.exposed_generation = Some(uuids.current);
            self.status.exposed_before = None;
        }
        let skip = uuids.flags & uuid_flags::SKIP_INITIAL_SYNC != 0;
        let fresh = same(self.record.wanted().generations.current, super::generation::JUST_CREATED);
        if skip && fresh && self.state.connection == C::Connected && self.local_usable() {
            self.bitmap.clear_range(0..self.bitmap.bits());
            self.record.edit(|record| {
                record.generations.current = uuids.current;
                record.generations.bitmap = 0;
            });
            self.write_all_pages(AfterBitmap::Nothing);
            self.change("the initial sync is skipped by command of the peer", |s| {
                s.disk = D::UpToDate;
                s.peer_disk = D::UpToDate;
            });
        }
    }

    /// The peer began the generation that a lost disk waits for, or never will.
    pub(super) fn generation_came(&mut self) {
        if std::mem::take(&mut self.status.awaits_generation) {
            self.open_gate();
        }
    }

    /// `P_STATE` (wire.md 3.8): during the handshake it triggers the decision.
    pub(super) fn peer_state(&mut self, word: StateWord) -> Result<(), String> {
        let Some(peer) = word.unpack() else {
            return Err(format!("state {word:?} has unknown fields"));
        };
        let session = self.session.as_ref().expect("packets come from the session");
        if !session.protocol_seen || session.peer_sizes.is_none() {
            return Err("P_STATE before P_PROTOCOL and P_SIZES".into());
        }
        if peer.disk == D::Negotiating && self.commands.has_request() {
            // My promotion may be granted already, its answer on the other socket: both nodes must
            // decide by the same roles, so the answer comes first.
            self.status.held_state = Some(word);
            return Ok(());
        }
        let old = self.state;
        let uuid_flags = session.peer_uuids.map_or(0, |uuids| uuids.flags);
        let mut peer_disk = match peer.disk {
            D::Negotiating if uuid_flags & uuid_flags::INCONSISTENT != 0 => D::Inconsistent,
            D::Negotiating => D::Consistent,
            other => other,
        };
        // The target is done and says so (session.md 4.1 step 10).
        let source = matches!(old.connection, C::SyncSource | C::PausedSyncS);
        if source && peer.connection == C::Connected && peer_disk == D::UpToDate {
            if self.bitmap.count() == 0 {
                self.finish_as_source();
            } else {
                self.note(
                    NoteLevel::Warning,
                    "the target calls itself UpToDate, but blocks are still out of sync",
                );
            }
            return Ok(());
        }
        // Late news of a resync that is over here already.
        if old.connection == C::Connected
            && old.peer_disk == D::UpToDate
            && peer_disk == D::Inconsistent
            && matches!(peer.connection, C::SyncTarget | C::PausedSyncT)
        {
            peer_disk = D::UpToDate;
        }
        let mut peer_role = peer.role;
        let mut connection = old.connection.max(C::Connected);
        if old.connection == C::VerifyT && peer.connection == C::Connected {
            // The peer has compared all that it wanted.
            connection = C::Connected;
        }
        let mut my_new_disk = None;
        let both_have_data = old.disk >= D::Negotiating && peer.disk >= D::Negotiating;
        let asks = peer.connection >= C::StartingSyncS && peer.connection <= C::WFBitMapT;
        let decides = old.connection < C::Connected
            || old.connection == C::Connected
                && (peer.disk == D::Negotiating || old.disk == D::Negotiating || asks)
            || session.consider_resync;
        if old.connection < C::Connected && both_have_data && self.peer_missed_frozen_writes() {
            return Ok(());
        }
        if old.connection < C::Connected
            && self.is_primary()
            && peer.role == Role::Primary
            && (old.suspended_fencing || peer.suspended_fencing)
            && !self.dry_run
            && !self.session.as_ref().is_some_and(|session| session.peer_dry_run)
        {
            // One of the two was replaced, answers nothing, and is about to be demoted: refusing
            // each other for good would leave an operator with nothing to decide.
            let why = "both nodes are Primary, one of them frozen: tried again until it is demoted";
            self.note(NoteLevel::Warning, why.to_owned());
            self.drop_session(C::TearDown, why);
            return Ok(());
        }
        if decides && both_have_data {
            let dirty_bits = self.bitmap.count();
            let session = self.session.as_mut().expect("checked above");
            session.consider_resync = false;
            if peer.disk == D::Negotiating && old.disk != D::Negotiating {
                // What the answer to its attach will tell the peer: both must decide by the same.
                session.my_bits_told = dirty_bits;
            }
            match self.decide_sync(peer.role, peer_disk) {
                Some(Decision::NoSync) => connection = C::Connected,
                Some(Decision::Source { full, peer_yields, why }) => {
                    peer_role = if peer_yields { Role::Secondary } else { peer_role };
                    self.note(NoteLevel::Info, format!("becoming sync source: {why}"));
                    self.prepare_bitmap(full);
                    connection = C::WFBitMapS;
                }
                Some(Decision::Target { full, yields, why }) => {
                    if yields {
                        let why = "demoted: lost the split brain (call-pri-lost-after-sb)";
                        self.change(why, |s| s.role = Role::Secondary);
                    }
                    self.note(NoteLevel::Info, format!("becoming sync target: {why}"));
                    self.prepare_bitmap(full);
                    connection = C::WFBitMapT;
                }
                Some(Decision::Refuse { cause, why, hint }) => {
                    self.report_refusal(cause);
                    if old.disk == D::Negotiating {
                        self.fail_disk(&why);
                        return Ok(());
                    }
                    if peer.disk == D::Negotiating {
                        self.note(
                            NoteLevel::Warning,
                            format!("the peer's attach is refused: {why}"),
                        );
                        peer_disk = D::Diskless;
                        connection = C::Connected;
                    } else if cause == Cause::PrimaryLost && self.waits_for_policy() {
                        // It answers nothing, and is about to hear that it was replaced. Demoted, it
                        // can connect: nobody would tell it to, were it StandAlone then.
                        self.note(NoteLevel::Warning, format!("{why}: tried again"));
                        self.drop_session(C::NetworkFailure, &why);
                        return Ok(());
                    } else {
                        self.refuse_decision(&why, &hint);
                        return Ok(());
                    }
                }
                None => return Err("P_STATE of a node with a disk, but no P_UUIDS".into()),
            }
        }
        if old.connection < C::Connected {
            let session = self.session.as_ref().expect("checked above");
            if self.dry_run || session.peer_dry_run {
                // With a disk missing there was nothing to decide.
                let why = "dry run: would connect without a resync: a disk is missing";
                self.refuse_decision(why, "twinblk connect RES, without --tentative, does it");
                return Ok(());
            }
            if self.is_primary() && peer_role == Role::Primary {
                self.refuse_session(
                    Code::TwoPrimaries.text(),
                    "on the node that is not to serve: twinblk secondary RES; then connect RES",
                );
                return Ok(());
            }
        }
        if old.disk == D::Negotiating && matches!(connection, C::Connected | C::WFBitMapS) {
            let record = self.record.wanted();
            my_new_disk = Some(match (record.consistent, record.was_up_to_date) {
                (false, _) => D::Inconsistent,
                (true, false) => D::Outdated,
                (true, true) => D::UpToDate,
            });
        }
        if old.connection < C::Connected {
            self.status.may_share_generation = false;
            // One handshake uses the permission up.
            self.discard_my_data = false;
            self.dry_run = false;
        }
        let reason = if old.connection < C::Connected {
            "handshake done".to_owned()
        } else {
            format!("the peer is {}, disk {}, {}", peer.role, peer.disk, peer.connection)
        };
        self.change(reason, |s| {
            s.connection = connection;
            s.peer = peer_role;
            s.peer_disk = peer_disk;
            s.paused_peer = peer.paused_after || peer.paused_user;
            if let Some(disk) = my_new_disk {
                s.disk = disk;
            }
        });
        self.take_held_disk();
        let new = self.state;
        if old.connection > C::WFReportParams
            && new.connection > C::Connected
            && peer.connection <= C::Connected
            && peer.disk != D::Negotiating
        {
            // This node wants a resync and the peer has not decided yet: remind it.
            let flags = self.uuid_flags(false);
            self.send_uuids(flags);
            self.send_state();
        } else if old.connection == C::Connected
            && new.connection > C::Connected
            && peer.disk == D::Negotiating
        {
            // The peer attaches: it needs my generations to decide (session.md 6.1).
            let flags = self.uuid_flags(false);
            self.send_uuids(flags);
            self.send_state();
        } else if old.connection == C::Connected && peer.disk == D::Negotiating {
            let flags = self.uuid_flags(false);
            self.send_uuids(flags);
            self.send_state();
        }
        if old.connection != new.connection {
            match new.connection {
                C::WFBitMapS => self.send_bitmap(),
                C::WFBitMapT => self.expect_bitmap(),
                C::Connected if old.connection < C::Connected => self.connected_without_sync(),
                _ => {}
            }
        }
        Ok(())
    }

    /// While I/O was frozen no generation was begun, and the peer, which comes back with this
    /// node's, misses what was under way: it is not sent again, since a peer that rebooted may have
    /// lost more than that. The next handshake finds a new generation and the bits
    /// (behaviour.md 1.7).
    fn peer_missed_frozen_writes(&mut self) -> bool {
        let mine = self.record.wanted().generations;
        let equal = self.peer_generations().is_some_and(|peer| {
            same(peer.current, mine.current) && peer.bitmap == 0 && mine.bitmap == 0
        });
        let due = self.freeze.generation_due && self.is_primary();
        if !due || !equal || self.state.disk != D::UpToDate || self.bitmap.count() == 0 {
            return false;
        }
        self.freeze.generation_due = false;
        self.begin_generation();
        self.update_record();
        let why = "the peer missed what was under way when I/O froze: connecting again";
        self.drop_session(C::NetworkFailure, why);
        true
    }

    fn connected_without_sync(&mut self) {
        if self.bitmap.count() > 0 && self.state.disk == D::UpToDate {
            let text = format!("No resync, but {} bits in bitmap!", self.bitmap.count());
            self.note(NoteLevel::Warning, text);
        }
    }

    fn decide_sync(&mut self, peer_role: Role, peer_disk: D) -> Option<Decision> {
        let session = self.session.as_ref().expect("packets come from the session");
        let uuids = session.peer_uuids?;
        let peer =
            Generations { current: uuids.current, bitmap: uuids.bitmap, history: uuids.history };
        let mine = self.record.wanted();
        let my_disk = match self.state.disk {
            D::Negotiating if mine.consistent && !self.status.attaches_suspect => D::Consistent,
            D::Negotiating => D::Inconsistent,
            other => other,
        };
        let with = Circumstances {
            version: session.version,
            my_crashed_primary: self.crashed_primary,
            peer_crashed_primary: uuids.flags & uuid_flags::CRASHED_PRIMARY != 0,
            i_am_primary: self.is_primary(),
            peer_is_primary: peer_role == Role::Primary,
            resolve: session.resolve,
            feature_wsame: session.features & features::WSAME != 0,
            heal_equal_generations: session.peer_is_twinblk(),
            my_dirty_bits: session.my_bits_told,
            peer_dirty_bits: uuids.dirty_bits,
            i_am_inconsistent: my_disk <= D::Inconsistent,
            peer_is_inconsistent: peer_disk <= D::Inconsistent,
        };
        let result = compare(mine.generations, peer, &with);
        let situation = Situation {
            my_disk,
            peer_disk,
            attaching: self.state.disk == D::Negotiating,
            i_am_primary: with.i_am_primary,
            peer_is_primary: with.peer_is_primary,
            resolve: with.resolve,
            my_dirty_bits: with.my_dirty_bits,
            peer_dirty_bits: with.peer_dirty_bits,
            i_was_primary: mine.generations.bitmap & 1 == 1,
            peer_was_primary: peer.bitmap & 1 == 1,
            i_discard_my_data: self.discard_my_data,
            peer_discards_its_data: session.peer_discards
                || uuids.flags & uuid_flags::DISCARD_MY_DATA != 0,
            dry_run: self.dry_run || session.peer_dry_run,
            may_demote: self.may_demote_in_handshake(),
        };
        let decision = decide(result.outcome, result.rule, &situation, &self.settings);
        let earnest = Situation { dry_run: false, ..situation };
        let would = decide(result.outcome, result.rule, &earnest, &self.settings);
        self.remember(result.outcome, &would, &earnest);
        if matches!(result.outcome, Outcome::SplitBrain | Outcome::SplitBrainAmbiguous) {
            // Before anybody tries to solve it.
            self.run_handler(Handler::InitialSplitBrain);
        }
        self.note(
            NoteLevel::Info,
            format!(
                "uuid_compare()={} by rule {}: self {} bits {}, peer {} bits {}",
                result.outcome.number(),
                result.rule,
                super::status::generations_text(&mine.generations),
                with.my_dirty_bits,
                super::status::generations_text(&peer),
                with.peer_dirty_bits
            ),
        );
        if !matches!(decision, Decision::Refuse { .. }) {
            self.record.edit(|record| record.generations = result.mine);
            let session = self.session.as_mut().expect("as above");
            let uuids = session.peer_uuids.as_mut().expect("as above");
            uuids.current = result.peers.current;
            uuids.bitmap = result.peers.bitmap;
            uuids.history = result.peers.history;
        }
        Some(decision)
    }

    /// A full sync sets every bit, in memory and on disk; until it is there the superblock says so.
    fn prepare_bitmap(&mut self, full: bool) {
        if full {
            self.bitmap.set_all();
            self.record.edit(|record| record.full_sync = true);
            self.write_all_pages(AfterBitmap::ClearFullSync);
        }
    }
}
