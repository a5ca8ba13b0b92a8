//! Texts in quotes as Go's `%q` writes them, which is how nats-server logs what clients say.

/// Reads a quoted text from the beginning of `line`; gives it and what follows. `None` when there
/// is none, or when it is not what Go writes.
///
/// Bytes that are no UTF-8 stay in their escaped form, `\xff`, so that nothing is lost.
#[must_use]
pub fn read(line: &[u8]) -> Option<(String, &[u8])> {
    let inside = line.strip_prefix(b"\"")?;
    let end = end(inside)?;
    let (text, rest) = inside.split_at_checked(end)?;
    Some((unescape(std::str::from_utf8(text).ok()?)?, rest.strip_prefix(b"\"")?))
}

/// Where the closing quote is.
fn end(inside: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + inside.get(from..)?.iter().position(|b| matches!(b, b'"' | b'\\'))?;
        if inside.get(at) == Some(&b'"') {
            return Some(at);
        }
        from = at + 2;
    }
}

fn unescape(text: &str) -> Option<String> {
    if !text.contains('\\') {
        // Go escapes every control character.
        return (!text.contains(char::is_control)).then(|| text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c.is_control() {
            return None;
        }
        if c != '\\' {
            push(&mut bytes, c);
            continue;
        }
        match chars.next()? {
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'f' => bytes.push(12),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(11),
            '\\' => bytes.push(b'\\'),
            '"' => bytes.push(b'"'),
            'x' => bytes.push(u8::try_from(hex(&mut chars, 2)?).ok()?),
            'u' => push(&mut bytes, char::from_u32(hex(&mut chars, 4)?)?),
            'U' => push(&mut bytes, char::from_u32(hex(&mut chars, 8)?)?),
            _ => return None,
        }
    }
    Some(printable(&bytes))
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn hex(chars: &mut std::str::Chars<'_>, digits: usize) -> Option<u32> {
    let (text, rest) = chars.as_str().split_at_checked(digits)?;
    *chars = rest.chars();
    text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(text, 16).ok())?
}

/// UTF-8 as it is, other bytes as `\xff`.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str) -> Option<(String, String)> {
        let (text, rest) = read(line.as_bytes())?;
        Some((text, String::from_utf8_lossy(rest).into_owned()))
    }

    #[test]
    fn reads_what_go_writes() {
        for (line, expected, rest) in [
            (r#""a" b"#, "a", " b"),
            (r#""""#, "", ""),
            (r#""a\"b", c"#, "a\"b", ", c"),
            (r#""\\" - "x""#, "\\", " - \"x\""),
            (r#""a\u0085b\u2028c\U0001f600""#, "a\u{85}b\u{2028}c\u{1f600}", ""),
            (r#""\xff\xfe\x01\\""#, "\\xff\\xfe\u{1}\\", ""),
            (r#""\a\b\f\n\r\t\v""#, "\u{7}\u{8}\u{c}\n\r\t\u{b}", ""),
            (r#""é""#, "é", ""),
        ] {
            assert_eq!(text(line), Some((expected.to_owned(), rest.to_owned())), "{line}");
        }
    }

    #[test]
    fn refuses_what_go_would_not_write() {
        for line in [
            "",
            "a",
            "\"",
            "\"a",
            r#""a\""#,
            r#""\q""#,
            r#""\x1""#,
            r#""\x+1""#,
            r#""\ud800""#,
            r#""\U00110000""#,
            "\"a\nb\"",
            "\"\u{1b}[31m\"",
            r#""\u00é""#,
        ] {
            assert_eq!(text(line), None, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_escaped_comes_back(words in ".{0,40}") {
            let mut line = String::from("\"");
            for c in words.chars() {
                match c {
                    '"' | '\\' => line.extend(['\\', c]),
                    c if c.is_control() => line.push_str(&format!("\\u{:04x}", c as u32)),
                    c => line.push(c),
                }
            }
            line.push_str("\" end");
            proptest::prop_assert_eq!(text(&line), Some((words, " end".to_owned())));
        }
    }
}
