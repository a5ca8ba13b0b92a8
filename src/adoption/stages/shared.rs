//! The subjects that both accounts use while some services have moved and others have not.

use solewriter_core::diagnostics::Problem;
use solewriter_core::policy::model::{Access, Policy};
use solewriter_types::subject::Pattern;

/// Whether an account of the plan has these subjects for something else.
fn reserved(tree: &Pattern) -> bool {
    let own = ["_INBOX.>", "audit.>", "solewriter.>"];
    let own = own.into_iter().filter_map(|own| Pattern::parse(own).ok());
    let internal = tree.first_token().starts_with('$') || tree.first_token().starts_with("_R_");
    internal || tree.starts_with_wildcard() || own.into_iter().any(|own| own.overlaps(tree))
}

/// The subject as it is passed: a literal one is interest by itself (see `passes`).
fn passed(pattern: &Pattern) -> Pattern {
    let wild = match pattern.as_str().rsplit_once('.') {
        Some((front, _)) if pattern.is_literal() => Pattern::parse(&format!("{front}.*")).ok(),
        _ => None,
    };
    wild.unwrap_or_else(|| pattern.clone())
}

/// The tokens that both begin with, and all below.
fn common(one: &Pattern, other: &Pattern) -> Option<Pattern> {
    let pairs = one.as_str().split('.').zip(other.as_str().split('.'));
    let same = pairs.take_while(|(a, b)| a == b && !matches!(*a, "*" | ">")).map(|(a, _)| a);
    let tokens: Vec<&str> = same.collect();
    if tokens.is_empty() {
        return None;
    }
    Pattern::parse(&format!("{}.>", tokens.join("."))).ok()
}

/// Trees of which no two overlap: what two imports have in common would arrive twice.
fn apart(wanted: Vec<Pattern>) -> Result<Vec<Pattern>, (Pattern, Pattern)> {
    let mut trees: Vec<Pattern> = Vec::new();
    let mut left = wanted;
    left.reverse();
    while let Some(tree) = left.pop() {
        if trees.iter().any(|other| tree.is_subset_of(other)) {
            continue;
        }
        let Some(at) = trees.iter().position(|other| other.overlaps(&tree)) else {
            trees.push(tree);
            continue;
        };
        let other = trees.remove(at);
        if other.is_subset_of(&tree) {
            left.push(tree);
        } else {
            left.push(common(&other, &tree).ok_or((other, tree))?);
        }
    }
    trees.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    Ok(trees)
}

/// The subjects of plain messages that a policy's services use.
pub(super) fn plain(policy: &Policy) -> impl Iterator<Item = &Pattern> {
    let rules = policy.services().iter().flat_map(|service| &service.rules);
    rules.filter_map(|rule| match &rule.access {
        Access::Publishes(pattern)
        | Access::Subscribes(pattern)
        | Access::Answers(pattern)
        | Access::Calls(pattern) => Some(pattern),
        _ => None,
    })
}

/// The trees that both accounts use: those that are named, and those of the policy's plain messages
/// and of its streams, but for what both import from another account.
pub(super) fn trees(
    named: &[Pattern],
    policy: Option<&Policy>,
    imported: &[Pattern],
) -> Result<Vec<Pattern>, Problem> {
    if let Some(tree) = named.iter().find(|tree| reserved(tree)) {
        let message = format!("--shared {tree}: these subjects are not for plain messages");
        return Err(Problem::error("adopt-shared", message).help(
            "name trees that begin with a word of your own, such as `events.>`; buckets, streams, \
             inboxes and audit events pass already",
        ));
    }
    let mut wanted = named.to_vec();
    if let Some(policy) = policy {
        let kept = policy.streams().iter().flat_map(|stream| &stream.subjects);
        let own = |tree: &&Pattern| !imported.iter().any(|import| tree.is_subset_of(import));
        wanted.extend(
            plain(policy).chain(kept).filter(own).map(passed).filter(|tree| !reserved(tree)),
        );
    }
    apart(wanted).map_err(|(one, other)| {
        let message = format!("{one} and {other} have subjects in common, and no first word");
        Problem::error("adopt-shared", message)
            .help("name the trees with --shared, so that no two of them overlap")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_core::diagnostics::SourceFile;
    use solewriter_core::policy::validate::validate;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::parse(text).unwrap()).collect()
    }

    #[test]
    fn trees_are_apart() {
        let said = |texts: &[&str]| -> Vec<String> {
            let trees = apart(patterns(texts)).unwrap();
            trees.iter().map(ToString::to_string).collect()
        };
        assert_eq!(said(&["b.>", "a.x", "a.>"]), ["a.>", "b.>"]);
        assert_eq!(said(&["a.*.x", "a.b.>"]), ["a.>"]);
        assert_eq!(said(&["a.b.*.x", "a.b.c.>", "a.d"]), ["a.b.>", "a.d"]);
        assert!(apart(patterns(&["*.a", "b.*"])).is_err());
    }

    #[test]
    fn a_policy_names_its_own() {
        let text = "[stream.S]\nsubjects = [\"kept.>\"]\n[bucket.b]\n[service.a]\nnkeys = []\n\
                    owns = [\"b\"]\npublishes = [\"kept.a\", \"plain.now\"]\nanswers = [\"ask.a\"]\n";
        let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
        let own = trees(&[], Some(&policy), &[]).unwrap();
        assert_eq!(own, patterns(&["ask.*", "kept.>", "plain.*"]));
        let own = trees(&[], Some(&policy), &patterns(&["ask.*"])).unwrap();
        assert_eq!(own, patterns(&["kept.>", "plain.*"]), "imported from a third account");
        for bad in ["$KV.>", "_INBOX.a.>", ">", "*.a", "audit.events.>"] {
            assert!(trees(&patterns(&[bad]), None, &[]).is_err(), "{bad}");
        }
    }
}
