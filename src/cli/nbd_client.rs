//! `twinblk nbd-connect` and `nbd-disconnect`: an export of another host as a block device of this one
//! (docs/nbd-clients.md).

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{configure_io_flusher_behavior, setsid};

use super::Context;
use crate::control::outcome::exit;
use crate::nbd::remote::{self, DeviceError, Limits, Target};

/// How long a server is looked for at the beginning, unless `--timeout` says otherwise.
const FIRST_LIMIT: Duration = Duration::from_secs(10);
/// What a process in the background says when the device is there.
const READY: &str = "ready";
/// Tells a process that it is the one in the background.
const BACKGROUND: &str = "--in-background";

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConnectOptions {
    /// nbd://HOST[:PORT]/EXPORT; the host is looked up anew for each connection
    #[arg(value_name = "URI")]
    pub target: Target,
    /// The block device that it becomes
    #[arg(value_name = "/dev/nbdN", value_parser = device)]
    pub device: u32,
    /// Connections to the server, if it allows more than one
    #[arg(long, value_name = "N", default_value = "2",
          value_parser = clap::value_parser!(u8).range(1..=8))]
    pub connections: u8,
    /// Requests fail after this time without a server
    #[arg(long, value_name = "SECONDS", default_value = "600",
          value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub dead_timeout: u64,
    /// A server that is silent for so long is given up
    #[arg(long, value_name = "SECONDS", default_value = "0.7", value_parser = silence)]
    pub silence: Duration,
    /// Do not go to the background
    #[arg(long)]
    pub foreground: bool,
    #[arg(long, hide = true)]
    pub in_background: bool,
}

pub(super) fn device(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("/dev/nbd").and_then(|number| number.parse().ok());
    number.ok_or_else(|| "it has to be /dev/nbd0, /dev/nbd1, ...".to_owned())
}

fn silence(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match (0.1..=60.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("from 0.1 to 60 seconds".to_owned()),
    }
}

pub(super) fn connect(context: &Context, options: &ConnectOptions) -> u8 {
    if !options.foreground && !options.in_background {
        return go_to_background(&context.run_dir, options);
    }
    if options.in_background {
        // Whoever closes the terminal does not mean the device.
        let _ = setsid();
    }
    crate::daemon::start_logging();
    match serve(context, options) {
        Ok(()) => exit::OK,
        Err(error) => {
            let text = sentence("nbd-connect", &error);
            match options.in_background {
                true => println!("{text}"),
                false => eprintln!("{text}"),
            }
            exit::OTHER
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

fn sentence(verb: &str, error: &ConnectError) -> String {
    match error {
        ConnectError::Device(device) => {
            format!("twinblk {verb}: {device}\n  try: {}", device.hint())
        }
        ConnectError::Start(_) => format!("twinblk {verb}: {error}"),
    }
}

fn serve(context: &Context, options: &ConnectOptions) -> Result<(), ConnectError> {
    // File systems of this machine wait for this process: memory that it asks for must not be made
    // free by writing to them (nbd.md 3.5). Without the privilege it works until memory is short.
    if let Err(error) = configure_io_flusher_behavior(true) {
        tracing::info!(%error, "not marked as a flusher");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let held = remote::hold(
            options.target.clone(),
            options.device,
            usize::from(options.connections),
            Limits { silence: options.silence, dead: Duration::from_secs(options.dead_timeout) },
            context.timeout.unwrap_or(FIRST_LIMIT),
        )
        .await?;
        tracing::info!(device = options.device, target = %options.target, "connected");
        if options.in_background {
            println!("{READY}");
        }
        held.serve().await?;
        tracing::info!(device = options.device, "the device was ended");
        Ok(())
    })
}

fn go_to_background(run_dir: &Path, options: &ConnectOptions) -> u8 {
    let log = run_dir.join(format!("nbd{}.log", options.device));
    match in_background(&log) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("twinblk nbd-connect: cannot go to the background: {error}");
            eprintln!("  try: --foreground");
            exit::OTHER
        }
    }
}

fn in_background(log: &Path) -> std::io::Result<u8> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    let log = File::options().create(true).append(true).open(log)?;
    let program = PathBuf::from("/proc/self/exe");
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).arg(BACKGROUND);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn()?;
    let mut said = BufReader::new(child.stdout.take().expect("piped"));
    let mut first = String::new();
    said.read_line(&mut first)?;
    if first.trim_end() == READY {
        return Ok(exit::OK);
    }
    said.read_to_string(&mut first)?;
    eprint!("{first}");
    let code = child.wait()?.code();
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::OTHER))
}

pub(super) fn disconnect(index: u32, force: bool) -> u8 {
    match remote::release(index, force) {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("{}", sentence("nbd-disconnect", &error.into()));
            exit::OTHER
        }
    }
}
