//! The operator, or what stands in for one: attaches and connects what started, keeps one node
//! Primary, moves the role when its holder is gone, and resolves split brain.

use twinblk::engine::event::{CommandId, FencingPolicy, Verb};
use twinblk_proto::state::{ConnectionState, DiskState, Role};

use crate::node::Node;
use crate::random::{Random, Stream};
use crate::subject::Subject;
use crate::swarm::{Beginning, Promotion, Swarm};
use crate::world::{Item, World};

/// A command that waits for its outcome.
#[derive(Clone, Copy, Debug)]
struct Asked {
    node: usize,
    incarnation: u64,
    command: CommandId,
    promotes: bool,
    connects: bool,
    since_us: u64,
}

/// No verb hangs: the longest wait that the engine may make of one (DESIGN.md 5), with the pauses
/// and cuts of the faults on top.
const LONGEST_COMMAND_US: u64 = 120_000_000;

#[derive(Debug)]
pub struct Operator {
    random: Random,
    asked: Vec<Asked>,
    /// No faults any more: heal quickly.
    pub calm: bool,
    /// The role is to move to the other node.
    pub switch_over: bool,
    switching_since_us: Option<u64>,
    /// Who should be Primary.
    intended: usize,
    /// Since when nobody is Primary.
    vacant_since_us: Option<u64>,
    /// When each node was last asked to connect, and how often in vain.
    connected_at_us: [u64; 2],
    refused: u32,
    resolving: Option<usize>,
    first_promotion: bool,
    pub growth: Random,
}

impl Operator {
    pub fn new(seed: u64, swarm: &Swarm) -> Self {
        let mut random = Random::new(seed, Stream::Operator, 0);
        let intended = random.below(2) as usize;
        Self {
            random,
            asked: Vec::new(),
            calm: false,
            switch_over: false,
            switching_since_us: None,
            intended,
            vacant_since_us: None,
            connected_at_us: [0; 2],
            refused: 0,
            resolving: None,
            first_promotion: swarm.beginning == Beginning::Created,
            growth: Random::new(seed, Stream::Growth, 0),
        }
    }

    pub fn is_promoting(&self, node: usize) -> bool {
        self.asked.iter().any(|asked| asked.node == node && asked.promotes)
    }
}

impl<E: Subject> World<E> {
    pub fn operator_tick(&mut self) {
        self.collect_outcomes();
        self.suspension_tick();
        for node in 0..2 {
            self.keep_configured(node);
        }
        self.demote_replaced();
        self.resolve_split_brain();
        self.move_role();
        self.fill_vacancy();
        self.grow_tick();
        let pause_us = self.operator.random.between(50_000, 400_000);
        self.agenda.add(self.now_us + pause_us, Item::OperatorTick);
    }

    /// A Primary that its witness keeps frozen, while the other went on: what waits in it fails.
    fn demote_replaced(&mut self) {
        for node in 0..2 {
            // The other may have been demoted since: what it answered stands all the same.
            let replaced = self.witness.replaced[node].is_some();
            let frozen =
                self.nodes[node].is_running() && self.nodes[node].state().suspended_fencing;
            if self.operator.calm && replaced && frozen && !self.is_asked(node) {
                self.ask(node, Verb::Secondary { force: true });
            }
        }
    }

    pub fn ask(&mut self, node: usize, verb: Verb) {
        let promotes = matches!(verb, Verb::Primary { .. });
        let connects = matches!(verb, Verb::Connect { .. });
        self.note(node, format_args!("operator: {verb:?}"));
        let command = self.command(node, verb);
        let incarnation = self.nodes[node].incarnation;
        let since_us = self.now_us;
        self.operator.asked.push(Asked {
            node,
            incarnation,
            command,
            promotes,
            connects,
            since_us,
        });
    }

    pub fn is_asked(&self, node: usize) -> bool {
        self.operator.asked.iter().any(|asked| asked.node == node)
    }

    fn collect_outcomes(&mut self) {
        for asked in std::mem::take(&mut self.operator.asked) {
            if self.nodes[asked.node].incarnation != asked.incarnation {
                continue;
            }
            match self.outcome(asked.node, asked.command).cloned() {
                None => {
                    let waited_us = self.now_us - asked.since_us;
                    if waited_us > LONGEST_COMMAND_US {
                        let text = format!("a command of node {} hangs", asked.node);
                        self.violate(crate::oracle::Invariant::I11, text);
                    }
                    self.operator.asked.push(asked);
                }
                Some(Err(refusal)) => {
                    self.note(asked.node, format_args!("operator: refused: {refusal:?}"));
                    if asked.promotes {
                        self.nodes[asked.node].forced = false;
                    }
                }
                Some(Ok(())) => {
                    if asked.connects {
                        self.operator.connected_at_us[asked.node] = self.now_us;
                    }
                }
            }
        }
    }

    /// What `up` does, and does again when something threw the node out.
    fn keep_configured(&mut self, node: usize) {
        if !self.nodes[node].is_running() || self.is_asked(node) {
            return;
        }
        let eager = self.operator.calm || self.operator.random.percent(30);
        let state = self.nodes[node].state();
        // A disk that is older than what the peer served is refused until the peer is there.
        let alone = self.operator.calm
            && state.role == Role::Primary
            && state.disk == DiskState::Diskless
            && state.connection == ConnectionState::StandAlone;
        if alone && self.operator.random.percent(50) {
            self.ask(node, Verb::Connect { discard_my_data: false, dry_run: false });
        } else if state.disk == DiskState::Diskless && eager {
            self.ask(node, Verb::Attach);
        } else if state.connection == ConnectionState::StandAlone
            && state.disk >= DiskState::Inconsistent
            && eager
            && self.operator.resolving.is_none()
        {
            if self.operator.connected_at_us[node] > 0 {
                self.operator.refused += 1;
            }
            self.ask(node, Verb::Connect { discard_my_data: false, dry_run: false });
        } else if self.operator.calm && state.paused_user {
            self.ask(node, Verb::ResumeSync);
        } else if self.operator.calm
            && self.has_forgotten_bits(node)
            && self.operator.random.percent(5)
        {
            self.ask(node, Verb::Disconnect { force: false });
        }
    }

    /// "No resync, but N bits in bitmap!": equal generations, as of a disk that failed before it heard
    /// of the end of a resync. The next connection of a Primary resyncs them.
    fn has_forgotten_bits(&self, node: usize) -> bool {
        let state = self.nodes[node].state();
        state.connection == ConnectionState::Connected
            && [state.disk, state.peer_disk] == [DiskState::UpToDate; 2]
            && self.nodes.iter().any(Node::is_primary)
            && self.nodes[node]
                .engine
                .as_ref()
                .is_some_and(|engine| engine.out_of_sync_blocks() > 0)
    }

    /// Both were connected and threw each other out, again and again: one of them must lose.
    fn resolve_split_brain(&mut self) {
        if !self.nodes.iter().all(|node| node.is_running()) {
            return;
        }
        let connected =
            self.nodes.iter().all(|node| node.state().connection >= ConnectionState::Connected);
        if connected {
            self.operator.refused = 0;
            if self.operator.resolving.take().is_some() && !self.operator.switch_over {
                self.clients.closing = [false; 2];
            }
            return;
        }
        if self.operator.resolving.is_none() && self.operator.refused < 3 {
            return;
        }
        let victim = match self.operator.resolving {
            Some(victim) => victim,
            None => {
                let victim = self.choose_victim();
                self.note(victim, format_args!("operator: loses the split brain"));
                self.operator.resolving = Some(victim);
                victim
            }
        };
        self.clients.closing[victim] = true;
        if self.nodes.iter().any(|node| node.state().disk < DiskState::Inconsistent)
            || self.is_asked(victim)
            || self.is_asked(1 - victim)
        {
            return;
        }
        let state = self.nodes[victim].state();
        let survivor = 1 - victim;
        if self.nodes[victim].is_primary() {
            if self.clients.open_on(victim) == 0 {
                self.ask(victim, Verb::Secondary { force: false });
            }
        } else if self.oracle.discard_granted != Some(victim)
            || state.connection == ConnectionState::StandAlone
        {
            if state.connection != ConnectionState::StandAlone {
                self.ask(victim, Verb::Disconnect { force: true });
            } else {
                self.oracle.discard_granted = Some(victim);
                self.ask(victim, Verb::Connect { discard_my_data: true, dry_run: false });
            }
        } else if self.nodes[survivor].state().connection == ConnectionState::StandAlone {
            self.ask(survivor, Verb::Connect { discard_my_data: false, dry_run: false });
        }
    }

    /// The node that has less to lose.
    fn choose_victim(&mut self) -> usize {
        if self.oracle.lineages_differ() {
            let diverged = [0, 1].map(|node| self.oracle.lineage(node).diverged);
            return match diverged {
                [true, false] => 1,
                [false, true] => 0,
                _ => self.operator.random.below(2) as usize,
            };
        }
        match [0, 1].map(|node| self.may_be_promoted(node)) {
            [true, false] => 1,
            [false, true] => 0,
            _ => 1 - self.oracle.last_primary.unwrap_or(0),
        }
    }

    /// A planned move: clients leave, the old Primary steps down, the other is promoted.
    fn move_role(&mut self) {
        if !self.operator.switch_over {
            return;
        }
        let holder = (0..2).find(|node| self.nodes[*node].is_primary());
        let since_us = *self.operator.switching_since_us.get_or_insert(self.now_us);
        let over = match holder {
            Some(node) if self.nodes[node].is_running() && self.has_spare_copy() => {
                self.clients.closing[node] = true;
                if self.clients.open_on(node) == 0 && !self.is_asked(node) {
                    self.operator.intended = 1 - node;
                    self.ask(node, Verb::Secondary { force: false });
                }
                false
            }
            _ => true,
        };
        if over || self.now_us - since_us > 20_000_000 || self.operator.calm {
            self.operator.switch_over = false;
            self.operator.switching_since_us = None;
            if self.operator.resolving.is_none() {
                self.clients.closing = [false; 2];
            }
        }
    }

    fn fill_vacancy(&mut self) {
        if self.operator.resolving.is_some() || self.operator.asked.iter().any(|a| a.promotes) {
            return;
        }
        // A paused Primary is a Primary: it wakes up one day.
        let primaries: Vec<usize> = (0..2).filter(|node| self.nodes[*node].is_primary()).collect();
        let unfenced = self.swarm.promotion == Promotion::Unfenced;
        if let [primary] = primaries[..] {
            self.operator.vacant_since_us = None;
            let other = 1 - primary;
            let apart = self.nodes[other].state().connection < ConnectionState::WFReportParams;
            let tempted = unfenced && !self.operator.calm && self.operator.random.percent(2);
            if tempted && apart && self.nodes[other].is_running() && self.is_promotable(other) {
                self.ask(other, Verb::Primary { force: false });
            }
            return;
        }
        if !primaries.is_empty() {
            return;
        }
        let since_us = *self.operator.vacant_since_us.get_or_insert(self.now_us);
        if self.operator.first_promotion {
            self.force_first_promotion();
            return;
        }
        let candidate = |world: &Self, node: usize| {
            let machine = &world.nodes[node];
            let right = world.may_be_promoted(node) || unfenced && !world.operator.calm;
            machine.is_running() && world.is_promotable(node) && right
        };
        let intended = self.operator.intended;
        let patience_us = if self.operator.calm { 500_000 } else { 2_000_000 };
        let waited = self.now_us - since_us > patience_us;
        if candidate(self, intended) {
            self.ask(intended, Verb::Primary { force: false });
        } else if waited && candidate(self, 1 - intended) && self.operator.random.percent(30) {
            self.operator.intended = 1 - intended;
            self.ask(1 - intended, Verb::Primary { force: false });
        }
    }

    /// With fencing a disk is only Consistent until the peer, or the handler, has spoken.
    fn is_promotable(&self, node: usize) -> bool {
        let fences = self.swarm.settings.fencing != FencingPolicy::DontCare;
        let consistent = self.nodes[node].state().disk == DiskState::Consistent;
        self.nodes[node].has_data() || fences && consistent
    }

    /// Two disks that were just created: one is declared good.
    fn force_first_promotion(&mut self) {
        let node = self.operator.intended;
        if !self.nodes[node].is_running() {
            return;
        }
        let state = self.nodes[node].state();
        if self.oracle.last_primary.is_some() {
            self.operator.first_promotion = false;
        } else if state.disk == DiskState::Inconsistent {
            self.ask(node, Verb::Primary { force: true });
        } else if state.disk == DiskState::UpToDate {
            self.ask(node, Verb::Primary { force: false });
        }
    }
}
