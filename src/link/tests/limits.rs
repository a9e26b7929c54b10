//! Sends that make no progress (wire.md 1.3).

use super::*;

const LIMIT: Duration = Duration::from_millis(40);

fn impatient(ko_count: u32) -> LinkSettings {
    LinkSettings { send_timeout: LIMIT, ko_count, ..two_settings().0 }
}

/// More than the socket buffers of both sides hold.
fn overfill(node: &Node) {
    let data = payload(&pattern(1, 1 << 20));
    for number in 0..64 {
        node.session.send_data(&write(number, &data), Some(data.clone()));
    }
    node.session.flush();
    assert!(node.session.queued_bytes() > 0, "the sockets cannot hold 64 MiB");
}

#[test]
fn a_peer_that_reads_nothing_is_given_up_after_ko_count_timeouts() {
    run(async {
        let (mut node, _bare) = node_and_bare(&impatient(5)).await;
        let begin = tokio::time::Instant::now();
        overfill(&node);
        let cause = node.lost().await;
        assert!(matches!(&cause, LossCause::Timeout(text) if text.contains("data")), "{cause:?}");
        assert!(begin.elapsed() >= LIMIT * 5);
    });
}

/// The meta socket has one timeout only.
#[test]
fn acknowledgements_that_are_not_read_are_given_up_after_one_timeout() {
    run(async {
        let (mut node, _bare) = node_and_bare(&impatient(1_000_000)).await;
        for handle in 0..1_000_000 {
            node.session.send_meta(&Packet::BarrierAck { handle, writes: 1 });
        }
        node.session.flush();
        let cause = node.lost().await;
        assert!(matches!(&cause, LossCause::Timeout(text) if text.contains("meta")), "{cause:?}");
    });
}

/// A peer that reads slowly, in steps shorter than the whole limit, is not given up; with
/// ko-count 0 nobody is.
#[test]
fn slow_progress_is_progress() {
    run(async {
        for ko_count in [0, 20] {
            let (mut node, mut bare) = node_and_bare(&impatient(ko_count)).await;
            overfill(&node);
            let mut step = vec![0; 8 << 20];
            let mut total = 0;
            while total < 64 * (16 + 24 + (1 << 20)) {
                // Longer than the limit, so that a missed turn is counted; then progress.
                let stalled = tokio::time::timeout(LIMIT * 2, node.next()).await;
                assert!(stalled.is_err(), "{stalled:?}");
                let take = step.len().min(64 * (16 + 24 + (1 << 20)) - total);
                bare.data.read_exact(&mut step[..take]).await.expect("the node sends");
                total += take;
            }
            assert_eq!(node.session.queued_bytes(), 0);
        }
    });
}

/// What the writer task finds while the peer is gone is a broken pipe.
#[test]
fn sending_to_a_peer_that_left() {
    run(async {
        let (mut node, bare) = node_and_bare(&impatient(5)).await;
        overfill(&node);
        drop(bare);
        let cause = node.lost().await;
        assert!(matches!(cause, LossCause::BrokenPipe(_)), "{cause:?}");
        // Harmless afterwards.
        overfill(&node);
    });
}
