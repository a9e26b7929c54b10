//! `virtual_server` and `real_server`: health checks with programs that are told. Nothing is
//! forwarded.

use std::net::{IpAddr, SocketAddr};

use super::super::tree::{Statement, Word};
use super::model::{Check, CheckKind, RealServer, Url, User, VirtualServer};
use super::reader::Reader;
use super::words::{CHECK, REAL_SERVER, SERVER, URL};

const SECOND_US: u64 = 1_000_000;
const DELAY_LOOP_US: u64 = 60 * SECOND_US;
const CONNECT_TIMEOUT_US: u64 = 5 * SECOND_US;
/// keepalived's defaults by kind of check.
const RETRY: u32 = 1;
const HTTP_RETRY: u32 = 3;
const HTTP_RETRY_DELAY_US: u64 = 3 * SECOND_US;

/// What a check takes from the blocks around it.
#[derive(Clone, Copy, Default)]
struct Defaults {
    retry: Option<u32>,
    delay_before_retry_us: Option<u64>,
    connect_timeout_us: Option<u64>,
    warmup_us: Option<u64>,
    delay_loop_us: Option<u64>,
}

impl Defaults {
    /// Whether the keyword was one of these.
    fn take(&mut self, reader: &mut Reader, statement: &Statement) -> bool {
        match statement.keyword() {
            "retry" | "nb_get_retry" => self.retry = reader.number(statement, 0..=u32::MAX),
            "delay_before_retry" => self.delay_before_retry_us = reader.seconds(statement),
            "connect_timeout" => self.connect_timeout_us = reader.seconds(statement),
            "warmup" => self.warmup_us = reader.seconds(statement),
            "delay_loop" => self.delay_loop_us = reader.seconds(statement),
            _ => return false,
        }
        true
    }
}

pub fn server(reader: &mut Reader, statement: &Statement) -> Option<VirtualServer> {
    let words: Vec<&str> = statement.arguments().iter().map(|word| &*word.text).collect();
    if words.is_empty() {
        let help = "virtual_server ADDRESS PORT { ... }";
        reader.error(statement.keyword_span(), "'virtual_server' of what?", help);
        return None;
    }
    let mut server = VirtualServer {
        span: statement.span,
        name: words.join(" "),
        delay_loop_us: DELAY_LOOP_US,
        quorum: 1,
        hysteresis: 0,
        quorum_up: None,
        quorum_down: None,
        alpha: false,
        omega: false,
        servers: Vec::new(),
    };
    let mut defaults = Defaults::default();
    let body = reader.body(statement);
    // What stands behind a real_server counts for it, too.
    let (reals, others): (Vec<_>, Vec<_>) =
        body.iter().cloned().partition(|statement| statement.keyword() == "real_server");
    reader.block("virtual_server", SERVER, &others, |reader, statement| {
        match statement.keyword() {
            "quorum" => server.quorum = reader.number(statement, 1..=u32::MAX).unwrap_or(1),
            "hysteresis" => server.hysteresis = reader.number(statement, 0..=u32::MAX).unwrap_or(0),
            "quorum_up" => server.quorum_up = reader.program(statement),
            "quorum_down" => server.quorum_down = reader.program(statement),
            "alpha" => server.alpha = reader.flag(statement),
            "omega" => server.omega = reader.flag(statement),
            "smtp_alert" => {}
            _ => {
                let known = defaults.take(reader, statement);
                debug_assert!(known, "compared with the table by a test");
            }
        }
    });
    server.delay_loop_us = defaults.delay_loop_us.unwrap_or(DELAY_LOOP_US);
    for real in &reals {
        server.servers.extend(real_server(reader, real, defaults));
    }
    Some(server)
}

fn socket(reader: &mut Reader, words: &[Word]) -> Option<SocketAddr> {
    let [address, port, ..] = words else { return None };
    let address = reader.address(address)?;
    let port = reader.number_in("port", port, 1..=u16::MAX)?;
    Some(SocketAddr::new(address, port))
}

fn real_server(
    reader: &mut Reader,
    statement: &Statement,
    mut defaults: Defaults,
) -> Option<RealServer> {
    if statement.arguments().len() < 2 {
        let help = "real_server ADDRESS PORT { ... }";
        reader.error(statement.keyword_span(), "'real_server' takes an address and a port", help);
        return None;
    }
    let mut server = RealServer {
        span: statement.span,
        address: socket(reader, statement.arguments())?,
        weight: 1,
        notify_up: None,
        notify_down: None,
        alpha: None,
        smtp_alert: None,
        checks: Vec::new(),
    };
    let mut checks = Vec::new();
    let body = reader.body(statement);
    reader.block("real_server", REAL_SERVER, body, |reader, statement| match statement.keyword() {
        "weight" => server.weight = reader.number(statement, 0..=65_535).unwrap_or(1),
        "notify_up" => server.notify_up = reader.program(statement),
        "notify_down" => server.notify_down = reader.program(statement),
        "alpha" => server.alpha = Some(reader.flag(statement)),
        "smtp_alert" => server.smtp_alert = Some(reader.flag(statement)),
        "TCP_CHECK" | "HTTP_GET" | "SSL_GET" | "MISC_CHECK" => checks.push(statement.clone()),
        _ => {
            let known = defaults.take(reader, statement);
            debug_assert!(known, "compared with the table by a test");
        }
    });
    for statement in &checks {
        server.checks.extend(check(reader, statement, server.address, defaults));
    }
    Some(server)
}

#[derive(Default)]
struct Parts {
    ip: Option<IpAddr>,
    port: Option<u16>,
    bind_ip: Option<IpAddr>,
    bind_port: Option<u16>,
    urls: Vec<Url>,
    virtual_host: Option<String>,
    path: Option<String>,
    timeout_us: Option<u64>,
    dynamic: bool,
    user: Option<User>,
}

fn check(
    reader: &mut Reader,
    statement: &Statement,
    server: SocketAddr,
    mut defaults: Defaults,
) -> Option<Check> {
    let keyword = statement.keyword();
    let mut parts = Parts::default();
    let body = reader.body(statement);
    reader.block(keyword, CHECK, body, |reader, statement| {
        part(reader, keyword, statement, &mut parts, &mut defaults);
    });
    let is_http = matches!(keyword, "HTTP_GET" | "SSL_GET");
    let delay_loop_us = defaults.delay_loop_us.unwrap_or(DELAY_LOOP_US);
    let kind = match keyword {
        "TCP_CHECK" => CheckKind::Tcp,
        "MISC_CHECK" => {
            let Some(command) = parts.path else {
                let help = "add: misc_path \"COMMAND\"";
                reader.error(statement.span, "MISC_CHECK has no misc_path", help);
                return None;
            };
            let timeout_us = parts.timeout_us.unwrap_or(delay_loop_us);
            CheckKind::Program { command, timeout_us, dynamic: parts.dynamic, user: parts.user }
        }
        _ => {
            if parts.urls.is_empty() {
                let help = "add: url { path / }";
                reader.error(statement.span, format!("{keyword} has no url"), help);
                return None;
            }
            let tls = keyword == "SSL_GET";
            CheckKind::Http { tls, virtual_host: parts.virtual_host, urls: parts.urls }
        }
    };
    let connect_to = SocketAddr::new(
        parts.ip.unwrap_or_else(|| server.ip()),
        parts.port.unwrap_or_else(|| server.port()),
    );
    let (retry, delay_us) =
        if is_http { (HTTP_RETRY, HTTP_RETRY_DELAY_US) } else { (RETRY, SECOND_US) };
    Some(Check {
        span: statement.span,
        kind,
        connect_to,
        bind_to: parts.bind_ip.map(|ip| SocketAddr::new(ip, parts.bind_port.unwrap_or(0))),
        connect_timeout_us: defaults.connect_timeout_us.unwrap_or(CONNECT_TIMEOUT_US),
        retry: defaults.retry.unwrap_or(retry),
        delay_before_retry_us: defaults.delay_before_retry_us.unwrap_or(delay_us),
        warmup_us: defaults.warmup_us.unwrap_or(0),
        delay_loop_us,
    })
}

fn part(
    reader: &mut Reader,
    check: &str,
    statement: &Statement,
    parts: &mut Parts,
    defaults: &mut Defaults,
) {
    let keyword = statement.keyword();
    if keyword == "nb_get_retry" && check == "TCP_CHECK" {
        let message = "'nb_get_retry' belongs to HTTP_GET: taken as 'retry'";
        reader.warn(statement.keyword_span(), message, "write: retry NUMBER");
    }
    match keyword {
        "connect_ip" => {
            parts.ip = reader.word(statement).and_then(|word| reader.address(word));
        }
        "connect_port" => parts.port = reader.number(statement, 1..=u16::MAX),
        "bindto" => {
            parts.bind_ip = reader.word(statement).and_then(|word| reader.address(word));
        }
        "bind_port" => parts.bind_port = reader.number(statement, 1..=u16::MAX),
        "url" => parts.urls.extend(url(reader, statement)),
        "virtualhost" => parts.virtual_host = reader.text(statement),
        "misc_path" => parts.path = reader.command(statement),
        "misc_timeout" => parts.timeout_us = reader.seconds(statement),
        "misc_dynamic" => parts.dynamic = reader.flag(statement),
        "user" => parts.user = reader.user(statement),
        "alpha" => {}
        _ => {
            let known = defaults.take(reader, statement);
            debug_assert!(known, "compared with the table by a test");
        }
    }
}

fn url(reader: &mut Reader, statement: &Statement) -> Option<Url> {
    let mut url =
        Url { path: "/".to_owned(), status_codes: Vec::new(), digest: None, virtual_host: None };
    let body = reader.body(statement);
    reader.block("url", URL, body, |reader, statement| match statement.keyword() {
        "path" => url.path = reader.text(statement).unwrap_or_else(|| "/".to_owned()),
        "status_code" => {
            for word in statement.arguments() {
                url.status_codes.extend(status_codes(reader, word));
            }
        }
        "digest" => url.digest = reader.text(statement).map(|text| text.to_ascii_lowercase()),
        _ => url.virtual_host = reader.text(statement),
    });
    if let Some(digest) = &url.digest
        && (digest.len() != 32 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        let message = "'digest' is the MD5 of the page, 32 hexadecimal digits";
        reader.error(statement.span, message, "");
    }
    Some(url)
}

/// `200` or `200-299`
fn status_codes(reader: &mut Reader, word: &Word) -> Option<(u16, u16)> {
    let (low, high) = word.text.split_once('-').unwrap_or((&word.text, &word.text));
    let number = |text: &str| text.parse().ok().filter(|code| (100..=999).contains(code));
    let range = number(low).zip(number(high)).filter(|(low, high)| low <= high);
    if range.is_none() {
        reader.error(word.span, format!("'status_code {}': 100 to 999", word.text), "");
    }
    range
}
