//! The Primary's role goes back and forth, and is refused where it must be.

use crate::common::pair::RESOURCE;
use crate::guest::in_guest;
use crate::lab::{Lab, Options, Side};
use crate::load::Written;

fn refusals(lab: &Lab, primary: Side) {
    // The kernel's words and ours are the same, and so is the exit code.
    let (code, said) = lab.refused(primary.other(), &["primary", RESOURCE]);
    assert_eq!(code, 11, "{said}");
    assert!(said.contains("(-1) Multiple primaries not allowed by config"), "{said}");
    let held = lab.device(primary);
    let (code, said) = lab.refused(primary, &["secondary", RESOURCE]);
    assert_eq!(code, 11, "{said}");
    assert!(said.contains("(-12) Device is held open by someone"), "{said}");
    drop(held);
}

#[test]
fn roles_are_exchanged_under_writes() {
    in_guest(&["32M", "32M"], || {
        let lab = Lab::in_sync(Options::default(), Side::Twin);
        let mut written = Written::default();
        let mut primary = Side::Twin;
        for _ in 0..4 {
            refusals(&lab, primary);
            let load = lab.load(primary, written);
            load.wait_for(200);
            written = load.end();
            lab.secondary(primary);
            primary = primary.other();
            lab.primary(primary);
            written.check(&mut *lab.device(primary));
            lab.assert_equal();
        }
        assert_eq!(lab.moved(), lab.twin.status().size_bytes / 4096, "no resync but the first");
    });
}
