//! Who gets in without being restricted.

use solewriter_core::diagnostics::Span;
use solewriter_core::grant::Side;

use super::{Finding, Kind, Known, Seen, Whom, whom};
use crate::adoption::server_config::accounts::{Config, Login, User};
use crate::adoption::server_config::permissions::rights;

/// What is to be said of the whole server.
pub(super) fn server(config: &Config, whole: &Span) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |kind, span: &Span, message: String, whom: Vec<Whom>, help| {
        let span = span.clone();
        findings.push(Finding { kind, account: None, bucket: None, message, span, whom, help });
    };
    if let Some(key) = config.operator.first() {
        add(
            Kind::OperatorMode,
            &key.span,
            "this is operator mode: users and permissions are in JWTs, and not in this file".into(),
            Vec::new(),
            "learn from a trace of the server, and from `nsc describe user`",
        );
    }
    let users = config.accounts.iter().any(|account| !account.users.is_empty());
    let callout = config.authorization.as_ref().and_then(|a| a.auth_callout.as_ref());
    if !users && config.operator.is_empty() && callout.is_none() {
        add(
            Kind::Open,
            whole,
            "there is no login: whoever reaches the port may do everything, and write every bucket"
                .into(),
            Vec::new(),
            "nothing here tells services apart; learn who they are from a trace of the server",
        );
    }
    if let Some(callout) = callout {
        add(
            Kind::Callout,
            &callout.span,
            "an authorization callout is in force already; what it grants is not in this file"
                .into(),
            Vec::new(),
            "a server has one callout: solewriter takes its place, and does not stand beside it",
        );
    }
    let listeners = [&config.websocket, &config.mqtt].into_iter().flatten();
    let anonymous = listeners.filter_map(|l| l.no_auth_user.as_ref()).chain(&config.no_auth_user);
    for name in anonymous {
        let Some((account, user)) = config.user(&name.value) else {
            add(
                Kind::Anonymous,
                &name.span,
                "`no_auth_user` names no user of this configuration".into(),
                Vec::new(),
                "nats-server does not start with that",
            );
            continue;
        };
        let publishes = rights(user);
        let published: Vec<Whom> = publishes
            .allowed
            .iter()
            .filter(|allowed| allowed.side == Side::Publish)
            .map(|allowed| whom(user, &allowed.span, allowed.subject.as_str()))
            .collect();
        if !published.is_empty() {
            let message = format!(
                "a client without any login is the user {} of {}, and may publish",
                user.label(),
                account.name.value
            );
            let help = "whatever that user may write, whoever reaches the port may write";
            add(Kind::Anonymous, &name.span, message, published, help);
        }
    }
    if let Some(leafnodes) = &config.leafnodes {
        let logins = leafnodes.logins.iter().map(|(user, account)| {
            let account = account.as_ref().map_or("the account of its user", |a| &a.value);
            whom(user, &user.span, account)
        });
        let remotes = leafnodes.remotes.iter().map(|remote| Whom {
            user: "a remote".into(),
            span: remote.span.clone(),
            by: remote.value.clone().unwrap_or_else(|| "$G".into()),
        });
        let all: Vec<Whom> = logins.chain(remotes).collect();
        if !all.is_empty() {
            add(
                Kind::Leaf,
                &leafnodes.span,
                "leaf servers act for users whom this file does not name".into(),
                all,
                "read the configuration of each leaf as well",
            );
        }
    }
    findings
}

/// What is to be said of the users of an account.
pub(super) fn account(seen: &Seen<'_>) -> Vec<Finding> {
    let name = seen.name();
    let select = |about: &dyn Fn(&Known<'_>) -> Option<Whom>| -> Vec<Whom> {
        seen.users.iter().filter_map(about).collect()
    };
    if name == seen.config.system() {
        let all = select(&|known| Some(whom(known.user, &known.user.span, login(known.user))));
        let message = format!("{} in the system account", users(all.len()));
        let help = "they see every connection of every account, and can close any; keep them few, \
                    with an NKEY each";
        return seen.about(Kind::SystemUser, all, message, help).into_iter().collect();
    }
    let unrestricted = select(&|known| {
        let none = known.user.permissions.is_none();
        none.then(|| whom(known.user, &known.user.span, login(known.user)))
    });
    let everything = select(&|known| {
        let permitted = known.user.permissions.is_some() && known.rights.publishes_everything();
        let silent = |a: &&_| publishes_all(a);
        let allowed = known.rights.allowed.iter().find(silent).filter(|_| permitted)?;
        let by = if allowed.by_silence { "nothing says what may be published" } else { ">" };
        Some(whom(known.user, &allowed.span, by))
    });
    let empty = select(&|known| {
        let permissions = known.user.permissions.as_ref()?;
        let sides = [&permissions.publish, &permissions.subscribe];
        let mut open = sides.into_iter().flatten();
        let rules = open.find(|rules| rules.allow.is_none() && rules.deny.is_empty())?;
        Some(whom(known.user, &rules.span, "an empty list"))
    });
    let alone = select(&|known| {
        let alone = known.user.login == Login::Nothing;
        alone.then(|| whom(known.user, &known.user.span, login(known.user)))
    });
    let responses = select(&|known| {
        let responses = known.rights.responses.as_ref()?;
        Some(whom(known.user, &responses.span, "allow_responses"))
    });
    let mut findings: Vec<Finding> = [
        (
            Kind::NoPermissions,
            unrestricted,
            "without permissions: they may do everything in",
            "give each what it needs; a trace of the server tells what that is",
        ),
        (
            Kind::PublishesEverything,
            everything,
            "with permissions may publish everything in",
            "a list of what may be subscribed to restricts no publish; write `publish` as well",
        ),
        (
            Kind::EmptyList,
            empty,
            "with an empty list, which allows everything, in",
            "write `deny: \">\"` for nothing",
        ),
        (
            Kind::NameAlone,
            alone,
            "with a name and no password in",
            "whoever knows the name is that user, unless certificates are mapped to users",
        ),
        (
            Kind::Responses,
            responses,
            "may answer to any subject that a request names in",
            "an answer is sent where the request wants it, into a key of a bucket too, and no deny \
          holds for it; allow `_INBOX.>` by name instead",
        ),
    ]
    .into_iter()
    .filter_map(|(kind, whom, what, help)| {
        let message = format!("{} {what} {name}", users(whom.len()));
        seen.about(kind, whom, message, help)
    })
    .collect();
    findings.extend(ineffective(seen));
    findings
}

fn publishes_all(allowed: &crate::adoption::server_config::permissions::Allowed) -> bool {
    allowed.side == Side::Publish && allowed.subject.as_str() == ">" && allowed.except.is_empty()
}

/// Default permissions beside the one user of `authorization`: the server does not apply them.
fn ineffective(seen: &Seen<'_>) -> Option<Finding> {
    let permissions = seen.account.default_permissions.as_ref()?;
    let [only] = seen.account.users.as_slice() else { return None };
    if only.permissions.is_some() {
        return None;
    }
    let whom = vec![whom(only, &permissions.span, "default_permissions")];
    let message = "these permissions hold for nobody: the user beside them may do everything";
    let help = "put the user into `users: [...]`";
    seen.about(Kind::Ineffective, whom, message.into(), help)
}

fn login(user: &User) -> &'static str {
    user.login.as_str()
}

/// `1 user`, `2 users`.
pub(super) fn users(count: usize) -> String {
    match count {
        1 => "1 user".to_owned(),
        more => format!("{more} users"),
    }
}
