//! Values without brackets: texts, numbers, dates, true and false.

use jiff::civil::DateTime;

use super::Value;
use super::parser::{Parser, Read, is_blank, is_new_line};

/// How much a number is multiplied by its suffix.
const SUFFIXES: [(&str, i64); 25] = [
    ("", 1),
    ("k", 1000),
    ("kb", 1 << 10),
    ("ki", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1 << 20),
    ("mi", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1 << 30),
    ("gi", 1 << 30),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1 << 40),
    ("ti", 1 << 40),
    ("tib", 1 << 40),
    ("p", 1_000_000_000_000_000),
    ("pb", 1 << 50),
    ("pi", 1 << 50),
    ("pib", 1 << 50),
    ("e", 1_000_000_000_000_000_000),
    ("eb", 1 << 60),
    ("ei", 1 << 60),
    ("eib", 1 << 60),
];

/// What a hash of a password begins with, after its `$`. The server takes it for a text, not for a
/// variable.
const BCRYPT: &str = "2a$";

/// Whether this ends a text without quotes.
fn ends_text(c: char) -> bool {
    is_new_line(c) || is_blank(c) || matches!(c, ';' | ',' | ']' | '}')
}

/// Whether this ends a number: a list's bracket does not.
fn ends_number(c: char) -> bool {
    is_new_line(c) || is_blank(c) || matches!(c, ';' | ',' | '}')
}

impl Parser<'_, '_> {
    /// A value without brackets, or the name of a variable as `Err`.
    pub(super) fn scalar(&mut self) -> Read<Result<Value, String>> {
        let start = self.at;
        match self.peek() {
            Some('\'') => self.single_quoted().map(Ok),
            Some('"') => {
                self.next();
                self.double_quoted(start).map(Ok)
            }
            Some('(') => self.block().map(Ok),
            Some('-') => self.negative().map(Ok),
            Some('0'..='9') => self.number().map(Ok),
            Some('.') => self.wrong("a number begins with a point", "write a digit before it"),
            _ => self.bare(),
        }
    }

    fn read_since(&self, start: usize) -> &str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn no_end<T>(&self, start: usize) -> Read<T> {
        let help = "add the closing quote";
        self.wrong_at(start..start + 1, "a quoted text has no end", "it begins here", help)
    }

    fn single_quoted(&mut self) -> Read<Value> {
        let start = self.at;
        self.next();
        self.skip(|c| c != '\'');
        let text = self.read_since(start + 1).to_owned();
        if self.next().is_none() {
            return self.no_end(start);
        }
        Ok(Value::String(text))
    }

    fn double_quoted(&mut self, start: usize) -> Read<Value> {
        let mut text = Vec::new();
        loop {
            let from = self.at;
            self.skip(|c| !matches!(c, '"' | '\\'));
            text.extend_from_slice(self.read_since(from).as_bytes());
            match self.next() {
                None => return self.no_end(start),
                Some('\\') => self.escape(&mut text)?,
                Some(_) => return Ok(Value::String(lossy(text))),
            }
        }
    }

    /// What follows `\`.
    fn escape(&mut self, text: &mut Vec<u8>) -> Read<()> {
        let start = self.at.saturating_sub(1);
        match self.next() {
            Some('t') => text.push(b'\t'),
            Some('n') => text.push(b'\n'),
            Some('r') => text.push(b'\r'),
            Some('"') => text.push(b'"'),
            Some('\\') => text.push(b'\\'),
            Some('x') => {
                let digits = self.text.get(self.at..self.at.saturating_add(2));
                let byte = digits
                    .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok());
                let Some(byte) = byte else {
                    return self.wrong_at(
                        start..self.at,
                        "`\\x` without two hexadecimal digits",
                        "here",
                        "write `\\\\` for a backslash",
                    );
                };
                self.at += 2;
                text.push(byte);
            }
            _ => {
                return self.wrong_at(
                    start..self.at,
                    "no such escape in a text",
                    "here",
                    "there are `\\xXX`, `\\t`, `\\n`, `\\r`, `\\\"` and `\\\\`; in single quotes a \
                     backslash is itself",
                );
            }
        }
        Ok(())
    }

    /// A text without quotes, or what looks like one.
    fn bare(&mut self) -> Read<Result<Value, String>> {
        let mut text = Vec::new();
        let mut escaped = false;
        let ended_by_quote = loop {
            let from = self.at;
            self.skip(|c| !ends_text(c) && !matches!(c, '\\' | '\''));
            text.extend_from_slice(self.read_since(from).as_bytes());
            match self.peek() {
                Some('\\') => {
                    self.next();
                    escaped = true;
                    self.escape(&mut text)?;
                }
                Some('\'') => {
                    self.next();
                    break true;
                }
                _ => break false,
            }
        };
        let text = lossy(text);
        if !escaped && !ended_by_quote {
            if let Some(name) = text.strip_prefix('$')
                && !name.starts_with(BCRYPT)
            {
                return Ok(Err(name.to_owned()));
            }
            match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" => return Ok(Ok(Value::Bool(true))),
                "false" | "no" | "off" => return Ok(Ok(Value::Bool(false))),
                _ => {}
            }
        }
        Ok(Ok(Value::String(text)))
    }

    /// A text over several lines: `(` to a `)` alone on its line.
    fn block(&mut self) -> Read<Value> {
        let start = self.at;
        self.next();
        let inner = self.at;
        loop {
            self.skip(|c| c != ')');
            let text = self.text.get(inner..self.at).unwrap_or_default();
            if self.next().is_none() {
                return self.wrong_at(
                    start..start + 1,
                    "a block has no end",
                    "it begins here",
                    "write `)` alone on the line after its last",
                );
            }
            if text.ends_with('\n') && matches!(self.peek(), None | Some('\n')) {
                return Ok(Value::String(text.to_owned()));
            }
        }
    }

    fn negative(&mut self) -> Read<Value> {
        let start = self.at;
        self.next();
        let digits = self.at;
        self.skip(|c| c.is_ascii_digit());
        if self.at == digits {
            return self.wrong("`-` without a digit", "put quotes around a text that begins so");
        }
        if self.peek() == Some('.') {
            return self.fraction(start);
        }
        self.suffixed(start, false)
    }

    fn number(&mut self) -> Read<Value> {
        let start = self.at;
        self.skip(|c| c.is_ascii_digit());
        match self.peek() {
            Some('-') if self.at - start == 4 => self.date(start),
            Some('-') => self.wrong_at(
                start..self.at + 1,
                "a number with `-` behind it is no date",
                "here",
                "write a date as 2026-01-31T12:00:00Z, and quotes around anything else",
            ),
            Some('.') => self.fraction(start),
            _ => self.suffixed(start, true),
        }
    }

    /// A whole number with its suffix. What goes on with something else is a text.
    fn suffixed(&mut self, start: usize, text: bool) -> Read<Value> {
        let digits = self.at;
        if self.peek().is_some_and(|c| "kKmMgGtTpPeE".contains(c)) {
            self.next();
            self.skip(|c| matches!(c, 'b' | 'B' | 'i' | 'I'));
        }
        let suffix = self.read_since(digits).to_ascii_lowercase();
        let goes_on = self.peek().is_some_and(|c| !ends_number(c));
        if goes_on && (text || !suffix.is_empty()) {
            if suffix.is_empty() {
                // The server takes the first character as it is, the bracket of a list too.
                self.next();
            }
            return self.rest_of_text(start);
        }
        let Some((_, times)) = SUFFIXES.iter().find(|(name, _)| *name == suffix) else {
            return self.wrong_at(
                start..self.at,
                "no such suffix of a number",
                "nats-server ignores this setting",
                "use k, m, g and t, or kb, mb, gb and tb",
            );
        };
        match self.text.get(start..digits).and_then(|digits| digits.parse::<i64>().ok()) {
            Some(number) => Ok(Value::Integer(number.wrapping_mul(*times))),
            None => self.out_of_range(start),
        }
    }

    fn out_of_range<T>(&self, start: usize) -> Read<T> {
        let help = "put quotes around it if it is a text";
        self.wrong_at(start..self.at, "a number is out of range", "here", help)
    }

    /// The rest of what began like a number and is a text.
    fn rest_of_text(&mut self, start: usize) -> Read<Value> {
        let mut text = self.read_since(start).as_bytes().to_vec();
        let from = self.at;
        match self.bare()? {
            Ok(Value::String(rest)) => text.extend_from_slice(rest.as_bytes()),
            Ok(_) | Err(_) => text.extend_from_slice(self.read_since(from).as_bytes()),
        }
        Ok(Value::String(lossy(text)))
    }

    /// From the point on: a number, or an address when there is another one.
    fn fraction(&mut self, start: usize) -> Read<Value> {
        self.next();
        let digits = self.at;
        self.skip(|c| c.is_ascii_digit());
        if self.at == digits {
            return self.wrong("a number ends with its point", "write a digit behind it");
        }
        if self.peek() == Some('.') {
            self.skip(|c| c.is_ascii_digit() || matches!(c, '.' | ':' | '-'));
            return Ok(Value::String(self.read_since(start).to_owned()));
        }
        match self.read_since(start).parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            _ => self.out_of_range(start),
        }
    }

    fn date(&mut self, start: usize) -> Read<Value> {
        const LENGTH: usize = "2006-01-02T15:04:05Z".len();
        let text = self.text.get(start..start.saturating_add(LENGTH)).unwrap_or_default();
        let parsed = text
            .strip_suffix('Z')
            .filter(|date| date.as_bytes().get(10) == Some(&b'T'))
            .and_then(|date| date.parse::<DateTime>().ok());
        if parsed.is_none() {
            let end = self.at + 1;
            let help = "write it as 2026-01-31T12:00:00Z";
            return self.wrong_at(start..end, "a date is not complete", "here", help);
        }
        let date = text.to_owned();
        self.at = start.saturating_add(LENGTH);
        Ok(Value::DateTime(date))
    }
}

/// The server's texts are bytes. What is no UTF-8 is in no name and no subject.
fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
