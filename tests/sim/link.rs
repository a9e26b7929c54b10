//! The network between the two nodes: sessions of two sockets, each direction a FIFO stream. A cut
//! stream stands still (TCP sends again later); a dead end answers with a reset, if the way back is
//! open. Nothing here knows what packets mean.

use std::collections::{BTreeMap, VecDeque};

use twinblk::engine::event::SessionId;
use twinblk_proto::packet::Packet;

use crate::random::Random;
use crate::stamp::Content;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    Data = 0,
    Meta = 1,
}

impl Socket {
    pub const BOTH: [Self; 2] = [Self::Data, Self::Meta];
}

#[derive(Clone, Debug)]
pub enum Segment {
    Packet {
        packet: Packet,
        content: Option<Content>,
    },
    /// The sender closed, or its kernel did for it.
    End,
}

/// One direction of one socket.
#[derive(Debug, Default)]
pub struct Stream {
    queue: VecDeque<Segment>,
    last_at_us: u64,
    /// Deliveries that were planned before the last stall are void.
    pub epoch: u64,
    pub stalled: bool,
}

/// What one node has of a session.
#[derive(Debug)]
pub struct End {
    pub id: SessionId,
    /// The process that holds the sockets.
    pub incarnation: u64,
    /// The sockets exist.
    pub alive: bool,
    /// When the engine hears of the session.
    pub up_at_us: u64,
}

#[derive(Debug)]
pub struct Session {
    pub ends: [End; 2],
    /// By sender, then by socket.
    pub streams: [[Stream; 2]; 2],
}

impl Session {
    fn stream(&mut self, from: usize, socket: Socket) -> &mut Stream {
        &mut self.streams[from][socket as usize]
    }
}

/// A delivery to plan: when, and what to check it against.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    pub at_us: u64,
    pub session: u64,
    pub from: usize,
    pub socket: Socket,
    pub epoch: u64,
}

/// What came of a planned delivery.
#[derive(Debug)]
pub enum Delivered {
    /// Void, or nothing there.
    Nothing,
    /// The way is cut; the stream stands still since now.
    Stalled {
        epoch: u64,
    },
    /// The receiver's end is gone.
    NobodyThere,
    Segment(Segment),
}

/// How quick the network is.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    pub latency_us: u64,
    pub jitter_us: u64,
    pub bytes_per_ms: u64,
    /// A delay of up to this comes now and then.
    pub outlier_us: u64,
    pub outlier_per_million: u32,
}

#[derive(Debug)]
pub struct Link {
    pub sessions: BTreeMap<u64, Session>,
    /// By sender, then by socket.
    pub cut: [[bool; 2]; 2],
    pub quality: Quality,
    last_session: u64,
}

/// Bytes that a packet takes on the wire beside its data, roughly.
const PACKET_BYTES: u64 = 64;

impl Link {
    pub fn new(quality: Quality) -> Self {
        Self { sessions: BTreeMap::new(), cut: [[false; 2]; 2], quality, last_session: 0 }
    }

    pub fn is_open(&self, from: usize, socket: Socket) -> bool {
        !self.cut[from][socket as usize]
    }

    pub fn is_whole(&self) -> bool {
        self.cut == [[false; 2]; 2]
    }

    /// A new session; the ends hear of it at the given times. Returns its number.
    pub fn establish(&mut self, incarnations: [u64; 2], up_at_us: [u64; 2]) -> u64 {
        self.last_session += 1;
        let number = self.last_session;
        // Each driver numbers its sessions by itself: the two ends never share a name.
        let end = |node: usize| End {
            id: SessionId(number * 2 + node as u64),
            incarnation: incarnations[node],
            alive: true,
            up_at_us: up_at_us[node],
        };
        let session = Session { ends: [end(0), end(1)], streams: Default::default() };
        self.sessions.insert(number, session);
        number
    }

    /// Queues a segment; the caller plans the delivery.
    pub fn send(
        &mut self,
        now_us: u64,
        number: u64,
        from: usize,
        socket: Socket,
        segment: Segment,
        random: &mut Random,
    ) -> Option<Delivery> {
        let quality = self.quality;
        let session = self.sessions.get_mut(&number)?;
        let heard_at_us = session.ends[1 - from].up_at_us;
        let bytes = match &segment {
            Segment::Packet { content: Some(content), .. } => content.len() as u64 * 512,
            _ => 0,
        } + PACKET_BYTES;
        let stream = session.stream(from, socket);
        let mut delay_us = quality.latency_us + bytes / quality.bytes_per_ms.div_ceil(1000).max(1);
        delay_us += random.below(quality.jitter_us + 1);
        if random.chance(quality.outlier_per_million) {
            delay_us += random.below(quality.outlier_us + 1);
        }
        let at_us = (now_us + delay_us).max(stream.last_at_us + 1).max(heard_at_us + 1);
        stream.last_at_us = at_us;
        stream.queue.push_back(segment);
        Some(Delivery { at_us, session: number, from, socket, epoch: stream.epoch })
    }

    pub fn deliver(&mut self, planned: &Delivery) -> Delivered {
        let open = self.is_open(planned.from, planned.socket);
        let Some(session) = self.sessions.get_mut(&planned.session) else {
            return Delivered::Nothing;
        };
        let receiver_alive = session.ends[1 - planned.from].alive;
        let stream = session.stream(planned.from, planned.socket);
        if stream.epoch != planned.epoch || stream.queue.is_empty() || stream.stalled {
            return Delivered::Nothing;
        }
        if !open {
            stream.stalled = true;
            return Delivered::Stalled { epoch: stream.epoch };
        }
        match stream.queue.pop_front() {
            None => Delivered::Nothing,
            Some(_) if !receiver_alive => Delivered::NobodyThere,
            Some(segment) => Delivered::Segment(segment),
        }
    }

    /// The ways that are open again deliver what they held up.
    pub fn heal(&mut self, now_us: u64, random: &mut Random) -> Vec<Delivery> {
        let mut plan = Vec::new();
        let cut = self.cut;
        for (number, session) in &mut self.sessions {
            for (from, cut) in cut.iter().enumerate() {
                for socket in Socket::BOTH {
                    let stream = session.stream(from, socket);
                    if !stream.stalled || cut[socket as usize] {
                        continue;
                    }
                    stream.stalled = false;
                    stream.epoch += 1;
                    // TCP tries again by a timer that grew meanwhile.
                    let mut at_us = now_us + random.between(1000, 400_000);
                    for _ in &stream.queue {
                        at_us += random.between(1, 50);
                        let epoch = stream.epoch;
                        plan.push(Delivery { at_us, session: *number, from, socket, epoch });
                    }
                    stream.last_at_us = at_us;
                }
            }
        }
        plan
    }

    /// Forgets a random part of what the node has sent and nobody received: what was in the
    /// buffers of a machine that lost power, or of a socket that was reset.
    pub fn drop_tail(&mut self, number: u64, from: usize, random: &mut Random) {
        if let Some(session) = self.sessions.get_mut(&number) {
            for socket in Socket::BOTH {
                let queue = &mut session.stream(from, socket).queue;
                let kept = random.below(queue.len() as u64 + 1) as usize;
                queue.truncate(kept);
            }
        }
    }

    /// Forgets sessions that no end holds any more.
    pub fn bury(&mut self) {
        self.sessions.retain(|_, session| session.ends.iter().any(|end| end.alive));
    }

    pub fn packets_under_way(&self) -> usize {
        let streams = self.sessions.values().flat_map(|session| session.streams.iter().flatten());
        streams.map(|stream| stream.queue.len()).sum()
    }
}
