//! Requests of clients, and what the oracle makes of the answers.

use std::collections::BTreeSet;

use twinblk::engine::effect::ClientError;
use twinblk::engine::event::{ClientOperation, Event, PayloadId, RequestId};
use twinblk_proto::state::ConnectionState;
use twinblk_proto::units::SectorRange;

use crate::node::Crash;
use crate::oracle::Invariant;
use crate::sabotage::Sabotage;
use crate::stamp::{Content, stamp};
use crate::subject::Subject;
use crate::world::World;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Read(SectorRange),
    Write { range: SectorRange, fua: bool },
    Zero { range: SectorRange, may_unmap: bool, fua: bool },
    Flush,
}

#[derive(Clone, Debug)]
pub enum Reply {
    Done,
    Content(Content),
    Failed(ClientError),
    /// The node died.
    Never,
}

/// A request that was not answered yet.
#[derive(Clone, Debug)]
pub struct Pending {
    pub node: usize,
    /// Whose it is; `None`: a scenario's.
    pub client: Option<usize>,
    pub wish: Wish,
    /// Oracle's time.
    pub begun: u64,
    /// Number of the write.
    pub write: u64,
    /// Writes that a flush covers.
    covered: Vec<u64>,
    payload: Option<PayloadId>,
    /// A planted bug answered already: the engine's own answer is ignored.
    answered_early: bool,
}

impl<E: Subject> World<E> {
    /// A client's request to a node. Returns its identifier.
    pub fn request(&mut self, node: usize, client: Option<usize>, wish: Wish) -> RequestId {
        self.last_request += 1;
        self.statistics.requests += 1;
        let request = RequestId(self.last_request);
        let mut pending = Pending {
            node,
            client,
            wish,
            begun: 0,
            write: 0,
            covered: Vec::new(),
            payload: None,
            answered_early: false,
        };
        let operation = match wish {
            Wish::Read(range) => {
                pending.begun = self.oracle.tick();
                ClientOperation::Read { range }
            }
            Wish::Write { range, fua } => {
                pending.write = self.oracle.begin_write(node, range, false);
                let content: Content = (range.start.0..range.end().0)
                    .map(|sector| stamp(pending.write, sector))
                    .collect();
                let payload = self.nodes[node].slab.insert(content);
                pending.payload = Some(payload);
                ClientOperation::Write { range, payload, fua }
            }
            Wish::Zero { range, may_unmap, fua } => {
                pending.write = self.oracle.begin_write(node, range, true);
                ClientOperation::Zero { range, may_unmap, fua }
            }
            Wish::Flush => {
                (pending.begun, pending.covered) = self.oracle.begin_flush(node);
                ClientOperation::Flush
            }
        };
        self.pending.insert(request.0, pending);
        self.input(node, Event::ClientRequested { request, operation });
        self.answer_early(node, request, wish);
        request
    }

    fn answer_early(&mut self, node: usize, request: RequestId, wish: Wish) {
        let early = match self.sabotage {
            Some(Sabotage::AnswerWriteAtOnce) => matches!(wish, Wish::Write { .. }),
            Some(Sabotage::AnswerFlushAtOnce) => matches!(wish, Wish::Flush),
            _ => false,
        };
        if early && let Some(pending) = self.pending.get_mut(&request.0) {
            pending.answered_early = true;
            let pending = pending.clone();
            self.answered(node, request, &pending, Ok(None));
        }
    }

    pub fn reply(
        &mut self,
        node: usize,
        request: RequestId,
        result: Result<Option<PayloadId>, ClientError>,
    ) {
        let Some(pending) = self.pending.remove(&request.0).filter(|found| found.node == node)
        else {
            return self.violate(Invariant::Contract, format!("{request:?} is not open"));
        };
        let state = self.nodes[node].state();
        let frozen = state.suspended_user || state.suspended_no_data || state.suspended_fencing;
        if frozen && result.is_ok() && self.nodes[node].seen == state {
            let text = format!("{request:?} was answered while I/O is suspended");
            self.violate(Invariant::I14, text);
        }
        let content = match result {
            Ok(Some(payload)) => match self.nodes[node].slab.release(payload) {
                Ok(content) => Ok(Some(content)),
                Err(text) => return self.violate(Invariant::Contract, text),
            },
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if !pending.answered_early {
            self.answered(node, request, &pending, content);
        }
    }

    fn answered(
        &mut self,
        node: usize,
        request: RequestId,
        pending: &Pending,
        result: Result<Option<Content>, ClientError>,
    ) {
        let replaced = self.witness.replaced[node].is_some_and(|last| request.0 > last);
        let alone = self.nodes[node].state().connection < ConnectionState::Connected;
        if self.swarm.witness && replaced && alone && pending.write > 0 && result.is_ok() {
            let text = format!("node {node} was replaced, and answers a write that came later");
            return self.violate(Invariant::I5, text);
        }
        let reply = match result {
            Err(error) => {
                if pending.write > 0 {
                    self.oracle.abandon_write(pending.write);
                }
                Reply::Failed(error)
            }
            Ok(content) => match (pending.wish, content) {
                (Wish::Read(range), Some(content)) => {
                    if content.len() != range.count as usize {
                        let text = format!("{request:?}: {} sectors for {range:?}", content.len());
                        return self.violate(Invariant::Contract, text);
                    }
                    // A promotion counts once a crash would not undo it; what is read before is
                    // not certain.
                    if !self.nodes[node].promotion_due {
                        let outcome =
                            self.oracle.observe_read(node, range, &content, pending.begun);
                        self.check(outcome);
                    }
                    Reply::Content(content)
                }
                (Wish::Write { range, fua }, None) => {
                    self.answer_write(node, request, pending.write);
                    self.check_answered_write(node, range, pending.write);
                    if fua {
                        self.check_answered_flush(node, &[pending.write]);
                        self.oracle.log.stabilise(pending.write);
                    }
                    Reply::Done
                }
                (Wish::Zero { range, fua, .. }, None) => {
                    self.answer_write(node, request, pending.write);
                    self.check_answered_write(node, range, pending.write);
                    if fua {
                        self.check_answered_flush(node, &[pending.write]);
                        self.oracle.log.stabilise(pending.write);
                    }
                    Reply::Done
                }
                // Nor is it certain what a flush covers: the crash before may have lost it.
                (Wish::Flush, None) if self.nodes[node].promotion_due => Reply::Done,
                (Wish::Flush, None) => {
                    self.check_answered_flush(node, &pending.covered);
                    self.oracle.answer_flush(node, pending.begun, &pending.covered);
                    Reply::Done
                }
                (wish, content) => {
                    let text = format!("{wish:?} was answered with data: {}", content.is_some());
                    return self.violate(Invariant::Contract, text);
                }
            },
        };
        match pending.client {
            Some(client) => self.client_answered(client, pending.node, &reply),
            None => {
                self.replies.insert(request.0, reply);
            }
        }
    }

    /// A Primary that its witness replaced still answers what its successor acknowledged before: that
    /// is in both histories.
    fn answer_write(&mut self, node: usize, request: RequestId, write: u64) {
        let is_common = self.service.is_some()
            && self.witness.replaced[node].is_some_and(|last| request.0 <= last);
        let had_diverged = self.oracle.lineage(node).diverged;
        self.oracle.answer_write(node, write, false);
        if is_common {
            self.oracle.lineage_mut(node).diverged = had_diverged;
        }
    }

    /// The node died: its clients will never know what became of their requests.
    pub fn forget_requests(&mut self, node: usize) {
        let lost: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.node == node)
            .map(|(request, _)| *request)
            .collect();
        for request in lost {
            let Some(pending) = self.pending.remove(&request) else { continue };
            if pending.write > 0 && !pending.answered_early {
                self.oracle.abandon_write(pending.write);
            }
            match pending.client {
                Some(client) => self.client_answered(client, node, &Reply::Never),
                None => {
                    self.replies.insert(request, Reply::Never);
                }
            }
        }
    }

    /// Ranges of writes that are under way, by sector.
    pub fn sectors_being_written(&self) -> BTreeSet<u64> {
        let mut sectors = BTreeSet::new();
        for pending in self.pending.values() {
            let range = match pending.wish {
                Wish::Write { range, .. } | Wish::Zero { range, .. } => range,
                Wish::Read(_) | Wish::Flush => continue,
            };
            sectors.extend(range.start.0..range.end().0);
        }
        sectors
    }

    /// What a crash leaves to be checked later; called while the node still lives.
    pub fn before_crash(&mut self, node: usize, crash: Crash) {
        let protocol = self.oracle.protocol;
        let kept_all = protocol == twinblk_proto::packet::ReplicationProtocol::C
            || self.nodes[node].is_primary();
        // Whole nodes lose power while they have nothing to lose; elsewhere the operator is wary.
        let machine = &self.nodes[node];
        let spared = self.service.is_some()
            && machine.medium.is_all_stable()
            && !machine
                .operations
                .values()
                .any(|operation| matches!(operation.work, crate::node::Work::Write { .. }));
        if crash == Crash::PowerLoss && !spared || !kept_all {
            self.oracle.lost_power[node] = true;
        }
    }
}
