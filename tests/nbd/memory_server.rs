//! The production front end over exports in memory: listener on one thread, the "resource" with
//! its clients on another, as in the daemon.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use twinblk::buffer::BufferPool;
use twinblk::nbd::{
    Accepted, Client, ClientEvent, ClientId, Context, Directory, Errno, ExportInfo, Extent,
    Handover, Listener, ListenerLimits, Reply, Request, UnixOptions, wire,
};

use crate::suite::Export;

const BLOCK_BYTES: usize = 4096;
/// Events handled between two rounds of replies.
const EVENTS_PER_TURN: usize = 256;

const EXPORT: &str = "r0";
const ELSEWHERE: &str = "r1";

enum Control {
    Client(Box<Accepted>),
    /// Answered when every client was told.
    Demote(mpsc::Sender<()>),
    Stop,
}

pub struct MemoryServer {
    folder: TempDir,
    tcp_uri: String,
    control: UnboundedSender<Control>,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl MemoryServer {
    pub fn start(size_bytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (control, orders) = unbounded_channel();
        let resource = std::thread::spawn(move || serve_memory(size_bytes, orders));

        let (stop, stopped) = oneshot::channel();
        let (bound, address) = mpsc::channel();
        let path = folder.path().join("nbd");
        let handover = Arc::new(ToResource(control.clone()));
        let listening = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("runtime").block_on(async {
                let unix = Listener::unix(&UnixOptions { path, mode: 0o600 }).expect("bound");
                let any = "127.0.0.1:0".parse().expect("an address");
                let tcp = Listener::tcp(any, Vec::new()).expect("bound");
                bound.send(tcp.uri()).expect("the test waits");
                let directory = Arc::new(Exports { size_bytes });
                for listener in [unix, tcp] {
                    let limits = ListenerLimits::default();
                    tokio::spawn(listener.serve(directory.clone(), handover.clone(), limits));
                }
                let _ = stopped.await;
            });
        });
        let tcp_uri = address.recv().expect("listening");
        Self { folder, tcp_uri, control, stop: Some(stop), threads: vec![listening, resource] }
    }

    pub fn export_on_unix(&self) -> Export {
        self.describe(self.unix_uri(EXPORT))
    }

    pub fn elsewhere_on_unix(&self) -> Export {
        self.describe(self.unix_uri(ELSEWHERE))
    }

    pub fn export_on_tcp(&self) -> Export {
        self.describe(format!("{}/{EXPORT}", self.tcp_uri))
    }

    /// Closes every client as a primary that becomes Secondary does.
    pub fn demote(&self) {
        let (done, demoted) = mpsc::channel();
        self.control.send(Control::Demote(done)).expect("the resource lives");
        demoted.recv().expect("demoted");
    }

    fn unix_uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}/nbd", self.folder.path().display())
    }

    fn describe(&self, uri: String) -> Export {
        Export { uri, writable_bytes: crate::SIZE_BYTES }
    }
}

impl Drop for MemoryServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.control.send(Control::Stop);
        for thread in self.threads.drain(..) {
            let outcome = thread.join();
            if !std::thread::panicking() {
                outcome.expect("no client can make the server panic");
            }
        }
    }
}

struct Exports {
    size_bytes: u64,
}

impl Directory for Exports {
    fn list(&self) -> Vec<ExportInfo> {
        let mut served = ExportInfo::new(EXPORT, self.size_bytes);
        served.description = "in memory".to_owned();
        let mut elsewhere = ExportInfo::new(ELSEWHERE, self.size_bytes);
        elsewhere.serving = Err("Secondary; primary is at 192.0.2.1:10809".to_owned());
        vec![served, elsewhere]
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        self.list().into_iter().find(|export| export.name == name)
    }
}

struct ToResource(UnboundedSender<Control>);

impl Handover for ToResource {
    fn hand_over(&self, accepted: Accepted) {
        let _ = self.0.send(Control::Client(Box::new(accepted)));
    }
}

/// The loop is a task of the set and not its root: then a turn of reading, handling and replying
/// costs one wait for the sockets and not two.
fn serve_memory(size_bytes: u64, orders: UnboundedReceiver<Control>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    LocalSet::new().block_on(&runtime, async move {
        let resource = tokio::task::spawn_local(serve_clients(Memory::new(size_bytes), orders));
        resource.await.expect("no panic");
    });
}

async fn serve_clients(mut memory: Memory, mut orders: UnboundedReceiver<Control>) {
    let (sender, mut events) = unbounded_channel();
    let mut clients = BTreeMap::new();
    let mut next_client = 0;
    let mut turn = Vec::with_capacity(EVENTS_PER_TURN);
    loop {
        tokio::select! {
            biased;
            _ = events.recv_many(&mut turn, EVENTS_PER_TURN) => {
                memory.handle_turn(&mut turn, &mut clients);
            }
            order = orders.recv() => match order {
                Some(Control::Client(accepted)) => {
                    next_client += 1;
                    let id = ClientId(next_client);
                    let pool = memory.pool.clone();
                    let client = Client::start(*accepted, pool, sender.clone(), id);
                    clients.insert(id, client.expect("a socket can be registered"));
                }
                Some(Control::Demote(done)) => {
                    clients.values().for_each(|client| client.let_go(true));
                    done.send(()).expect("the test waits");
                }
                Some(Control::Stop) | None => break,
            },
        }
    }
}

/// Content, and per block whether it was written (allocation) or changed (out of sync).
struct Memory {
    bytes: Vec<u8>,
    allocated: Vec<bool>,
    out_of_sync: Vec<bool>,
    pool: BufferPool,
}

impl Memory {
    fn new(size_bytes: u64) -> Self {
        let blocks = size_bytes as usize / BLOCK_BYTES;
        Self {
            bytes: vec![0; size_bytes as usize],
            allocated: vec![false; blocks],
            out_of_sync: vec![false; blocks],
            pool: BufferPool::default(),
        }
    }

    fn handle_turn(
        &mut self,
        turn: &mut Vec<ClientEvent>,
        clients: &mut BTreeMap<ClientId, Client>,
    ) {
        let mut unsent = None;
        for event in turn.drain(..) {
            match event {
                ClientEvent::Request { client, cookie, request } => {
                    let reply = self.perform(request);
                    if let Some(other) = unsent.replace(client).filter(|other| *other != client)
                        && let Some(other) = clients.get(&other)
                    {
                        other.flush();
                    }
                    if let Some(client) = clients.get(&client) {
                        client.reply(cookie, reply);
                    }
                }
                ClientEvent::Gone { client, .. } => {
                    clients.remove(&client);
                }
            }
        }
        if let Some(client) = unsent.and_then(|client| clients.get(&client)) {
            client.flush();
        }
    }

    fn perform(&mut self, request: Request) -> Reply {
        match request {
            Request::Read { offset, length } => {
                let mut buffer = self.pool.take(length as usize);
                let from = offset as usize;
                buffer.copy_from_slice(&self.bytes[from..from + length as usize]);
                Reply::Data(buffer.freeze())
            }
            Request::Write { offset, payload, .. } => {
                let from = offset as usize;
                self.bytes[from..from + payload.len()].copy_from_slice(&payload);
                self.mark(offset, payload.len() as u32, true);
                Reply::Done
            }
            Request::WriteZeroes { offset, length, may_unmap, .. } => {
                self.zero(offset, length, !may_unmap);
                Reply::Done
            }
            Request::Trim { offset, length, .. } => {
                self.zero(offset, length, false);
                Reply::Done
            }
            Request::Flush => Reply::Done,
            Request::BlockStatus { offset, length, contexts, .. } => {
                if offset % BLOCK_BYTES as u64 != 0 {
                    return Reply::Error(Errno::InputOutput);
                }
                Reply::BlockStatus(
                    contexts
                        .iter()
                        .map(|context| (context, self.extents(context, offset, length)))
                        .collect(),
                )
            }
        }
    }

    fn zero(&mut self, offset: u64, length: u32, keep_allocated: bool) {
        let from = offset as usize;
        self.bytes[from..from + length as usize].fill(0);
        self.mark(offset, length, keep_allocated);
    }

    /// A block partly zeroed stays allocated.
    fn mark(&mut self, offset: u64, length: u32, allocated: bool) {
        let (from, to) = (offset as usize, offset as usize + length as usize);
        for block in from / BLOCK_BYTES..to.div_ceil(BLOCK_BYTES) {
            self.out_of_sync[block] = true;
            let whole = from <= block * BLOCK_BYTES && (block + 1) * BLOCK_BYTES <= to;
            if allocated || whole {
                self.allocated[block] = allocated;
            }
        }
    }

    fn extents(&self, context: Context, offset: u64, length: u32) -> Vec<Extent> {
        let first = offset as usize / BLOCK_BYTES;
        let last = (offset as usize + length as usize).div_ceil(BLOCK_BYTES);
        let mut extents: Vec<Extent> = Vec::new();
        for block in first..last {
            let flags = match context {
                Context::Allocation if self.allocated[block] => 0,
                Context::Allocation => wire::allocation::HOLE | wire::allocation::ZERO,
                Context::OutOfSync if self.out_of_sync[block] => wire::OUT_OF_SYNC,
                Context::OutOfSync => 0,
            };
            match extents.last_mut() {
                Some(extent) if extent.flags == flags => extent.length += BLOCK_BYTES as u32,
                _ => extents.push(Extent { length: BLOCK_BYTES as u32, flags }),
            }
        }
        extents
    }
}
