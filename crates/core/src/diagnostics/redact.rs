//! Keeps seeds out of problems: somebody will put one where a public key belongs, and the message
//! about it must not carry it into a log.

use std::borrow::Cow;

/// A run that begins as a seed does is hidden from this length on (a whole one has 58).
const CUT_SEED_CHARS: usize = 40;

/// A public key has 56 characters, so a longer run may hide a seed after something else.
const BEYOND_PUBLIC_KEY: usize = 57;

/// Replaces what looks like an NKEY seed (`S`, then base32) by stars, all but its first two
/// characters. The length in bytes stays, so that spans still fit.
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut redacted: Option<String> = None;
    let mut at = 0;
    for run in text.split_inclusive(|c| !is_base32(c)) {
        let letters = run.trim_end_matches(|c| !is_base32(c));
        if let Some(start) = seed_start(letters) {
            let secret = at + start + 2..at + letters.len();
            let stars = "*".repeat(secret.len());
            redacted.get_or_insert_with(|| text.to_owned()).replace_range(secret, &stars);
        }
        at += run.len();
    }
    redacted.map_or(Cow::Borrowed(text), Cow::Owned)
}

fn is_base32(c: char) -> bool {
    matches!(c, 'A'..='Z' | '2'..='7')
}

fn seed_start(run: &str) -> Option<usize> {
    if run.starts_with('S') && run.len() >= CUT_SEED_CHARS {
        return Some(0);
    }
    run.find('S').filter(|start| run.len() - start >= BEYOND_PUBLIC_KEY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Seed, Signer, User};

    #[test]
    fn hides_seeds_and_nothing_else() {
        for _ in 0..50 {
            let seed = Seed::<User>::generate();
            let public = Signer::new(&seed).unwrap().public().to_string();
            let text = format!("é nkeys = [\"{public}\", \"{}\"] # ü", seed.expose());
            let shown = redact(&text);
            assert_eq!(shown.len(), text.len());
            assert!(shown.contains(&public));
            assert!(!shown.contains(&seed.expose()[2..20]));
            assert!(shown.contains("\"SU****"));
            assert!(shown.ends_with("*\"] # ü"));
            let cut = &seed.expose()[..50];
            assert!(!redact(cut).contains(&cut[2..20]));
            let glued = format!("AB{}", seed.expose());
            assert!(!redact(&glued).contains(&seed.expose()[5..20]));
        }
        assert!(matches!(redact("SHORT S"), Cow::Borrowed(_)));
    }
}
