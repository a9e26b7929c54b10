//! Nodes as network namespaces: VRRP between two twinblk nodes, and between twinblk and the stock
//! keepalived (DESIGN.md 8, rung 5; vrrp.md 6).
//!
//! ```text
//!   A eth0 172.16.22.221 ---+
//!   B eth0 172.16.22.222 ---+--- bridge in S
//!   O eth0 172.16.22.220 ---+    (watches, and speaks where a test needs a stranger)
//! ```
//!
//! Needs root, `ip` and, for its rows, keepalived; says `skipped: REASON` otherwise.

mod classic;
mod lab;
mod node;
mod others;
mod reload;
mod rows;
mod strangers;
mod watch;
