//! cram-hmac-alg: every outcome of wire.md 3.2.

use twinblk_proto::digest::{self, Algorithm};

use super::super::Authentication;
use super::*;

const SECRET: &str = "s3cret-Pass";

fn with_secret(mut settings: LinkSettings, algorithm: Algorithm, secret: &str) -> LinkSettings {
    settings.authentication = Some(Authentication { algorithm, secret: secret.to_owned() });
    settings
}

fn protected() -> LinkSettings {
    with_secret(two_settings().0, Algorithm::Sha1, SECRET)
}

async fn both(
    first: &LinkSettings,
    second: &LinkSettings,
) -> (Result<Established, HandshakeFailure>, Result<Established, HandshakeFailure>) {
    let (mut one, mut two) = (SystemRandom::default(), SystemRandom::default());
    tokio::join!(establish(first, &mut one), establish(second, &mut two))
}

fn is_authentication_failure(outcome: &Result<Established, HandshakeFailure>) -> bool {
    matches!(outcome, Err(HandshakeFailure::AuthenticationFailed(_)))
}

#[test]
fn the_same_secret() {
    run(async {
        for algorithm in [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Md5] {
            let (first, second) = two_settings();
            let first = with_secret(first, algorithm, SECRET);
            let second = with_secret(second, algorithm, SECRET);
            let (one, two) = both(&first, &second).await;
            let mut one = Node::start(one.expect("up"), &first);
            let two = Node::start(two.expect("up"), &second);
            two.session.send_data(&protocol_packet(""), None);
            two.session.flush();
            assert_eq!(one.packet().await.0, protocol_packet(""));
        }
    });
}

#[test]
fn another_secret_is_final_on_both() {
    run(async {
        let (first, second) = two_settings();
        let first = with_secret(first, Algorithm::Sha1, "one");
        let second = with_secret(second, Algorithm::Sha1, "two");
        let (one, two) = both(&first, &second).await;
        assert!(is_authentication_failure(&one), "{one:?}");
        assert!(is_authentication_failure(&two), "{two:?}");
    });
}

/// Only one node has a secret: it refuses, the other meets the challenge as an unexpected packet.
#[test]
fn a_secret_on_one_side_only() {
    run(async {
        let (first, second) = two_settings();
        let first = with_secret(first, Algorithm::Sha1, SECRET);
        let (mut one, mut two) = (SystemRandom::default(), SystemRandom::default());
        let open_side = async {
            let mut node = Node::start(establish(&second, &mut two).await.expect("up"), &second);
            node.session.send_data(&protocol_packet(""), None);
            node.session.flush();
            node.lost().await
        };
        let (one, lost) = tokio::join!(establish(&first, &mut one), open_side);
        assert!(is_authentication_failure(&one), "{one:?}");
        let LossCause::ProtocolError(text) = lost else { panic!("{lost:?}") };
        assert!(text.contains("P_AUTH_CHALLENGE"), "{text}");
    });
}

/// A checksum can be forged: a configuration that asks for it is refused, not obeyed.
#[test]
fn a_checksum_does_not_authenticate() {
    run(async {
        let (first, second) = two_settings();
        let first = with_secret(first, Algorithm::Crc32c, SECRET);
        let second = with_secret(second, Algorithm::Crc32c, SECRET);
        let (one, two) = both(&first, &second).await;
        assert!(is_authentication_failure(&one), "{one:?}");
        assert!(is_authentication_failure(&two), "{two:?}");
    });
}

/// Different algorithms give responses of different sizes: another attempt, not the end.
#[test]
fn a_response_of_another_size_is_tried_again() {
    run(async {
        let mine = protected();
        let peer = async {
            let mut bare = bare_peer(&mine).await;
            exchange_features(&mut bare).await;
            bare.data
                .write_all(&bytes_of(&Packet::AuthChallenge(pattern(1, 64))))
                .await
                .expect("up");
            bare.data.write_all(&bytes_of(&Packet::AuthResponse(vec![0; 16]))).await.expect("up");
            expect_end(&mut bare.data).await;
            honest_peer(&mine, pattern(2, 64)).await
        };
        let mut random = SystemRandom::default();
        let (up, _bare) = tokio::join!(establish(&mine, &mut random), peer);
        up.expect("up");
    });
}

/// A peer with the secret of [`protected`].
async fn honest_peer(settings: &LinkSettings, challenge: Vec<u8>) -> Bare {
    let mut bare = bare_peer(settings).await;
    exchange_features(&mut bare).await;
    let hmac = |message: &[u8]| digest::hmac(Algorithm::Sha1, SECRET.as_bytes(), message);
    bare.data.write_all(&bytes_of(&Packet::AuthChallenge(challenge.clone()))).await.expect("up");
    let theirs = read_bytes(&mut bare.data, 16 + 64).await.split_off(16);
    expect_bytes(&mut bare.data, &bytes_of(&Packet::AuthResponse(hmac(&challenge)))).await;
    bare.data.write_all(&bytes_of(&Packet::AuthResponse(hmac(&theirs)))).await.expect("up");
    bare
}

#[test]
fn challenges_of_64_to_128_bytes_are_answered() {
    run(async {
        for length in [64, 100, 128] {
            let mine = protected();
            let mut random = SystemRandom::default();
            let peer = honest_peer(&mine, pattern(3, length));
            let (up, _bare) = tokio::join!(establish(&mine, &mut random), peer);
            up.expect("up");
        }
    });
}

/// What a peer that sends `bytes` in place of its challenge gets.
async fn outcome_of_challenge(bytes: Vec<u8>) -> Result<Established, HandshakeFailure> {
    let mine = protected();
    let peer = async {
        let mut bare = bare_peer(&mine).await;
        exchange_features(&mut bare).await;
        bare.data.write_all(&bytes).await.expect("the node reads");
        bare
    };
    let mut random = Scripted { challenge: pattern(9, 64), coin: false };
    let (up, mut bare) = tokio::join!(establish(&mine, &mut random), peer);
    // Whatever was wrong with the challenge, it got no response.
    let mut answer = Vec::new();
    let _ = bare.data.read_to_end(&mut answer).await;
    assert_eq!(answer.len(), 16 + 64, "only the node's own challenge");
    up
}

#[test]
fn bad_challenges_are_final() {
    run(async {
        for challenge in [pattern(1, 63), pattern(1, 129), Vec::new()] {
            let length = challenge.len();
            let outcome = outcome_of_challenge(bytes_of(&Packet::AuthChallenge(challenge))).await;
            assert!(is_authentication_failure(&outcome), "{length} bytes: {outcome:?}");
        }
        let outcome = outcome_of_challenge(bytes_of(&protocol_packet(""))).await;
        assert!(is_authentication_failure(&outcome), "P_PROTOCOL: {outcome:?}");
    });
}

#[test]
fn our_own_challenge_sent_back_is_not_answered() {
    run(async {
        let reflected = bytes_of(&Packet::AuthChallenge(pattern(9, 64)));
        let outcome = outcome_of_challenge(reflected).await;
        assert!(is_authentication_failure(&outcome), "{outcome:?}");
    });
}

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| {
            let digits = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(digits, 16).expect("hexadecimal")
        })
        .collect()
}

/// The handshake of two kernel nodes with `cram-hmac-alg sha1`, recorded; here the bytes of node B
/// meet this implementation in the place of node A, which must send node A's.
#[test]
fn a_recorded_handshake_with_a_kernel() {
    const CHALLENGE_A: &str = "4800767a01319c8d7482342b9de7b4cf44cb1944e4daf0313db1d0a6bc629ec5\
                               a0a7ec57e49c4b2513b0e1f75cc73b6bc6e5682e675b024394fa204d1b5c892d";
    const CHALLENGE_B: &str = "8ae37c0ba12893a78235721a4a34df5aab2b5154de3eaa76824ef0a6141e91e8\
                               325311d8adef57997c13b86e7ab95511f5999ab19bc3e6f7dadd26809118d7e3";
    const RESPONSE_A: &str = "566e97c9d606836b1035408a54cfbef312fe2658";
    const RESPONSE_B: &str = "9bda8da2a3e363119405f039099f0e35abea7f1a";
    const INITIAL_DATA: &str = "83740267fff20000";
    const INITIAL_META: &str = "83740267fff10000";
    let features = ["83740267fffe0048", "000000560000000f00000065", &"00".repeat(60)].concat();
    let challenge = |bytes| ["8620ec20", "0000", "0010", "00000040", "00000000", bytes].concat();
    let response = |bytes| ["8620ec20", "0000", "0011", "00000014", "00000000", bytes].concat();
    let protocol =
        ["8620ec20", "0000", "000b", "00000019", "00000000", "00000003", &"00".repeat(20), "00"]
            .concat();
    run(async {
        let mine = LinkSettings { features: FEATURES, ..protected() };
        let kernel_listener =
            super::super::socket::listen(&settings(mine.peer, mine.local)).expect("listen");
        let kernel = async {
            // The recording's first dial of A is refused; here B simply closes it.
            let (refused, _) = kernel_listener.accept().await.expect("dialled");
            drop(refused);
            let mut data = dial_as_peer(&mine, &Packet::InitialData).await;
            let (mut meta, _) = kernel_listener.accept().await.expect("dialled");
            expect_bytes(&mut meta, &hex(INITIAL_META)).await;
            expect_bytes(&mut data, &hex(&features)).await;
            data.write_all(&hex(&features)).await.expect("up");
            data.write_all(&hex(&challenge(CHALLENGE_B))).await.expect("up");
            expect_bytes(&mut data, &hex(&challenge(CHALLENGE_A))).await;
            expect_bytes(&mut data, &hex(&response(RESPONSE_A))).await;
            data.write_all(&hex(&response(RESPONSE_B))).await.expect("up");
            data.write_all(&hex(&protocol)).await.expect("up");
            (data, meta)
        };
        let mut random = Scripted { challenge: hex(CHALLENGE_A), coin: false };
        let (up, _kernel) = tokio::join!(establish(&mine, &mut random), kernel);
        let up = up.expect("up");
        assert_eq!((up.version, up.features, up.resolve), (101, 0xF, false));
        let mut node = Node::start(up, &mine);
        assert_eq!(node.packet().await.0, protocol_packet(""));
    });
    assert_eq!(first_bytes_of(&Packet::InitialData), hex(INITIAL_DATA));
}
