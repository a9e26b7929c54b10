//! A virtual server seen as a count: which real servers are up, what they weigh together, and whether
//! that is a quorum. No forwarding follows from it, only programs that are told. No clock, no I/O.

/// A real server is up while each of its checkers says so; without any it is.
#[derive(Clone, Debug)]
pub struct Member {
    pub weight: i64,
    pub checkers: Vec<CheckerState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckerState {
    pub is_up: bool,
    /// What `misc_dynamic` wishes the weight to be.
    pub weight: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Server {
        server: usize,
        is_up: bool,
    },
    Weight {
        server: usize,
        weight: i64,
    },
    /// `threshold` is what the `weight` of all that are up was compared with.
    Quorum {
        is_gained: bool,
        threshold: i64,
        weight: i64,
    },
}

#[derive(Clone, Debug)]
pub struct Pool {
    members: Vec<Member>,
    quorum: i64,
    hysteresis: i64,
    has_quorum: bool,
}

impl Pool {
    pub fn new(members: Vec<Member>, quorum: u32, hysteresis: u32) -> Self {
        let (quorum, hysteresis) = (i64::from(quorum), i64::from(hysteresis));
        Self { members, quorum, hysteresis, has_quorum: false }
    }

    /// What is true before anything was looked at: servers count as up except with `alpha`.
    pub fn begin(&mut self) -> Vec<Change> {
        self.quorum_change().into_iter().collect()
    }

    pub fn found(&mut self, server: usize, checker: usize, state: CheckerState) -> Vec<Change> {
        let member = &mut self.members[server];
        let (was_up, old_weight) = (member.is_up(), member.effective_weight());
        member.checkers[checker] = state;
        let (is_up, weight) = (member.is_up(), member.effective_weight());
        let mut changes = Vec::new();
        if is_up != was_up {
            changes.push(Change::Server { server, is_up });
        }
        if weight != old_weight {
            changes.push(Change::Weight { server, weight });
        }
        changes.extend(self.quorum_change());
        changes
    }

    /// `omega`: at the end everything goes down, and is told so.
    pub fn end(self) -> Vec<Change> {
        let up = self.members.iter().enumerate().filter(|(_, member)| member.is_up());
        let down = up.map(|(server, _)| Change::Server { server, is_up: false });
        let threshold = self.quorum - self.hysteresis;
        let lost = Change::Quorum { is_gained: false, threshold, weight: 0 };
        down.chain(self.has_quorum.then_some(lost)).collect()
    }

    fn quorum_change(&mut self) -> Option<Change> {
        let up = self.members.iter().filter(|member| member.is_up());
        let weight: i64 = up.map(Member::effective_weight).sum();
        // The hysteresis lies in the way of each change.
        let (is_gained, threshold) = if self.has_quorum {
            (weight >= self.quorum - self.hysteresis && weight > 0, self.quorum - self.hysteresis)
        } else {
            (weight >= self.quorum + self.hysteresis, self.quorum + self.hysteresis)
        };
        let is_change = is_gained != self.has_quorum;
        self.has_quorum = is_gained;
        is_change.then_some(Change::Quorum { is_gained, threshold, weight })
    }
}

impl Member {
    fn is_up(&self) -> bool {
        self.checkers.iter().all(|checker| checker.is_up)
    }

    /// Each checker that wishes another weight moves it by as much as it would alone.
    fn effective_weight(&self) -> i64 {
        let wishes = self.checkers.iter().filter_map(|checker| checker.weight);
        let change: i64 = wishes.map(|wish| wish - self.weight).sum();
        (self.weight + change).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(is_up: bool) -> CheckerState {
        CheckerState { is_up, weight: None }
    }

    fn pool(weights: &[i64], is_up: bool, quorum: u32, hysteresis: u32) -> Pool {
        let member = |weight: &i64| Member { weight: *weight, checkers: vec![state(is_up)] };
        Pool::new(weights.iter().map(member).collect(), quorum, hysteresis)
    }

    /// `3+` and `3-` for servers, `Q+` and `Q-` for the quorum, `3=W` for weights.
    fn words(changes: &[Change]) -> String {
        let sign = |yes| if yes { '+' } else { '-' };
        let words: Vec<_> = changes
            .iter()
            .map(|change| match change {
                Change::Server { server, is_up } => format!("{server}{}", sign(*is_up)),
                Change::Weight { server, weight } => format!("{server}={weight}"),
                Change::Quorum { is_gained, .. } => format!("Q{}", sign(*is_gained)),
            })
            .collect();
        words.join(" ")
    }

    #[test]
    fn quorum_and_hysteresis() {
        for (weights, quorum, hysteresis, steps) in [
            // The seed: one server, quorum 1.
            (&[3][..], 1, 0, &[("", "Q+"), ("0-", "0- Q-"), ("0-", ""), ("0+", "0+ Q+")][..]),
            (
                &[1, 1, 1],
                2,
                1,
                &[
                    ("", "Q+"),
                    ("0-", "0-"),
                    ("1-", "1-"),
                    ("2-", "2- Q-"),
                    ("0+", "0+"),
                    ("1+", "1+"),
                    ("2+", "2+ Q+"),
                ],
            ),
            // Nothing is no quorum, however large the hysteresis.
            (&[1], 1, 5, &[("", "")]),
            (&[10], 1, 5, &[("", "Q+"), ("0-", "0- Q-")]),
            (&[1], 0, 0, &[("", "Q+"), ("0-", "0- Q-")]),
        ] {
            let mut pool = pool(weights, true, quorum, hysteresis);
            for (step, expected) in steps {
                let changes = match step.as_bytes() {
                    [] => pool.begin(),
                    [server, sign] => {
                        pool.found(usize::from(server - b'0'), 0, state(*sign == b'+'))
                    }
                    _ => unreachable!("a step is a digit and a sign"),
                };
                assert_eq!(words(&changes), *expected, "{weights:?} {quorum} {hysteresis} {step}");
            }
        }
    }

    #[test]
    fn with_alpha_nothing_is_up_until_it_is_found_up() {
        let mut pool = pool(&[1, 1], false, 1, 0);
        assert_eq!(words(&pool.begin()), "");
        assert_eq!(words(&pool.found(1, 0, state(true))), "1+ Q+");
        assert_eq!(words(&pool.end()), "1- Q-");
    }

    #[test]
    fn all_checkers_of_a_server_must_agree() {
        let member = Member { weight: 1, checkers: vec![state(true), state(true)] };
        let mut pool = Pool::new(vec![member], 1, 0);
        assert_eq!(words(&pool.begin()), "Q+");
        assert_eq!(words(&pool.found(0, 0, state(false))), "0- Q-");
        assert_eq!(words(&pool.found(0, 1, state(false))), "");
        assert_eq!(words(&pool.found(0, 0, state(true))), "");
        assert_eq!(words(&pool.found(0, 1, state(true))), "0+ Q+");
    }

    #[test]
    fn a_dynamic_weight_counts_for_the_quorum() {
        let mut pool = pool(&[5], true, 4, 0);
        assert_eq!(words(&pool.begin()), "Q+");
        let wish = |weight| CheckerState { is_up: true, weight: Some(weight) };
        assert_eq!(words(&pool.found(0, 0, wish(3))), "0=3 Q-");
        assert_eq!(words(&pool.found(0, 0, wish(253))), "0=253 Q+");
        assert_eq!(words(&pool.found(0, 0, wish(0))), "0=0 Q-");
        assert_eq!(words(&pool.found(0, 0, state(true))), "0=5 Q+");
    }
}
