//! The peer: at most one attempt to connect and at most one session.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use twinblk_proto::packet::Packet;

use crate::buffer::{BufferPool, Payload};
use crate::engine::effect::CloseManner;
use crate::engine::event::SessionId;
use crate::link::{
    Established, HandshakeFailure, LinkEvent, LinkSettings, Session, SystemRandom, establish,
};

/// Data that may wait for the data socket before clients are left unread. Twice the largest NBD
/// request (32 MiB): one can always be taken whole, and protocol A keeps a bound on what an
/// answered write may still be waiting for.
const SEND_QUEUE_BYTES_MAX: usize = 64 << 20;

/// What the network brought.
#[derive(Debug)]
pub(super) enum PeerNews {
    Established { session: SessionId, version: u32, features: u32, resolve: bool },
    HandshakeFailed(HandshakeFailure),
    Link { session: SessionId, event: LinkEvent },
}

type Attempt = Pin<Box<dyn Future<Output = Result<Established, HandshakeFailure>>>>;

/// An attempt under way. Its future is shared with the task that runs it, so that dropping this
/// closes the listening socket at once and not when the task runs next: the next attempt binds the
/// same address.
struct Connecting {
    attempt: Rc<RefCell<Option<Attempt>>>,
    task: tokio::task::AbortHandle,
    result: UnboundedReceiver<Result<Established, HandshakeFailure>>,
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.task.abort();
        self.attempt.borrow_mut().take();
    }
}

struct Current {
    id: SessionId,
    session: Session,
    events: UnboundedReceiver<LinkEvent>,
}

pub(super) struct Peer {
    settings: LinkSettings,
    pool: BufferPool,
    sessions: u64,
    connecting: Option<Connecting>,
    current: Option<Current>,
}

impl Peer {
    pub(super) fn new(settings: LinkSettings, pool: BufferPool) -> Self {
        Self { settings, pool, sessions: 0, connecting: None, current: None }
    }

    /// For the connections that begin from now on.
    pub(super) fn change_settings(&mut self, settings: LinkSettings) {
        self.settings = settings;
    }

    /// Needs a `LocalSet`.
    pub(super) fn start_connecting(&mut self, after: Duration) {
        self.connecting = None;
        let settings = self.settings.clone();
        let attempt: Attempt = Box::pin(async move {
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            establish(&settings, &mut SystemRandom::default()).await
        });
        let attempt = Rc::new(RefCell::new(Some(attempt)));
        let (sender, result) = unbounded_channel();
        let task = tokio::task::spawn_local(drive(attempt.clone(), sender)).abort_handle();
        self.connecting = Some(Connecting { attempt, task, result });
    }

    pub(super) fn stop_connecting(&mut self) {
        self.connecting = None;
    }

    /// Takes the next piece of news, without waiting.
    pub(super) fn poll_news(&mut self) -> Option<PeerNews> {
        if let Some(connecting) = &mut self.connecting
            && let Ok(result) = connecting.result.try_recv()
        {
            return Some(self.concluded(result));
        }
        let current = self.current.as_mut()?;
        let event = current.events.try_recv().ok()?;
        Some(self.heard(event))
    }

    /// Waits for the next piece of news. May be dropped at any time without losing one.
    pub(super) async fn news(&mut self) -> PeerNews {
        enum Heard {
            Result(Result<Established, HandshakeFailure>),
            Event(LinkEvent),
        }
        let heard = {
            let (connecting, current) = (&mut self.connecting, &mut self.current);
            let result = async {
                match connecting {
                    Some(connecting) => match connecting.result.recv().await {
                        Some(result) => result,
                        None => std::future::pending().await,
                    },
                    None => std::future::pending().await,
                }
            };
            let event = async {
                match current {
                    Some(current) => match current.events.recv().await {
                        Some(event) => event,
                        None => std::future::pending().await,
                    },
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                result = result => Heard::Result(result),
                event = event => Heard::Event(event),
            }
        };
        match heard {
            Heard::Result(result) => self.concluded(result),
            Heard::Event(event) => self.heard(event),
        }
    }

    fn concluded(&mut self, result: Result<Established, HandshakeFailure>) -> PeerNews {
        self.connecting = None;
        let established = match result {
            Ok(established) => established,
            Err(failure) => return PeerNews::HandshakeFailed(failure),
        };
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let news = PeerNews::Established {
            session,
            version: established.version,
            features: established.features,
            resolve: established.resolve,
        };
        let (sender, events) = unbounded_channel();
        let started = Session::start(established, &self.settings, self.pool.clone(), sender);
        self.current = Some(Current { id: session, session: started, events });
        news
    }

    /// A lost session is gone before the engine hears of it: whatever it still sends there is
    /// dropped.
    fn heard(&mut self, event: LinkEvent) -> PeerNews {
        let session = self.current.as_ref().expect("events come from a session").id;
        if matches!(event, LinkEvent::Lost(_)) {
            self.current = None;
        }
        PeerNews::Link { session, event }
    }

    /// The session, unless it is another one by now.
    pub(super) fn session(&self, id: SessionId) -> Option<&Session> {
        self.current.as_ref().filter(|current| current.id == id).map(|current| &current.session)
    }

    pub(super) fn send_data(&self, id: SessionId, packet: &Packet, payload: Option<Payload>) {
        if let Some(session) = self.session(id) {
            session.send_data(packet, payload);
        }
    }

    pub(super) fn send_meta(&self, id: SessionId, packet: &Packet) {
        if let Some(session) = self.session(id) {
            session.send_meta(packet);
        }
    }

    pub(super) fn close(&mut self, id: SessionId, manner: CloseManner) {
        if self.current.as_ref().is_some_and(|current| current.id == id) {
            let current = self.current.take().expect("checked above");
            // The rest of the conversation goes on by itself; nobody waits for it.
            let _ = current.session.close(manner);
        }
    }

    pub(super) fn flush(&self) {
        if let Some(current) = &self.current {
            current.session.flush();
        }
    }

    /// Whether clients are to be left unread until the peer has taken what is queued.
    pub(super) fn is_congested(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.session.queued_bytes() > SEND_QUEUE_BYTES_MAX)
    }
}

/// Runs an attempt until it ends or is taken away.
async fn drive(
    attempt: Rc<RefCell<Option<Attempt>>>,
    result: UnboundedSender<Result<Established, HandshakeFailure>>,
) {
    let outcome = std::future::poll_fn(|context| {
        let mut slot = attempt.borrow_mut();
        let Some(future) = slot.as_mut() else { return Poll::Ready(None) };
        let outcome = std::task::ready!(future.as_mut().poll(context));
        *slot = None;
        Poll::Ready(Some(outcome))
    })
    .await;
    if let Some(outcome) = outcome {
        // Nobody listens any more when the attempt was stopped in this very moment.
        let _ = result.send(outcome);
    }
}
