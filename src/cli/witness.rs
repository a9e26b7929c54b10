//! `twinblk witness`: the third vote, in the foreground (docs/failover.md).

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::outcome::exit;
use crate::nbd::allow::{Network, allows};
use crate::witness::{Store, StoreError, server};

#[derive(Debug, thiserror::Error)]
enum WitnessError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    #[error("cannot start: {0}")]
    Start(std::io::Error),
}

fn told(outcome: Result<(), WitnessError>) -> u8 {
    match outcome {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("twinblk witness: {error}");
            exit::OTHER
        }
    }
}

/// Answers until it is asked to end.
pub(super) fn run(listen: SocketAddr, state: &Path, create: bool, allow: Vec<Network>) -> u8 {
    told(serve(listen, state, create, allow))
}

fn serve(
    listen: SocketAddr,
    state: &Path,
    create: bool,
    allow: Vec<Network>,
) -> Result<(), WitnessError> {
    let store = if create { Store::create(state)? } else { Store::open(state)? };
    crate::daemon::start_logging();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(WitnessError::Start)?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut terminate = signal(SignalKind::terminate()).map_err(WitnessError::Start)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(WitnessError::Start)?;
        let bound = TcpListener::bind(listen).await;
        let listener = bound.map_err(|error| WitnessError::Listen(listen, error))?;
        let address = listener.local_addr().map_err(WitnessError::Start)?;
        tracing::info!(%address, state = %state.display(), "witness started");
        let guard: server::Guard = Rc::new(move |peer| allows(&allow, peer.ip()));
        tokio::select! {
            () = server::serve(listener, store, guard) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

/// What is remembered. A witness that runs has it locked: its log tells.
pub(super) fn show(state: &Path, json: bool) -> u8 {
    told(Store::open(state).and_then(|store| store.list()).map_err(Into::into).map(|known| {
        for (pair, epoch, holder) in known {
            if json {
                let line = serde_json::json!({ "pair": pair, "epoch": epoch, "holder": holder });
                println!("{line}");
            } else {
                let holder =
                    holder.map_or_else(|| "nobody".to_owned(), |node| format!("{node} alone"));
                println!("{pair}: {holder} (grant {epoch})");
            }
        }
    }))
}
