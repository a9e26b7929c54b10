//! Every refusal that a pair of nodes can be brought to: number, text and exit code are those of
//! the original tools (behaviour.md 1.5, 7.2), since scripts match on all three.

use crate::common::pair::{Node, Pair, PairOptions, RESOURCE};

/// The original's texts.
const TEXTS: &[(i32, &str)] = &[
    (-1, "Multiple primaries not allowed by config"),
    (-2, "Need access to UpToDate data"),
    (-4, "Can not resync without local disk"),
    (-5, "Can not resync without remote disk"),
    (-6, "Refusing to be Outdated while Connected"),
    (-8, "Can not start OV/resync since it is already active"),
    (-12, "Device is held open by someone"),
    (-15, "Need a connection to start verify or resync"),
    (-16, "Disk state is lower than outdated"),
    (151, "Need to be StandAlone"),
];

/// What did not end as it should; all of it is shown at once.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn refused(&mut self, when: &str, node: &Node, verb: &[&str], number: i32, exit_code: i32) {
        let arguments: Vec<&str> = verb.iter().copied().chain([RESOURCE]).collect();
        let output = node.run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let text = TEXTS.iter().find(|known| known.0 == number).expect("a known number").1;
        let form = if number < 0 { "State change failed" } else { "Failure" };
        let message = format!("{RESOURCE}: {form}: ({number}) {text}");
        let found = output.status.code();
        if found != Some(exit_code) || said.lines().next() != Some(&*message) {
            self.0.push(format!(
                "{when}: {} on {}: expected {exit_code} and '{message}', got {found:?} and:\n{said}",
                verb.join(" "),
                node.name
            ));
        }
    }

    fn none(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}

#[test]
fn of_a_healthy_pair() {
    let mut findings = Findings::default();
    let pair = Pair::in_sync(PairOptions::default());
    let (alice, bob) = (&pair.alice, &pair.bob);
    findings.refused("peer is Primary", bob, &["primary"], -1, 11);
    findings.refused("connected", bob, &["outdate"], -6, 11);
    findings.refused("connected", bob, &["new-current-uuid"], 151, 10);
    let client = alice.nbd();
    alice.wait("a client", |status| status.nbd.clients.len() == 1);
    findings.refused("a client is connected", alice, &["secondary"], -12, 11);
    findings.refused("a client is connected", alice, &["down"], -12, 11);
    drop(client);
    alice.wait_without_clients();

    bob.succeed(&["detach", RESOURCE]);
    findings.refused("without its disk", bob, &["verify"], -4, 16);
    findings.refused("without its disk", bob, &["primary"], -1, 11);
    alice.wait("the peer's loss", |status| status.peer_disk.as_str() == "Diskless");
    findings.refused("the peer without its disk", alice, &["verify"], -5, 11);
    bob.succeed(&["disconnect", RESOURCE]);
    findings.refused("neither disk nor peer", bob, &["primary"], -2, 17);

    bob.succeed(&["attach", RESOURCE]);
    bob.succeed(&["outdate", RESOURCE]);
    findings.refused("outdated and alone", bob, &["primary"], -2, 17);
    findings.refused("not connected", bob, &["verify"], -15, 11);
    findings.refused("not connected", bob, &["invalidate-remote"], -15, 11);
    findings.none();
}

#[test]
fn of_disks_that_were_never_in_sync() {
    let mut findings = Findings::default();
    let pair = Pair::connected(PairOptions::default());
    findings.refused("both Inconsistent", &pair.alice, &["primary"], -2, 17);
    findings.refused("both Inconsistent", &pair.alice, &["verify"], -2, 17);
    pair.alice.succeed(&["disconnect", RESOURCE]);
    findings.refused("Inconsistent and alone", &pair.alice, &["primary"], -2, 17);
    findings.refused("Inconsistent", &pair.alice, &["outdate"], -16, 5);
    findings.none();
}

#[test]
fn while_a_resync_runs() {
    let mut findings = Findings::default();
    let pair = Pair::connected(PairOptions::default());
    pair.alice.succeed(&["new-current-uuid", "--clear-bitmap", RESOURCE]);
    pair.wait_in_sync();
    pair.alice.succeed(&["primary", RESOURCE]);
    // It is there for as long as it is looked at.
    pair.alice.succeed(&["pause-sync", RESOURCE]);
    pair.alice.succeed(&["invalidate", RESOURCE]);
    pair.alice.wait("a Primary as target", |status| status.connection.as_str() == "PausedSyncT");
    findings.refused("its data is at the peer", &pair.alice, &["disconnect"], -2, 17);
    findings.refused("a resync runs", &pair.alice, &["verify"], -8, 11);
    findings.refused("a resync runs", &pair.alice, &["invalidate"], -8, 11);
    findings.refused("a resync runs", &pair.bob, &["verify"], -8, 11);
    findings.refused("peer is Primary", &pair.bob, &["primary"], -1, 11);
    findings.none();
}

#[test]
fn of_what_is_not_up_or_not_there() {
    let pair = Pair::prepare(PairOptions::default());
    let (code, text) = pair.alice.refused(&["primary", RESOURCE]);
    assert_eq!((code, text.lines().next()), (10, Some("r0: No such resource")), "{text}");
    let (code, text) = pair.alice.refused(&["primary", "nosuch"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("'nosuch' not defined in your config (for this host).\n"), "{text}");
    assert_eq!(pair.alice.succeed(&["role", RESOURCE]), "Unconfigured\n");
    pair.alice.succeed(&["down", RESOURCE]);
}
