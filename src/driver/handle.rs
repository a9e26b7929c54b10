//! The daemon's end of a resource: starts its thread and sends it orders.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use super::ResourceSetup;
use super::exports::Exports;
use super::run::Driver;
use super::snapshot::Snapshot;
use crate::buffer::BufferPool;
use crate::engine::effect::Refusal;
use crate::engine::event::Verb;
use crate::link::LinkSettings;
use crate::nbd::Accepted;

/// What the daemon asks of a resource's thread.
#[derive(Debug)]
pub(super) enum Order {
    Perform {
        verb: Verb,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    Snapshot {
        answer: oneshot::Sender<Snapshot>,
    },
    /// For the next connection.
    ChangeLink(Box<LinkSettings>),
    Serve(Box<Accepted>),
    /// Let go of every client.
    DismissClients,
    /// Let go of every client on other hosts, and take no other before the role
    /// was given up or taken again.
    SendProgramsAway,
    /// End the thread as things are.
    Stop,
}

/// The resource's thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the resource went down meanwhile")]
pub struct Gone;

/// A running resource. Dropping this stops it.
#[derive(Debug)]
pub struct ResourceHandle {
    orders: UnboundedSender<Order>,
    /// Closed when the thread has let go of everything.
    alive: watch::Receiver<()>,
}

/// Starts the thread of a resource: no disk, no connection yet. `changes` counts up whenever
/// something worth a look has changed.
pub fn spawn(
    setup: ResourceSetup,
    exports: Exports,
    changes: Arc<watch::Sender<u64>>,
) -> std::io::Result<ResourceHandle> {
    let (orders, received) = unbounded_channel();
    let name = setup.name.clone();
    let own_orders = orders.clone();
    let (end_of_thread, alive) = watch::channel(());
    let _thread = std::thread::Builder::new().name(format!("res-{name}")).spawn(move || {
        // Dropped last: after the disk is unlocked and every socket closed.
        let _end_of_thread = end_of_thread;
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build_local(tokio::runtime::LocalOptions::default())
                .expect("a runtime needs a few file descriptors");
            let pool = BufferPool::default();
            let resource = async move {
                let driver = Driver::new(setup, exports, changes, received, pool);
                driver.offer(own_orders);
                driver.run().await;
            };
            // A task like the sockets': what wakes the root of a runtime, and what wakes a
            // LocalSet, writes to an eventfd each time, two system calls a request.
            runtime.block_on(async {
                tokio::task::spawn_local(resource)
                    .await
                    .expect("the resource's task ends by itself");
            });
        };
        // A resource without its thread would answer nobody and still hold its sockets. Whatever
        // was violated, the state in memory is not to be trusted: the peer and the activity log
        // know how to go on from a crash.
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            eprintln!("twinblk: the thread of resource {name} panicked; aborting");
            std::process::abort();
        }
    })?;
    Ok(ResourceHandle { orders, alive })
}

impl ResourceHandle {
    /// Has the engine carry out a verb; returns its decision, which may take as long as the peer
    /// takes to agree.
    pub async fn perform(&self, verb: Verb) -> Result<Result<(), Refusal>, Gone> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Perform { verb, answer }).map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }

    pub async fn snapshot(&self) -> Result<Snapshot, Gone> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Snapshot { answer }).map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }

    /// Times, limits and secret of connections that begin from now on.
    pub fn change_link(&self, link: LinkSettings) {
        let _ = self.orders.send(Order::ChangeLink(Box::new(link)));
    }

    /// Closes every client, with the answers that are on their way.
    pub fn dismiss_clients(&self) {
        let _ = self.orders.send(Order::DismissClients);
    }

    /// Closes every client on other hosts, and takes no other until the role was
    /// given up or taken again.
    pub fn send_programs_away(&self) {
        let _ = self.orders.send(Order::SendProgramsAway);
    }

    /// Asks the thread to end; what is under way on the disk is completed.
    pub fn stop(&self) {
        let _ = self.orders.send(Order::Stop);
    }

    /// Waits until the thread has ended, disk and sockets free for others.
    pub async fn stopped(&self) {
        let mut alive = self.alive.clone();
        // Nothing is ever sent: this ends with the sender.
        while alive.changed().await.is_ok() {}
    }
}

impl Drop for ResourceHandle {
    fn drop(&mut self) {
        self.stop();
    }
}
