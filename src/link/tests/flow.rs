//! Receive budget, closing, and many packets at once.

use tokio::time::timeout;

use super::*;
use crate::link::CloseManner;

/// Payloads that nobody lets go of stop the data socket, not the meta socket; letting go resumes.
#[test]
fn held_payloads_stop_the_reading() {
    run(async {
        const WRITES: u64 = 400;
        const BUDGET_BYTES: usize = 128 << 10;
        let settings = LinkSettings { receive_budget_bytes: BUDGET_BYTES, ..two_settings().0 };
        let (sender, mut receiver) = two_nodes(&settings, &settings).await;
        let data = pattern(1, 4096);
        for number in 0..WRITES {
            sender.session.send_data(&write(number, &data), Some(payload(&data)));
        }
        sender.session.flush();
        let mut held = std::collections::VecDeque::new();
        let mut next = 0;
        let mut most_bytes = 0;
        while next < WRITES {
            // When everything that may come has come, a ping still does.
            if receiver.session.received_bytes() >= BUDGET_BYTES && receiver.events.is_empty() {
                sender.session.send_meta(&Packet::Ping);
                sender.session.flush();
                assert_eq!(receiver.packet().await.0, Packet::Ping);
                held.drain(..held.len() / 2 + 1);
            }
            let (packet, received) = receiver.packet().await;
            assert_eq!(packet, write(next, &data));
            held.push_back(received.expect("data"));
            next += 1;
            most_bytes = most_bytes.max(receiver.session.received_bytes());
        }
        // At most one buffer (with its alignment) over the budget.
        assert!(most_bytes >= BUDGET_BYTES, "the budget was met: {most_bytes}");
        assert!(most_bytes < BUDGET_BYTES + 8192, "and kept: {most_bytes}");
        held.clear();
        assert_eq!(receiver.session.received_bytes(), 0);
    });
}

/// One payload larger than the whole budget still passes.
#[test]
fn a_payload_over_the_budget() {
    run(async {
        let settings = LinkSettings { receive_budget_bytes: 4096, ..two_settings().0 };
        let (sender, mut receiver) = two_nodes(&settings, &settings).await;
        let data = pattern(2, 1 << 20);
        for number in 0..4 {
            sender.session.send_data(&write(number, &data), Some(payload(&data)));
        }
        sender.session.flush();
        for number in 0..4 {
            assert_eq!(receiver.packet().await.0, write(number, &data));
        }
    });
}

/// Everything queued arrives before the end, also when the closing node leaves bytes unread:
/// a plain close would then reset the connection and lose what is still on its way.
#[test]
fn close_after_flush_delivers_everything() {
    run(async {
        let settings = two_settings().0;
        let (closer, mut listener) = two_nodes(&settings, &settings).await;
        let data = pattern(3, 1 << 20);
        const WRITES: u64 = 16;
        for number in 0..WRITES {
            closer.session.send_data(&write(number, &data), Some(payload(&data)));
        }
        closer.session.send_meta(&Packet::StateChangeReply(1));
        for number in 0..8 {
            listener.session.send_data(&write(number, &data), Some(payload(&data)));
        }
        listener.session.flush();
        let closing = closer.session.close(CloseManner::AfterFlush);
        let mut replied = false;
        let mut next = 0;
        let cause = loop {
            match listener.next().await {
                LinkEvent::Packet { packet: Packet::StateChangeReply(1), .. } => replied = true,
                LinkEvent::Packet { packet, payload } => {
                    assert_eq!(packet, write(next, &data));
                    assert!(*payload.expect("data") == data[..]);
                    next += 1;
                }
                LinkEvent::Lost(cause) => break cause,
            }
        };
        assert!(matches!(cause, LossCause::BrokenPipe(_)), "{cause:?}");
        assert!(replied, "{next} of {WRITES} writes, {cause:?}");
        assert_eq!(next, WRITES);
        drop(listener);
        closing.finished().await;
    });
}

#[test]
fn close_now_and_drop_end_the_session_at_once() {
    run(async {
        let settings = two_settings().0;
        let (closer, mut listener) = two_nodes(&settings, &settings).await;
        closer.session.close(CloseManner::Now).finished().await;
        assert!(matches!(listener.lost().await, LossCause::BrokenPipe(_)));
        let (closer, mut listener) = two_nodes(&settings, &settings).await;
        let Node { session, mut events } = closer;
        drop(session);
        assert!(matches!(listener.lost().await, LossCause::BrokenPipe(_)));
        assert!(events.recv().await.is_none(), "no event after the drop");
    });
}

/// A peer that does not close its side cannot keep a closing session for ever.
#[test]
fn closing_has_a_limit() {
    run(async {
        let settings = LinkSettings { send_timeout: Duration::from_millis(50), ..two_settings().0 };
        let (node, bare) = node_and_bare(&settings).await;
        node.session.close(CloseManner::AfterFlush).finished().await;
        drop(bare);
    });
}

/// A refused peer reads all that was said before anything else ends.
#[test]
fn a_refused_peer_sees_the_meta_socket_end_last() {
    run(async {
        let settings = two_settings().0;
        let (node, bare) = node_and_bare(&settings).await;
        node.session.send_data(&Packet::UnplugRemote, None);
        let closing = node.session.close(CloseManner::Refused);
        let Bare { mut data, mut meta } = bare;
        let mut said = Vec::new();
        data.read_to_end(&mut said).await.expect("the end of the data socket");
        assert_eq!(said, bytes_with(&Packet::UnplugRemote, &[], &[]));
        let early = timeout(Duration::from_millis(50), meta.read_u8()).await;
        assert!(early.is_err(), "still open while the peer thinks: {early:?}");
        drop(data);
        assert_eq!(meta.read_to_end(&mut said).await.expect("the end"), 0);
        drop(meta);
        closing.finished().await;
    });
}

/// A storm of small packets both ways, on both sockets.
#[test]
fn many_small_packets() {
    run(async {
        const COUNT: u32 = 50_000;
        let settings = two_settings().0;
        let (mut one, mut two) = two_nodes(&settings, &settings).await;
        let data = payload(&pattern(4, 512));
        for handle in 0..COUNT {
            one.session.send_data(&write(u64::from(handle), &data), Some(data.clone()));
            two.session.send_data(&Packet::Barrier { handle }, None);
            two.session.send_meta(&Packet::BarrierAck { handle, writes: 1 });
        }
        one.session.flush();
        two.session.flush();
        for handle in 0..COUNT {
            assert_eq!(two.packet().await.0, write(u64::from(handle), &data));
        }
        let (mut barriers, mut acks) = (0, 0);
        while barriers < COUNT || acks < COUNT {
            match one.packet().await.0 {
                Packet::Barrier { handle } => {
                    assert_eq!(handle, barriers);
                    barriers += 1;
                }
                Packet::BarrierAck { handle, .. } => {
                    assert_eq!(handle, acks);
                    acks += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    });
}
