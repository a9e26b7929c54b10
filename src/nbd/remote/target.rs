//! `nbd://HOST[:PORT]/EXPORT`.

use std::fmt;
use std::str::FromStr;

/// Registered for NBD.
const DEFAULT_PORT: u16 = 10809;

/// Whom to dial, by name: it is looked up each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub export: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("it has to begin with nbd://; TLS and unix sockets are not for this verb")]
    Scheme,
    #[error("no host is named")]
    NoHost,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error("no export is named: nbd://HOST/EXPORT")]
    NoExport,
    #[error("a % is not followed by two hexadecimal digits of UTF-8 text")]
    Escape,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let rest = text.strip_prefix("nbd://").ok_or(TargetError::Scheme)?;
        let (authority, path) = rest.split_once('/').ok_or(TargetError::NoExport)?;
        let (host, port) = match authority.strip_prefix('[') {
            Some(inside) => {
                let (host, after) = inside.split_once(']').ok_or(TargetError::NoHost)?;
                (host, after.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() {
            return Err(TargetError::NoHost);
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(TargetError::Port)?,
            None => DEFAULT_PORT,
        };
        let export = unescaped(path)?;
        if export.is_empty() {
            return Err(TargetError::NoExport);
        }
        Ok(Self { host: host.to_owned(), port, export })
    }
}

fn unescaped(text: &str) -> Result<String, TargetError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>().ok_or(TargetError::Escape)?;
        let digits = std::str::from_utf8(digits).map_err(|_| TargetError::Escape)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| TargetError::Escape)?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| TargetError::Escape)
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(formatter, "nbd://[{}]:{}/{}", self.host, self.port, self.export),
            false => write!(formatter, "nbd://{}:{}/{}", self.host, self.port, self.export),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_taken_apart() {
        let parsed = |text: &str| text.parse::<Target>().map(|target| target.to_string());
        assert_eq!(parsed("nbd://10.0.0.9/r0").as_deref(), Ok("nbd://10.0.0.9:10809/r0"));
        assert_eq!(parsed("nbd://vip.example:7/a/b").as_deref(), Ok("nbd://vip.example:7/a/b"));
        assert_eq!(parsed("nbd://[fd00::9]/r0").as_deref(), Ok("nbd://[fd00::9]:10809/r0"));
        assert_eq!(parsed("nbd://[fd00::9]:99/my%20r0").as_deref(), Ok("nbd://[fd00::9]:99/my r0"));
        assert_eq!(parsed("http://x/r0"), Err(TargetError::Scheme));
        assert_eq!(parsed("nbds://x/r0"), Err(TargetError::Scheme));
        assert_eq!(parsed("nbd:///r0"), Err(TargetError::NoHost));
        assert_eq!(parsed("nbd://x:0/r0"), Err(TargetError::Port));
        assert_eq!(parsed("nbd://x:none/r0"), Err(TargetError::Port));
        assert_eq!(parsed("nbd://x"), Err(TargetError::NoExport));
        assert_eq!(parsed("nbd://x/"), Err(TargetError::NoExport));
        assert_eq!(parsed("nbd://x/%4"), Err(TargetError::Escape));
        assert_eq!(parsed("nbd://x/%ff"), Err(TargetError::Escape));
    }
}
