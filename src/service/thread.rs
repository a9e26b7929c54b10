//! System calls that may wait for a disk that does not answer, with a limit.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// A thread for each call, rather than one of the runtime: one that hangs must not keep the process
/// from ending. `None`: not within the limit.
pub(super) async fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("file-system".to_owned())
        .spawn(move || {
            let _ = sender.send(work());
        })
        .ok()?;
    timeout(limit, receiver).await.ok()?.ok()
}
