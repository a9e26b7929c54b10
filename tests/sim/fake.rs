//! The smallest engine that mirrors: it serves to test the simulator itself, in a world without
//! faults. Writes go to both disks and are answered when both have them; a flush flushes both.

use std::collections::BTreeMap;

use twinblk::engine::effect::{
    ActivityLogUpdate, ClientError, DiskAction, Effect, Effects, Refusal,
};
use twinblk::engine::event::{
    ClientOperation, CommandId, DeviceRecord, DiskOpId, Event, PayloadId, RequestId, SessionId,
    Settings, Time, Verb,
};
use twinblk_proto::packet::{Ack, BlockId, Packet, Write, dp_flags};
use twinblk_proto::state::{ConnectionState, DiskState, Role, State};
use twinblk_proto::units::EXTENT_SECTORS;

use crate::subject::Subject;

/// What is left to do for a request before it is answered.
#[derive(Debug)]
struct Open {
    left: u32,
    payload: Option<PayloadId>,
}

#[derive(Debug)]
enum Purpose {
    Read(RequestId),
    Local(RequestId),
    PeersWrite {
        ack: Ack,
        payload: Option<PayloadId>,
    },
    PeersFlush {
        handle: u32,
    },
    /// Every extent is hot from the promotion on: the log never changes again.
    LogWritten(CommandId),
    PromotionRecorded(CommandId),
}

#[derive(Debug)]
pub struct Fake {
    state: State,
    record: DeviceRecord,
    sectors: u64,
    session: Option<SessionId>,
    operations: BTreeMap<u64, Purpose>,
    last_operation: u64,
    requests: BTreeMap<u64, Open>,
    attaching: Option<CommandId>,
}

impl Fake {
    fn disk(&mut self, action: DiskAction, purpose: Purpose, effects: &mut Effects) {
        self.last_operation += 1;
        self.operations.insert(self.last_operation, purpose);
        effects.push(Effect::Disk { op: DiskOpId(self.last_operation), action });
    }

    fn one_done(&mut self, request: RequestId, effects: &mut Effects) {
        if let Some(open) = self.requests.get_mut(&request.0) {
            open.left -= 1;
            if open.left == 0 {
                let payload = open.payload;
                self.requests.remove(&request.0);
                effects.push(Effect::ReplyClient { request, result: Ok(None) });
                effects.extend(payload.map(Effect::ReleasePayload));
            }
        }
    }

    fn client(&mut self, request: RequestId, operation: ClientOperation, effects: &mut Effects) {
        if self.state.role != Role::Primary {
            if let ClientOperation::Write { payload, .. } = operation {
                effects.push(Effect::ReleasePayload(payload));
            }
            let result = Err(ClientError::NotPrimary);
            effects.push(Effect::ReplyClient { request, result });
            return;
        }
        let flags = dp_flags::SEND_WRITE_ACK;
        let id = BlockId(request.0);
        let (packet, payload) = match operation {
            ClientOperation::Read { range } => {
                return self.disk(DiskAction::Read { range }, Purpose::Read(request), effects);
            }
            ClientOperation::Write { range, payload, fua } => {
                let action = DiskAction::Write { range, payload, fua };
                self.disk(action, Purpose::Local(request), effects);
                let flags = flags | if fua { dp_flags::FUA } else { 0 };
                (Packet::Data(Write { range, id, sequence: 0, flags }), Some(payload))
            }
            ClientOperation::Zero { range, may_unmap, fua } => {
                let action = DiskAction::Zero { range, may_unmap, fua };
                self.disk(action, Purpose::Local(request), effects);
                let flags = flags | if fua { dp_flags::FUA } else { 0 };
                (Packet::Zeroes(Write { range, id, sequence: 0, flags }), None)
            }
            ClientOperation::Flush => {
                self.disk(DiskAction::Flush, Purpose::Local(request), effects);
                (Packet::Barrier { handle: request.0 as u32 }, None)
            }
        };
        let left = if let Some(session) = self.session {
            effects.push(Effect::SendData { session, packet, payload });
            2
        } else {
            1
        };
        self.requests.insert(request.0, Open { left, payload });
    }

    fn packet(&mut self, packet: Packet, payload: Option<PayloadId>, effects: &mut Effects) {
        match packet {
            Packet::Data(write) | Packet::Zeroes(write) => {
                let (range, fua) = (write.range, write.flags & dp_flags::FUA != 0);
                let action = match payload {
                    Some(payload) => DiskAction::Write { range, payload, fua },
                    None => DiskAction::Zero { range, may_unmap: false, fua },
                };
                let ack = Ack { range, id: write.id, sequence: 0 };
                self.disk(action, Purpose::PeersWrite { ack, payload }, effects);
            }
            Packet::Barrier { handle } => {
                self.disk(DiskAction::Flush, Purpose::PeersFlush { handle }, effects);
            }
            Packet::WriteAck(ack) => self.one_done(RequestId(ack.id.0), effects),
            Packet::BarrierAck { handle, .. } => {
                self.one_done(RequestId(u64::from(handle)), effects);
            }
            _ => effects.extend(payload.map(Effect::ReleasePayload)),
        }
    }

    fn disk_done(&mut self, op: DiskOpId, content: Option<PayloadId>, effects: &mut Effects) {
        let session = self.session;
        match self.operations.remove(&op.0) {
            Some(Purpose::Read(request)) => {
                effects.push(Effect::ReplyClient { request, result: Ok(content) });
            }
            Some(Purpose::Local(request)) => self.one_done(request, effects),
            Some(Purpose::PeersWrite { ack, payload }) => {
                effects.extend(payload.map(Effect::ReleasePayload));
                let packet = Packet::WriteAck(ack);
                effects.extend(session.map(|session| Effect::SendMeta { session, packet }));
            }
            Some(Purpose::PeersFlush { handle }) => {
                let packet = Packet::BarrierAck { handle, writes: 0 };
                effects.extend(session.map(|session| Effect::SendMeta { session, packet }));
            }
            Some(Purpose::LogWritten(command)) => {
                self.record.primary = true;
                let action = DiskAction::PersistRecord(self.record);
                self.disk(action, Purpose::PromotionRecorded(command), effects);
            }
            Some(Purpose::PromotionRecorded(command)) => {
                self.state.role = Role::Primary;
                effects.push(Effect::ReplyCommand { command, result: Ok(()) });
            }
            None => {}
        }
    }
}

fn refusal() -> Refusal {
    let detail = "the test engine does not do that".to_owned();
    Refusal { code: -1, text: "no", detail, hint: String::new() }
}

impl Subject for Fake {
    fn new(_: Settings) -> Self {
        Self {
            state: State::default(),
            record: DeviceRecord::default(),
            sectors: 0,
            session: None,
            operations: BTreeMap::new(),
            last_operation: 0,
            requests: BTreeMap::new(),
            attaching: None,
        }
    }

    fn stock_random(&mut self, source: &mut dyn FnMut() -> u64) {
        source();
    }

    fn handle(&mut self, _: Time, event: Event, effects: &mut Effects) {
        match event {
            Event::ClientRequested { request, operation } => {
                self.client(request, operation, effects);
            }
            Event::DiskCompleted { op, result } => {
                self.disk_done(op, result.unwrap_or(None), effects);
            }
            Event::DiskOpened(disk) => {
                self.record = disk.record;
                self.sectors = disk.usable_sectors;
                self.state.disk = DiskState::UpToDate;
                effects.extend(
                    self.attaching
                        .take()
                        .map(|command| Effect::ReplyCommand { command, result: Ok(()) }),
                );
            }
            Event::SessionEstablished { session, .. } => {
                self.session = Some(session);
                self.state.connection = ConnectionState::Connected;
                self.state.peer_disk = DiskState::UpToDate;
            }
            Event::SessionLost { .. } => {
                self.session = None;
                self.state.connection = ConnectionState::StandAlone;
            }
            Event::PacketReceived { packet, payload, .. } => self.packet(packet, payload, effects),
            Event::Commanded { command, verb } => match verb {
                Verb::Attach if self.state.disk == DiskState::Diskless => {
                    self.attaching = Some(command);
                    effects.push(Effect::OpenDisk);
                }
                Verb::Connect { .. } if self.state.connection == ConnectionState::StandAlone => {
                    self.state.connection = ConnectionState::WFConnection;
                    effects.push(Effect::StartConnecting { after_ms: 0 });
                    effects.push(Effect::ReplyCommand { command, result: Ok(()) });
                }
                Verb::Primary { .. } if self.session.is_some() => {
                    let extents = self.sectors.div_ceil(EXTENT_SECTORS) as u16;
                    let slots = (0..extents).map(|extent| (extent, u32::from(extent))).collect();
                    let action = DiskAction::PersistActivityLog(ActivityLogUpdate { slots });
                    self.disk(action, Purpose::LogWritten(command), effects);
                }
                Verb::Secondary { .. } if self.state.role == Role::Primary => {
                    self.state.role = Role::Secondary;
                    effects.push(Effect::ReplyCommand { command, result: Ok(()) });
                }
                _ => effects.push(Effect::ReplyCommand { command, result: Err(refusal()) }),
            },
            _ => {}
        }
    }

    fn settle(&mut self, _: Time, _: &mut Effects) {}

    fn state(&self) -> State {
        self.state
    }

    fn record(&self) -> DeviceRecord {
        self.record
    }

    fn device_sectors(&self) -> u64 {
        self.sectors
    }

    fn out_of_sync_blocks(&self) -> u64 {
        0
    }

    fn is_out_of_sync(&self, _: u64) -> bool {
        false
    }

    fn resync_blocks_moved(&self) -> u64 {
        0
    }

    fn verdict(&self) -> Option<twinblk::engine::verdict::Verdict> {
        None
    }

    fn resync_blocks_equal(&self) -> u64 {
        0
    }
}
