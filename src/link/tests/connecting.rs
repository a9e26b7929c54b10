//! Who gets which socket: the loop of wire.md 1.1, and the features that follow.

use super::*;

/// The same two connections on both nodes, and RESOLVE on one.
fn assert_same_sockets(first: &Established, second: &Established) {
    for (one, other) in [(&first.data, &second.data), (&first.meta, &second.meta)] {
        assert_eq!(one.local_addr().expect("up"), other.peer_addr().expect("up"));
        assert_eq!(one.peer_addr().expect("up"), other.local_addr().expect("up"));
    }
    assert_ne!(first.resolve, second.resolve);
    assert_eq!((first.version, first.features), (VERSION, OFFERED));
    assert_eq!((second.version, second.features), (VERSION, OFFERED));
}

#[test]
fn both_dial() {
    run(async {
        let (first, second) = two_settings();
        let (mut one, mut two) = (SystemRandom::default(), SystemRandom::default());
        let (first_up, second_up) =
            tokio::join!(establish(&first, &mut one), establish(&second, &mut two));
        let (first_up, second_up) = (first_up.expect("up"), second_up.expect("up"));
        assert_same_sockets(&first_up, &second_up);
        // Established: nobody listens any more, so that a further connect is refused.
        assert!(TcpStream::connect(first.local).await.is_err());
        let mut first = Node::start(first_up, &first);
        let mut second = Node::start(second_up, &second);
        first.session.send_meta(&Packet::Ping);
        first.session.send_data(&Packet::Barrier { handle: 7 }, None);
        first.session.flush();
        let mut seen = vec![second.packet().await.0, second.packet().await.0];
        seen.sort_by_key(|packet| *packet == Packet::Ping);
        assert_eq!(seen, [Packet::Barrier { handle: 7 }, Packet::Ping]);
        second.session.send_meta(&Packet::PingAck);
        second.session.flush();
        assert_eq!(first.packet().await.0, Packet::PingAck);
    });
}

/// Two threads begin in the same instant, 50 times; data sockets cross in some of them.
#[test]
fn both_dial_at_the_same_moment() {
    let start = std::sync::Arc::new(std::sync::Barrier::new(2));
    let pairs: Vec<_> = (0..50).map(|_| two_settings()).collect();
    let (firsts, seconds): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let run_all = |all: Vec<LinkSettings>| {
        let start = start.clone();
        std::thread::spawn(move || {
            let mut ends = Vec::new();
            run(async {
                for settings in all {
                    start.wait();
                    let mut random = SystemRandom::default();
                    let up = establish(&settings, &mut random).await.expect("up");
                    ends.push((
                        up.data.local_addr().expect("up"),
                        up.data.peer_addr().expect("up"),
                        up.resolve,
                    ));
                    // Nobody closes before both have seen the session.
                    start.wait();
                }
            });
            ends
        })
    };
    let (first, second) = (run_all(firsts), run_all(seconds));
    let (first, second) = (first.join().expect("no panic"), second.join().expect("no panic"));
    assert_eq!(first.len(), 50);
    for (one, other) in first.iter().zip(&second) {
        assert_eq!((one.0, one.1), (other.1, other.0));
        assert_ne!(one.2, other.2);
    }
}

/// A listener comes back on its port at once after a session.
#[test]
fn again_and_again_on_the_same_ports() {
    run(async {
        let (first, second) = two_settings();
        for _ in 0..5 {
            let (mut one, mut two) = (SystemRandom::default(), SystemRandom::default());
            let (one, two) =
                tokio::join!(establish(&first, &mut one), establish(&second, &mut two));
            assert_same_sockets(&one.expect("up"), &two.expect("up"));
        }
    });
}

/// A peer that never dials: this node opens both sockets, so the peer has RESOLVE.
#[test]
fn a_peer_that_only_accepts() {
    run(async {
        let (mine, peer) = two_settings();
        let listener = super::super::socket::listen(&peer).expect("listen");
        let peer = async {
            let (mut data, _) = listener.accept().await.expect("dialled");
            expect_bytes(&mut data, &first_bytes_of(&Packet::InitialData)).await;
            let (mut meta, from) = listener.accept().await.expect("dialled");
            expect_bytes(&mut meta, &first_bytes_of(&Packet::InitialMeta)).await;
            assert_eq!(from.ip(), mine.local.ip(), "from the configured address");
            assert_ne!(from.port(), mine.local.port());
            let mut bare = Bare { data, meta };
            exchange_features(&mut bare).await;
        };
        let mut random = SystemRandom::default();
        let (up, ()) = tokio::join!(establish(&mine, &mut random), peer);
        assert!(!up.expect("up").resolve);
    });
}

/// A peer that cannot be dialled: it opens both sockets, so this node has RESOLVE.
#[test]
fn a_peer_that_refuses() {
    run(async {
        let (mine, _) = two_settings();
        let peer = async {
            let mut bare = bare_peer(&mine).await;
            exchange_features(&mut bare).await;
        };
        let mut random = SystemRandom::default();
        let (up, ()) = tokio::join!(establish(&mine, &mut random), peer);
        assert!(up.expect("up").resolve);
    });
}

/// A dial that hangs (the listener's queue is full, so the connect gets no answer) must not keep
/// the node from taking the peer's connections.
#[test]
fn a_dial_that_hangs() {
    run(async {
        let (mut mine, peer) = two_settings();
        mine.connect_interval = PATIENCE * 2;
        let socket = tokio::net::TcpSocket::new_v4().expect("socket");
        socket.bind(peer.local).expect("bind");
        let _deaf = socket.listen(1).expect("listen");
        let mut fillers = Vec::new();
        let hang = Duration::from_millis(100);
        while let Ok(filler) = tokio::time::timeout(hang, TcpStream::connect(peer.local)).await {
            fillers.push(filler.expect("queued"));
        }
        let peer = async {
            let mut bare = bare_peer(&mine).await;
            // The second dial hangs as well: the meta socket is there all the same.
            exchange_features(&mut bare).await;
        };
        let mut random = SystemRandom::default();
        let (up, ()) = tokio::join!(establish(&mine, &mut random), peer);
        assert!(up.expect("up").resolve);
    });
}

/// My data socket and the peer's cross: mine is closed, the peer's is taken. Then, as the coin
/// says, another is waited for, or the meta socket is dialled.
#[test]
fn crossed_data_sockets() {
    for coin in [false, true] {
        run(async move {
            let (mine, peer) = two_settings();
            let listener = super::super::socket::listen(&peer).expect("listen");
            let peer = async {
                let (mut crossed, _) = listener.accept().await.expect("dialled");
                expect_bytes(&mut crossed, &first_bytes_of(&Packet::InitialData)).await;
                let data = dial_as_peer(&mine, &Packet::InitialData).await;
                expect_end(&mut crossed).await;
                let meta = if coin {
                    dial_as_peer(&mine, &Packet::InitialMeta).await
                } else {
                    let (mut meta, _) = listener.accept().await.expect("dialled");
                    expect_bytes(&mut meta, &first_bytes_of(&Packet::InitialMeta)).await;
                    meta
                };
                let mut bare = Bare { data, meta };
                exchange_features(&mut bare).await;
            };
            let mut random = Scripted { challenge: Vec::new(), coin };
            let (up, ()) = tokio::join!(establish(&mine, &mut random), peer);
            assert_eq!(up.expect("up").resolve, coin, "set where the meta socket was accepted");
        });
    }
}

/// A data socket that the peer closed again does not count.
#[test]
fn a_socket_that_dies_before_the_check() {
    run(async {
        let (mut mine, _) = two_settings();
        mine.socket_check = Duration::from_millis(100);
        let peer = async {
            let dead = bare_peer(&mine).await;
            drop(dead.data);
            let data = dial_as_peer(&mine, &Packet::InitialData).await;
            let mut bare = Bare { data, meta: dead.meta };
            exchange_features(&mut bare).await;
        };
        let mut random = SystemRandom::default();
        let (up, ()) = tokio::join!(establish(&mine, &mut random), peer);
        up.expect("up");
    });
}

/// Strangers who say something else, nothing at all, or go away do not keep the peer out.
#[test]
fn strangers() {
    run(async {
        let (mut mine, _) = two_settings();
        mine.ping_timeout = Duration::from_millis(60);
        let peer = async {
            let garbage = dial_as_peer(&mine, &Packet::InitialData);
            drop(garbage);
            let mut rude = dial_as_peer(
                &mine,
                &Packet::ConnectionFeatures(ConnectionFeatures {
                    version_min: 86,
                    features: 0,
                    version_max: 101,
                }),
            )
            .await;
            expect_end(&mut rude).await;
            let mut garbage = loop {
                if let Ok(stream) = TcpStream::connect(mine.local).await {
                    break stream;
                }
            };
            garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("the node reads");
            expect_end(&mut garbage).await;
            let mut silent = TcpStream::connect(mine.local).await.expect("listens");
            expect_end(&mut silent).await;
            let mut bare = bare_peer(&mine).await;
            exchange_features(&mut bare).await;
        };
        let mut random = SystemRandom::default();
        let (up, ()) = tokio::join!(establish(&mine, &mut random), peer);
        up.expect("up");
    });
}

/// Packets that come byte by byte are packets.
#[test]
fn slow_drip() {
    run(async {
        let (mine, _) = two_settings();
        async fn drip(stream: &mut TcpStream, bytes: &[u8]) {
            for byte in bytes {
                stream.write_all(&[*byte]).await.expect("the node reads");
                tokio::task::yield_now().await;
            }
        }
        let peer = async {
            let mut bare = bare_peer(&mine).await;
            drip(&mut bare.data, &first_bytes_of(&features_packet())).await;
            drip(&mut bare.data, &bytes_of(&protocol_packet(""))).await;
            let data = pattern(1, 512);
            drip(&mut bare.data, &bytes_with(&write(1, &data), &[], &data)).await;
            bare
        };
        let mut random = SystemRandom::default();
        let (up, _bare) = tokio::join!(establish(&mine, &mut random), peer);
        let mut node = Node::start(up.expect("up"), &mine);
        assert_eq!(node.packet().await.0, protocol_packet(""));
        let (packet, received) = node.packet().await;
        let data = pattern(1, 512);
        assert_eq!(packet, write(1, &data));
        assert_eq!(&*received.expect("data"), &data[..]);
    });
}

/// A peer that goes silent in the handshake costs one attempt.
#[test]
fn half_open() {
    run(async {
        let (mut mine, _) = two_settings();
        mine.ping_timeout = Duration::from_millis(100);
        let peer = async {
            let mut silent = bare_peer(&mine).await;
            expect_end(&mut silent.data).await;
            expect_end(&mut silent.meta).await;
            let mut bare = bare_peer(&mine).await;
            exchange_features(&mut bare).await;
        };
        let mut random = SystemRandom::default();
        let (up, ()) = tokio::join!(establish(&mine, &mut random), peer);
        up.expect("up");
    });
}

async fn outcome_with_features(bytes: Vec<u8>) -> Result<Established, HandshakeFailure> {
    let (mine, _) = two_settings();
    let peer = async {
        let mut bare = bare_peer(&mine).await;
        bare.data.write_all(&bytes).await.expect("the node reads");
        bare
    };
    let mut random = SystemRandom::default();
    let (up, _bare) = tokio::join!(establish(&mine, &mut random), peer);
    up
}

fn features(version_min: u32, version_max: u32) -> Vec<u8> {
    first_bytes_of(&Packet::ConnectionFeatures(ConnectionFeatures {
        version_min,
        features: 0x15,
        version_max,
    }))
}

#[test]
fn versions_without_overlap_are_final() {
    run(async {
        for (lowest, highest) in [(110, 121), (80, 85), (110, 0)] {
            let outcome = outcome_with_features(features(lowest, highest)).await;
            let Err(HandshakeFailure::IncompatibleVersions(text)) = outcome else {
                panic!("{lowest}-{highest}: {outcome:?}");
            };
            assert!(text.contains("86-101"), "{text}");
        }
    });
}

#[test]
fn the_lower_version_and_the_common_features_count() {
    run(async {
        for (lowest, highest, agreed) in [(86, 101, 101), (86, 96, 96), (96, 0, 96), (86, 117, 101)]
        {
            let up = outcome_with_features(features(lowest, highest)).await.expect("up");
            assert_eq!((up.version, up.features), (agreed, 0x5), "{lowest}-{highest}");
        }
    });
}

#[test]
fn another_packet_instead_of_features_is_final() {
    run(async {
        let mut short = first_bytes_of(&features_packet());
        short[7] = 8;
        for bytes in [first_bytes_of(&Packet::Ping), short] {
            let outcome = outcome_with_features(bytes).await;
            assert!(
                matches!(outcome, Err(HandshakeFailure::IncompatibleVersions(_))),
                "{outcome:?}"
            );
        }
    });
}
