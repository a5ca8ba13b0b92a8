//! What nats-server says to a client that it refuses a subject.

use solewriter_types::dedup::Same;
use solewriter_types::go_quote;
use solewriter_types::kv_operation::Act;

/// One refusal, as the server's error text has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How the subject was used.
    pub act: Act,
    /// The subject.
    pub subject: String,
    /// The queue group of a subscription.
    pub queue: Option<String>,
}

impl Same for Refused {
    fn key(&self) -> String {
        format!("{:?} {:?} {:?}", self.act, self.subject, self.queue)
    }
}

impl Refused {
    /// Reads the text of an error such as
    /// `Permissions Violation for Publish to "$KV.orders.k1"`. The words in any case: client
    /// libraries change it. `None` for every other error.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_matches('\'');
        let rest = strip(text, "permissions violation for ")?;
        let forms = [
            ("publish to ", Act::Publish),
            ("publish with reply of ", Act::Reply),
            ("subscription to ", Act::Subscribe),
        ];
        let (rest, act) =
            forms.into_iter().find_map(|(words, act)| Some((strip(rest, words)?, act)))?;
        let (subject, rest) = go_quote::read(rest.as_bytes())?;
        let queue = std::str::from_utf8(rest).ok().and_then(|rest| strip(rest, " using queue "));
        let queue = queue.and_then(|rest| Some(go_quote::read(rest.as_bytes())?.0));
        Some(Self { act, subject, queue })
    }
}

/// What follows the words, in whatever case they are.
fn strip<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(words.len())?;
    head.eq_ignore_ascii_case(words).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Option<(Act, String, Option<String>)> {
        Refused::parse(text).map(|r| (r.act, r.subject, r.queue))
    }

    #[test]
    fn reads_each_form_in_any_case() {
        for (text, act, subject, queue) in [
            (
                r#"Permissions Violation for Publish to "$KV.orders.a""#,
                Act::Publish,
                "$KV.orders.a",
                None,
            ),
            (r#"'Permissions Violation for Publish to "a\"b"'"#, Act::Publish, "a\"b", None),
            (
                r#"permissions violation for publish to "$kv.orders.a""#,
                Act::Publish,
                "$kv.orders.a",
                None,
            ),
            (
                r#"Permissions Violation for Publish with Reply of "_R_.x""#,
                Act::Reply,
                "_R_.x",
                None,
            ),
            (r#"Permissions Violation for Subscription to "foo""#, Act::Subscribe, "foo", None),
            (
                r#"Permissions Violation for Subscription to "foo" using queue "q\"q""#,
                Act::Subscribe,
                "foo",
                Some("q\"q"),
            ),
        ] {
            let expected = (act, subject.to_owned(), queue.map(ToOwned::to_owned));
            assert_eq!(refused(text), Some(expected), "{text}");
        }
        for other in [
            "",
            "Authorization Violation",
            "Permissions Violation for",
            "stale connection",
            "Permissions Violation for Publish to x",
            "Permissions Violation for Publish to \"x",
        ] {
            assert_eq!(refused(other), None, "{other}");
        }
    }
}
