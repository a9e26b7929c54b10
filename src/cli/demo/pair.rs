//! Two daemons of this program on loopback, with file-backed disks in a temporary folder.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::ledger::BLOCK_BYTES;
use super::screen::Screen;
use crate::control::{Client, ClientError, Command, ResourceStatus};

pub(super) const RESOURCE: &str = "demo";

/// Longest start of a daemon, and longest stop.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks for a socket that is about to appear.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// One of the two.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: &'static str,
    pub(super) nbd: SocketAddr,
    config: PathBuf,
    run_dir: PathBuf,
    disk: PathBuf,
    log: PathBuf,
    daemon: Option<Child>,
}

/// Both, and their folder; everything ends with it unless it is kept.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) alpha: Node,
    pub(super) beta: Node,
    folder: PathBuf,
    keep: bool,
}

impl Pair {
    /// The folder, the configuration, two disks with metadata; no daemon yet.
    pub(super) fn prepare(disk_bytes: u64) -> Result<Self> {
        let folder = fresh_folder()?;
        let config = folder.join("drbd.conf");
        let ports = free_ports()?;
        let node = |name: &'static str, port: u16| Node {
            name,
            nbd: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            config: config.clone(),
            run_dir: folder.join(name),
            disk: folder.join(format!("{name}.img")),
            log: folder.join(format!("{name}.log")),
            daemon: None,
        };
        let (alpha, beta) = (node("alpha", ports[2]), node("beta", ports[3]));
        let pair = Self { alpha, beta, folder: folder.clone(), keep: false };
        let host = |node: &Node, port: u16| {
            format!(
                "    on {} {{\n        disk {};\n        address 127.0.0.1:{port};\n        \
                 nbd {{ listen {}; attach no; }}\n    }}\n",
                node.name,
                node.disk.display(),
                node.nbd
            )
        };
        let text = format!(
            "resource {RESOURCE} {{\n    device /dev/drbd0;\n    meta-disk internal;\n    net {{\n        \
             protocol C;\n        connect-int 2;\n        ping-int 2;\n        timeout 15;\n    }}\n{}{}}}\n",
            host(&pair.alpha, ports[0]),
            host(&pair.beta, ports[1])
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        for node in [&pair.alpha, &pair.beta] {
            let file = File::create(&node.disk).context("creating a backing file")?;
            file.set_len(disk_bytes).context("sizing a backing file")?;
            node.run_verb(&["create-md", "--force", RESOURCE])?;
        }
        Ok(pair)
    }

    /// Blocks of the data area in which the two files differ. Nothing is being written.
    pub(super) fn differing_blocks(&self, size_bytes: u64) -> Result<u64> {
        let open = |node: &Node| File::open(&node.disk).context("opening a backing file");
        let (first, second) = (open(&self.alpha)?, open(&self.beta)?);
        let mut differing = 0;
        let piece_bytes = 1 << 20;
        let (mut a, mut b) = (vec![0; piece_bytes], vec![0; piece_bytes]);
        let mut at = 0;
        while at < size_bytes {
            let length = (size_bytes - at).min(piece_bytes as u64) as usize;
            first.read_exact_at(&mut a[..length], at)?;
            second.read_exact_at(&mut b[..length], at)?;
            let block = BLOCK_BYTES as usize;
            let pairs = a[..length].chunks(block).zip(b[..length].chunks(block));
            differing += pairs.filter(|(one, other)| one != other).count() as u64;
            at += length as u64;
        }
        Ok(differing)
    }

    /// Says how to play with the pair, and lets it live on.
    pub(super) fn leave_running(&mut self, screen: &mut Screen) {
        self.keep = true;
        let program = program().display().to_string();
        screen.line(&format!("the pair goes on running; its folder is {}", self.folder.display()));
        for node in [&self.beta, &self.alpha] {
            let command = format!(
                "{program} -c {} --run-dir {} --node {}",
                node.config.display(),
                node.run_dir.display(),
                node.name
            );
            screen.line(&format!("  {}: nbd://{}/{RESOURCE}", node.name, node.nbd));
            screen.line(&format!("    {command} status {RESOURCE}"));
            screen.line(&format!("    {command} shutdown"));
        }
        for node in [&mut self.alpha, &mut self.beta] {
            node.daemon = None;
        }
    }

    /// After a failure: the logs stay for a look, the daemons do not.
    pub(super) fn keep_folder(&mut self, screen: &mut Screen) {
        self.keep = true;
        screen.line(&format!("logs and disks are kept in {}", self.folder.display()));
    }

    pub(super) fn shut_down(&mut self) -> Result<()> {
        for node in [&mut self.beta, &mut self.alpha] {
            node.perform(Command::Shutdown)?;
            if let Some(mut daemon) = node.daemon.take() {
                daemon.wait()?;
            }
        }
        Ok(())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for node in [&mut self.alpha, &mut self.beta] {
            if let Some(mut daemon) = node.daemon.take() {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
        }
        if !self.keep {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

impl Node {
    fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(program());
        command.arg("-c").arg(&self.config).arg("--run-dir").arg(&self.run_dir);
        command.args(["--node", self.name]).stdin(Stdio::null());
        command
    }

    fn run_verb(&self, arguments: &[&str]) -> Result<()> {
        let output = self.command().args(arguments).output().context("running a verb")?;
        if !output.status.success() {
            bail!(
                "{} on {}: {}",
                arguments.join(" "),
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Starts the daemon and waits until it answers.
    pub(super) fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.command();
        command.arg("daemon").stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(command.spawn().context("starting a daemon")?);
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match Client::connect(&self.run_dir) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    bail!("the daemon of {} does not answer: {error}", self.name)
                }
                Err(_) => pause(),
            }
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten());
            if let Some(status) = ended {
                bail!("the daemon of {} ended: {status}; see {}", self.name, self.log.display());
            }
        }
    }

    /// SIGKILL, while `meanwhile` goes on until it notices.
    pub(super) fn kill(&mut self, meanwhile: impl FnOnce() -> Result<()>) -> Result<Instant> {
        let Some(mut daemon) = self.daemon.take() else { bail!("{} does not run", self.name) };
        daemon.kill().context("killing the primary")?;
        let at = Instant::now();
        meanwhile()?;
        daemon.wait()?;
        Ok(at)
    }

    pub(super) fn control(&self) -> Result<Client, ClientError> {
        Client::connect(&self.run_dir)
    }

    pub(super) fn perform(&self, command: Command) -> Result<()> {
        let what = format!("{command:?}");
        let resource = (command != Command::Shutdown).then_some(RESOURCE);
        let outcome = self.control()?.perform(resource, command, None)?;
        if !outcome.is_done() {
            bail!("{what} on {}: {} {}", self.name, outcome.message, outcome.detail);
        }
        Ok(())
    }

    pub(super) fn status(&self) -> Result<ResourceStatus> {
        match self.control()?.status(Some(RESOURCE))? {
            Ok(mut resources) => resources.pop().context("no status"),
            Err(outcome) => bail!("status of {}: {}", self.name, outcome.message),
        }
    }
}

fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| Path::new("twinblk").to_owned())
}

#[allow(clippy::disallowed_methods, reason = "a socket of another process can only be polled for")]
fn pause() {
    std::thread::sleep(LOOK_PAUSE);
}

fn fresh_folder() -> Result<PathBuf> {
    let base = std::env::temp_dir();
    for attempt in 0..100 {
        let folder = base.join(format!("twinblk-demo-{}-{attempt}", std::process::id()));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context("creating a temporary folder"),
        }
    }
    bail!("no free name for a temporary folder in {}", base.display())
}

/// Four ports that nobody listens on right now.
fn free_ports() -> Result<[u16; 4]> {
    let listeners = [(); 4].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [0; 4];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}
