//! The text of a mail: header, body, and what keeps one from becoming something else. No I/O.

use std::fmt::Write;

/// What keepalived names itself; filters of administrators look for it.
const MAILER: &str = "Keepalived";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Without the name of the router.
    pub subject: String,
    pub body: String,
}

/// From and to whom it goes.
#[derive(Clone, Debug)]
pub(super) struct Envelope<'a> {
    pub router: &'a str,
    pub from: &'a str,
    pub to: &'a [String],
    /// Seconds since 1970.
    pub time_s: u64,
}

impl Letter {
    /// As it follows DATA, without the line that ends it.
    pub(super) fn text(&self, envelope: &Envelope<'_>) -> String {
        let Envelope { router, from, to, time_s } = envelope;
        let subject = encoded(&format!("[{router}] {}", self.subject));
        let to: Vec<_> = to.iter().map(|to| one_line(to)).collect();
        let mut text = String::new();
        for (name, value) in [
            ("From", one_line(from)),
            ("To", to.join(",\r\n ")),
            ("Subject", subject),
            ("Date", date(*time_s)),
            ("X-Mailer", MAILER.to_owned()),
            ("MIME-Version", "1.0".to_owned()),
            ("Content-Type", "text/plain; charset=utf-8".to_owned()),
            ("Content-Transfer-Encoding", "8bit".to_owned()),
        ] {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        for line in self.body.lines() {
            // A dot alone would end the letter.
            let dot = if line.starts_with('.') { "." } else { "" };
            let _ = write!(text, "{dot}{}\r\n", one_line(line));
        }
        text
    }
}

/// `Name <a@b>` or `a@b`; `None` for what cannot go into a command.
pub(super) fn address(recipient: &str) -> Option<&str> {
    let inside = match recipient.rsplit_once('<') {
        Some((_, rest)) => rest.split_once('>')?.0,
        None => recipient.trim(),
    };
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && !"<>".contains(c);
    (!inside.is_empty() && inside.chars().all(is_plain)).then_some(inside)
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// RFC 2047, for what is not ASCII; in words of at most 75 bytes.
fn encoded(text: &str) -> String {
    let text = one_line(text);
    if text.is_ascii() {
        return text;
    }
    let mut words = vec![String::new()];
    for c in text.chars() {
        let mut bytes = [0; 4];
        let mut piece = String::new();
        for byte in c.encode_utf8(&mut bytes).bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => piece.push(byte as char),
                _ => {
                    let _ = write!(piece, "={byte:02X}");
                }
            }
        }
        let last = words.last_mut().expect("never empty");
        if last.len() + piece.len() > 60 {
            words.push(piece);
        } else {
            last.push_str(&piece);
        }
    }
    let words: Vec<_> = words.into_iter().map(|word| format!("=?utf-8?Q?{word}?=")).collect();
    words.join("\r\n ")
}

/// RFC 5322, in UTC.
fn date(time_s: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, seconds) = (time_s / 86_400, time_s % 86_400);
    let weekday = DAYS[(days % 7) as usize];
    let divides = |number: u64, year: u64| year.is_multiple_of(number);
    let is_leap = |year| divides(4, year) && (!divides(100, year) || divides(400, year));
    let (mut year, mut left) = (1970, days);
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 0;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let (day, month) = (left + 1, MONTHS[month]);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        // date -u -R -d @N
        for (time_s, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_078_099_199, "Sun, 29 Feb 2004 23:59:59 +0000"),
            (1_704_067_199, "Sun, 31 Dec 2023 23:59:59 +0000"),
            (4_102_444_800, "Fri, 01 Jan 2100 00:00:00 +0000"),
        ] {
            assert_eq!(date(time_s), expected);
        }
    }

    #[test]
    fn addresses() {
        for (recipient, expected) in [
            ("root@example.com", Some("root@example.com")),
            ("The Admin <root@example.com>", Some("root@example.com")),
            ("\"A <b>\" <root@example.com>", Some("root@example.com")),
            ("root", Some("root")),
            ("", None),
            ("<>", None),
            ("<a@b", None),
            ("a b@c", None),
            ("a@b\r\nDATA", None),
        ] {
            assert_eq!(address(recipient), expected, "{recipient:?}");
        }
    }

    #[test]
    fn a_letter_cannot_be_ended_or_given_headers_by_its_text() {
        let letter = Letter {
            subject: "VRRP Instance x\r\nBcc: y - Entering MASTER state".to_owned(),
            body: "one\n.\n.two\r\nthree".to_owned(),
        };
        let to = ["A <a@b>".to_owned(), "c@d".to_owned()];
        let envelope = Envelope { router: "LVS_1", from: "k@host", to: &to, time_s: 0 };
        let text = letter.text(&envelope);
        let expected = "From: k@host\r\nTo: A <a@b>,\r\n c@d\r\n\
            Subject: [LVS_1] VRRP Instance x  Bcc: y - Entering MASTER state\r\n\
            Date: Thu, 01 Jan 1970 00:00:00 +0000\r\nX-Mailer: Keepalived\r\n\
            MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Content-Transfer-Encoding: 8bit\r\n\r\none\r\n..\r\n..two\r\nthree\r\n";
        assert_eq!(text, expected);
        assert_eq!(encoded("[标] a"), "=?utf-8?Q?=5B=E6=A0=87=5D=20a?=");
        assert!(encoded(&"标".repeat(100)).split("\r\n ").all(|word| word.len() <= 75));
    }
}
