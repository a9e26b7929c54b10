//! Letters to an SMTP server, one after the other, without encryption and without a second try, as
//! keepalived sends them. Whoever waits for a mail server waits here.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::letter::{self, Envelope, Letter};

/// Letters that wait while one is being sent. With a dead server and 30 s for each, more would be
/// news of half an hour ago.
const WAITING_MAX: usize = 64;
/// RFC 5321 4.5.3.1.5 allows 512.
const REPLY_BYTES_MAX: u64 = 2048;
const REPLY_LINES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailSettings {
    pub host: String,
    pub port: u16,
    /// `smtp_helo_name`, or the name of this host.
    pub hello: String,
    /// `smtp_connect_timeout`; each answer has as long.
    pub limit: Duration,
    pub from: String,
    /// `a@b` or `Name <a@b>`.
    pub to: Vec<String>,
    /// `router_id`, before each subject.
    pub router: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailStatus {
    pub sent: u64,
    pub failed: u64,
    /// Because too many waited.
    pub dropped: u64,
    pub last_error: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum MailError {
    #[error("it does not answer within {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it answers {1:?} to {0}")]
    Refused(&'static str, String),
    #[error("no address in {0:?}")]
    Address(String),
}

#[derive(Debug)]
pub struct Mailer {
    letters: mpsc::Sender<Letter>,
    status: Arc<Mutex<MailStatus>>,
    task: Task,
}

/// Dropped, it ends.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn held(status: &Mutex<MailStatus>) -> MutexGuard<'_, MailStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailer {
    /// Needs a tokio runtime.
    pub fn start(settings: MailSettings) -> Self {
        let (letters, inbox) = mpsc::channel(WAITING_MAX);
        let status = Arc::new(Mutex::new(MailStatus::default()));
        let task = Task(tokio::spawn(work(settings, inbox, Arc::clone(&status))));
        Self { letters, status, task }
    }

    /// Never waits.
    pub fn send(&self, letter: Letter) {
        if let Err(error) = self.letters.try_send(letter) {
            let mut status = held(&self.status);
            status.dropped += 1;
            let subject = &error.into_inner().subject;
            tracing::warn!("mail not sent, {WAITING_MAX} others wait for the server: {subject}");
        }
    }

    pub fn status(&self) -> MailStatus {
        held(&self.status).clone()
    }

    /// Sends what waits.
    pub async fn finish(self) {
        let Self { letters, mut task, .. } = self;
        drop(letters);
        let _ = (&mut task.0).await;
    }
}

async fn work(
    settings: MailSettings,
    mut inbox: mpsc::Receiver<Letter>,
    status: Arc<Mutex<MailStatus>>,
) {
    while let Some(letter) = inbox.recv().await {
        let sent = deliver(&settings, &letter).await;
        let mut status = held(&status);
        match sent {
            Ok(()) => {
                status.sent += 1;
                tracing::info!("mail sent: {}", letter.subject);
            }
            Err(error) => {
                status.failed += 1;
                let (host, port) = (&settings.host, settings.port);
                tracing::warn!(
                    "mail not sent by smtp_server {host} {port}: {error}: {}",
                    letter.subject
                );
                status.last_error = Some(error.to_string());
            }
        }
    }
}

async fn deliver(settings: &MailSettings, letter: &Letter) -> Result<(), MailError> {
    let address = |written: &str| {
        let address = letter::address(written).map(str::to_owned);
        address.ok_or_else(|| MailError::Address(written.to_owned()))
    };
    let from = address(&settings.from)?;
    let to: Vec<_> = settings.to.iter().map(|to| address(to)).collect::<Result<_, _>>()?;
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let envelope = Envelope {
        router: &settings.router,
        from: &settings.from,
        to: &settings.to,
        time_s: since_1970.unwrap_or_default().as_secs(),
    };
    let mut server = Server::connect(settings).await?;
    server.expect("the connection", 220).await?;
    server.say("HELO", &format!("HELO {}\r\n", settings.hello), 250).await?;
    server.say("MAIL", &format!("MAIL FROM:<{from}>\r\n"), 250).await?;
    let (mut accepted, mut refused) = (0, None);
    for to in to {
        match server.say("RCPT", &format!("RCPT TO:<{to}>\r\n"), 250).await {
            Ok(()) => accepted += 1,
            // The others want to know all the same.
            Err(error @ MailError::Refused(..)) => {
                tracing::warn!("smtp_server {}: no mail to {to}: {error}", settings.host);
                refused = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    if let (0, Some(error)) = (accepted, refused) {
        return Err(error);
    }
    server.say("DATA", "DATA\r\n", 354).await?;
    server.say("the letter", &format!("{}.\r\n", letter.text(&envelope)), 250).await?;
    // It has the letter; whether it says farewell is its own matter.
    let _ = server.say("QUIT", "QUIT\r\n", 221).await;
    Ok(())
}

struct Server {
    stream: BufReader<TcpStream>,
    limit: Duration,
}

impl Server {
    async fn connect(settings: &MailSettings) -> Result<Self, MailError> {
        let (place, limit) = ((settings.host.as_str(), settings.port), settings.limit);
        let stream = in_time(limit, TcpStream::connect(place)).await?;
        Ok(Self { stream: BufReader::new(stream), limit })
    }

    async fn say(
        &mut self,
        what: &'static str,
        text: &str,
        expected: u16,
    ) -> Result<(), MailError> {
        in_time(self.limit, self.stream.get_mut().write_all(text.as_bytes())).await?;
        self.expect(what, expected).await
    }

    /// The last of the lines of an answer has a blank after its number.
    async fn expect(&mut self, what: &'static str, expected: u16) -> Result<(), MailError> {
        let mut line = Vec::new();
        for _ in 0..REPLY_LINES_MAX {
            line.clear();
            let mut bounded = (&mut self.stream).take(REPLY_BYTES_MAX);
            in_time(self.limit, bounded.read_until(b'\n', &mut line)).await?;
            if line.get(3) != Some(&b'-') {
                break;
            }
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.get(..3).and_then(|code| code.parse().ok()) == Some(expected) {
            return Ok(());
        }
        Err(MailError::Refused(what, text))
    }
}

async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, MailError> {
    match timeout(limit, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(MailError::Silent(limit)),
    }
}
