//! Lines of `virtual_ipaddress` (vrrp.md 2.3):
//! `ADDRESS[/LENGTH] [brd ADDRESS] [dev INTERFACE] [scope SCOPE] [label LABEL] ...`

use std::net::IpAddr;

use super::super::tree::{Statement, Word};
use super::builder::Builder;
use super::instance::interface_name;
use super::model::Address;

/// What one advertisement can name.
const ADDRESSES_MAX: usize = 255;
const LABEL_CHARS_MAX: usize = 15;
const SCOPES: [(&str, u8); 5] =
    [("global", 0), ("site", 200), ("link", 253), ("host", 254), ("nowhere", 255)];
/// Words of `ip address` that say what happens anyway, or what nobody here does.
const WITHOUT_EFFECT: [&str; 7] =
    ["home", "-nodad", "mngtmpaddr", "noprefixroute", "autojoin", "no_track", "use_vmac"];
/// The same, with a value behind them.
const WITHOUT_EFFECT_WITH_VALUE: [&str; 3] = ["preferred_lft", "track_group", "peer"];

pub fn lines(b: &mut Builder, statement: &Statement, addresses: &mut Vec<Address>) {
    b.no_more_words(statement, 1);
    for line in b.lines(statement) {
        let Some(address) = line_of(b, line) else { continue };
        if addresses.len() == ADDRESSES_MAX {
            let message = format!("more than {ADDRESSES_MAX} addresses in {}", statement.keyword());
            return b.error(line.span, message, "this one is left out");
        }
        if addresses.iter().any(|known| known.address == address.address) {
            let message = format!("{} is there twice", address.address);
            b.warning(address.span, message, "ignored");
            continue;
        }
        addresses.push(address);
    }
}

fn line_of(b: &mut Builder, line: &Statement) -> Option<Address> {
    let (address, prefix_length) = address_and_length(b, &line.words[0])?;
    let mut parsed = Address {
        address,
        prefix_length,
        broadcast: None,
        interface: None,
        scope: 0,
        label: None,
        span: line.words[0].span,
    };
    let mut words = line.arguments().iter();
    while let Some(word) = words.next() {
        let name = word.text.as_str();
        if WITHOUT_EFFECT.contains(&name) {
            b.warning(word.span, format!("'{name}' has no effect on an address"), "ignored");
            continue;
        }
        if !matches!(name, "brd" | "broadcast" | "dev" | "scope" | "label")
            && !WITHOUT_EFFECT_WITH_VALUE.contains(&name)
        {
            let message = format!("'{name}' behind an address");
            let label = match name.parse::<IpAddr>() {
                Ok(_) => "expected on a line of its own",
                Err(_) => "expected brd, dev, scope or label",
            };
            // Another address would be missing, and its adverts be rejected by the peer.
            b.error(word.span, message, label);
            return None;
        }
        let Some(value) = words.next() else {
            b.error(word.span, format!("'{name}' needs a value"), "expected one behind it");
            return None;
        };
        match name {
            "dev" => parsed.interface = Some(interface_name(b, value)?),
            "label" => parsed.label = Some(label(b, value)?),
            "scope" => parsed.scope = scope(b, value)?,
            "brd" | "broadcast" => parsed.broadcast = broadcast(b, value, &parsed)?,
            _ => {
                let message = format!("'{name} {}' has no effect on an address", value.text);
                b.warning(word.span.to(value.span), message, "ignored");
            }
        }
    }
    Some(parsed)
}

fn address_and_length(b: &mut Builder, word: &Word) -> Option<(IpAddr, u8)> {
    let (text, length) = match word.text.split_once('/') {
        Some((text, length)) => (text, Some(length)),
        None => (word.text.as_str(), None),
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        let message = format!("'{text}' is not an address");
        b.error(word.span, message, "expected ADDRESS or ADDRESS/LENGTH");
        return None;
    };
    let longest = if address.is_ipv6() { 128 } else { 32 };
    let length = match length {
        None => Some(longest),
        Some(text) => text.parse().ok().filter(|length| *length <= longest),
    };
    if length.is_none() {
        let message = format!("'{}' has an impossible prefix length", word.text);
        b.error(word.span, message, format!("expected /0 to /{longest}"));
    }
    Some((address, length?))
}

fn label(b: &mut Builder, word: &Word) -> Option<String> {
    let fits = !word.text.is_empty() && word.text.len() <= LABEL_CHARS_MAX;
    if !fits {
        let message = format!("'{}' cannot be a label", word.text);
        b.error(word.span, message, format!("expected 1 to {LABEL_CHARS_MAX} characters"));
    }
    fits.then(|| word.text.clone())
}

fn scope(b: &mut Builder, word: &Word) -> Option<u8> {
    if let Some((_, number)) = SCOPES.iter().find(|(name, _)| *name == word.text) {
        return Some(*number);
    }
    if let Ok(number) = word.text.parse() {
        return Some(number);
    }
    let message = format!("'{}' is not a scope", word.text);
    b.error(word.span, message, "expected global, site, link, host, nowhere or a number");
    None
}

/// `-` clears the bits of the host, `+` sets them. The outer `None`: not understood.
#[expect(clippy::option_option, reason = "not given and not understood differ")]
fn broadcast(
    b: &mut Builder,
    word: &Word,
    address: &Address,
) -> Option<Option<std::net::Ipv4Addr>> {
    let IpAddr::V4(own) = address.address else {
        b.error(word.span, "an IPv6 address has no broadcast address", "expected nothing");
        return None;
    };
    let host_bits = u32::MAX.checked_shr(u32::from(address.prefix_length)).unwrap_or(0);
    match word.text.as_str() {
        "+" => Some(Some((own.to_bits() | host_bits).into())),
        "-" => Some(Some((own.to_bits() & !host_bits).into())),
        _ => b.address_of(word).map(Some),
    }
}
