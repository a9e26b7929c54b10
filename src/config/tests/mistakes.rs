//! Wrong files, and what is said about them.

use super::*;

/// The first mistake: line, message and what stands under the caret.
fn mistake(text: &str) -> (String, String) {
    let mistakes = parse(Path::new("f"), text).expect_err(text);
    let rendered = mistakes.render(false);
    let first = mistakes.list.first().expect("at least one");
    for part in [&first.message, &first.label] {
        assert!(rendered.contains(part.as_str()), "{part:?} is in\n{rendered}");
    }
    (mistakes.to_string().lines().next().expect("a line").to_owned(), first.label.clone())
}

fn assert_mistake(text: &str, message: &str, label: &str) {
    assert_eq!(mistake(text), (message.to_owned(), label.to_owned()), "{text}");
}

#[test]
fn words_that_are_not_known() {
    let net = |option: &str| resource_with(&format!("net {{ {option} }}"));
    assert_mistake(
        &net("timeot 60;"),
        "f:7: unknown option 'timeot' in section 'net'",
        "did you mean 'timeout'?",
    );
    assert_mistake(
        &net("resync-rate 10M;"),
        "f:7: unknown option 'resync-rate' in section 'net'",
        "belongs into section 'disk'",
    );
    assert_mistake(
        &net("frobnicate;"),
        "f:7: unknown option 'frobnicate' in section 'net'",
        "not known",
    );
    assert_mistake(
        &resource_with("nett { timeout 60; }"),
        "f:7: unknown keyword 'nett' in resource 'r0'",
        "did you mean 'net'?",
    );
    assert_mistake(
        &resource_with("timeout 60;"),
        "f:7: unknown keyword 'timeout' in resource 'r0'",
        "belongs into section 'net'",
    );
    assert_mistake(
        &resource_with("").replace("meta-disk", "meta-disc"),
        "f:4: unknown keyword 'meta-disc' in resource 'r0'",
        "did you mean 'meta-disk'?",
    );
    assert_mistake(
        &resource_with("").replace("address 10.0.0.1", "adress 10.0.0.1"),
        "f:5: unknown keyword 'adress' in section 'on alice'",
        "did you mean 'address'?",
    );
    assert_mistake(
        "resorce r0 { }",
        "f:1: unknown keyword 'resorce' outside of a section",
        "did you mean 'resource'?",
    );
    assert_mistake(
        &resource_with("handlers { split-brian true; }"),
        "f:7: unknown option 'split-brian' in section 'handlers'",
        "did you mean 'split-brain'?",
    );
    assert_mistake(
        &resource_with("net { protocol A; } disk { fencing resource-and-stonith; }"),
        "f:7: fencing resource-and-stonith needs protocol B or C",
        "with protocol A answered writes may be lost with the fenced Primary",
    );
    assert_mistake(
        &resource_with("syncer { size 5; }"),
        "f:7: unknown option 'size' in section 'syncer'",
        "belongs into section 'disk'",
    );
}

#[test]
fn values_that_are_not_possible() {
    let net = |option: &str| resource_with(&format!("net {{ {option} }}"));
    assert_mistake(
        &net("timeout 100000;"),
        "f:7: timeout 100000 => 100000 out of range [1..600].",
        "expected 1 to 600",
    );
    assert_mistake(&net("timeout soon;"), "f:7: soon is not a valid number", "expected a number");
    assert_mistake(&net("timeout;"), "f:7: 'timeout' needs a value", "expected a number, 1 to 600");
    assert_mistake(
        &net("after-sb-0pri discard-zero-change;"),
        "f:7: 'discard-zero-change' is not a value of 'after-sb-0pri'",
        "did you mean 'discard-zero-changes'?",
    );
    assert_mistake(
        &resource_with("protocol D;"),
        "f:7: 'D' is not a value of 'protocol'",
        "expected C, A or B",
    );
    assert_mistake(
        &net("always-asbp maybe;"),
        "f:7: 'maybe' is not a value of 'always-asbp'",
        "expected yes or no",
    );
    assert_mistake(
        &net("tls yes;"),
        "f:7: 'tls' cannot be used: the connection would be in plain text: TLS is not supported yet",
        "",
    );
    assert_mistake(
        &resource_with("nbd { listen 10809; }"),
        "f:7: '10809' is not an address with a port",
        "expected ADDRESS:PORT",
    );
    assert_mistake(
        &resource_with("nbd { allow 10.0.0.0/33; }"),
        "f:7: '10.0.0.0/33' is not a network",
        "expected ADDRESS or ADDRESS/BITS, as in 10.0.0.0/24",
    );
    assert_mistake(
        &resource_with("options { backend uring; }"),
        "f:7: 'uring' is not a value of 'backend'",
        "expected auto, io_uring or threads",
    );
    assert_mistake(
        &resource_with("").replace("10.0.0.1:7789", "10.0.0.1:77890"),
        "f:5: port 77890 => 77890 out of range [1..65535].",
        "expected 1 to 65535",
    );
}

#[test]
fn semicolons_and_braces() {
    let text = resource_with("");
    assert_mistake(
        &text.replace("drbd0;", "drbd0"),
        "f:2: ';' is missing after '/dev/drbd0'",
        "after this",
    );
    assert_mistake(
        &text.replace("sda3;", "sda3"),
        "f:3: ';' is missing after '/dev/sda3'",
        "after this",
    );
    assert_mistake(
        &resource_with("net { timeout 60 }"),
        "f:7: ';' is missing after '60'",
        "after this",
    );
    assert_mistake(
        &resource_with("net { timeout\nping-int 5; }"),
        "f:7: ';' is missing after 'timeout'",
        "after this",
    );
    assert_mistake(
        &resource_with("net { timeout 60 60; }"),
        "f:7: unexpected '60' after '60'",
        "expected ';'",
    );
    assert_mistake(&resource_with("net;"), "f:7: 'net' is a section", "expected '{'");
    assert_mistake(
        text.trim_end().trim_end_matches('}'),
        "f:8: the file ends inside of a section: '}' is missing",
        "the file ends here",
    );
    assert_mistake(&resource_with("}"), "f:8: '}' without a '{' before it", "");
}

#[test]
fn what_is_missing_or_there_twice() {
    let text = resource_with("");
    assert_mistake(
        &text.replace("disk /dev/sda3;", ""),
        "f:5: in resource r0, on alice { ... }: 'disk' keyword missing.",
        "in this section",
    );
    assert_mistake(
        &text.replace("address 10.0.0.2:7789;", ""),
        "f:6: in resource r0, on bob { ... }: 'address' keyword missing.",
        "in this section",
    );
    assert_mistake("resource r0 { }", "f:1: resource 'r0' has no hosts", "defined here");
    assert_mistake(
        &text.replace("on bob", "on alice"),
        "f:6: conflicting use of host section 'r0: on alice'",
        "used again here",
    );
    assert_mistake(
        &text.replace("10.0.0.2", "10.0.0.1"),
        "f:6: two hosts of 'r0' have the same address",
        "used again here",
    );
    assert_mistake(
        &resource_with("net { } net { }"),
        "f:7: conflicting use of net section",
        "written again here",
    );
    assert_mistake(
        "common { } common { }",
        "f:1: conflicting use of common section",
        "written again here",
    );
    assert_mistake(
        &resource_with("disk /dev/x;"),
        "f:7: conflicting use of disk statement",
        "written again here",
    );
    assert_mistake(
        &resource_with("volume 1 { device minor 1; disk /dev/b; }"),
        "f:7: you must not mix implicit and explicit volumes",
        "",
    );
    assert_mistake(
        &resource_with("startup { become-primary-on carol; }"),
        "f:7: become-primary-on contains 'carol', which is not named with the 'on' sections",
        "",
    );
    assert_mistake(
        &resource_with("disk { resync-after r9; }"),
        "f:7: resource 'r9' mentioned in 'resync-after' option is not known",
        "",
    );
    assert_mistake(
        &resource_with("net { after-sb-0pri discard-node-carol; }"),
        "f:7: 'carol' of discard-node-carol is not a host of 'r0'",
        "",
    );
    for name in ["all", "../x", ".", "a/b", "\"\"", "\"a b\""] {
        let (message, _) = mistake(&text.replace("resource r0", &format!("resource {name}")));
        assert!(message.contains("cannot be the name of"), "{message}");
    }
}

#[test]
fn two_resources_cannot_share_port_device_or_disk() {
    let other = |port: u16, minor: u32, disk: &str| {
        let text = resource_with("").replace("r0", "r1").replace("7789", &port.to_string());
        let text = text.replace("/dev/drbd0", &format!("/dev/drbd{minor}"));
        resource_with("") + &text.replace("/dev/sda3", disk)
    };
    assert!(parse(Path::new("f"), &other(7790, 1, "/dev/sda4")).is_ok());
    assert_mistake(
        &other(7789, 1, "/dev/sda4"),
        "f:13: conflicting use of IP 'alice:10.0.0.1:7789'",
        "used again here",
    );
    assert_mistake(
        &other(7790, 0, "/dev/sda4"),
        "f:10: conflicting use of device-minor 'alice:0'",
        "used again here",
    );
    assert_mistake(
        &other(7790, 1, "/dev/sda3"),
        "f:11: conflicting use of disk 'alice:/dev/sda3'",
        "used again here",
    );
    assert_mistake(
        &resource_with("nbd { listen 10.0.0.2:7789; }"),
        "f:7: nbd listens on 10.0.0.2:7789, which is the peer's port on 'bob'",
        "used again here",
    );
}

#[test]
fn all_mistakes_are_found_at_once() {
    let text = resource_with("net { timeot 1; ping-int x; }") + "resorce q { }\n\"open";
    let mistakes = parse(Path::new("f"), &text).expect_err("wrong");
    assert_eq!(mistakes.list.len(), 5, "{mistakes}");
}

/// However much there is to complain about, what decides is not lost, and memory is bounded.
#[test]
fn a_flood_of_warnings_does_not_hide_an_error() {
    let flood = "on-congestion pull-ahead;".repeat(2000);
    let text = resource_with(&format!("net {{ {flood} timeot 1; }}"));
    let mistakes = parse(Path::new("f"), &text).expect_err("wrong");
    assert_eq!(mistakes.list.len(), 1, "{mistakes}");
    let mistakes = parse(Path::new("f"), &"\\".repeat(100_000)).expect_err("wrong");
    assert_eq!(mistakes.list.len(), 200);
}

#[test]
fn warnings_do_not_keep_a_file_from_loading() {
    let warnings = |extra: &str| -> Vec<String> {
        parsed(&resource_with(extra)).warnings.list.into_iter().map(|known| known.message).collect()
    };
    assert!(warnings("").is_empty());
    assert_eq!(warnings("net { transport rdma; }"), ["'transport' has no effect yet"]);
    assert_eq!(
        warnings("disk { fencing resource-only; }"),
        ["fencing without a handler fence-peer: a node without its peer is stuck"]
    );
    assert!(warnings("disk { fencing dont-care; c-min-rate 250; }").is_empty(), "as it is anyway");
    assert_eq!(
        warnings("net { timeout 50; timeout 60; }"),
        ["'timeout' is set twice here; the last one counts"]
    );
    assert_eq!(
        warnings("net { timeout 200; ping-int 10; connect-int 30; }"),
        ["timeout (200 x 0.1 s) must be smaller than ping-int (100 x 0.1 s)"]
    );
    assert_eq!(
        warnings("net { shared-secret x; }"),
        ["shared-secret without cram-hmac-alg: peers are not authenticated"]
    );
    assert_eq!(
        warnings("net { cram-hmac-alg sha1; }"),
        ["cram-hmac-alg without shared-secret: anybody passes"]
    );
}
