//! Words to values: an option's argument by its kind, and the arguments of the statements that are
//! no options (device, disk, meta-disk, address).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::model::{Address, AddressFamily, Device, DiskPath, MetaDisk};
use super::options::{Kind, Network, Spec, Unit, Value};
use super::suggest::nearest;
use super::tree::Word;

/// Why a word is not a value. `at` is the index of the word that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadValue {
    pub at: usize,
    pub message: String,
    pub label: String,
}

impl BadValue {
    fn new(at: usize, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { at, message: message.into(), label: label.into() }
    }
}

type Parsed<T> = Result<T, BadValue>;

/// The value of an option from the words behind its name, of which `used` are taken.
pub fn option_value(spec: &Spec, words: &[Word]) -> Parsed<Value> {
    if spec.kind == Kind::Flag {
        return flag_value(spec, words);
    }
    let Some(first) = words.first() else {
        let message = format!("'{}' needs a value", spec.name);
        return Err(BadValue::new(usize::MAX, message, expectation(spec.kind)));
    };
    let text = &*first.text;
    match spec.kind {
        Kind::Flag => unreachable!("handled above"),
        Kind::Number { min, max, unit } => {
            number(spec.name, text, min, max, unit).map(Value::Number)
        }
        Kind::Choice(choices) => choose(spec, text, choices).map(Value::Text),
        Kind::Text { chars_max } if text.chars().count() > chars_max => {
            let message = format!("'{}' has at most {chars_max} characters", spec.name);
            Err(BadValue::new(0, message, "too long"))
        }
        Kind::Text { .. } => Ok(Value::Text(text.to_owned())),
        Kind::Words => Ok(Value::Words(words.iter().map(|word| word.text.clone()).collect())),
        Kind::Takeover => takeover(words).map(Value::Words),
        Kind::Listen => socket_address(0, text).map(Value::Address),
        Kind::Network => Network::parse(text).map(Value::Network).ok_or_else(|| {
            let message = format!("'{text}' is not a network");
            BadValue::new(0, message, "expected ADDRESS or ADDRESS/BITS, as in 10.0.0.0/24")
        }),
    }
}

const TAKEOVERS: &[&str] = &["both", "favour-primary", "witness HOST:PORT"];

fn takeover(words: &[Word]) -> Parsed<Vec<String>> {
    let bad = |at: usize, message: &str| {
        BadValue::new(at, message, format!("expected {}", alternatives(TAKEOVERS)))
    };
    let texts: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
    let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
    match borrowed[..] {
        ["both" | "favour-primary"] => Ok(texts),
        ["witness", address] => {
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            match port.map(|(_, port)| port.parse::<u16>()) {
                Some(Ok(1..)) => Ok(texts),
                _ => Err(bad(1, &format!("'{address}' is no HOST:PORT"))),
            }
        }
        ["witness"] => Err(bad(usize::MAX, "'takeover witness' needs HOST:PORT")),
        ["partner-lease", ..] => Err(bad(0, "takeover partner-lease is not supported yet")),
        _ => Err(bad(0, &format!("'{}' is not a value of 'takeover'", texts.join(" ")))),
    }
}

fn flag_value(spec: &Spec, words: &[Word]) -> Parsed<Value> {
    match words.first().map(|word| &*word.text) {
        None | Some("yes") => Ok(Value::Flag(true)),
        Some("no") => Ok(Value::Flag(false)),
        Some(other) => {
            let message = format!("'{other}' is not a value of '{}'", spec.name);
            Err(BadValue::new(0, message, "expected yes or no"))
        }
    }
}

fn expectation(kind: Kind) -> String {
    match kind {
        Kind::Flag => "expected yes or no".to_owned(),
        Kind::Number { min, max, .. } => format!("expected a number, {min} to {max}"),
        Kind::Choice(words) => format!("expected {}", alternatives(words)),
        Kind::Text { .. } => "expected a text".to_owned(),
        Kind::Words => "expected one or more words".to_owned(),
        Kind::Listen => "expected ADDRESS:PORT".to_owned(),
        Kind::Network => "expected ADDRESS or ADDRESS/BITS".to_owned(),
        Kind::Takeover => format!("expected {}", alternatives(TAKEOVERS)),
    }
}

/// `A, B or C`
pub fn alternatives(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn choose(spec: &Spec, text: &str, choices: &[&'static str]) -> Parsed<String> {
    if choices.contains(&text) {
        return Ok(text.to_owned());
    }
    // DRBD takes protocol names in lower case.
    if spec.name == "protocol" && choices.contains(&&*text.to_ascii_uppercase()) {
        return Ok(text.to_ascii_uppercase());
    }
    // One policy carries the name of a node.
    if spec.name == "after-sb-0pri"
        && text.len() > "discard-node-".len()
        && text.starts_with("discard-node-")
    {
        return Ok(text.to_owned());
    }
    let label = match nearest(text, choices.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("expected {}", alternatives(choices)),
    };
    Err(BadValue::new(0, format!("'{text}' is not a value of '{}'", spec.name), label))
}

/// `10`, `10M`, `4s`: plain numbers are in the option's unit, those with a suffix count bytes.
fn number(name: &str, text: &str, min: u64, max: u64, unit: Unit) -> Parsed<u64> {
    let bad = |label: &str| Err(BadValue::new(0, format!("{text} is not a valid number"), label));
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits == 0 {
        return bad("expected a number");
    }
    let multiplier = match &text[digits..] {
        "" => None,
        "s" | "S" => Some(512_u128),
        "k" | "K" => Some(1 << 10),
        "m" | "M" => Some(1 << 20),
        "g" | "G" => Some(1 << 30),
        _ => return bad("expected digits and perhaps s, K, M or G"),
    };
    let Ok(plain) = text[..digits].parse::<u64>() else {
        return bad("too large");
    };
    let scaled = match multiplier {
        None => u128::from(plain),
        Some(bytes) => u128::from(plain) * bytes / u128::from(unit.bytes()),
    };
    match u64::try_from(scaled) {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        _ => {
            let suffix = unit.suffix();
            let message =
                format!("{name} {text} => {scaled}{suffix} out of range [{min}..{max}]{suffix}.");
            Err(BadValue::new(0, message, format!("expected {min} to {max}")))
        }
    }
}

/// `1.2.3.4:7788`, `[::1]:7788`
fn socket_address(at: usize, text: &str) -> Parsed<SocketAddr> {
    let Some((address, port)) = text.rsplit_once(':') else {
        let message = format!("'{text}' is not an address with a port");
        return Err(BadValue::new(at, message, "expected ADDRESS:PORT"));
    };
    let bracketed = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let ip: Option<IpAddr> = match bracketed {
        Some(inside) => inside.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => address.parse().ok(),
    };
    let Some(ip) = ip else {
        let message = format!("'{address}' is not an IP address");
        return Err(BadValue::new(at, message, "host names are not looked up here"));
    };
    match port.parse::<u64>() {
        Ok(port @ 1..=65535) => Ok(SocketAddr::new(ip, port as u16)),
        Ok(port) => {
            let message = format!("port {port} => {port} out of range [1..65535].");
            Err(BadValue::new(at, message, "expected 1 to 65535"))
        }
        Err(_) => Err(BadValue::new(at, format!("'{port}' is not a port"), "expected 1 to 65535")),
    }
}

/// `address [ipv4|ipv6|ssocks|sdp|sci] ADDRESS:PORT`; how many words it took.
pub fn address(words: &[Word]) -> Parsed<(Address, usize)> {
    let missing = || BadValue::new(usize::MAX, "'address' needs a value", "expected ADDRESS:PORT");
    let first = words.first().ok_or_else(missing)?;
    let family = match &*first.text {
        "ipv4" => Some(AddressFamily::Ipv4),
        "ipv6" => Some(AddressFamily::Ipv6),
        "ssocks" | "sci" => Some(AddressFamily::Ssocks),
        "sdp" => Some(AddressFamily::Sdp),
        _ => None,
    };
    let at = usize::from(family.is_some());
    let word = words.get(at).ok_or_else(missing)?;
    let socket = socket_address(at, &word.text)?;
    let family = family.unwrap_or(match socket {
        SocketAddr::V4(_) => AddressFamily::Ipv4,
        SocketAddr::V6(_) => AddressFamily::Ipv6,
    });
    if (family == AddressFamily::Ipv6) != socket.is_ipv6() {
        let message = format!("'{}' is not an address of the family {}", word.text, family.name());
        return Err(BadValue::new(at, message, "the family and the address do not agree"));
    }
    Ok((Address { family, socket }, at + 1))
}

/// `/dev/drbdN`, `/dev/drbdN minor N`, `minor N`, `NAME minor N`; how many words it took.
pub fn device(words: &[Word]) -> Parsed<(Device, usize)> {
    const EXPECTED: &str = "expected /dev/drbdN, minor N, or NAME minor N";
    let missing = || BadValue::new(usize::MAX, "'device' needs a value", EXPECTED);
    let first = words.first().ok_or_else(missing)?;
    let named = first.text != "minor";
    let mut name = String::new();
    let mut from_name = None;
    if named {
        let short = first.text.strip_prefix("/dev/").unwrap_or(&first.text);
        let Some(rest) = short.strip_prefix("drbd") else {
            let label = "/dev/ is optional, but drbd is required";
            return Err(BadValue::new(0, "device name must start with /dev/drbd", label));
        };
        from_name = rest.parse::<u32>().ok();
        if from_name.is_none() && !rest.starts_with('_') {
            let message = "arbitrary device name must start with /dev/drbd_";
            return Err(BadValue::new(0, message, "mind the '_'"));
        }
        name = format!("/dev/{short}");
    }
    let at = usize::from(named);
    let minor = match words.get(at) {
        Some(word) if word.text == "minor" => {
            let Some(number) = words.get(at + 1) else {
                return Err(BadValue::new(at, "'minor' needs a number", EXPECTED));
            };
            let Ok(minor) = number.text.parse::<u32>() else {
                let message = format!("{} is not a valid number", number.text);
                return Err(BadValue::new(at + 1, message, "expected a minor number"));
            };
            if from_name.is_some_and(|named| named != minor) {
                let message = format!("'{name}' is not minor {minor}");
                return Err(BadValue::new(at + 1, message, "name and number do not agree"));
            }
            Some((minor, at + 2))
        }
        _ => from_name.map(|minor| (minor, at)),
    };
    let Some((minor, used)) = minor else {
        let message = format!("the minor number of '{name}' is missing");
        return Err(BadValue::new(0, message, format!("expected: device {name} minor N")));
    };
    // The kernel has 20 bits for it; links and names follow that.
    if minor >= 1 << 20 {
        let message = format!("minor {minor} => {minor} out of range [0..1048575].");
        return Err(BadValue::new(used - 1, message, "expected 0 to 1048575"));
    }
    Ok((Device { name, minor }, used))
}

/// A path, made absolute from the directory of the file that names it.
pub fn disk_path(base: &Path, text: &str) -> DiskPath {
    DiskPath { written: text.to_owned(), absolute: base.join(text) }
}

/// `internal`, `PATH`, `PATH[N]`, `PATH [N]`; how many words it took.
pub fn meta_disk(base: &Path, words: &[Word], flexible: bool) -> Parsed<(MetaDisk, usize)> {
    let Some(first) = words.first() else {
        let label = "expected internal, PATH or PATH[INDEX]";
        return Err(BadValue::new(usize::MAX, "'meta-disk' needs a value", label));
    };
    if first.text == "internal" && !first.quoted {
        return Ok((MetaDisk::Internal, 1));
    }
    let (path, index, used) = match words.get(1) {
        Some(second) if second.text.starts_with('[') => (&*first.text, Some((&*second.text, 1)), 2),
        _ => match first.text.split_once('[') {
            Some((path, rest)) if !first.quoted => {
                (path, Some((&first.text[first.text.len() - rest.len() - 1..], 0)), 1)
            }
            _ => (&*first.text, None, 1),
        },
    };
    let path = disk_path(base, path);
    let Some((index, at)) = index else { return Ok((MetaDisk::External(path), used)) };
    if flexible {
        let message = "'flexible-meta-disk' takes no index";
        return Err(BadValue::new(at, message, "use meta-disk for PATH[INDEX]"));
    }
    let inside = index.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    // 128 MiB each: 255 of them are 32 GiB, DRBD's own limit.
    match inside.and_then(|digits| digits.parse::<u32>().ok()).filter(|&number| number <= 255) {
        Some(number) => Ok((MetaDisk::Indexed(path, number), used)),
        None => {
            Err(BadValue::new(at, format!("'{index}' is not an index"), "expected [0] to [255]"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::{Section, spec};
    use super::super::source::Span;
    use super::*;

    fn words(text: &str) -> Vec<Word> {
        let span = Span { file: 0, start: 0, end: 0 };
        text.split_whitespace()
            .map(|text| Word { text: text.to_owned(), quoted: false, span })
            .collect()
    }

    #[test]
    fn numbers_have_units_and_ranges() {
        let value = |section, name, text| {
            option_value(spec(section, name).expect("known"), &words(text))
                .map_err(|bad| bad.message)
        };
        assert_eq!(value(Section::Disk, "resync-rate", "1024M"), Ok(Value::Number(1_048_576)));
        assert_eq!(value(Section::Disk, "resync-rate", "33"), Ok(Value::Number(33)));
        assert_eq!(value(Section::Disk, "size", "10k"), Ok(Value::Number(20)));
        assert_eq!(value(Section::Disk, "c-fill-target", "24M"), Ok(Value::Number(49_152)));
        assert_eq!(value(Section::Net, "max-buffers", "8k"), Ok(Value::Number(8192)));
        // The texts are the original's.
        assert_eq!(
            value(Section::Net, "timeout", "100000"),
            Err("timeout 100000 => 100000 out of range [1..600].".to_owned())
        );
        assert_eq!(
            value(Section::Disk, "resync-rate", "10g"),
            Err("resync-rate 10g => 10485760k out of range [1..8388608]k.".to_owned())
        );
        assert_eq!(
            value(Section::Net, "timeout", "soon"),
            Err("soon is not a valid number".to_owned())
        );
        for bad in ["99999999999999999999999", "-1", "1T", "1MM", "é", "0x10"] {
            assert!(value(Section::Disk, "size", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn choices_suggest_and_list() {
        let bad = |name, text| {
            option_value(spec(Section::Net, name).expect("known"), &words(text))
                .map(|_| ())
                .map_err(|bad| bad.label)
        };
        assert_eq!(bad("protocol", "c"), Ok(()));
        assert_eq!(bad("protocol", "D"), Err("expected C, A or B".to_owned()));
        assert_eq!(
            bad("after-sb-0pri", "discard-zero-change"),
            Err("did you mean 'discard-zero-changes'?".to_owned())
        );
        assert_eq!(bad("after-sb-0pri", "discard-node-alice"), Ok(()));
        assert_eq!(bad("cram-hmac-alg", "sha2"), Err("did you mean 'sha1'?".to_owned()));
        assert_eq!(bad("always-asbp", "maybe"), Err("expected yes or no".to_owned()));
        assert_eq!(bad("always-asbp", ""), Ok(()));
        assert_eq!(bad("timeout", ""), Err("expected a number, 1 to 600".to_owned()));
        assert!(bad("shared-secret", &"x".repeat(65)).is_err());
    }

    #[test]
    fn addresses() {
        let parse = |text| address(&words(text)).map(|(address, _)| address.socket.to_string());
        assert_eq!(parse("10.0.0.1:7788").as_deref(), Ok("10.0.0.1:7788"));
        assert_eq!(parse("ipv4 10.0.0.1:7788").as_deref(), Ok("10.0.0.1:7788"));
        assert_eq!(parse("ipv6 [fd00::1]:7788").as_deref(), Ok("[fd00::1]:7788"));
        for (bad, message) in [
            ("10.0.0.1", "'10.0.0.1' is not an address with a port"),
            ("10.0.0.1:77890", "port 77890 => 77890 out of range [1..65535]."),
            ("10.0.0.1:0", "port 0 => 0 out of range [1..65535]."),
            ("10.0.0.1:http", "'http' is not a port"),
            ("alice:7788", "'alice' is not an IP address"),
            ("ipv6 10.0.0.1:1", "'10.0.0.1:1' is not an address of the family ipv6"),
            ("ipv4", "'address' needs a value"),
        ] {
            assert_eq!(parse(bad).map_err(|bad| bad.message), Err(message.to_owned()), "{bad}");
        }
    }

    #[test]
    fn devices() {
        let parse = |text| {
            device(&words(text))
                .map(|(device, used)| (device.name, device.minor, used))
                .map_err(|bad| bad.message)
        };
        assert_eq!(parse("/dev/drbd0"), Ok(("/dev/drbd0".to_owned(), 0, 1)));
        assert_eq!(parse("/dev/drbd7 minor 7"), Ok(("/dev/drbd7".to_owned(), 7, 3)));
        assert_eq!(parse("minor 3"), Ok((String::new(), 3, 2)));
        assert_eq!(parse("drbd_mysql minor 3"), Ok(("/dev/drbd_mysql".to_owned(), 3, 3)));
        for bad in [
            "",
            "/dev/sda1",
            "/dev/drbdx minor 1",
            "/dev/drbd_x",
            "minor",
            "minor x",
            "/dev/drbd1 minor 2",
            "minor 1048576",
            "minor -1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn meta_disks() {
        let base = Path::new("/etc");
        let parse =
            |text, flexible| meta_disk(base, &words(text), flexible).map_err(|bad| bad.message);
        assert_eq!(parse("internal", true), Ok((MetaDisk::Internal, 1)));
        let sdb = || disk_path(base, "/dev/sdb1");
        assert_eq!(parse("/dev/sdb1", true), Ok((MetaDisk::External(sdb()), 1)));
        assert_eq!(parse("/dev/sdb1[3]", false), Ok((MetaDisk::Indexed(sdb(), 3), 1)));
        assert_eq!(parse("/dev/sdb1 [3]", false), Ok((MetaDisk::Indexed(sdb(), 3), 2)));
        for bad in ["", "/dev/sdb1[", "/dev/sdb1[x]", "/dev/sdb1[256]", "/dev/sdb1 [1"] {
            assert!(parse(bad, false).is_err(), "{bad}");
        }
        assert!(parse("/dev/sdb1[3]", true).is_err());
        assert_eq!(disk_path(base, "x/y").absolute, Path::new("/etc/x/y"));
    }
}
