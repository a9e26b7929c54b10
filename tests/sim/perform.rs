//! Performs effects as the driver does, and runs the simulated disk.

use twinblk::engine::effect::{CloseManner, DiskAction, Effect, Examination};
use twinblk::engine::event::{DiskOpId, Event, Finding, SessionId};
use twinblk_proto::packet::{Ack, Packet, dp_flags};
use twinblk_proto::state::{ConnectionState, Role};
use twinblk_proto::units::SectorRange;

use crate::link::{Segment, Socket};
use crate::metadata::MetadataWrite;
use crate::node::{Operation, Work};
use crate::oracle::Invariant;
use crate::sabotage::Sabotage;
use crate::stamp::{Content, Stamp, ZEROES};
use crate::subject::Subject;
use crate::world::{Item, World};

/// Bytes of data that a packet brings along.
fn bulk_range(packet: &Packet) -> Option<SectorRange> {
    match packet {
        Packet::Data(write) => Some(write.range),
        Packet::DataReply(reply) | Packet::ResyncReply(reply) => Some(reply.range),
        _ => None,
    }
}

/// The digest of stamps instead of bytes (FNV-1a): different stamps, different digests.
fn examine(content: &[Stamp], what: Examination) -> Finding {
    match what {
        Examination::Digest(_) => {
            let mut hash = 0xcbf2_9ce4_8422_2325_u64;
            for byte in content.iter().flat_map(|stamp| stamp.to_be_bytes()) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            Finding::Digest(hash.to_be_bytes().to_vec())
        }
        Examination::IsZero => Finding::IsZero(content.iter().all(|stamp| *stamp == ZEROES)),
    }
}

impl<E: Subject> World<E> {
    pub fn perform(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Disk { op, action } => self.submit(node, op, action),
            Effect::OpenDisk => {
                let machine = &mut self.nodes[node];
                machine.opening += 1;
                machine.opening_since_us = self.now_us;
                let (incarnation, opening) = (machine.incarnation, machine.opening);
                let delay_us = self.disk_random.between(100, 20_000);
                let item = Item::OpenDisk { node, incarnation, opening };
                self.agenda.add(self.now_us + delay_us, item);
            }
            Effect::GrowDisk { .. } => self.look_at_disk(node),
            Effect::CloseDisk => {
                let machine = &mut self.nodes[node];
                machine.disk_open = false;
                machine.opening += 1;
            }
            Effect::StartConnecting { after_ms } => {
                let machine = &mut self.nodes[node];
                machine.connecting_begun += 1;
                machine.connecting = Some(machine.connecting_begun);
                let (incarnation, attempt) = (machine.incarnation, machine.connecting_begun);
                let at_us = self.now_us + after_ms * 1000 + self.link_random.below(1000);
                self.agenda.add(at_us, Item::Dial { node, incarnation, attempt });
            }
            Effect::StopConnecting => self.nodes[node].connecting = None,
            Effect::CloseSession { session, manner } => self.close_session(node, session, manner),
            Effect::SendData { session, packet, payload } => {
                let content = match payload.map(|payload| self.nodes[node].slab.get(payload)) {
                    None => None,
                    Some(Ok(content)) => Some(content),
                    Some(Err(text)) => {
                        return self.violate(Invariant::Contract, format!("SendData: {text}"));
                    }
                };
                let sectors = bulk_range(&packet).map(|range| range.count as usize);
                if sectors != content.as_ref().map(|content| content.len()) {
                    let text = format!("{packet:?} is sent with {sectors:?} sectors of data");
                    return self.violate(Invariant::Contract, text);
                }
                self.send(node, session, Socket::Data, packet, content);
            }
            Effect::SendMeta { session, packet } => {
                if self.is_swallowed(node, &packet) {
                    return;
                }
                self.check_verify_result(node, &packet);
                self.send(node, session, Socket::Meta, packet, None);
            }
            Effect::UseIntegrity { .. } | Effect::Note { .. } | Effect::SizeChanged { .. } => {}
            Effect::ReplyClient { request, result } => self.reply(node, request, result),
            Effect::Examine { examination, payload, what } => {
                match self.nodes[node].slab.get(payload) {
                    Ok(content) => {
                        let finding = examine(&content, what);
                        self.input(node, Event::Examined { examination, finding });
                    }
                    Err(text) => self.violate(Invariant::Contract, format!("Examine: {text}")),
                }
            }
            Effect::ReleasePayload(payload) => {
                if let Err(text) = self.nodes[node].slab.release(payload) {
                    self.violate(Invariant::Contract, format!("ReleasePayload: {text}"));
                }
            }
            Effect::ReplyCommand { command, result } => {
                match self.nodes[node].commands.get_mut(&command.0) {
                    Some(outcome @ None) => *outcome = Some(result),
                    _ => self.violate(Invariant::Contract, format!("{command:?} answered again")),
                }
            }
            Effect::SetTimer { timer, at } => {
                let machine = &mut self.nodes[node];
                machine.timers_set += 1;
                let (incarnation, number) = (machine.incarnation, machine.timers_set);
                machine.timers.insert(timer, number);
                let late_us = self.disk_random.skewed(0, 500);
                let item = Item::TimerDue { node, incarnation, timer, number };
                let due_us = machine.clock.global(at.0).max(self.now_us);
                self.agenda.add(due_us + late_us, item);
            }
            Effect::ClearTimer(timer) => {
                self.nodes[node].timers.remove(&timer);
            }
            Effect::StateChanged { old, new, .. } => self.witness_sees_state(node, &old, &new),
            Effect::RunHandler { run, handler } => self.run_handler(node, run, handler),
        }
    }

    // The peer link.

    /// The session of this node with that name, if its sockets still exist.
    fn session_number(&self, node: usize, id: SessionId) -> Option<u64> {
        let number = self.nodes[node].session?;
        let end = &self.link.sessions.get(&number)?.ends[node];
        (end.id == id && end.alive).then_some(number)
    }

    fn send(
        &mut self,
        node: usize,
        id: SessionId,
        socket: Socket,
        packet: Packet,
        content: Option<Content>,
    ) {
        // A packet of a session that is over goes nowhere.
        let Some(session) = self.session_number(node, id) else { return };
        if self.sabotage == Some(Sabotage::DropPeerWrites)
            && matches!(&packet, Packet::Data(write) if write.range.start.0 % 10 == 0)
        {
            self.pretend_written(node, id, &packet);
            return;
        }
        self.send_segment(session, node, socket, Segment::Packet { packet, content });
    }

    fn close_session(&mut self, node: usize, id: SessionId, manner: CloseManner) {
        let Some(session) = self.session_number(node, id) else { return };
        if let Some(state) = self.link.sessions.get_mut(&session) {
            state.ends[node].alive = false;
        }
        self.nodes[node].session = None;
        if manner == CloseManner::Now {
            self.link.drop_tail(session, node, &mut self.link_random);
        }
        self.send_end(session, node);
    }

    // The disk.

    fn submit(&mut self, node: usize, op: DiskOpId, action: DiskAction) {
        let sectors = self.nodes[node].usable_sectors;
        if !self.nodes[node].disk_open {
            return self.violate(Invariant::Contract, format!("{op:?} on a closed disk"));
        }
        let range = match &action {
            DiskAction::Read { range }
            | DiskAction::Write { range, .. }
            | DiskAction::Zero { range, .. } => *range,
            _ => SectorRange::default(),
        };
        if range.end().0 > sectors {
            let text = format!("{op:?} on {range:?} of a disk of {sectors} sectors");
            return self.violate(Invariant::Contract, text);
        }
        let on_data = range.count > 0 || action == DiskAction::Flush;
        if self.nodes[node].looking && !on_data {
            let text = format!("{op:?} writes metadata while it moves");
            return self.violate(Invariant::Contract, text);
        }
        let honoured = self.sabotage != Some(Sabotage::DropFua);
        let work = match action {
            DiskAction::Read { range } => Work::Read { range },
            DiskAction::Write { range, payload, fua: durable } => {
                let content = match self.nodes[node].slab.get(payload) {
                    Ok(content) if content.len() == range.count as usize => content,
                    Ok(_) => {
                        let text = format!("{op:?}: {payload:?} does not fit {range:?}");
                        return self.violate(Invariant::Contract, text);
                    }
                    Err(text) => return self.violate(Invariant::Contract, text),
                };
                self.check_resync_target(node, range);
                Work::Write { range, content, durable: durable && honoured }
            }
            DiskAction::Zero { range, fua: durable, .. } => {
                self.check_resync_target(node, range);
                let content = vec![ZEROES; range.count as usize].into();
                Work::Write { range, content, durable: durable && honoured }
            }
            DiskAction::Flush => Work::Flush { mark: self.nodes[node].medium.flush_mark() },
            DiskAction::PersistRecord(record) => Work::Metadata(MetadataWrite::Record(record)),
            DiskAction::PersistActivityLog(update) => {
                Work::Metadata(MetadataWrite::ActivityLog(update))
            }
            DiskAction::PersistBitmap(pages) => Work::Metadata(MetadataWrite::Bitmap(pages)),
        };
        let work = self.sabotaged_work(node, work);
        let quality = &self.swarm.disk;
        let mut delay_us = quality.latency_us + self.disk_random.below(quality.jitter_us + 1);
        if self.disk_random.chance(quality.outlier_per_million) {
            delay_us += self.disk_random.below(quality.outlier_us + 1);
        }
        let machine = &mut self.nodes[node];
        machine.operations_begun += 1;
        let operation = machine.operations_begun;
        let opening = machine.opening;
        machine.operations.insert(operation, Operation { op, opening, work });
        let incarnation = machine.incarnation;
        let item = Item::DiskDone { node, incarnation, operation };
        self.agenda.add(self.now_us + delay_us, item);
    }

    pub fn disk_done(&mut self, node: usize, number: u64) {
        let fails = self.faults_fail_disk(node, number);
        let machine = &mut self.nodes[node];
        let Some(operation) = machine.operations.remove(&number) else { return };
        let mut content = None;
        if fails {
            self.statistics.disk_errors += 1;
            match &operation.work {
                Work::Write { range, content, .. } => {
                    machine.medium.write_partly(*range, content, &mut self.disk_random);
                }
                Work::Metadata(write) => {
                    machine.metadata.apply_partly(write, &mut self.disk_random);
                }
                Work::Flush { mark } => machine.medium.forget_flush(*mark),
                Work::Read { .. } => {}
            }
        } else {
            match &operation.work {
                Work::Read { range } => content = Some(machine.medium.read(*range)),
                Work::Write { range, content, durable } => {
                    machine.medium.write(*range, content, *durable);
                }
                Work::Flush { mark } => machine.medium.flush(*mark),
                Work::Metadata(write) => {
                    if let Err(text) = machine.metadata.apply(write) {
                        return self.violate(Invariant::Contract, text);
                    }
                }
            }
        }
        if operation.opening != machine.opening || !machine.disk_open {
            return;
        }
        let result = if fails {
            self.note(node, format_args!("disk error on {operation:?}"));
            Err(Self::disk_failure())
        } else {
            Ok(content.map(|content| self.nodes[node].slab.insert(content)))
        };
        self.input(node, Event::DiskCompleted { op: operation.op, result });
    }

    // Planted bugs.

    fn sabotaged_work(&self, node: usize, work: Work) -> Work {
        let state = self.nodes[node].state();
        let durable = *self.nodes[node].metadata.record();
        // A read of nothing: completes, and does nothing.
        let nothing = Work::Flush { mark: 0 };
        match (self.sabotage, work) {
            (Some(Sabotage::DropActivityLog), Work::Metadata(MetadataWrite::ActivityLog(_)))
            | (Some(Sabotage::DropBitmap), Work::Metadata(MetadataWrite::Bitmap(_)))
            | (Some(Sabotage::DropFlush), Work::Flush { .. }) => nothing,
            (
                Some(Sabotage::DropGenerations),
                Work::Metadata(MetadataWrite::Record(mut record)),
            ) => {
                record.generations = durable.generations;
                Work::Metadata(MetadataWrite::Record(record))
            }
            (Some(Sabotage::KeepConsistent), Work::Metadata(MetadataWrite::Record(mut record))) => {
                record.consistent |= durable.consistent;
                record.was_up_to_date |= durable.was_up_to_date;
                Work::Metadata(MetadataWrite::Record(record))
            }
            (
                Some(Sabotage::DropPrimaryFlag),
                Work::Metadata(MetadataWrite::Record(mut record)),
            ) => {
                record.primary = false;
                Work::Metadata(MetadataWrite::Record(record))
            }
            (Some(Sabotage::ForgetBits), Work::Metadata(MetadataWrite::Bitmap(mut pages))) => {
                for page in &mut pages {
                    for word in page.words.iter_mut() {
                        *word &= 0xfefe_fefe_fefe_fefe;
                    }
                }
                Work::Metadata(MetadataWrite::Bitmap(pages))
            }
            (Some(Sabotage::DropPeerZeroes), Work::Write { content, .. })
                if state.role == Role::Secondary
                    && state.connection == ConnectionState::Connected
                    && content.iter().all(|sector| *sector == ZEROES) =>
            {
                nothing
            }
            (Some(Sabotage::DropResyncWrites), Work::Write { .. })
                if state.connection == ConnectionState::SyncTarget
                    && state.role == Role::Secondary =>
            {
                nothing
            }
            (_, work) => work,
        }
    }

    /// The acknowledgement that a peer would send for a write that it never got.
    fn pretend_written(&mut self, node: usize, session: SessionId, packet: &Packet) {
        if let Packet::Data(write) = packet
            && write.flags & dp_flags::SEND_WRITE_ACK != 0
        {
            let ack = Ack { range: write.range, id: write.id, sequence: write.sequence };
            let packet = Packet::WriteAck(ack);
            self.input(node, Event::PacketReceived { session, packet, payload: None });
        }
    }

    /// Acknowledgements that were sent early are not sent again.
    fn is_swallowed(&self, _node: usize, packet: &Packet) -> bool {
        self.sabotage == Some(Sabotage::AcknowledgeEarly) && matches!(packet, Packet::WriteAck(_))
    }

    /// Acknowledges a write as it arrives, if the planted bug says so.
    pub fn acknowledge_early(&mut self, node: usize, session: SessionId, packet: &Packet) {
        if self.sabotage != Some(Sabotage::AcknowledgeEarly) {
            return;
        }
        let (Packet::Data(write) | Packet::Trim(write) | Packet::Zeroes(write)) = packet else {
            return;
        };
        if write.flags & dp_flags::SEND_WRITE_ACK != 0 {
            let ack = Ack { range: write.range, id: write.id, sequence: write.sequence };
            if let Some(number) = self.session_number(node, session) {
                let segment = Segment::Packet { packet: Packet::WriteAck(ack), content: None };
                self.send_segment(number, node, Socket::Meta, segment);
            }
        }
    }
}
