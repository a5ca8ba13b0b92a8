//! What each user may do, once denies are considered.
//!
//! nats-server checks the subject of a publish and of a subscription, and never where an answer
//! goes. So this is not all that a user can bring about: see [`super::findings`].

use solewriter_core::diagnostics::Span;
use solewriter_core::grant::Side;
use solewriter_types::subject::Pattern;

use super::accounts::{Responses, Rule, Rules, User};

/// Something that a user may do.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// Which way.
    pub side: Side,
    /// The subjects.
    pub subject: Pattern,
    /// The only queue groups that may be used, maybe with wildcards.
    pub queue: Option<String>,
    /// Where it is written; of a user without such permissions, the user.
    pub span: Span,
    /// Whether nothing says so: no permissions, or no list, allow everything.
    pub by_silence: bool,
    /// What is denied of it.
    pub except: Vec<Rule>,
}

/// What a user may do.
#[derive(Clone, Debug)]
pub struct Rights {
    /// All of it, publishing first.
    pub allowed: Vec<Allowed>,
    /// Answers to whatever it is asked, to any subject that asks for them. No deny holds for them.
    pub responses: Option<Responses>,
}

/// What this user may do.
#[must_use]
pub fn rights(user: &User) -> Rights {
    let permissions = user.permissions.as_ref();
    let mut allowed = Vec::new();
    side(Side::Publish, permissions.and_then(|p| p.publish.as_ref()), user, &mut allowed);
    side(Side::Subscribe, permissions.and_then(|p| p.subscribe.as_ref()), user, &mut allowed);
    Rights { allowed, responses: permissions.and_then(|p| p.responses.clone()) }
}

fn side(side: Side, rules: Option<&Rules>, user: &User, allowed: &mut Vec<Allowed>) {
    let deny = rules.map(|rules| rules.deny.as_slice()).unwrap_or_default();
    let Some(allow) = rules.and_then(|rules| rules.allow.as_ref()) else {
        let span = match (rules, &user.permissions) {
            (Some(rules), _) => &rules.span,
            (None, Some(permissions)) => &permissions.span,
            (None, None) => &user.span,
        };
        let Ok(everything) = Pattern::parse(">") else { return };
        let rule = Rule { subject: everything, queue: None, span: span.clone() };
        allowed.extend(after(side, &rule, deny, true));
        return;
    };
    allowed.extend(allow.iter().filter_map(|rule| after(side, rule, deny, false)));
}

/// What is left of a rule after denies.
fn after(side: Side, rule: &Rule, deny: &[Rule], by_silence: bool) -> Option<Allowed> {
    // Who is denied a queue group may use others.
    let holds = |deny: &&Rule| deny.queue.is_none() || deny.queue == rule.queue;
    let whole = |deny: &Rule| rule.subject.is_subset_of(&deny.subject);
    if deny.iter().filter(holds).any(whole) {
        return None;
    }
    let except = deny.iter().filter(|deny| deny.subject.overlaps(&rule.subject)).cloned().collect();
    Some(Allowed {
        side,
        subject: rule.subject.clone(),
        queue: rule.queue.clone(),
        span: rule.span.clone(),
        by_silence,
        except,
    })
}

impl Allowed {
    /// Whether some subject of `wanted` is left of it, and the part of `wanted` that may be.
    #[must_use]
    pub fn reaches(&self, wanted: &Pattern) -> Option<Pattern> {
        let part = self.subject.intersection(wanted)?;
        let denied = |deny: &Rule| deny.queue.is_none() && part.is_subset_of(&deny.subject);
        (!self.except.iter().any(denied)).then_some(part)
    }

    /// Whether it allows to subscribe to a subject, alone or with a queue group.
    #[must_use]
    pub fn subscribes(&self, subject: &Pattern, queue: Option<&str>) -> bool {
        let within = |names: &str, queue: &str| match (Pattern::parse(names), Pattern::parse(queue))
        {
            (Ok(names), Ok(queue)) => queue.is_subset_of(&names),
            _ => names == queue,
        };
        let in_queue = |names: &Option<String>| match (names, queue) {
            (None, _) => true,
            (Some(names), Some(queue)) => within(names, queue),
            (Some(_), None) => false,
        };
        let denied = |deny: &Rule| subject.is_subset_of(&deny.subject) && in_queue(&deny.queue);
        subject.is_subset_of(&self.subject)
            && in_queue(&self.queue)
            && !self.except.iter().any(denied)
    }
}

impl Rights {
    /// What allows to publish some subject of `wanted`.
    pub fn publishes(&self, wanted: &Pattern) -> impl Iterator<Item = &Allowed> {
        self.allowed.iter().filter(move |a| a.side == Side::Publish && a.reaches(wanted).is_some())
    }

    /// Whether it may publish everything.
    #[must_use]
    pub fn publishes_everything(&self) -> bool {
        self.allowed
            .iter()
            .any(|a| a.side == Side::Publish && a.subject.as_str() == ">" && a.except.is_empty())
    }
}

#[cfg(test)]
mod tests;
