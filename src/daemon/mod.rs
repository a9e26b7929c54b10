//! The process: resources and their threads, NBD listeners, the control socket, signals, logs.
//!
//! ```text
//!   control socket --> Manager --> ResourceHandle --> thread of a resource (driver)
//!   NBD listeners  ------------------^   (negotiated clients)
//! ```
//!
//! The main thread never touches data: it negotiates, translates the configuration and waits.

mod adjust;
mod attachment;
mod front;
mod listeners;
mod manager;
pub mod options;
mod report;
mod translate;

use std::rc::Rc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::control;
use front::Front;
pub use front::{FrontError, end_device};
use manager::{Desk, Manager};
pub use options::DaemonOptions;

/// Set to `off`, a resource's thread sleeps at once instead of looking around first (see
/// DESIGN.md 9): for machines where every microsecond of CPU is somebody else's.
const POLLING_VARIABLE: &str = "TWINBLK_POLLING";

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("{0}")]
    Listen(#[from] control::server::ListenError),
    #[error("{0}")]
    Failover(#[from] FrontError),
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// Runs until a signal or a `shutdown` command; then takes every resource down.
pub fn run(options: DaemonOptions) -> Result<(), DaemonError> {
    start_logging();
    abort_on_panic();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(serve(options)))
}

async fn serve(options: DaemonOptions) -> Result<(), DaemonError> {
    let listener = control::listen(&options.run_dir)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Monitoring scripts send them to keepalived, and a process that ignores them must not die.
    let mut show = [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?];
    let polling = std::env::var(POLLING_VARIABLE).as_deref() != Ok("off");
    tracing::info!(
        node = options.node,
        config = %options.config.display(),
        run_dir = %options.run_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "daemon started"
    );
    let services = front::prepare(&options)?;
    let _guard = services.as_ref().map(|_| front::service_guard(&options)).transpose()?;
    let end_device = front::end_device(&options);
    let manager = Rc::new(Manager::new(options.clone(), polling));
    let ended = manager.clone();
    let ordering = manager.clone();
    let (releasing, released) = watch::channel(false);
    let front = Rc::new(Front::new(
        manager.clone(),
        services.as_ref().map(|(handle, _)| handle.clone()),
        options,
        released,
    ));
    if let Some((_, runner)) = services {
        let resources = Rc::new(Desk(manager.clone()));
        tokio::task::spawn_local(async move {
            if let Err(error) = runner.run(resources, end_device).await {
                tracing::error!("{error}");
            }
            releasing.send_replace(true);
        });
    }
    let answers = async {
        let [first, second] = &mut show;
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    let outcome = front.reload().await;
                    if !outcome.is_done() {
                        tracing::error!(hint = outcome.hint, "SIGHUP: {}", outcome.message);
                    }
                }
                _ = first.recv() => front.log_instances(),
                _ = second.recv() => front.log_instances(),
            }
        }
    };
    let signalled = tokio::select! {
        () = answers => None,
        () = control::serve(listener, front.clone()) => None,
        () = ordering.keep_resync_order() => None,
        () = ended.shut_down_by_command() => None,
        _ = terminate.recv() => Some("SIGTERM"),
        _ = interrupt.recv() => Some("SIGINT"),
    };
    if let Some(name) = signalled {
        tracing::info!("{name}: taking every resource down");
        let going_down = async {
            front.release().await;
            manager.take_all_down().await;
        };
        tokio::select! {
            () = going_down => {}
            _ = terminate.recv() => tracing::warn!("second signal: leaving resources as they are"),
            _ = interrupt.recv() => tracing::warn!("second signal: leaving resources as they are"),
        }
    }
    tracing::info!("daemon ended");
    Ok(())
}

/// To standard error, `info` and above unless `RUST_LOG` says otherwise.
pub(crate) fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Fails when the program around has a log already: then that one is used.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}

/// A task that panicked would leave its resource without a reader or a writer, and nobody would
/// notice. What was violated is unknown: the process ends, and the peer and the metadata know how
/// to go on from a crash.
fn abort_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        let thread = std::thread::current();
        eprintln!("twinblk: thread {} panicked; aborting", thread.name().unwrap_or("?"));
        std::process::abort();
    }));
}
