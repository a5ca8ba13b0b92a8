//! Policy files: whatever they hold, they are refused with problems or become a policy in which
//! no two services write one key and nothing on the never-grant list is granted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::diagnostics::render::Style;
use solewriter_core::grant::{Defaults, Grant, Side, never_granted};
use solewriter_core::policy::model::Access;
use solewriter_core::policy::validate::validate;
use solewriter_types::kv_operation::READING_STORES;

fuzz_target!(|text: &str| {
    // Two files, so that what they share is found too.
    let (first, second) = text.split_once("#---#").unwrap_or((text, ""));
    let files = [SourceFile::new("a.toml", first), SourceFile::new("b.toml", second)];
    match validate(&files) {
        Err(problems) => {
            let _ = problems.render(Style::Plain);
        }
        Ok(validated) => {
            let policy = validated.policy;
            let defaults = Defaults {
                account: "APP".into(),
                lifetime: std::time::Duration::from_secs(60),
                audit: solewriter_core::grant::AuditStreams::default(),
            };
            let mut owned = Vec::new();
            let mut stored = Vec::new();
            for service in policy.services() {
                for rule in &service.rules {
                    if let Access::Owns(keyspace) = &rule.access {
                        owned.push((service.name.clone(), keyspace.clone()));
                    }
                }
                let Ok(grant) = Grant::of(service, &defaults) else { continue };
                for side in [Side::Publish, Side::Subscribe] {
                    for permission in grant.permissions(side) {
                        let subject = &permission.subject;
                        // Users of object stores alone ask two questions about the account.
                        let rule = service.rules.get(permission.rule).map(|rule| &rule.access);
                        let of_store =
                            matches!(rule, Some(Access::OwnsStore(_) | Access::ReadsStore(_)))
                                && READING_STORES.contains(&subject.as_str());
                        assert!(of_store || never_granted(side, subject).is_none());
                        if let Some(Access::OwnsStore(_)) = rule
                            && subject.first_token() == "$O"
                        {
                            stored.push((service.name.clone(), subject.clone()));
                        }
                    }
                }
            }
            for (i, (one, mine)) in stored.iter().enumerate() {
                for (other, theirs) in stored.iter().skip(i + 1).take(50) {
                    assert!(one == other || !mine.overlaps(theirs));
                }
            }
            for (i, (one, mine)) in owned.iter().enumerate() {
                for (other, theirs) in owned.iter().skip(i + 1).take(50) {
                    assert!(one == other || mine.shared_key(theirs).is_none());
                }
            }
        }
    }
});
