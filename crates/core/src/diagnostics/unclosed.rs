//! Where a bracket, a quote or a comma is missing. TOML's parser notices it only at what comes
//! next, which is often on another line.

use std::ops::Range;

use toml_parser::Source;
use toml_parser::lexer::{Token, TokenKind};

/// So much of a line is looked at: more than any header or key has.
const TOKENS_OF_A_LINE: usize = 64;

/// What is missing before a syntax error.
pub(super) struct Missing {
    /// What is wrong, in words; `None` where the parser's own words are right.
    pub wrong: Option<&'static str>,
    /// Where it is missing.
    pub at: Range<usize>,
    /// What is missing there.
    pub label: &'static str,
    /// What was opened and has no end, when that is not where it is missing.
    pub opened: Option<Range<usize>>,
}

/// What is missing on a line before the one that has the error. `None` when it is not that.
pub(super) fn missing(text: &str, error: usize) -> Option<Missing> {
    let line_start = text.get(..error)?.rfind('\n').map_or(0, |at| at + 1);
    let says = |token: &Token| !matches!(token.kind(), TokenKind::Whitespace | TokenKind::Comment);
    let mut tokens = Source::new(text).lex().filter(says).peekable();
    // What is open where the line begins, innermost last.
    let mut open: Vec<Token> = Vec::new();
    let mut last: Option<Token> = None;
    while let Some(token) = tokens.next_if(|token| token.span().start() < line_start) {
        match token.kind() {
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => open.push(token),
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => drop(open.pop()),
            TokenKind::Newline => continue,
            _ => {}
        }
        last = Some(token);
    }
    let last = last?;
    let (start, end) = (last.span().start(), last.span().end());
    if matches!(last.kind(), TokenKind::MlBasicString | TokenKind::MlLiteralString) && error == end
    {
        // Whether it has an end: one that has none goes on to the end of the text.
        let string = text.get(start..end)?;
        let (quotes, rest) = string.split_at_checked(3)?;
        return (!rest.ends_with(quotes)).then(|| Missing {
            wrong: Some("a string has no end"),
            at: start..start + 3,
            label: "it begins here",
            opened: None,
        });
    }
    if end > line_start {
        return None;
    }
    let line = tokens.take_while(|token| token.kind() != TokenKind::Newline);
    let line: Vec<Token> = line.take(TOKENS_OF_A_LINE).collect();
    let innermost = open.last()?;
    let is_first = line.first().is_some_and(|first| first.span().start() == error);
    let after_comma = last.kind() == TokenKind::Comma;
    let in_table = innermost.kind() == TokenKind::LeftCurlyBracket;
    let unclosed = match begins(&line) {
        Some(Beginning::Header(at)) => at == line_start,
        // An inline table has keys on lines of their own, too.
        Some(Beginning::Key) => !in_table,
        None => false,
    };
    let (wrong, label) = match (unclosed, in_table) {
        (true, false) => (Some("an array has no end"), "`]` is missing here"),
        (true, true) => (Some("an inline table has no end"), "`}` is missing here"),
        (false, true) if is_first && !after_comma => (None, "a comma or `}` is missing here"),
        (false, false) if is_first && !after_comma => (None, "a comma is missing here"),
        (false, _) => return None,
    };
    let span = innermost.span();
    Some(Missing { wrong, at: end..end, label, opened: Some(span.start()..span.end()) })
}

/// What a line begins with that belongs in no array.
enum Beginning {
    /// A key and what it is set to.
    Key,
    /// The header of a table, from that byte on.
    Header(usize),
}

fn begins(line: &[Token]) -> Option<Beginning> {
    use TokenKind::{Atom, BasicString, Dot, Eof, Equals, LeftSquareBracket, LiteralString};
    let first = line.first()?;
    let brackets = line.iter().take_while(|token| token.kind() == LeftSquareBracket).count();
    let mut rest = line.iter().skip(brackets).map(Token::kind);
    let name = rest.next()?;
    let mut after =
        rest.skip_while(|kind| matches!(kind, Dot | Atom | BasicString | LiteralString));
    match (brackets, name, after.next()) {
        (0, Atom | BasicString | LiteralString, Some(Equals)) => Some(Beginning::Key),
        // A list of lists begins so as well, but with a quoted text.
        (1 | 2, Atom, Some(TokenKind::RightSquareBracket)) => {
            let mut end = after.skip_while(|kind| *kind == TokenKind::RightSquareBracket);
            let ends = matches!(end.next(), None | Some(Eof));
            ends.then(|| Beginning::Header(first.span().start()))
        }
        _ => None,
    }
}
