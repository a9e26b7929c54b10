//! From nothing to a data socket and a meta socket: the loop of wire.md 1.1.
//!
//! Neither side has a part to play that is given beforehand: both dial and both listen. Whoever
//! reaches the other first opens the data socket; the other, finding that slot full, opens the
//! meta socket. When both dial at the same moment their data sockets cross, and coins decide.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use twinblk_proto::codec::{self, Framing};
use twinblk_proto::packet::Packet;

use super::random::Random;
use super::settings::LinkSettings;
use super::socket;

/// Bytes of a packet without payload in the header form of the handshake (wire.md 2, h80).
const FIRST_PACKET_BYTES: usize = 8;

/// Two sockets that both sides took up.
#[derive(Debug)]
pub(super) struct Pair {
    pub data: TcpStream,
    pub meta: TcpStream,
    /// Set on the side that accepted the meta socket: the tie breaker.
    pub resolve: bool,
}

/// Runs until there is a pair; fails only when the local address cannot be listened on.
pub(super) async fn connect(settings: &LinkSettings, random: &mut impl Random) -> io::Result<Pair> {
    // Lives as long as this call: once established, further connections are refused.
    let listener = socket::listen(settings)?;
    let mut slots = Slots::default();
    loop {
        // Step 1. Sockets that died meanwhile are dropped first, so that a crossed data socket
        // is dialled again and not taken for a live one.
        slots.drop_closed();
        let (dialled, mut waiting) = dial_or_accept(settings, &listener).await;
        if let Some(stream) = dialled {
            slots.send_first_packet(stream, settings).await;
        }
        // Step 2.
        if slots.lasts(settings.socket_check).await {
            break;
        }
        // Step 3.
        loop {
            let accepted = match waiting.take() {
                Some(stream) => Some(stream),
                None => accept(settings, &listener, random).await,
            };
            let Some(mut stream) = accepted else { break };
            let first = receive_first_packet(&mut stream, settings.handshake_limit()).await;
            slots.drop_closed();
            if slots.place(stream, first) == Placed::Well || !random.coin() {
                break;
            }
        }
        // Step 4.
        if slots.lasts(settings.socket_check).await {
            break;
        }
    }
    let (Some(data), Some(meta)) = (slots.data, slots.meta) else {
        unreachable!("lasts() says true only with both slots full");
    };
    Ok(Pair { data, meta, resolve: slots.resolve })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Data,
    Meta,
    /// Something else, or nothing in time.
    Stranger,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    Well,
    /// Crossed with the one that was there, or a stranger's.
    Badly,
}

#[derive(Debug, Default)]
struct Slots {
    data: Option<TcpStream>,
    meta: Option<TcpStream>,
    resolve: bool,
}

impl Slots {
    fn drop_closed(&mut self) {
        for slot in [&mut self.data, &mut self.meta] {
            if slot.as_ref().is_some_and(|stream| !socket::is_open(stream)) {
                *slot = None;
            }
        }
    }

    /// Whether both slots are full and still are after `check`.
    async fn lasts(&mut self, check: Duration) -> bool {
        if self.data.is_none() || self.meta.is_none() {
            return false;
        }
        sleep(check).await;
        self.drop_closed();
        self.data.is_some() && self.meta.is_some()
    }

    /// Gives a socket that we dialled its use, and says so to the peer.
    async fn send_first_packet(&mut self, mut stream: TcpStream, settings: &LinkSettings) {
        let is_data = self.data.is_none();
        if !is_data && self.meta.is_some() {
            return;
        }
        let packet = if is_data { Packet::InitialData } else { Packet::InitialMeta };
        let mut bytes = Vec::with_capacity(FIRST_PACKET_BYTES);
        codec::encode(&packet, 0, &Framing::default(), 0, &[], &mut bytes);
        let sent = timeout(settings.handshake_limit(), stream.write_all(&bytes)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
        if is_data {
            self.data = Some(stream);
        } else {
            self.meta = Some(stream);
            self.resolve = false;
        }
    }

    /// Takes up an accepted socket. A crossing one replaces what was there.
    fn place(&mut self, stream: TcpStream, first: First) -> Placed {
        let slot = match first {
            First::Data => &mut self.data,
            First::Meta => {
                self.resolve = true;
                &mut self.meta
            }
            First::Stranger => return Placed::Badly,
        };
        match slot.replace(stream) {
            None => Placed::Well,
            Some(_crossed) => Placed::Badly,
        }
    }
}

/// One dial. When it hangs (the peer is behind a filter, or was switched off) a connection that
/// comes in ends it early: waiting out the whole dial would only delay the session. Calls off
/// nothing that a live peer would have answered, for that takes less than a ping's time.
async fn dial_or_accept(
    settings: &LinkSettings,
    listener: &TcpListener,
) -> (Option<TcpStream>, Option<TcpStream>) {
    let incoming = async {
        sleep(settings.ping_timeout).await;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(_) => sleep(settings.ping_timeout).await,
            }
        }
    };
    tokio::select! {
        biased;
        dialled = timeout(settings.connect_interval, socket::dial(settings)) => match dialled {
            Ok(Ok(stream)) => (Some(stream), None),
            Ok(Err(error)) => {
                tracing::debug!(peer = %settings.peer, %error, "peer not reached");
                (None, None)
            }
            Err(_) => (None, None),
        },
        stream = incoming => (None, Some(stream)),
    }
}

/// Waits for an incoming connection, for connect-int plus or minus a seventh: two nodes that
/// cross must not go on in step.
async fn accept(
    settings: &LinkSettings,
    listener: &TcpListener,
    random: &mut impl Random,
) -> Option<TcpStream> {
    let interval = settings.connect_interval;
    let patience = if random.coin() { interval + interval / 7 } else { interval - interval / 7 };
    match timeout(patience, listener.accept()).await {
        Ok(Ok((stream, _))) => Some(stream),
        // Out of descriptors, most likely: trying again at once would spin.
        Ok(Err(error)) => {
            tracing::warn!(local = %settings.local, %error, "cannot accept a connection");
            sleep(settings.ping_timeout).await;
            None
        }
        Err(_) => None,
    }
}

async fn receive_first_packet(stream: &mut TcpStream, limit: Duration) -> First {
    if stream.set_nodelay(true).is_err() {
        return First::Stranger;
    }
    // Not a byte more than the packet: what follows belongs to the conversation after it.
    let mut bytes = [0u8; FIRST_PACKET_BYTES];
    if !matches!(timeout(limit, stream.read_exact(&mut bytes)).await, Ok(Ok(_))) {
        return First::Stranger;
    }
    let Ok(Some((header, _))) = codec::decode_header(&bytes, None) else { return First::Stranger };
    match codec::decode_body(&header, &[], &Framing::default()).map(|decoded| decoded.packet) {
        Ok(Packet::InitialData) => First::Data,
        Ok(Packet::InitialMeta) => First::Meta,
        _ => First::Stranger,
    }
}
