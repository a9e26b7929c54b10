//! Linearizability of one register whose writes are all different (testing.md 4): every value makes
//! a cluster of its write and its reads. With f the earliest response and s the latest invocation
//! in the cluster, f < s is a forward zone [f, s] in which the value must have been current, and
//! else a backward zone [s, f] somewhere in which it was current for a moment. The history is
//! linearizable if no forward zones overlap, no backward zone lies inside a forward one, and no
//! read ended before its write began (Gibbons and Korach).

use std::collections::BTreeMap;

/// A completed read, or a write, which may be open: it never ended, so it may have happened at any
/// time or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub write: bool,
    pub value: u64,
    pub invoked: u64,
    /// `u64::MAX` when open.
    pub answered: u64,
}

struct Cluster {
    write_invoked: u64,
    earliest_response: u64,
    latest_invocation: u64,
    write_open: bool,
    reads: u32,
}

/// Checks a history that started with `initial` in the register. Reads of values that nobody wrote
/// are wrong too. Times are all different, and greater than 0.
pub fn check(initial: u64, operations: &[Operation]) -> Result<(), String> {
    let mut clusters = BTreeMap::new();
    clusters.insert(
        initial,
        Cluster {
            write_invoked: 0,
            earliest_response: 0,
            latest_invocation: 0,
            write_open: false,
            reads: 0,
        },
    );
    for write in operations.iter().filter(|operation| operation.write) {
        let cluster = Cluster {
            write_invoked: write.invoked,
            earliest_response: write.answered,
            latest_invocation: write.invoked,
            write_open: write.answered == u64::MAX,
            reads: 0,
        };
        if clusters.insert(write.value, cluster).is_some() {
            return Err(format!("value {} is written twice", write.value));
        }
    }
    for read in operations.iter().filter(|operation| !operation.write) {
        let Some(cluster) = clusters.get_mut(&read.value) else {
            return Err(format!("value {} was read, but never written", read.value));
        };
        if read.answered < cluster.write_invoked {
            return Err(format!("value {} was read before it was written", read.value));
        }
        cluster.earliest_response = cluster.earliest_response.min(read.answered);
        cluster.latest_invocation = cluster.latest_invocation.max(read.invoked);
        cluster.reads += 1;
    }
    let mut forward = Vec::new();
    let mut backward = Vec::new();
    for (value, cluster) in &clusters {
        if cluster.write_open && cluster.reads == 0 {
            continue;
        }
        let (f, s) = (cluster.earliest_response, cluster.latest_invocation);
        if f < s { forward.push((f, s, *value)) } else { backward.push((s, f, *value)) }
    }
    forward.sort_unstable();
    for pair in forward.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(format!("values {} and {} were both current", pair[0].2, pair[1].2));
        }
    }
    for (s, f, value) in backward {
        // Forward zones do not overlap, so the last that begins before s is the only candidate.
        let before = forward.partition_point(|zone| zone.0 < s);
        if let Some(zone) = before.checked_sub(1).map(|index| forward[index])
            && f < zone.1
        {
            return Err(format!("value {value} can not have been current while {} was", zone.2));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tries every order that respects real time.
    fn brute_force(initial: u64, operations: &[Operation]) -> bool {
        fn search(current: u64, left: &mut Vec<Operation>) -> bool {
            if left.iter().all(|operation| operation.answered == u64::MAX) {
                return true;
            }
            let earliest_end = left.iter().map(|operation| operation.answered).min().unwrap_or(0);
            for index in 0..left.len() {
                let next = left[index];
                if next.invoked > earliest_end || !next.write && next.value != current {
                    continue;
                }
                left.remove(index);
                let found = search(if next.write { next.value } else { current }, left);
                left.insert(index, next);
                if found {
                    return true;
                }
            }
            false
        }
        search(initial, &mut operations.to_vec())
    }

    /// Up to seven operations with different times; writes get values 1, 2, ...
    fn histories() -> impl Strategy<Value = Vec<Operation>> {
        let operation = (any::<bool>(), 0u64..5, 0u64..1000, 1u64..400, 0u32..8);
        proptest::collection::vec(operation, 0..8).prop_map(|drawn| {
            let mut written = 0;
            let mut operations = Vec::new();
            for (index, (write, value, start, length, open)) in drawn.into_iter().enumerate() {
                let index = index as u64;
                let (invoked, ended) = (1 + start * 16 + index, (start + length) * 16 + 8 + index);
                if write {
                    written += 1;
                    let answered = if open == 0 { u64::MAX } else { ended };
                    operations.push(Operation { write, value: written, invoked, answered });
                } else {
                    operations.push(Operation { write, value, invoked, answered: ended });
                }
            }
            operations
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn agrees_with_brute_force(operations in histories()) {
            prop_assert_eq!(
                check(0, &operations).is_ok(),
                brute_force(0, &operations),
                "{:?}",
                operations
            );
        }
    }

    #[test]
    fn new_then_old_is_noticed() {
        let write = Operation { write: true, value: 1, invoked: 1, answered: 100 };
        let new = Operation { write: false, value: 1, invoked: 2, answered: 3 };
        let old = Operation { write: false, value: 0, invoked: 4, answered: 5 };
        assert!(check(0, &[write, old, Operation { invoked: 6, answered: 7, ..new }]).is_ok());
        assert!(check(0, &[write, new, old]).is_err());
    }
}
