//! Packets of the peer to the sub-machine that they concern. A packet that makes no sense here ends
//! the connection (I13); it is never ignored silently.

use twinblk_proto::packet::{Ack, BlockId, Packet};
use twinblk_proto::state::ConnectionState as C;

use super::Engine;
use super::event::{PayloadId, SessionId};
use super::peer_read::Asked;
use super::write::Remote;

impl Engine {
    pub(super) fn packet_received(
        &mut self,
        session: SessionId,
        packet: Packet,
        payload: Option<PayloadId>,
    ) {
        if !self.is_session(session) {
            return self.release(payload);
        }
        self.heard_of_peer();
        if let Err(why) = self.dispatch(packet, payload) {
            self.drop_session(C::ProtocolError, &why);
        }
    }

    fn dispatch(&mut self, packet: Packet, payload: Option<PayloadId>) -> Result<(), String> {
        let connected = self.state.connection >= C::Connected;
        let name = packet.name();
        match packet {
            Packet::Ping => self.send_meta(Packet::PingAck),
            Packet::PingAck => self.ping_answered(),
            Packet::Protocol(settings) => self.peer_protocol(settings),
            Packet::SyncParam(parameters) => self.peer_sync_param(parameters),
            Packet::Sizes(sizes) => self.peer_sizes(sizes),
            Packet::Uuids(uuids) => self.peer_uuids(uuids),
            Packet::State(word) => return self.peer_state(word),
            Packet::UnplugRemote | Packet::DelayProbe => {}
            _ if !connected => {
                self.release(payload);
                return Err(format!("{name} before the handshake was done"));
            }
            Packet::ProtocolUpdate(settings) => self.peer_protocol_update(settings),
            Packet::Data(write) => {
                self.last_client_request = self.now;
                return self.peer_write(write, payload);
            }
            Packet::Zeroes(write) | Packet::Trim(write) => {
                self.last_client_request = self.now;
                return self.peer_write(write, None);
            }
            Packet::Barrier { handle } => return self.peer_barrier(handle),
            Packet::BarrierAck { handle, writes } => return self.barrier_acked(handle, writes),
            Packet::DataRequest(request) => {
                self.last_client_request = self.now;
                return self.peer_read(request, Asked::Application);
            }
            Packet::DataReply(reply) => return self.data_reply(reply, payload),
            Packet::ResyncRequest(request) => return self.peer_read(request, Asked::Resync),
            Packet::ThinResyncRequest(request) => {
                return self.peer_read(request, Asked::ThinResync);
            }
            Packet::ChecksumResyncRequest(request, digest) => {
                return self.peer_read(request, Asked::ChecksumResync(digest));
            }
            Packet::VerifyRequest(request) => return self.peer_read(request, Asked::Verify),
            Packet::VerifyReply(request, digest) => return self.verify_replied(request, digest),
            Packet::VerifyResult(ack) => return self.verify_result(ack),
            Packet::ResyncReply(reply) => return self.resync_data(reply.range, payload),
            Packet::ResyncDeallocated(range) => return self.resync_data(range, None),
            Packet::OutOfSync(range) => return self.peer_marked_out_of_sync(range),
            Packet::Bitmap(_) | Packet::CompressedBitmap(_) => return self.bitmap_packet(&packet),
            Packet::SyncUuid(uuid) => return self.sync_uuid(uuid),
            Packet::StateChangeRequest { mask, value } => {
                return self.peer_requests_change(mask, value, false);
            }
            Packet::ConnectionStateChangeRequest { mask, value } => {
                return self.peer_requests_change(mask, value, true);
            }
            Packet::StateChangeReply(code) | Packet::ConnectionStateChangeReply(code) => {
                self.change_answered(code);
                if let Some(word) = self.status.held_state.take() {
                    return self.peer_state(word);
                }
            }
            Packet::ReceiveAck(ack) => return self.acked(ack, Remote::Received),
            Packet::WriteAck(ack) => return self.acked(ack, Remote::Written),
            Packet::ResyncWriteAck(ack) if ack.id == BlockId::RESYNC => {
                // One that was on its way while this disk was exchanged says nothing about the new.
                if matches!(self.state.connection, C::SyncSource | C::PausedSyncS) {
                    self.target_wrote(ack.range);
                }
            }
            Packet::ResyncWriteAck(ack) => {
                self.write_heals(ack.id.0);
                return self.acked(ack, Remote::Written);
            }
            Packet::NegativeAck(ack) => {
                if ack.range.end().0 > self.sectors {
                    return Err(format!("{name} for {:?} beyond the device", ack.range));
                }
                self.bitmap.set_range(ack.range.blocks_touched());
                if ack.id != BlockId::RESYNC {
                    // Under A and B the write may be forgotten already: marked is enough.
                    self.write_acked(ack.id.0, ack.range, Remote::Missed);
                }
            }
            Packet::NegativeDataReply(ack) => self.data_refused(ack.id.0),
            Packet::NegativeResyncReply(ack) if self.state.connection == C::VerifyS => {
                self.verify_refused(ack.range);
            }
            Packet::NegativeResyncReply(ack) => self.resync_refused(ack.range),
            Packet::ResyncCancel(ack) => self.resync_cancelled(ack.range),
            Packet::ResyncIsInSync(ack) => return self.resync_is_in_sync(ack.range),
            Packet::InitialData
            | Packet::InitialMeta
            | Packet::ConnectionFeatures(_)
            | Packet::AuthChallenge(_)
            | Packet::AuthResponse(_)
            | Packet::WriteSame(_)
            | Packet::Superseded(_)
            | Packet::RetryWrite(_) => {
                self.release(payload);
                return Err(format!("unexpected {name}"));
            }
        }
        Ok(())
    }

    fn acked(&mut self, ack: Ack, remote: Remote) -> Result<(), String> {
        if self.write_acked(ack.id.0, ack.range, remote) {
            Ok(())
        } else {
            Err(format!("acknowledgement of {:?} that was not written", ack.range))
        }
    }
}
