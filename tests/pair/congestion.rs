//! A Primary under protocol A that does not wait for its link.

use crate::common::ledger::Ledger;
use crate::common::pair::{Pair, PairOptions};

#[test]
fn a_congested_primary_goes_ahead_and_the_peer_catches_up() {
    let net = "on-congestion pull-ahead; congestion-fill 64K;".to_owned();
    let pair = Pair::in_sync(PairOptions { protocol: 'A', net, ..PairOptions::default() });
    let mut client = pair.alice.nbd();
    let mut ledger = Ledger::default();
    // One large write alone fills the allowance.
    client.write(0, &vec![3; 1 << 20]).expect("a large write");
    for block in 1000..1400 {
        ledger.write(&mut client, block).expect("a write");
    }
    client.flush().expect("flush");
    drop(client);
    pair.alice.wait_without_clients();
    pair.wait_in_sync();
    assert!(pair.alice.log().contains("going ahead of the peer"), "{}", pair.alice.log());
    pair.alice.wait_idle();
    pair.bob.wait_idle();
    assert_eq!(pair.differing_blocks(), 0);
    ledger.check(&mut pair.alice.nbd()).expect("every answered write");
}
