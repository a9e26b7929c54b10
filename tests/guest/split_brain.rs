//! Both nodes were Primary without each other: neither gives in, until told or by a policy.

use crate::common::pair::RESOURCE;
use crate::guest::in_guest;
use crate::lab::{Lab, Options, Side};
use crate::load::Written;

/// Each writes blocks of its own and some that the other wrote too; both are Secondary in the end.
/// Returns what the `winner` wrote.
fn split(lab: &Lab, winner: Side) -> Written {
    lab.disconnect_both();
    let (mut kept, mut lost) = (Written::default(), Written::default());
    for (side, written, blocks) in
        [(winner, &mut kept, 100..160), (winner.other(), &mut lost, 150..200)]
    {
        lab.primary(side);
        written.write_all(&mut *lab.device(side), blocks);
        // The blocks of both: stamps of the winner are higher than any of the loser.
        if side == winner {
            written.write_all(&mut *lab.device(side), 150..160);
        }
        lab.secondary(side);
    }
    kept
}

fn assert_refused_by_both(lab: &Lab) {
    lab.connect_both();
    let status = lab.twin.wait("a split brain told", |status| {
        status.reason.to_lowercase().contains("split") && status.hint.contains("discard-my-data")
    });
    assert_ne!(status.connection.as_str(), "Connected");
    lab.kernel.wait("no connection", |status| {
        matches!(status.connection.as_str(), "StandAlone" | "WFConnection")
    });
    assert_ne!(lab.differing(), Vec::<u64>::new(), "nothing was merged");
    lab.disconnect_both();
}

fn mended_by_command(lab: &Lab) {
    for winner in Side::BOTH {
        let kept = split(lab, winner);
        assert_refused_by_both(lab);
        let before = lab.moved();
        lab.call(winner.other(), &["connect", "--discard-my-data", RESOURCE]);
        lab.connect(winner);
        lab.assert_equal();
        assert_eq!(lab.moved() - before, 100, "what either wrote");
        lab.primary(winner);
        kept.check(&mut *lab.device(winner));
        lab.secondary(winner);
    }
}

fn settled_by_policies(lab: &mut Lab) {
    lab.restart_with(|options| {
        options.net =
            "after-sb-0pri discard-least-changes; after-sb-1pri discard-secondary;".to_owned();
    });
    lab.wait_in_sync();
    for winner in Side::BOTH {
        // The winner wrote more, and nobody is Primary.
        let kept = split(lab, winner);
        lab.connect_both();
        lab.assert_equal();
        lab.primary(winner);
        kept.check(&mut *lab.device(winner));
        lab.secondary(winner);
        // The winner is Primary, however little it wrote.
        let kept = split(lab, winner.other());
        drop(kept);
        lab.primary(winner);
        let mut kept = Written::default();
        kept.write_all(&mut *lab.device(winner), 300..301);
        lab.connect_both();
        lab.assert_equal();
        kept.check(&mut *lab.device(winner));
        lab.secondary(winner);
    }
}

#[test]
fn a_split_brain_is_mended_by_command_or_policy() {
    in_guest(&["32M", "32M"], || {
        let mut lab = Lab::in_sync(Options::default(), Side::Kernel);
        lab.secondary(Side::Kernel);
        mended_by_command(&lab);
        settled_by_policies(&mut lab);
    });
}
