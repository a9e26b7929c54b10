//! The rules, without I/O: at most one node of a pair holds the grant, and it alone gives it back.

use serde::{Deserialize, Serialize};

use super::message::Answer;

/// What is known of one pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Number of the newest grant; 0 before the first.
    pub epoch: u64,
    pub holder: Option<String>,
}

impl Entry {
    /// A grant that is held is renewed under a new number: what its holder said of the old one is
    /// over.
    pub fn ask(&mut self, node: &str) -> Answer {
        match &self.holder {
            Some(holder) if holder != node => {
                Answer::Held { epoch: self.epoch, holder: holder.clone() }
            }
            _ => {
                self.epoch += 1;
                self.holder = Some(node.to_owned());
                Answer::Granted { epoch: self.epoch }
            }
        }
    }

    pub fn release(&mut self, node: &str, epoch: u64) -> Answer {
        if self.epoch == epoch && self.holder.as_deref() == Some(node) {
            self.holder = None;
        }
        self.state()
    }

    pub fn state(&self) -> Answer {
        Answer::State { epoch: self.epoch, holder: self.holder.clone() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_goes_on_and_the_other_does_not() {
        let mut entry = Entry::default();
        assert_eq!(entry.ask("alice"), Answer::Granted { epoch: 1 });
        let held = Answer::Held { epoch: 1, holder: "alice".to_owned() };
        assert_eq!(entry.ask("bob"), held);
        assert_eq!(entry.ask("alice"), Answer::Granted { epoch: 2 }, "after a restart");
        entry.release("bob", 2);
        entry.release("alice", 1);
        assert_eq!(entry.holder.as_deref(), Some("alice"), "not hers to give, or late");
        entry.release("alice", 2);
        assert_eq!(entry.ask("bob"), Answer::Granted { epoch: 3 });
    }

    proptest! {
        /// Messages of both nodes in any order, late and repeated: between two grants to different
        /// nodes the first one gave its newest grant back.
        #[test]
        fn nobody_is_granted_what_the_other_holds(
            steps in prop::collection::vec((0..2_usize, 0..3_u8, 0..6_u64), 1..200)
        ) {
            const NODES: [&str; 2] = ["alice", "bob"];
            let mut entry = Entry::default();
            let mut granted: [u64; 2] = [0; 2];
            let mut given_back: [u64; 2] = [0; 2];
            for (node, step, back) in steps {
                if step == 0 {
                    let epoch = granted[node].saturating_sub(back);
                    given_back[node] = given_back[node].max(epoch);
                    entry.release(NODES[node], epoch);
                } else if let Answer::Granted { epoch } = entry.ask(NODES[node]) {
                    let other = 1 - node;
                    prop_assert!(granted[other] <= given_back[other], "{other} holds it");
                    prop_assert!(epoch > granted[0].max(granted[1]));
                    granted[node] = epoch;
                }
            }
        }
    }
}
