//! The handshake over an in-memory stream: good clients, odd clients, hostile bytes.

use super::*;
use crate::nbd::wire::feature;
use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};

struct TwoExports;

impl Directory for TwoExports {
    fn list(&self) -> Vec<ExportInfo> {
        let mut served = ExportInfo::new("r0", 1 << 30);
        served.description = "database".to_owned();
        let mut elsewhere = ExportInfo::new("r1", 1 << 20);
        elsewhere.serving = Err("Secondary; primary is at 192.0.2.1:10809".to_owned());
        vec![served, elsewhere]
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        self.list().into_iter().find(|export| export.name == name)
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

fn info_data(name: &str, items: &[u16]) -> Vec<u8> {
    let mut data = text(name);
    data.extend_from_slice(&(items.len() as u16).to_be_bytes());
    items.iter().for_each(|item| data.extend_from_slice(&item.to_be_bytes()));
    data
}

fn context_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = text(name);
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| data.extend_from_slice(&text(query)));
    data
}

/// Sends `input` as a client with `flags`, closes, and returns the outcome and the bytes that
/// came back after the greeting.
async fn converse(
    flags: u32,
    input: &[u8],
) -> (Result<Option<Negotiated>, NegotiationError>, Vec<u8>) {
    let (mut client, mut server) = duplex(1 << 20);
    client.write_all(&flags.to_be_bytes()).await.expect("room");
    client.write_all(input).await.expect("room");
    client.shutdown().await.expect("open");
    let outcome = negotiate(&mut server, &TwoExports, &Limits::default()).await;
    drop(server);
    let mut output = Vec::new();
    client.read_to_end(&mut output).await.expect("readable");
    assert_eq!(output[..18], *b"NBDMAGICIHAVEOPT\0\x03");
    (outcome, output.split_off(18))
}

/// (option, type, data) of each reply.
fn replies(mut bytes: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!(bytes[..8], OPTION_REPLY_MAGIC.to_be_bytes());
        let end = 20 + word(16) as usize;
        replies.push((word(8), word(12), bytes[20..end].to_vec()));
        bytes = &bytes[end..];
    }
    replies
}

#[tokio::test]
async fn go_ends_in_an_agreement() {
    let mut input = option(option::STRUCTURED_REPLY, &[]);
    let queries = ["twinblk:out-of-sync", "x:y", "base:", "base:allocation"];
    input.extend(option(option::SET_META_CONTEXT, &context_data("r0", &queries)));
    input.extend(option(option::GO, &info_data("r0", &[1, 2, 3, 77])));
    let (outcome, output) = converse(3, &input).await;
    let negotiated = outcome.expect("no error").expect("agreed");
    assert_eq!(negotiated.export.name, "r0");
    assert!(negotiated.structured);
    assert_eq!(negotiated.contexts.iter().count(), 2);
    let flags = negotiated.export.transmission_flags(true);
    assert_ne!(flags & feature::SEND_DF, 0);
    let expected = [
        (option::STRUCTURED_REPLY, option_reply::ACK, vec![]),
        (
            option::SET_META_CONTEXT,
            option_reply::META_CONTEXT,
            b"\0\0\0\x01base:allocation".to_vec(),
        ),
        (
            option::SET_META_CONTEXT,
            option_reply::META_CONTEXT,
            b"\0\0\0\x02twinblk:out-of-sync".to_vec(),
        ),
        (option::SET_META_CONTEXT, option_reply::ACK, vec![]),
        (
            option::GO,
            option_reply::INFO,
            [&[0, 0, 0, 0, 0, 0, 64, 0, 0, 0][..], &flags.to_be_bytes()].concat(),
        ),
        (option::GO, option_reply::INFO, b"\0\x01r0".to_vec()),
        (option::GO, option_reply::INFO, b"\0\x02database".to_vec()),
        (option::GO, option_reply::INFO, vec![0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 2, 0, 0, 0]),
        (option::GO, option_reply::ACK, vec![]),
    ];
    assert_eq!(replies(&output), expected);
}

#[tokio::test]
async fn bytes_after_go_are_left_in_the_stream() {
    let (mut client, mut server) = duplex(1 << 16);
    client.write_all(&3u32.to_be_bytes()).await.expect("room");
    client.write_all(&option(option::GO, &info_data("r0", &[]))).await.expect("room");
    client.write_all(b"a request").await.expect("room");
    negotiate(&mut server, &TwoExports, &Limits::default()).await.expect("ok").expect("agreed");
    let mut rest = [0; 9];
    server.read_exact(&mut rest).await.expect("still there");
    assert_eq!(rest, *b"a request");
}

#[tokio::test]
async fn a_secondary_says_where_the_primary_is() {
    let input =
        [option(option::INFO, &info_data("r1", &[])), option(option::GO, &info_data("r1", &[]))];
    let (outcome, output) = converse(3, &input.concat()).await;
    assert!(matches!(outcome, Ok(None)), "the client left after the refusals: {outcome:?}");
    for ((option, kind, data), expected) in
        replies(&output).into_iter().zip([option::INFO, option::GO])
    {
        assert_eq!((option, kind), (expected, option_reply::ERROR_POLICY));
        let text = String::from_utf8(data).expect("text");
        assert!(
            text.contains("\"r1\"") && text.contains("primary is at 192.0.2.1:10809"),
            "{text}"
        );
    }
    let (outcome, output) = converse(3, &option(option::EXPORT_NAME, b"r1")).await;
    assert!(matches!(outcome, Err(NegotiationError::NotServed { .. })), "{outcome:?}");
    assert!(output.is_empty());
}

#[tokio::test]
async fn export_name_pads_unless_agreed_otherwise() {
    for (flags, length) in [(3, 10), (1, 134), (0, 134)] {
        let (outcome, output) = converse(flags, &option(option::EXPORT_NAME, b"r0")).await;
        assert_eq!(outcome.expect("no error").expect("agreed").export.name, "r0");
        assert_eq!(output.len(), length);
        assert_eq!(output[..8], (1u64 << 30).to_be_bytes());
    }
    for name in [&b"none"[..], b"\xff", &[b'x'; 5000]] {
        let (outcome, output) = converse(3, &option(option::EXPORT_NAME, name)).await;
        assert!(matches!(outcome, Err(NegotiationError::NotServed { .. })), "{outcome:?}");
        assert!(output.is_empty());
    }
}

/// Rows of nbd.md 1.5: each is answered with an error, and the session goes on to LIST.
#[tokio::test]
async fn refused_options_keep_the_session() {
    let many_queries = [text("r0"), 100_000u32.to_be_bytes().to_vec()].concat();
    let long_name = info_data(&"x".repeat(5000), &[]);
    let rows: [(&str, u32, Vec<u8>, u32); 16] = [
        ("unknown option", 99, b"data".to_vec(), option_reply::ERROR_UNSUPPORTED),
        ("withdrawn PEEK_EXPORT", 4, vec![], option_reply::ERROR_UNSUPPORTED),
        ("EXTENDED_HEADERS", 11, vec![], option_reply::ERROR_UNSUPPORTED),
        ("LIST with data", option::LIST, vec![1], option_reply::ERROR_INVALID),
        ("STARTTLS", option::STARTTLS, vec![], option_reply::ERROR_POLICY),
        ("STARTTLS with data", option::STARTTLS, vec![1], option_reply::ERROR_INVALID),
        ("STRUCTURED with data", option::STRUCTURED_REPLY, vec![1], option_reply::ERROR_INVALID),
        (
            "GO, name too long for the data",
            option::GO,
            vec![0, 0, 1, 0, 0, 0],
            option_reply::ERROR_INVALID,
        ),
        ("GO, items missing", option::GO, vec![0, 0, 0, 0, 0, 9], option_reply::ERROR_INVALID),
        ("GO without data", option::GO, vec![], option_reply::ERROR_INVALID),
        ("GO unknown", option::GO, info_data("none", &[]), option_reply::ERROR_UNKNOWN),
        ("GO, no default", option::GO, info_data("", &[]), option_reply::ERROR_UNKNOWN),
        ("GO, name with NUL", option::GO, info_data("r\0", &[]), option_reply::ERROR_INVALID),
        ("GO, name of 5000 bytes", option::GO, long_name, option_reply::ERROR_TOO_BIG),
        (
            "SET_META before STRUCTURED",
            option::SET_META_CONTEXT,
            context_data("r0", &[]),
            option_reply::ERROR_INVALID,
        ),
        (
            "LIST_META before STRUCTURED",
            option::LIST_META_CONTEXT,
            many_queries,
            option_reply::ERROR_INVALID,
        ),
    ];
    for (row, number, data, kind) in rows {
        let input = [option(number, &data), option(option::LIST, &[])].concat();
        let (outcome, output) = converse(3, &input).await;
        assert!(matches!(outcome, Ok(None)), "{row}: {outcome:?}");
        let replies = replies(&output);
        assert_eq!((replies[0].0, replies[0].1), (number, kind), "{row}");
        assert!(!replies[0].2.is_empty(), "{row}: an error has a text");
        assert_eq!(
            replies[1..],
            [
                (option::LIST, option_reply::SERVER, b"\0\0\0\x02r0database".to_vec()),
                (option::LIST, option_reply::SERVER, b"\0\0\0\x02r1".to_vec()),
                (option::LIST, option_reply::ACK, vec![]),
            ],
            "{row}"
        );
    }
}

#[tokio::test]
async fn hostile_handshakes_are_closed() {
    let (outcome, _) = converse(1 << 7, &[]).await;
    assert!(matches!(outcome, Err(NegotiationError::UnknownFlags(128))), "{outcome:?}");
    let (outcome, _) = converse(3, &[7; 16]).await;
    assert!(matches!(outcome, Err(NegotiationError::BadMagic(_))), "{outcome:?}");
    let mut huge = option(option::GO, &[]);
    huge[12..16].copy_from_slice(&(2u32 << 30).to_be_bytes());
    let (outcome, _) = converse(3, &huge).await;
    assert!(matches!(outcome, Err(NegotiationError::OversizedOption(_))), "{outcome:?}");
    let (outcome, _) = converse(0, &option(option::LIST, &[])).await;
    assert!(matches!(outcome, Err(NegotiationError::UnfixedOption(option::LIST))), "{outcome:?}");
}

#[tokio::test]
async fn abort_is_acknowledged() {
    let input = [option(option::ABORT, b"ignored"), option(option::LIST, &[])].concat();
    let (outcome, output) = converse(3, &input).await;
    assert!(matches!(outcome, Ok(None)));
    assert_eq!(replies(&output), [(option::ABORT, option_reply::ACK, vec![])]);
}

#[tokio::test]
async fn contexts_are_listed_by_name_and_namespace() {
    let listed = async |queries: &[&str]| {
        let input = [
            option(option::STRUCTURED_REPLY, &[]),
            option(option::LIST_META_CONTEXT, &context_data("r0", queries)),
        ];
        let (_, output) = converse(3, &input.concat()).await;
        let mut replies = replies(&output).split_off(1);
        assert_eq!(replies.pop().map(|reply| reply.1), Some(option_reply::ACK));
        assert!(replies.iter().all(|reply| reply.2[..4] == [0; 4]), "the number is 0 here");
        replies
            .iter()
            .map(|reply| String::from_utf8_lossy(&reply.2[4..]).into_owned())
            .collect::<Vec<_>>()
    };
    let all: Vec<String> = vec!["base:allocation".into(), "twinblk:out-of-sync".into()];
    assert_eq!(listed(&[]).await, all);
    assert_eq!(listed(&["base:"]).await, all[..1]);
    assert_eq!(listed(&["twinblk:"]).await, all[1..]);
    assert_eq!(listed(&["twinblk:out-of-sync", "qemu:"]).await, all[1..]);
    assert_eq!(listed(&["bas"]).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_selection_is_for_one_export_and_replaced_also_by_failure() {
    let selected = async |second: Vec<u8>| {
        let input = [
            option(option::STRUCTURED_REPLY, &[]),
            option(option::SET_META_CONTEXT, &context_data("r0", &["base:allocation"])),
            second,
            option(option::GO, &info_data("r0", &[])),
        ];
        let (outcome, _) = converse(3, &input.concat()).await;
        outcome.expect("no error").expect("agreed").contexts.iter().count()
    };
    assert_eq!(selected(vec![]).await, 1);
    let other = context_data("r1", &["base:allocation"]);
    assert_eq!(selected(option(option::SET_META_CONTEXT, &other)).await, 0);
    assert_eq!(selected(option(option::SET_META_CONTEXT, b"?")).await, 0);
    let none = context_data("r0", &["base:"]);
    assert_eq!(selected(option(option::SET_META_CONTEXT, &none)).await, 0);
}

#[tokio::test]
async fn an_idle_handshake_ends() {
    let limits = Limits { idle: Duration::from_millis(20), ..Limits::default() };
    for sent in [&[][..], &[0, 0, 0, 3], &[0, 0, 0, 3, b'I', b'H']] {
        let (mut client, mut server): (DuplexStream, _) = duplex(1 << 10);
        client.write_all(sent).await.expect("room");
        let outcome = negotiate(&mut server, &TwoExports, &limits).await;
        assert!(matches!(outcome, Err(NegotiationError::Idle)), "{outcome:?}");
    }
}

#[test]
fn long_texts_are_cut_between_characters() {
    let text = "ä".repeat(3000);
    assert_eq!(clip(&text).len(), 4096);
    assert_eq!(clip("a\u{20ac}"), "a\u{20ac}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Any sequence of option-shaped garbage ends in an outcome (I13).
    #[test]
    fn any_options_end_in_an_outcome(
        options in prop::collection::vec(
            (0u32..13, prop::collection::vec(any::<u8>(), 0..60)), 0..8),
        tail in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut input: Vec<u8> =
            options.iter().flat_map(|(number, data)| option(*number, data)).collect();
        input.extend(tail);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let (outcome, output) = runtime.expect("runtime").block_on(converse(3, &input));
        if !matches!(outcome, Ok(Some(_))) {
            let _ = replies(&output);
        }
    }
}
