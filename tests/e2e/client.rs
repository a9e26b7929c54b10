//! A client that writes rows to the virtual address without pause and remembers each that was
//! acknowledged, when, and by which node.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::host::{Host, wait_until};
use super::lab::{Node, VIRTUAL};
use super::server;
use super::service::Service;

/// A request that takes longer is given up; its row counts as not acknowledged.
const REQUEST_LIMIT: Duration = Duration::from_millis(700);
/// With the connection.
const SQL_LIMIT: Duration = Duration::from_secs(3);
/// Between rows, and before a new connection.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub row: u64,
    pub node: String,
    pub at: Instant,
}

#[derive(Default)]
struct Record {
    acknowledged: Mutex<Vec<Acknowledged>>,
    is_over: AtomicBool,
}

pub struct Client {
    record: Arc<Record>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    pub fn start(host: &Host, service: Service) -> Self {
        let namespace = format!("/proc/{}/ns/net", host.first_process());
        let namespace = File::open(namespace).expect("a namespace");
        let record = Arc::new(Record::default());
        let shared = record.clone();
        let thread = std::thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).expect("in the namespace");
            write_rows(service, &shared);
        });
        Self { record, thread: Some(thread) }
    }

    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.record.acknowledged.lock().expect("the client lives").clone()
    }

    /// Until this node acknowledges rows again, from now on; how long it took since `since`.
    pub fn wait_for(&self, node: &str, since: Instant, limit: Duration) -> Duration {
        let is_it = |last: &Acknowledged| last.node == node && last.at >= since;
        wait_until(&format!("rows are acknowledged by {node}"), limit, || {
            self.record.acknowledged.lock().expect("the client lives").last().is_some_and(is_it)
        });
        let all = self.acknowledged();
        let first = all.iter().find(|row| is_it(row)).expect("just seen");
        first.at.duration_since(since)
    }

    /// So many more rows, so that something is at stake.
    pub fn wait_for_rows(&self, count: usize, limit: Duration) {
        let before = self.acknowledged().len();
        wait_until("more rows", limit, || self.acknowledged().len() >= before + count);
    }

    /// The longest time without an acknowledgement, from `since` to the last row.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let all = self.acknowledged();
        let times: Vec<Instant> = all.iter().map(|row| row.at).collect();
        let gaps = times.windows(2).filter(|pair| pair[1] >= since);
        gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Ends the client. Every row that it was told is safe must be on the device of that node.
    pub fn finish(mut self, node: &Node) -> Vec<Acknowledged> {
        self.stop();
        let found = node.rows();
        let found: BTreeSet<u64> =
            found.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let all = self.acknowledged();
        let lost: Vec<&Acknowledged> = all.iter().filter(|row| !found.contains(&row.row)).collect();
        assert!(lost.is_empty(), "{} of {} rows are lost: {lost:?}", lost.len(), all.len());
        all
    }

    fn stop(&mut self) {
        self.record.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One connection to the service.
trait Conversation {
    /// Writes a row. Returns the node that says that it is safe.
    fn write(&mut self, row: u64) -> io::Result<String>;
}

fn write_rows(service: Service, record: &Record) {
    let mut row = 0;
    while !record.is_over.load(Ordering::Relaxed) {
        let _ = match service {
            Service::Nginx => {
                Counting::new().and_then(|mut server| converse(&mut server, record, &mut row))
            }
            Service::MariaDb => {
                Sql::new().and_then(|mut server| converse(&mut server, record, &mut row))
            }
        };
        std::thread::sleep(PAUSE);
    }
}

/// Until the first error.
fn converse(server: &mut impl Conversation, record: &Record, row: &mut u64) -> io::Result<()> {
    while !record.is_over.load(Ordering::Relaxed) {
        // Never a number twice: an answer that was lost says nothing.
        *row += 1;
        let node = server.write(*row)?;
        let acknowledged = Acknowledged { row: *row, node, at: Instant::now() };
        record.acknowledged.lock().expect("the test lives").push(acknowledged);
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// [`super::server`]
struct Counting {
    reader: BufReader<TcpStream>,
}

impl Counting {
    fn new() -> io::Result<Self> {
        let server = SocketAddr::new(VIRTUAL.parse().expect("an address"), server::PORT);
        let stream = TcpStream::connect_timeout(&server, REQUEST_LIMIT)?;
        stream.set_read_timeout(Some(REQUEST_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream) })
    }
}

impl Conversation for Counting {
    fn write(&mut self, row: u64) -> io::Result<String> {
        writeln!(self.reader.get_mut(), "row {row}")?;
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["ok", number, node] if number.parse() == Ok(row) => Ok(node.to_owned()),
            _ => Err(io::Error::other(line)),
        }
    }
}

/// The stock client, which ends at the first error.
struct Sql {
    client: Child,
    answers: Receiver<String>,
}

impl Sql {
    fn new() -> io::Result<Self> {
        let options = ["--user=root", "--connect-timeout=1", "--batch", "--skip-column-names"];
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--unbuffered", "--host", VIRTUAL]).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut client = command.spawn()?;
        let stdout = client.stdout.take().expect("piped");
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let _ = lines.map(|line| sender.send(line)).find(Result::is_err);
        });
        Ok(Self { client, answers })
    }
}

impl Conversation for Sql {
    fn write(&mut self, row: u64) -> io::Result<String> {
        let stdin = self.client.stdin.as_mut().expect("piped");
        writeln!(stdin, "insert into lab.rows values ({row}); select {row}, @@hostname;")?;
        stdin.flush()?;
        let answer = self.answers.recv_timeout(SQL_LIMIT).map_err(io::Error::other)?;
        match answer.split_whitespace().collect::<Vec<_>>()[..] {
            [number, node] if number.parse() == Ok(row) => Ok(node.to_owned()),
            _ => Err(io::Error::other(answer)),
        }
    }
}

impl Drop for Sql {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}
