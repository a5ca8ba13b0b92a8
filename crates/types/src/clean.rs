//! What somebody else wrote (names of files, clients and servers, subjects out of logs, messages),
//! made fit to be printed: nothing in it breaks a line, moves the cursor, turns the direction of
//! what follows, or cannot be seen. Everything that prints words which are not ours goes through
//! here.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character does something other than be seen: control characters, line and paragraph
/// separators, marks of direction, zero-width and other format characters, variation selectors,
/// fillers, tags.
#[must_use]
pub fn is_unclean(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
            | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// As one line: whatever is unclean stands as its escape, such as `\n` or `\u{202e}`.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, is_unclean)
}

/// As lines: line breaks and tabs stay.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_unclean(c) && !matches!(c, '\n' | '\t'))
}

/// Source text, in which places are counted in bytes: whatever is unclean is replaced by so many
/// visible characters as it has bytes. Line breaks and tabs stay.
#[must_use]
pub fn excerpt(text: &str) -> Cow<'_, str> {
    let hide = |c: char| is_unclean(c) && !matches!(c, '\n' | '\r' | '\t');
    if !text.contains(hide) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hide(c) { (0..c.len_utf8()).for_each(|_| out.push('?')) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// As lines that may be coloured: sequences of the terminal's that set colours stay, too.
#[must_use]
pub fn coloured(text: &str) -> Cow<'_, str> {
    if !text.contains('\u{1b}') {
        return lines(text);
    }
    let mut out = String::with_capacity(text.len());
    for (index, part) in text.split('\u{1b}').enumerate() {
        let colour = part.strip_prefix('[').and_then(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';')?;
            rest.get(end..)?.starts_with('m').then_some(())
        });
        if index > 0 {
            out.push_str(if colour.is_some() { "\u{1b}" } else { "\\u{1b}" });
        }
        out.push_str(&lines(part));
    }
    Cow::Owned(out)
}

/// JSON, in which whatever is unclean stands escaped: the same to whoever parses it. Line breaks
/// stay; they are between values.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    let bad = |c: char| is_unclean(c) && c != '\n';
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn escape(text: &str, bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// What a hostile name is made of, for tests of everything that prints.
pub const HOSTILE: &str =
    "e\u{1b}[31mvil\n\rline\u{85}\u{202e}\u{2066}\u{2028}\u{200b}\u{feff}\u{e0041}.";

/// What a test finds in text that was printed: every character that should not be there.
#[must_use]
pub fn dirt(text: &str) -> Vec<char> {
    text.chars().filter(|c| is_unclean(*c) && *c != '\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_not_seen_comes_through() {
        let cleaned = line(HOSTILE);
        assert_eq!(
            cleaned,
            "e\\u{1b}[31mvil\\n\\rline\\u{85}\\u{202e}\\u{2066}\\u{2028}\\u{200b}\\u{feff}\\u{e0041}."
        );
        assert_eq!(lines("a\n\tb\r\u{9b}"), "a\n\tb\\r\\u{9b}");
        for c in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain(['\u{2029}']) {
            assert!(is_unclean(c), "{c:?}");
        }
    }

    #[test]
    fn what_can_be_seen_stays_as_it_is() {
        for text in ["", "orders/k.1 – é 漢字 \u{1f600} \"q\" \\ עברית"] {
            assert!(matches!(line(text), Cow::Borrowed(same) if same == text));
            assert!(matches!(excerpt(text), Cow::Borrowed(_)));
        }
    }

    #[test]
    fn colours_stay_and_nothing_else_of_a_terminals() {
        let text =
            "\u{1b}[1m\u{1b}[38;5;9merror\u{1b}[0m: \u{1b}[2Jgone \u{1b}]0;title\u{7} \u{1b}[8";
        assert_eq!(
            coloured(text),
            "\u{1b}[1m\u{1b}[38;5;9merror\u{1b}[0m: \\u{1b}[2Jgone \\u{1b}]0;title\\u{7} \\u{1b}[8"
        );
        assert_eq!(coloured("a\r\n"), "a\\r\n");
    }

    #[test]
    fn json_is_the_same_to_who_parses_it() {
        let text = serde_json::to_string_pretty(&[HOSTILE]).unwrap();
        let cleaned = json(&text);
        assert!(dirt(&cleaned).is_empty());
        assert_eq!(serde_json::from_str::<Vec<String>>(&cleaned).unwrap(), [HOSTILE]);
    }

    #[test]
    fn an_excerpt_keeps_its_places() {
        let text = "a = \"\u{202e}\u{1b}\" # x\r\n\u{e0041}\tb";
        let shown = excerpt(text);
        assert_eq!(shown, "a = \"????\" # x\r\n????\tb");
        assert_eq!(shown.len(), text.len());
        assert_eq!(dirt(&shown), ['\r', '\t']);
    }
}
