//! What goes wrong, as the seed's mixture says, and the end of it.

use twinblk::engine::event::Verb;

use crate::link::Socket;
use crate::node::{Crash, Work};
use crate::random::{Random, Stream};
use crate::subject::Subject;
use crate::swarm::Swarm;
use crate::world::{Item, World};

#[derive(Debug)]
pub struct Faults {
    random: Random,
    /// For commands that came later: older seeds keep their stories.
    verbs: Random,
    /// Until when things go wrong.
    pub until_us: u64,
    pub maintenance: Random,
    slow: Random,
    /// Operations of a disk that are still to fail.
    failing: [u32; 2],
    /// Until then the disk answers nothing.
    stalled_until_us: [u64; 2],
}

impl Faults {
    pub fn new(seed: u64, swarm: &Swarm) -> Self {
        Self {
            random: Random::new(seed, Stream::Faults, 0),
            verbs: Random::new(seed, Stream::Verbs, 0),
            until_us: 1_000_000 + swarm.faults_ms * 1000,
            maintenance: Random::new(seed, Stream::Maintenance, 0),
            slow: Random::new(seed, Stream::Slow, 0),
            failing: [0; 2],
            stalled_until_us: [0; 2],
        }
    }

    /// What this disk is asked, and was asked, takes until then.
    pub fn stall_disk(&mut self, node: usize, until_us: u64) {
        self.stalled_until_us[node] = until_us;
    }

    pub fn disks_go_on(&mut self) {
        self.stalled_until_us = [0; 2];
    }

    pub fn is_stalled(&self, node: usize, now_us: u64) -> bool {
        now_us < self.stalled_until_us[node]
    }

    /// The next operations of the disk fail, while there is a second copy.
    pub fn fail_disk(&mut self, node: usize, operations: u32) {
        self.failing[node] = operations;
    }
}

impl<E: Subject> World<E> {
    pub fn fault_tick(&mut self) {
        if self.now_us >= self.faults.until_us {
            return;
        }
        let rates = self.swarm.rates.clone();
        let node = self.faults.random.below(2) as usize;
        if self.faults.random.chance(rates.kill) {
            self.doom(node, Crash::Kill);
        }
        if self.faults.random.chance(rates.power_loss) {
            self.doom(node, Crash::PowerLoss);
        }
        if self.faults.random.chance(rates.power_loss_of_both) {
            for node in 0..2 {
                self.crash(node, Crash::PowerLoss);
                self.plan_restart(node);
            }
        }
        if self.faults.random.chance(rates.pause) && self.nodes[node].is_running() {
            self.pause(node);
            let incarnation = self.nodes[node].incarnation;
            let length_us = self.faults.random.skewed(1_000, 30_000_000);
            self.agenda.add(self.now_us + length_us, Item::Resume { node, incarnation });
        }
        if self.faults.random.chance(rates.cut) {
            self.cut_for_a_while(&[
                (0, Socket::Data),
                (0, Socket::Meta),
                (1, Socket::Data),
                (1, Socket::Meta),
            ]);
        }
        if self.faults.random.chance(rates.cut_one_way) {
            self.cut_for_a_while(&[(node, Socket::Data), (node, Socket::Meta)]);
        }
        if self.faults.random.chance(rates.cut_one_socket) {
            let socket = *self.faults.random.pick(&Socket::BOTH);
            self.cut_for_a_while(&[(node, socket), (1 - node, socket)]);
        }
        if self.faults.random.chance(rates.socket_dies)
            && let Some(session) = self.nodes[node].session
        {
            self.break_session(session);
        }
        if self.faults.random.chance(rates.disk_error) {
            let operations = self.faults.random.between(1, 3) as u32;
            self.faults.fail_disk(node, operations);
        }
        if self.faults.random.chance(rates.command) {
            self.surprising_command(node);
        }
        if self.faults.random.chance(rates.switchover) {
            self.operator.switch_over = true;
        }
        if self.faults.verbs.chance(rates.invalidate) {
            self.invalidate_one(node);
        }
        if self.faults.slow.chance(rates.stall) {
            let length_us = self.faults.slow.skewed(10_000, 8_000_000);
            self.faults.stall_disk(node, self.now_us + length_us);
        }
        self.maintain();
        if self.faults.random.percent(10) {
            self.check_coverage();
            self.check_equal();
        }
        let next_us = self.faults.random.between(20_000, 150_000);
        self.agenda.add(self.now_us + next_us, Item::FaultTick);
    }

    /// Dies between two of its next effects; by a restart at the latest it has.
    fn doom(&mut self, node: usize, crash: Crash) {
        if !self.nodes[node].is_up() || self.nodes[node].doom.is_some() {
            return;
        }
        if self.nodes[node].paused || self.faults.random.percent(20) {
            self.crash(node, crash);
            self.plan_restart(node);
            return;
        }
        self.nodes[node].doom = Some((self.faults.random.skewed(0, 200) as u32, crash));
    }

    /// The operator's machine room: what is down comes back.
    pub fn plan_restart(&mut self, node: usize) {
        let incarnation = self.nodes[node].incarnation;
        let delay_us = self.faults.random.skewed(50_000, 20_000_000);
        self.agenda.add(self.now_us + delay_us, Item::Restart { node, incarnation });
    }

    fn cut_for_a_while(&mut self, ways: &[(usize, Socket)]) {
        let numbers = self.cut(ways);
        let length_us = self.faults.random.skewed(10_000, 15_000_000);
        for (from, socket) in ways {
            let number = numbers[*from][*socket as usize];
            let item = Item::Heal { from: *from, socket: *socket, number };
            self.agenda.add(self.now_us + length_us, item);
        }
    }

    /// An operator who pays no attention.
    fn surprising_command(&mut self, node: usize) {
        if !self.nodes[node].is_running() {
            return;
        }
        let verb = match self.faults.random.below(8) {
            0 | 1 => Verb::Disconnect { force: self.faults.random.percent(30) },
            2 => Verb::Connect { discard_my_data: false, dry_run: false },
            3 | 4 if self.has_spare_copy() => {
                Verb::Detach { force: self.faults.random.percent(30) }
            }
            5 => Verb::Attach,
            6 => Verb::Secondary { force: false },
            7 if self.nodes[node].is_primary() => Verb::Primary { force: false },
            _ => return,
        };
        self.command(node, verb);
    }

    /// The copy of this node or of the other, while both are good.
    fn invalidate_one(&mut self, node: usize) {
        if !self.nodes[node].is_running() || !self.has_spare_copy() {
            return;
        }
        let remote = self.faults.verbs.percent(40);
        self.command(node, if remote { Verb::InvalidateRemote } else { Verb::Invalidate });
    }

    /// Whether this operation of the disk fails: never where it would hit the only good copy.
    pub fn faults_fail_disk(&mut self, node: usize, operation: u64) -> bool {
        if self.faults.failing[node] == 0 || !self.has_spare_copy() {
            return false;
        }
        let chosen = match self.nodes[node].operations.get(&operation).map(|found| &found.work) {
            Some(Work::Metadata(_)) => self.faults.random.percent(30),
            Some(_) => true,
            None => false,
        };
        if chosen {
            self.faults.failing[node] -= 1;
        }
        chosen
    }

    /// Likewise for the metadata's move.
    pub fn disk_may_break(&mut self, node: usize) -> bool {
        let breaks = self.faults.failing[node] > 0 && self.has_spare_copy();
        if breaks {
            self.faults.failing[node] -= 1;
        }
        breaks
    }

    /// Faults stop: everything runs again, and stays so.
    pub fn calm_down(&mut self) {
        self.faults.until_us = self.now_us;
        self.faults.failing = [0; 2];
        self.faults.disks_go_on();
        self.heal(&[(0, Socket::Data), (0, Socket::Meta), (1, Socket::Data), (1, Socket::Meta)]);
        self.link.quality.outlier_per_million = 0;
        self.swarm.disk.outlier_per_million = 0;
        for node in 0..2 {
            self.resume(node);
            self.nodes[node].doom = None;
            if !self.nodes[node].is_up() {
                self.start(node);
            }
        }
        self.operator.calm = true;
        self.clients.closing = [false; 2];
        // A little work shows that the cluster still serves.
        self.clients.budget = 20;
    }
}
