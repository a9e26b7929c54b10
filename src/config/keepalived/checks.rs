//! Checks of a real server: `TCP_CHECK`, `HTTP_GET`, `SSL_GET`, `MISC_CHECK`. What a check does not
//! say, its real server says, then the virtual server, then keepalived's default.

use std::net::IpAddr;

use super::super::diagnostics::Diagnostic;
use super::super::source::Span;
use super::super::tree::Statement;
use super::builder::Builder;
use super::command::Command;
use super::global::{put, set};
use super::model::{Check as Finished, CheckKind, HttpCheck, HttpProtocol, MiscCheck, Url, User};
use super::words::Block;

const SECOND_US: u64 = 1_000_000;
const DAY_US: u64 = 86_400 * SECOND_US;
const RETRY_MAX: i64 = 65_535;
const URLS_MAX: usize = 256;
const STATUS_RANGES_MAX: usize = 64;

/// How often and how long, as far as one block says it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    delay_loop_us: Option<u64>,
    connect_timeout_us: Option<u64>,
    retry: Option<u32>,
    delay_before_retry_us: Option<u64>,
    warmup_us: Option<u64>,
    alpha: Option<bool>,
    log_all_failures: Option<bool>,
}

impl Times {
    pub fn word(&mut self, b: &mut Builder, statement: &Statement) {
        match statement.keyword() {
            "delay_loop" => set(&mut self.delay_loop_us, b.seconds(statement, 1000, DAY_US)),
            "connect_timeout" => {
                set(&mut self.connect_timeout_us, b.seconds(statement, 1000, 3600 * SECOND_US));
            }
            "retry" | "nb_get_retry" => set(&mut self.retry, b.number(statement, 0, RETRY_MAX)),
            "delay_before_retry" => {
                set(&mut self.delay_before_retry_us, b.seconds(statement, 0, DAY_US));
            }
            "warmup" => set(&mut self.warmup_us, b.seconds(statement, 0, DAY_US)),
            "alpha" => set(&mut self.alpha, b.flag(statement)),
            "log_all_failures" => set(&mut self.log_all_failures, b.flag(statement)),
            other => debug_assert!(false, "no meaning for {other}"),
        }
    }

    pub fn or(self, outer: Self) -> Self {
        Self {
            delay_loop_us: self.delay_loop_us.or(outer.delay_loop_us),
            connect_timeout_us: self.connect_timeout_us.or(outer.connect_timeout_us),
            retry: self.retry.or(outer.retry),
            delay_before_retry_us: self.delay_before_retry_us.or(outer.delay_before_retry_us),
            warmup_us: self.warmup_us.or(outer.warmup_us),
            alpha: self.alpha.or(outer.alpha),
            log_all_failures: self.log_all_failures.or(outer.log_all_failures),
        }
    }
}

/// Where to connect to, and how often.
#[derive(Debug, Default)]
struct Place {
    times: Times,
    connect_ip: Option<IpAddr>,
    connect_port: Option<u16>,
    bind_to: Option<IpAddr>,
    bind_port: u16,
}

impl Place {
    fn word(&mut self, b: &mut Builder, statement: &Statement) {
        match statement.keyword() {
            "connect_ip" => set(&mut self.connect_ip, b.address(statement)),
            "connect_port" => set(&mut self.connect_port, b.number(statement, 1, 65_535)),
            "bindto" => set(&mut self.bind_to, b.address(statement)),
            "bind_port" => put(&mut self.bind_port, b.number(statement, 1, 65_535)),
            _ => self.times.word(b, statement),
        }
    }
}

/// A check as it is written.
#[derive(Debug)]
pub struct Check {
    span: Span,
    place: Place,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp,
    Http { check: HttpCheck, virtual_host: Option<String> },
    Misc { command: Command, timeout_us: Option<u64>, dynamic: bool },
}

impl Check {
    /// `None` where it cannot be one; that was said.
    pub fn read(b: &mut Builder, statement: &Statement) -> Option<Self> {
        b.no_more_words(statement, 1);
        let mut place = Place::default();
        let kind = match statement.keyword() {
            "TCP_CHECK" => tcp(b, statement, &mut place),
            "MISC_CHECK" => misc(b, statement, &mut place)?,
            other => http(b, statement, other == "SSL_GET", &mut place)?,
        };
        Some(Self { span: statement.keyword_span(), place, kind })
    }

    /// With what the blocks around it say. `None` where it would check nothing.
    pub fn finish(
        self,
        b: &mut Builder,
        outer: Times,
        (address, port): (IpAddr, u16),
        outer_host: Option<&String>,
    ) -> Option<Finished> {
        let times = self.place.times.or(outer);
        let connect_port = self.place.connect_port.unwrap_or(port);
        let is_misc = matches!(self.kind, Kind::Misc { .. });
        if connect_port == 0 && !is_misc {
            let message = "a check without a port";
            b.error(self.span, message, "expected connect_port, or a port of the real_server");
            return None;
        }
        let delay_loop_us = times.delay_loop_us.unwrap_or(60 * SECOND_US);
        let is_http = matches!(self.kind, Kind::Http { .. });
        let kind = match self.kind {
            Kind::Tcp => CheckKind::Tcp,
            Kind::Http { mut check, virtual_host } => {
                for url in &mut check.urls {
                    let host = url.virtual_host.take().or_else(|| virtual_host.clone());
                    url.virtual_host = host.or_else(|| outer_host.cloned());
                }
                CheckKind::Http(check)
            }
            Kind::Misc { command, timeout_us, dynamic } => {
                let timeout_us = timeout_us.unwrap_or(delay_loop_us);
                CheckKind::Misc(MiscCheck { command, timeout_us, dynamic })
            }
        };
        let default_retry_delay_us = if is_http { 3 * SECOND_US } else { SECOND_US };
        Some(Finished {
            span: self.span,
            kind,
            connect_ip: self.place.connect_ip.unwrap_or(address),
            connect_port,
            bind_to: self.place.bind_to,
            bind_port: self.place.bind_port,
            connect_timeout_us: times.connect_timeout_us.unwrap_or(5 * SECOND_US),
            delay_loop_us,
            retry: times.retry.unwrap_or(if is_misc { 0 } else { 1 }),
            delay_before_retry_us: times.delay_before_retry_us.unwrap_or(default_retry_delay_us),
            warmup_us: times.warmup_us.unwrap_or(delay_loop_us),
            alpha: times.alpha.unwrap_or(false),
            log_all_failures: times.log_all_failures.unwrap_or(false),
        })
    }
}

fn tcp(b: &mut Builder, statement: &Statement, place: &mut Place) -> Kind {
    // A check without a word of its own is one.
    let body = statement.body.as_deref().unwrap_or_default();
    b.each(Block::TcpCheck, body, |b, statement| {
        if statement.keyword() == "nb_get_retry" {
            let message = "'nb_get_retry' is no word of TCP_CHECK";
            let help = "keepalived leaves it out and retries once; write retry";
            b.report(
                Diagnostic::warning(statement.keyword_span(), message)
                    .label("taken as 'retry'")
                    .help(help),
            );
        }
        place.word(b, statement);
    });
    Kind::Tcp
}

fn http(b: &mut Builder, statement: &Statement, is_tls: bool, place: &mut Place) -> Option<Kind> {
    let mut check =
        HttpCheck { is_tls, sends_name: false, protocol: HttpProtocol::V1_0, urls: Vec::new() };
    let mut virtual_host = None;
    let body = b.body(statement);
    b.each(Block::HttpGet, body, |b, statement| match statement.keyword() {
        "url" => url(b, statement, &mut check.urls),
        "virtualhost" => set(&mut virtual_host, b.text(statement)),
        "http_protocol" => {
            let words = [
                ("1.0", HttpProtocol::V1_0),
                ("1.0C", HttpProtocol::V1_0Close),
                ("1.0c", HttpProtocol::V1_0Close),
                ("1.1", HttpProtocol::V1_1),
            ];
            put(&mut check.protocol, b.choice(statement, &words));
        }
        "enable_sni" => put(&mut check.sends_name, b.flag(statement)),
        "nb_get_retry" => {
            let message = "'nb_get_retry' is the older name of 'retry'";
            b.report(Diagnostic::note(statement.keyword_span(), message));
            place.word(b, statement);
        }
        _ => place.word(b, statement),
    });
    if check.urls.is_empty() {
        if statement.body.is_some() {
            let message = format!("{} without a url", statement.keyword());
            b.error(statement.keyword_span(), message, "expected url { path /... }");
        }
        return None;
    }
    Some(Kind::Http { check, virtual_host })
}

fn url(b: &mut Builder, statement: &Statement, urls: &mut Vec<Url>) {
    b.no_more_words(statement, 1);
    if urls.len() == URLS_MAX {
        let message = format!("more than {URLS_MAX} urls in one check");
        return b.error(statement.span, message, "this one is left out");
    }
    let mut url =
        Url { path: "/".to_owned(), digest: None, status_codes: Vec::new(), virtual_host: None };
    let body = b.body(statement);
    b.each(Block::Url, body, |b, statement| match statement.keyword() {
        "path" => put(&mut url.path, b.text(statement)),
        "digest" => {
            let Some(word) = b.argument(statement, "32 hexadecimal digits") else { return };
            if word.text.len() == 32 && word.text.chars().all(|digit| digit.is_ascii_hexdigit()) {
                url.digest = Some(word.text.to_ascii_lowercase());
            } else {
                let message = format!("'{}' is no digest", word.text);
                b.error(word.span, message, "expected 32 hexadecimal digits");
            }
        }
        "status_code" => status_codes(b, statement, &mut url.status_codes),
        "virtualhost" => set(&mut url.virtual_host, b.text(statement)),
        other => debug_assert!(false, "no meaning for {other}"),
    });
    if url.status_codes.is_empty() {
        url.status_codes.push((200, 299));
    }
    urls.push(url);
}

/// `status_code 200-299 404`
fn status_codes(b: &mut Builder, statement: &Statement, codes: &mut Vec<(u16, u16)>) {
    if statement.arguments().is_empty() {
        let message = "'status_code' needs a value";
        b.error(statement.keyword_span(), message, "expected 200 or 200-299");
    }
    for word in statement.arguments() {
        let (from, to) = word.text.split_once('-').unwrap_or((&word.text, &word.text));
        match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) if (100..=999).contains(&from) && (from..=999).contains(&to) => {
                if codes.len() == STATUS_RANGES_MAX {
                    let message = format!("more than {STATUS_RANGES_MAX} status codes");
                    return b.error(word.span, message, "this one is left out");
                }
                codes.push((from, to));
            }
            _ => {
                let message = format!("'{}' is no status code", word.text);
                b.error(word.span, message, "expected 100 to 999, or a range of them");
            }
        }
    }
}

fn misc(b: &mut Builder, statement: &Statement, place: &mut Place) -> Option<Kind> {
    let (mut command, mut user): (Option<Command>, Option<User>) = (None, None);
    let (mut timeout_us, mut dynamic) = (None, false);
    let body = b.body(statement);
    b.each(Block::MiscCheck, body, |b, statement| match statement.keyword() {
        "misc_path" => set(&mut command, b.plain_command(statement)),
        "misc_timeout" => set(&mut timeout_us, b.seconds(statement, SECOND_US, DAY_US)),
        "misc_dynamic" => dynamic = true,
        "user" => user = b.user_of(statement.arguments()),
        _ => place.word(b, statement),
    });
    let Some(mut command) = command else {
        if statement.body.is_some() {
            let message = "MISC_CHECK without misc_path";
            b.error(statement.keyword_span(), message, "expected misc_path \"PROGRAM\"");
        }
        return None;
    };
    command.user = user;
    Some(Kind::Misc { command, timeout_us, dynamic })
}
