//! Changes of who a service is, how it connects, and what it is denied.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;

use super::{Effect, SettingChange};
use crate::diagnostics::toml::show_time;
use crate::grant::Defaults;
use crate::keys::UserKey;
use crate::policy::model::{Access, Policy, Rule, Service, ServiceKey, StreamName};
use solewriter_types::connection_type::ConnectionType;

/// Both versions of a service, and of the policy around it.
pub(super) struct Sides<'a> {
    pub old: &'a Policy,
    pub new: &'a Policy,
    pub before: Option<&'a Service>,
    pub after: Option<&'a Service>,
    pub defaults: &'a Defaults,
}

/// What changes besides rights. Of a service that comes or goes, only keys are worth saying.
pub(super) fn changes(sides: &Sides<'_>) -> Vec<SettingChange> {
    let mut changes = keys(sides);
    let (Some(before), Some(after)) = (sides.before, sides.after) else { return changes };
    let default = &sides.defaults.account;
    let (old, new) =
        (before.account.as_ref().unwrap_or(default), after.account.as_ref().unwrap_or(default));
    if old != new {
        changes.push(change("account", Some(old), Some(new), Effect::Both));
    }
    let default = sides.defaults.lifetime;
    let (old, new) = (before.lifetime.unwrap_or(default), after.lifetime.unwrap_or(default));
    if old != new {
        let effect = if new > old { Effect::Gain } else { Effect::Loss };
        changes.push(change("lifetime", Some(&length(old)), Some(&length(new)), effect));
    }
    changes.extend(sources(&before.sources, &after.sources));
    changes.extend(connections(&before.connections, &after.connections));
    match (&before.disabled, &after.disabled) {
        (None, Some(why)) => changes.push(change("disabled", None, Some(why), Effect::Loss)),
        (Some(why), None) => changes.push(change("disabled", Some(why), None, Effect::Gain)),
        // Another reason changes nothing for anybody.
        (None, None) | (Some(_), Some(_)) => {}
    }
    changes.extend(denied(before, after));
    changes.extend(ends(before, after));
    changes
}

/// Entries that end, or do so at another time than before. What has no entry any more is a right
/// that is lost.
fn ends(before: &Service, after: &Service) -> Vec<SettingChange> {
    // Of two entries for one thing, the later end counts; `None` is never.
    let end = |service: &Service, access: &Access| {
        let same = service.rules.iter().filter(|rule| rule.access == *access);
        same.map(Rule::until).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b)))
    };
    let said =
        |access: &Access, until: Option<i64>| Some(format!("{access} until {}", show_time(until?)));
    let mut changes = Vec::new();
    for (at, Rule { access, .. }) in after.rules.iter().enumerate() {
        let again = after.rules.iter().take(at).any(|rule| rule.access == *access);
        let (was, is) = (end(before, access), end(after, access).flatten());
        let (old, new) = (said(access, was.flatten()), said(access, is));
        if again || old == new {
            continue;
        }
        let later = |until: Option<i64>| until.unwrap_or(i64::MAX);
        let gains = was.is_some_and(|was| later(is) > later(was));
        let effect = if gains { Effect::Gain } else { Effect::Loss };
        changes.push(change("until", old.as_deref(), new.as_deref(), effect));
    }
    changes
}

/// The streams that a service replays, each with the consumers that it is denied beside that, and
/// whether it replays all of it.
fn replayed(service: &Service) -> BTreeMap<&str, (BTreeSet<&str>, bool)> {
    let mut streams: BTreeMap<&str, (BTreeSet<&str>, bool)> = BTreeMap::new();
    for rule in &service.rules {
        let Access::Replays(replayed) = &rule.access else { continue };
        let (denied, all) = streams.entry(replayed.stream().as_str()).or_default();
        denied.extend(replayed.durables().iter().map(StreamName::as_str));
        *all |= replayed.filter().is_none();
    }
    streams
}

/// Consumers that are declared, or no more, while the rules of who replays their stream stay as
/// they are: its grant has changed all the same.
fn denied(before: &Service, after: &Service) -> Vec<SettingChange> {
    let (old, new) = (replayed(before), replayed(after));
    let mut changes = Vec::new();
    for (stream, (was, all_before)) in &old {
        let Some((is, all_after)) = new.get(stream) else { continue };
        let all = *all_before && *all_after;
        let named = |name: &str| format!("consumer {stream}/{name}");
        // Only beside no declared consumer is a request without a name granted, and for all of a
        // stream.
        let note =
            |other: &BTreeSet<&str>, note: &str| (all && other.is_empty()).then(|| note.to_owned());
        for name in is.difference(was) {
            let note = note(was, "its own consumers need a name in the request now");
            let change = change("denied", None, Some(&named(name)), Effect::Loss);
            changes.push(SettingChange { note, ..change });
        }
        for name in was.difference(is) {
            let note = note(is, "its own consumers need no name in the request now");
            let change = change("denied", Some(&named(name)), None, Effect::Gain);
            changes.push(SettingChange { note, ..change });
        }
    }
    changes
}

fn change(
    setting: &'static str,
    old: Option<&str>,
    new: Option<&str>,
    effect: Effect,
) -> SettingChange {
    let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
    SettingChange { setting, old: owned(old), new: owned(new), effect, note: None }
}

/// What goes with two changes of which either may be there.
fn effect(gains: bool, loses: bool) -> Option<Effect> {
    match (gains, loses) {
        (true, true) => Some(Effect::Both),
        (true, false) => Some(Effect::Gain),
        (false, true) => Some(Effect::Loss),
        (false, false) => None,
    }
}

fn keys(sides: &Sides<'_>) -> Vec<SettingChange> {
    fn of(service: Option<&Service>) -> &[ServiceKey] {
        service.map(|service| service.keys.as_slice()).unwrap_or_default()
    }
    let holder = |policy: &Policy, key: &UserKey, not: Option<&Service>| {
        let (service, _) = policy.holder(key)?;
        (Some(&service.name) != not.map(|s| &s.name)).then(|| service.name.to_string())
    };
    let mut changes = Vec::new();
    for old in of(sides.before) {
        match of(sides.after).iter().find(|new| new.key == old.key) {
            None => {
                let mut lost = change("key", Some(&window(old)), None, Effect::Loss);
                let now = holder(sides.new, &old.key, sides.before);
                lost.note = now.map(|service| format!("it is the key of `{service}` now"));
                changes.push(lost);
            }
            Some(new) => {
                let from = |key: &ServiceKey| key.not_before.unwrap_or(i64::MIN);
                let until = |key: &ServiceKey| key.not_after.unwrap_or(i64::MAX);
                let gains = from(new) < from(old) || until(new) > until(old);
                let loses = from(new) > from(old) || until(new) < until(old);
                if let Some(effect) = effect(gains, loses) {
                    changes.push(change("key", Some(&window(old)), Some(&window(new)), effect));
                }
            }
        }
    }
    for new in of(sides.after) {
        if of(sides.before).iter().all(|old| old.key != new.key) {
            let mut gained = change("key", None, Some(&window(new)), Effect::Gain);
            let was = holder(sides.old, &new.key, sides.after);
            gained.note = was.map(|service| format!("it was the key of `{service}`"));
            changes.push(gained);
        }
    }
    changes
}

/// A key with the time in which it counts.
fn window(key: &ServiceKey) -> String {
    let mut text = key.key.to_string();
    for (word, at) in [(" from ", key.not_before), (" until ", key.not_after)] {
        if let Some(seconds) = at {
            text += word;
            text += &show_time(seconds);
        }
    }
    text
}

fn sources(old: &[IpNet], new: &[IpNet]) -> Option<SettingChange> {
    // An empty list is anywhere.
    let within =
        |list: &[IpNet], net: &IpNet| list.is_empty() || list.iter().any(|l| l.contains(net));
    let beyond = |one: &[IpNet], other: &[IpNet]| {
        if one.is_empty() { !other.is_empty() } else { !one.iter().all(|net| within(other, net)) }
    };
    let effect = effect(beyond(new, old), beyond(old, new))?;
    let text = |list: &[IpNet]| {
        let nets: Vec<String> = list.iter().map(ToString::to_string).collect();
        if nets.is_empty() { "anywhere".to_owned() } else { nets.join(", ") }
    };
    Some(change("sources", Some(&text(old)), Some(&text(new)), effect))
}

fn connections(old: &[ConnectionType], new: &[ConnectionType]) -> Option<SettingChange> {
    let gains = new.iter().any(|kind| !old.contains(kind));
    let loses = old.iter().any(|kind| !new.contains(kind));
    let effect = effect(gains, loses)?;
    let text = |list: &[ConnectionType]| {
        list.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ")
    };
    Some(change("connections", Some(&text(old)), Some(&text(new)), effect))
}

fn length(duration: Duration) -> String {
    crate::diagnostics::toml::show_duration(duration)
}
