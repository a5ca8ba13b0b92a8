//! Blanks secrets in a text before anybody can quote it.
//!
//! It works on lines, without the grammar: it must hold for a file with a bracket missing, too. So
//! a line is shown only when it is known to be harmless; of any other, the words are blanked and
//! the punctuation stays. Bytes and characters keep their places.

/// Keys whose values are no secrets.
const HARMLESS: &[&str] = &[
    "accounts",
    "account",
    "account_token_position",
    "add",
    "advertise",
    "allow",
    "allow_responses",
    "allowed_connection_types",
    "auth_callout",
    "auth_users",
    "authorization",
    "ca_file",
    "cert_file",
    "cluster",
    "cluster_name",
    "connection_types",
    "debug",
    "default_permissions",
    "deny",
    "domain",
    "expires",
    "export",
    "exports",
    "gateway",
    "gateways",
    "host",
    "http",
    "http_port",
    "import",
    "imports",
    "include",
    "issuer",
    "jetstream",
    "key_file",
    "latency",
    "leafnode",
    "leafnodes",
    "listen",
    "log_file",
    "logfile",
    "logtime",
    "mapping",
    "mappings",
    "max",
    "max_connections",
    "max_control_line",
    "max_file_store",
    "max_mem_store",
    "max_memory",
    "max_payload",
    "max_pending",
    "max_store",
    "max_subscriptions",
    "mqtt",
    "net",
    "no_auth_user",
    "no_tls",
    "operator",
    "permission",
    "permissions",
    "pid_file",
    "ping_interval",
    "ping_max",
    "port",
    "prefix",
    "pub",
    "publish",
    "remotes",
    "resolver",
    "response",
    "response_type",
    "routes_none",
    "server_name",
    "server_tags",
    "service",
    "store_dir",
    "stream",
    "sub",
    "subject",
    "subscribe",
    "system_account",
    "timeout",
    "tls",
    "to",
    "trace",
    "user",
    "username",
    "users",
    "verify",
    "verify_and_map",
    "websocket",
    "write_deadline",
    "xkey",
];

/// Words that a line with a secret is likely to have.
const SUSPICIOUS: &[&str] =
    &["pass", "token", "secret", "pwd", "cred", "seed", "auth_key", "private", "$2", "2a$", "@"];

/// The text with whatever may be a secret replaced, byte for byte and character for character.
#[must_use]
pub fn blank(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    // Whether the line before is a key whose value may be on this one.
    let mut awaited = false;
    for line in text.split_inclusive('\n') {
        let words = line.trim();
        if !awaited && harmless(line) {
            shown.push_str(line);
        } else {
            shown.extend(line.chars().map(stand_in));
            let alone = !words.contains(char::is_whitespace) && !words.starts_with(['#', '/']);
            awaited = words.ends_with([':', '=']) || (alone && !words.ends_with(['}', ']', ',']));
        }
    }
    shown
}

/// A character of as many bytes that says nothing.
fn stand_in(c: char) -> char {
    match (c, c.len_utf8()) {
        (_, _) if c.is_ascii_punctuation() && !matches!(c, '$' | '/' | '+' | '-' | '_') => c,
        (' ' | '\t' | '\n' | '\r', _) => c,
        (_, 1) => '*',
        (_, 2) => '\u{B7}',
        (_, 3) => '\u{2022}',
        (_, _) => '\u{10101}',
    }
}

fn harmless(line: &str) -> bool {
    let small = line.to_ascii_lowercase();
    // `account_token_position` is a word of the server, and no secret.
    let looked = small.replace("account_token_position", "");
    if SUSPICIOUS.iter().any(|word| looked.contains(word)) {
        return false;
    }
    let mut words = small
        .split(|c: char| c.is_whitespace() || matches!(c, '{' | '}' | '[' | ']' | ',' | ';'))
        .filter(|word| !word.is_empty());
    let Some(first) = words.next() else { return true };
    // What ends at `:` or `=`, or stands before one, is a key.
    let key = first.split([':', '=']).next().unwrap_or_default().trim_matches(['"', '\'']);
    if HARMLESS.contains(&key) {
        return true;
    }
    // Subjects of a list over several lines, each in quotes and nothing else on the line.
    let quoted = |word: &str| word.starts_with(['"', '\'']) && word.ends_with(['"', '\'']);
    let subject = |word: &str| word.contains('.') || word.contains('>');
    let after = words.next();
    quoted(first)
        && subject(first)
        && after.is_none_or(|w| quoted(w) && subject(w))
        && words.all(|word| quoted(word) && subject(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_secrets_are_gone_and_places_stay() {
        for secret in [
            "password: hunterword",
            "  pass = \"hunterword\"",
            "{user: bob, password: hunterword}",
            "token: hunterword }",
            "PW: hunterword",
            "\"hunterword\"",
            "routes: [\"nats://u:hunterword@h:1\"]",
            "hünterword hunterword \u{1F600} # €",
            "user: b, x: $2a$11$hunterword",
            "password:\n\n \"hunterword.x\"",
            "password\n user.hunterword",
        ] {
            let shown = blank(secret);
            assert!(!shown.contains("hunterword"), "{shown}");
            assert_eq!(shown.len(), secret.len());
            assert_eq!(shown.chars().count(), secret.chars().count());
        }
    }

    #[test]
    fn what_is_harmless_stays() {
        for line in
            ["publish: [\"a.>\", \"b\"]", "  accounts {", "}", "  \"$KV.b.>\",", "users = [", ""]
        {
            assert_eq!(blank(line), line);
        }
    }
}
