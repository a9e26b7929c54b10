//! The takeover policy of a resource is a fence-peer of our own (DESIGN.md 6): a Primary that lost its
//! peer, and a Secondary that is to be promoted without one, are told whether they may go on alone.
//!
//! | policy | Primary | Secondary |
//! | --- | --- | --- |
//! | favour-primary | goes on | waits for its peer or for `primary --force` |
//! | witness | who is granted it goes on, the other stays frozen | or is not promoted |
//!
//! The engine freezes I/O until it knows, asks again while the answer is no, and treats a yes as "the
//! peer is Outdated": it will not be granted the same before it is in sync again.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use twinblk_proto::state::{ConnectionState, DiskState, Role, State};

use crate::engine::handler::HandlerOutcome;
use crate::witness::Answer;
use crate::witness::client::Witness;

/// Pause before a witness that did not answer is asked again to take a grant back.
const RELEASE_PAUSE: Duration = Duration::from_secs(5);
/// A question of an earlier connection may still be on its way when both are in sync: the grant is
/// looked for a second time, when every question is over (3 s).
const SECOND_LOOK: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Takeover {
    /// What the `handlers` section says.
    #[default]
    Both,
    FavourPrimary,
    Witness(Witness),
}

/// Both have everything: neither needs to go on alone.
pub(super) fn is_in_sync(state: &State) -> bool {
    state.connection == ConnectionState::Connected
        && state.disk == DiskState::UpToDate
        && state.peer_disk == DiskState::UpToDate
}

/// May this node go on? `state` is that of the moment when it lost its peer, or was to be promoted.
pub(super) async fn fence(takeover: Takeover, resource: &str, state: State) -> HandlerOutcome {
    match takeover {
        Takeover::Both => HandlerOutcome::Denied("no takeover policy".to_owned()),
        Takeover::FavourPrimary if state.role == Role::Primary => HandlerOutcome::Exited(4),
        Takeover::FavourPrimary => HandlerOutcome::Denied(
            "takeover favour-primary: the peer is not seen and may be Primary".to_owned(),
        ),
        // Half of the data must not keep the other node from going on with all of it.
        Takeover::Witness(_) if state.disk < DiskState::Consistent => HandlerOutcome::Denied(
            format!("the witness is not asked: the own disk is only {}", state.disk),
        ),
        Takeover::Witness(witness) => match witness.ask().await {
            Ok(Answer::Granted { epoch }) => {
                let address = witness.address;
                tracing::info!(resource, epoch, "witness {address}: this node may go on alone");
                HandlerOutcome::Exited(4)
            }
            Ok(Answer::Held { epoch, holder }) => {
                let address = witness.address;
                tracing::warn!(resource, epoch, "witness {address}: {holder} went on alone");
                HandlerOutcome::Exited(6)
            }
            Ok(other) => HandlerOutcome::Denied(format!("the witness answers {other:?}")),
            Err(error) => HandlerOutcome::Denied(error.to_string()),
        },
    }
}

/// Both are in sync since `turn` began: a grant that this node holds is given back, as long as it stays
/// so.
pub(super) async fn give_back(witness: Witness, resource: String, turns: Rc<Cell<u64>>) {
    let turn = turns.get();
    let holds = || turns.get() == turn;
    let mut looks = 2;
    while holds() && looks > 0 {
        let pause = match witness.release(holds).await {
            Ok(released) => {
                if released {
                    let address = &witness.address;
                    tracing::info!(resource, "witness {address}: the grant is given back");
                }
                looks -= 1;
                SECOND_LOOK
            }
            Err(error) => {
                tracing::warn!(resource, "a grant may not have been given back: {error}");
                RELEASE_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}
