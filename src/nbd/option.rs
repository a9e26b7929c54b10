//! Data of one option, parsed: bytes in, what the client asks out. Nothing here does I/O, and no
//! length in the bytes is believed before it is compared with what is there.

use super::wire::STRING_LIMIT;

/// Most queries read from one context option; a client has no use for more than it gets contexts.
pub const QUERY_LIMIT: u32 = 256;

/// Why the data of an option cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("a length inside the option disagrees with the length of the option")]
    Inconsistent,
    #[error("a string is longer than 4096 bytes")]
    StringTooLong,
    #[error("a string is not UTF-8 or contains a NUL byte")]
    NotText,
    #[error("more than 256 context queries in one option")]
    TooManyQueries,
}

/// Data of INFO and GO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    pub name: &'a str,
    /// Items of information asked for, unknown ones included.
    pub items: Vec<u16>,
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextRequest<'a> {
    pub name: &'a str,
    pub queries: Vec<&'a str>,
}

/// u32 length, name, u16 count, count x u16
pub fn parse_info(data: &[u8]) -> Result<InfoRequest<'_>, OptionError> {
    let mut rest = data;
    let name = take_string(&mut rest)?;
    let count = usize::from(u16::from_be_bytes(take_array(&mut rest)?));
    if rest.len() != count * 2 {
        return Err(OptionError::Inconsistent);
    }
    let items = rest.chunks_exact(2).map(|item| u16::from_be_bytes([item[0], item[1]])).collect();
    Ok(InfoRequest { name, items })
}

/// u32 length, name, u32 count, count x (u32 length, query)
pub fn parse_contexts(data: &[u8]) -> Result<ContextRequest<'_>, OptionError> {
    let mut rest = data;
    let name = take_string(&mut rest)?;
    let count = u32::from_be_bytes(take_array(&mut rest)?);
    if count > QUERY_LIMIT {
        return Err(OptionError::TooManyQueries);
    }
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(take_string(&mut rest)?);
    }
    if !rest.is_empty() {
        return Err(OptionError::Inconsistent);
    }
    Ok(ContextRequest { name, queries })
}

/// The whole data is the name (EXPORT_NAME).
pub fn parse_name(data: &[u8]) -> Result<&str, OptionError> {
    if data.len() > STRING_LIMIT {
        return Err(OptionError::StringTooLong);
    }
    let text = std::str::from_utf8(data).map_err(|_| OptionError::NotText)?;
    if text.contains('\0') { Err(OptionError::NotText) } else { Ok(text) }
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], OptionError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(OptionError::Inconsistent)?;
    *rest = tail;
    Ok(*head)
}

fn take_string<'a>(rest: &mut &'a [u8]) -> Result<&'a str, OptionError> {
    let length = u32::from_be_bytes(take_array(rest)?) as usize;
    let (text, tail) = rest.split_at_checked(length).ok_or(OptionError::Inconsistent)?;
    *rest = tail;
    parse_name(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(data: &mut Vec<u8>, text: &[u8]) {
        data.extend_from_slice(&(text.len() as u32).to_be_bytes());
        data.extend_from_slice(text);
    }

    #[test]
    fn info_names_the_export_and_its_items() {
        let mut data = Vec::new();
        text(&mut data, b"r0");
        data.extend_from_slice(&[0, 2, 0, 3, 0, 1]);
        let parsed = parse_info(&data).expect("well formed");
        assert_eq!(parsed, InfoRequest { name: "r0", items: vec![3, 1] });
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        assert_eq!(parse_info(&[0, 0, 0, 9, b'r', 0, 0]), Err(OptionError::Inconsistent));
        assert_eq!(parse_info(&[0, 0, 0, 0, 0, 5, 0, 0]), Err(OptionError::Inconsistent));
        assert_eq!(parse_info(&[0, 0, 0, 0, 0, 0, 7]), Err(OptionError::Inconsistent));
        assert_eq!(parse_info(&[]), Err(OptionError::Inconsistent));
        assert_eq!(parse_contexts(&[0; 9]), Err(OptionError::Inconsistent));
        let huge_count = [0, 0, 0, 0, 255, 255, 255, 255];
        assert_eq!(parse_contexts(&huge_count), Err(OptionError::TooManyQueries));
    }

    #[test]
    fn strings_are_text_of_bounded_length() {
        assert_eq!(parse_name(b"a\0b"), Err(OptionError::NotText));
        assert_eq!(parse_name(&[0xff]), Err(OptionError::NotText));
        assert_eq!(parse_name(&[b'x'; 4097]), Err(OptionError::StringTooLong));
        assert_eq!(parse_name("größe".as_bytes()), Ok("größe"));
    }

    proptest! {
        #[test]
        fn contexts_come_back_as_sent(
            name in "[a-z0-9]{0,20}",
            queries in prop::collection::vec("[a-z:-]{0,30}", 0..8),
        ) {
            let mut data = Vec::new();
            text(&mut data, name.as_bytes());
            data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
            for query in &queries {
                text(&mut data, query.as_bytes());
            }
            let parsed = parse_contexts(&data).expect("well formed");
            prop_assert_eq!(parsed.name, name);
            prop_assert_eq!(parsed.queries, queries);
        }

        #[test]
        fn any_bytes_are_an_answer(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_info(&data);
            let _ = parse_contexts(&data);
            let _ = parse_name(&data);
        }
    }
}
