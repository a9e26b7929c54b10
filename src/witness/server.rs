//! `twinblk witness`: answers one line after the other, each decision on disk before it is told.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

use super::message::{Answer, LINE_BYTES_MAX, Request};
use super::store::Store;

/// Two nodes of so many pairs ask at once at the very most; the next one waits.
const CONNECTIONS_MAX: usize = 128;
/// A node says what it wants at once, and is gone after a line or two.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);
const LINES_MAX: usize = 8;

/// Whether a host may ask.
pub type Guard = Rc<dyn Fn(SocketAddr) -> bool>;

/// Serves until it is dropped. Needs a `LocalSet`.
pub async fn serve(listener: TcpListener, store: Store, guard: Guard) {
    let store = Rc::new(Mutex::new(store));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) if guard(peer) => {
                let store = Rc::clone(&store);
                tokio::task::spawn_local(async move {
                    let _place = place;
                    converse(stream, peer, &store).await;
                });
            }
            Ok((_, peer)) => tracing::warn!(%peer, "not allowed to ask"),
            Err(error) => {
                // Out of files, mostly: those that are open end by themselves.
                tracing::warn!("cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, store: &Mutex<Store>) {
    let mut stream = BufReader::new(stream);
    for _ in 0..LINES_MAX {
        let mut line = String::new();
        let mut bounded = (&mut stream).take(LINE_BYTES_MAX as u64);
        match timeout(SILENCE_LIMIT, bounded.read_line(&mut line)).await {
            Ok(Ok(1..)) if line.ends_with('\n') => {}
            _ => return,
        }
        let answer = match serde_json::from_str::<Request>(&line) {
            Ok(request) => {
                let answer = store.lock().await.answer(&request);
                let answer =
                    answer.unwrap_or_else(|error| Answer::Failed { why: error.to_string() });
                match &answer {
                    Answer::Failed { why } => tracing::error!(%peer, ?request, "{why}"),
                    answer => tracing::info!(%peer, ?request, ?answer, "asked"),
                }
                answer
            }
            Err(error) => Answer::Failed { why: format!("not understood: {error}") },
        };
        let mut text = serde_json::to_string(&answer).expect("numbers and names");
        text.push('\n');
        if !matches!(timeout(SILENCE_LIMIT, stream.write_all(text.as_bytes())).await, Ok(Ok(()))) {
            return;
        }
    }
}
