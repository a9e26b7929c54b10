//! Numbers and names of the packets, and the socket each belongs to (wire.md 4).

use super::Socket;

macro_rules! commands {
    ($($name:ident = $number:literal $socket:ident,)+) => {
        $(pub const $name: u16 = $number;)+

        /// The name of wire.md 4.
        pub const fn name_of(command: u16) -> Option<&'static str> {
            match command { $($number => Some(stringify!($name)),)+ _ => None }
        }

        /// Where the packet belongs; `None` for one that either socket may carry, and for an
        /// unknown one, which [`super::body_length`] refuses.
        pub const fn socket_of(command: u16) -> Option<Socket> {
            match command { $($number => commands!(@ $socket),)+ _ => None }
        }

        /// Every command, for tests.
        pub const ALL: &[u16] = &[$($number),+];
    };
    (@ Either) => { None };
    (@ $socket:ident) => { Some(Socket::$socket) };
}

commands! {
    P_DATA = 0x00 Data,
    P_DATA_REPLY = 0x01 Data,
    P_RS_DATA_REPLY = 0x02 Data,
    P_BARRIER = 0x03 Data,
    P_BITMAP = 0x04 Data,
    P_UNPLUG_REMOTE = 0x07 Data,
    P_DATA_REQUEST = 0x08 Data,
    P_RS_DATA_REQUEST = 0x09 Data,
    P_SYNC_PARAM = 0x0A Data,
    P_PROTOCOL = 0x0B Data,
    P_UUIDS = 0x0C Data,
    P_SIZES = 0x0D Data,
    P_STATE = 0x0E Data,
    P_SYNC_UUID = 0x0F Data,
    P_AUTH_CHALLENGE = 0x10 Data,
    P_AUTH_RESPONSE = 0x11 Data,
    P_STATE_CHG_REQ = 0x12 Data,
    P_PING = 0x13 Meta,
    P_PING_ACK = 0x14 Meta,
    P_RECV_ACK = 0x15 Meta,
    P_WRITE_ACK = 0x16 Meta,
    P_RS_WRITE_ACK = 0x17 Meta,
    P_SUPERSEDED = 0x18 Meta,
    P_NEG_ACK = 0x19 Meta,
    P_NEG_DREPLY = 0x1A Meta,
    P_NEG_RS_DREPLY = 0x1B Meta,
    P_BARRIER_ACK = 0x1C Meta,
    P_STATE_CHG_REPLY = 0x1D Meta,
    P_OV_REQUEST = 0x1E Data,
    P_OV_REPLY = 0x1F Data,
    P_OV_RESULT = 0x20 Meta,
    P_CSUM_RS_REQUEST = 0x21 Data,
    P_RS_IS_IN_SYNC = 0x22 Meta,
    P_SYNC_PARAM89 = 0x23 Data,
    P_COMPRESSED_BITMAP = 0x24 Data,
    P_DELAY_PROBE = 0x27 Either,
    P_OUT_OF_SYNC = 0x28 Data,
    P_RS_CANCEL = 0x29 Meta,
    P_CONN_ST_CHG_REQ = 0x2A Data,
    P_CONN_ST_CHG_REPLY = 0x2B Meta,
    P_RETRY_WRITE = 0x2C Meta,
    P_PROTOCOL_UPDATE = 0x2D Data,
    P_TRIM = 0x31 Data,
    P_RS_THIN_REQ = 0x32 Data,
    P_RS_DEALLOCATED = 0x33 Data,
    P_WSAME = 0x34 Data,
    P_ZEROES = 0x36 Data,
    P_INITIAL_META = 0xFFF1 Meta,
    P_INITIAL_DATA = 0xFFF2 Data,
    P_CONNECTION_FEATURES = 0xFFFE Data,
}
