//! The messages are in `tests/questions`; here is what no single file can show.

use proptest::prelude::*;

use super::*;
use crate::grant::Defaults;
use crate::policy::validate::validate;

/// Pieces that get further into the language than arbitrary characters do.
const PIECES: &[&str] = &[
    "[[expect]]\n",
    "[expect]\n",
    "service = ",
    "only = ",
    "can = ",
    "cannot = ",
    "keyspace = ",
    "subject = ",
    "source = ",
    "connection = ",
    "at = ",
    "because = ",
    "\"a\"",
    "\"b\"",
    "\"write\"",
    "\"read\"",
    "\"publish\"",
    "\"subscribe\"",
    "\"connect\"",
    "\"orders\"",
    "\"orders/x.>\"",
    "\"e.>\"",
    "\"10.0.0.1\"",
    "\"MQTT\"",
    "2027-01-01T00:00:00Z",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\n",
    "\"",
    "é",
    "\u{0}",
    "=",
    "1",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn never_panics(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
        let policy = "[bucket.orders]\n[service.a]\nowns = ['orders']\n[service.b]\ndisabled = 'x'\n";
        let files = [SourceFile::new("p.toml", policy)];
        let policy = validate(&files).unwrap().policy;
        let defaults = Defaults { account: "A".into(), lifetime: std::time::Duration::from_secs(1), audit: crate::grant::AuditStreams::default() };
        let judge = Judge::new(&policy, &files, &defaults);
        let problems = Collector::new();
        let file = SourceFile::new("p.test.toml", pieces.concat());
        for expectation in read(&file, &policy, &problems) {
            prop_assert!(!expectation.text().is_empty());
            let _ = judge.verdict(&expectation);
        }
    }
}
