//! What each stage means, in words: for whom something changes, how it is brought in, what is
//! protected by then, and the way back.

use std::fmt::Write as _;

use super::{Move, Plan, Planned, Stage};
use crate::adoption::server_config::accounts::{GLOBAL, Import, Listener, Login, User};
use crate::adoption::server_config::findings::Kind;
use crate::adoption::server_config::permissions::rights;
use crate::adoption::server_config::report::place;
use solewriter_types::subject::Pattern;

/// So many names are shown.
const SHOWN: usize = 8;

fn names<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let all: Vec<&str> = names.into_iter().collect();
    let shown = all.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What stays beside the callout, and what else to know, a sentence each.
#[must_use]
pub fn notes(plan: &Plan<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    of_users(plan, &mut notes);
    of_findings(plan, &mut notes);
    of_doors(plan, &mut notes);
    of_imports(plan, &mut notes);
    notes
}

/// Users who are special, or stay for ever.
fn of_users(plan: &Plan<'_>, notes: &mut Vec<String>) {
    let config = plan.situation.current.config();
    let mut others = Vec::new();
    for account in &config.accounts {
        let state = account.name.value == plan.old_account();
        if !state && !account.users.is_empty() {
            others.push(format!("{} ({})", account.name.value, account.users.len()));
        }
    }
    if !others.is_empty() {
        notes.push(format!(
            "Users of other accounts stay beside the callout, in every stage: {}. Each is in \
             `auth_users`",
            others.join(", ")
        ));
    }
    if plan.is_open() {
        notes.push(
            "Nobody logs in today. Who gives no login is let in as before, by `no_auth_user`, until \
             the last stage; then only services of the policy are"
                .to_owned(),
        );
    }
    let state = config.account(plan.old_account());
    let users = || state.into_iter().flat_map(|account| &account.users);
    let by_name = |what: &dyn Fn(&&User) -> bool| -> Vec<String> {
        users().filter(|user| what(user)).map(|user| user.label().to_owned()).collect()
    };
    let certificates = by_name(&|user| user.login == Login::Certificate);
    if !certificates.is_empty() {
        notes.push(format!(
            "Users that their certificate names ({}) are in `auth_users` by that name. A service \
             that moves still needs a certificate, and logs in with its NKEY",
            names(certificates.iter().map(String::as_str))
        ));
    }
    let answering = by_name(&|user| {
        let Some(permissions) = &user.permissions else { return false };
        let inbox = Pattern::parse("_INBOX.a").ok();
        let reply = Pattern::parse("_R_.a").ok();
        let rights = rights(user);
        let may = |subject: Option<Pattern>| {
            subject.is_some_and(|subject| rights.publishes(&subject).next().is_some())
        };
        permissions.responses.is_none() && may(inbox) && !may(reply)
    });
    if !answering.is_empty() && !plan.situation.shared.is_empty() {
        notes.push(format!(
            "Who answers requests with `_INBOX.>` among its permissions ({}) cannot answer a service \
             that has moved: such a request comes with a reply subject `_R_.…`. Allow `_R_.>` too",
            names(answering.iter().map(String::as_str))
        ));
    }
}

/// What was found in the configuration, as far as a plan leaves it as it is.
fn of_findings(plan: &Plan<'_>, notes: &mut Vec<String>) {
    for finding in &plan.situation.current.findings {
        let ours = finding.account.as_deref().is_none_or(|name| name == plan.old_account());
        let whom = names(finding.whom.iter().map(|whom| whom.user.as_str()));
        let at = place(&finding.span);
        match finding.kind {
            Kind::Anonymous => notes.push(format!(
                "{at}: a client without a login is let in as before, by `no_auth_user`, until the \
                 user that it names has moved"
            )),
            Kind::AnyStream if ours => notes.push(format!(
                "{at}: {whom} may change or delete every bucket and stream. A tool that manages \
                 streams (NACK, a script) needs that; services do not. Keep such a tool's user with \
                 --keep, in `auth_users` and the state account"
            )),
            Kind::SystemUser => notes.push(format!(
                "{at}: {whom} logs in to the system account, beside the callout, and may do \
                 anything to any account"
            )),
            _ => {}
        }
    }
}

/// What comes from other accounts.
fn of_imports(plan: &Plan<'_>, notes: &mut Vec<String>) {
    let (old, services) = (plan.old_account(), plan.services());
    let imported: Vec<String> = plan.situation.imported().map(Import::local).collect();
    if !imported.is_empty() {
        notes.push(format!(
            "What {old} imports from other accounts, {services} imports, too: {}. Where it is exported \
             to some accounts only, {services} is one of them",
            names(imported.iter().map(String::as_str))
        ));
    }
    for import in plan.situation.not_imported() {
        notes.push(format!(
            "{}: {services} does not import the service {}. Its subject has no wildcard, so any service \
             could have JetStream send requests there. Before a service moves that calls it, export \
             and import it with a wildcard at its end",
            place(&import.span),
            import.local()
        ));
    }
}

/// The other ways in.
fn of_doors(plan: &Plan<'_>, notes: &mut Vec<String>) {
    let config = plan.situation.current.config();
    if let Some(leaf) = &config.leafnodes {
        let at = place(&leaf.span);
        if !leaf.logins.is_empty() {
            notes.push(format!(
                "{at}: {} leaf logins are checked by the server itself, in every stage, and what \
                 comes over them is not known by service",
                leaf.logins.len()
            ));
        }
        if !leaf.remotes.is_empty() {
            notes.push(format!("{at}: connections to other servers go on as they are"));
        }
        if leaf.logins.is_empty() && leaf.remotes.is_empty() {
            notes.push(format!("{at}: who connects as a leaf logs in as a client does"));
        }
    }
    let listeners = [("websocket", &config.websocket), ("mqtt", &config.mqtt)];
    for (name, listener) in listeners {
        let Some(Listener { span, no_auth_user }) = listener else { continue };
        let who = match no_auth_user {
            Some(user) => format!("who gives no login there is {}", user.value),
            None => "its clients log in as all others".to_owned(),
        };
        notes.push(format!("{}: {name} stays open in every stage; {who}", place(span)));
    }
    if let Some(domain) = config.jetstream.as_ref().and_then(|js| js.domain.as_ref()) {
        notes.push(format!(
            "{}: JetStream has the domain {}. In {} its API is `$JS.API` all the same: a service \
             that moves sets no domain",
            place(&domain.span),
            domain.value,
            plan.services()
        ));
    }
    if let Some(tls) = &config.tls {
        let own = if tls.verify || tls.map {
            ", and `cert` and `key` there: the server lets nobody in without a certificate, and \
             solewriter needs one of its own"
        } else {
            ""
        };
        notes.push(format!(
            "{}: the server has TLS. Look at `[nats.tls]` in solewriter.toml before `solewriter \
             serve`, at the names in `servers`{own}",
            place(&tls.span)
        ));
    }
    if config.cluster.is_some() {
        notes.push(
            "Each server of the cluster needs the same stage: edit the files of each in the same \
             way, and restart one after the other"
                .to_owned(),
        );
    }
}

/// How a stage is brought in.
fn brought_in(planned: &Planned) -> &'static str {
    if planned.reload {
        "a reload (`nats-server --signal reload`). It closes the connections of the users that are \
         gone, and those of services that have moved, which come back by themselves"
    } else {
        "a restart, of one server after the other in a cluster: a reload refuses the whole file \
         when `auth_callout` changes. Clients come back by themselves"
    }
}

/// The page for the folder of a whole plan.
#[must_use]
pub fn plan(plan: &Plan<'_>, stages: &[(&str, &Planned)], config: &str) -> String {
    let (state, old, services) = (plan.state(), plan.old_account(), plan.services());
    let mut text = format!(
        "# Adopting solewriter\n\nWritten by `solewriter adopt` for `{config}`. Nothing of yours was \
         changed. Each folder has all files\nof the configuration, where they differ from yours by \
         the diff that was printed. Keep a copy of your\nfiles, put those of a stage in their \
         place, and let the server check them (`nats-server -t -c …`).\n\n"
    );
    let _ = writeln!(
        text,
        "{} becomes the account of state: buckets, streams and who has not moved stay there. \
         Services that\nmove are in {services}. solewriter never sees the users of {old}.\n",
        if old == state { state.to_owned() } else { format!("{old}, as {state},") }
    );
    let shared = &plan.situation.shared;
    if shared.is_empty() {
        text.push_str(
            "No plain messages pass between the two accounts, only buckets and streams: name the \
             subjects that\nservices share with --shared, or give the policy.\n\n",
        );
    } else {
        let _ = writeln!(
            text,
            "Plain messages pass both ways on {}.\nA request is answered across the accounts, in \
             both directions. Two things to know:\n\n- A service with several instances in one \
             queue group moves with all of them at once. While some are\n  in {old} and some in \
             {services}, a message from {services} goes to one of each.\n- A request that nobody \
             answers may time out, where it was refused at once before.\n",
            names(shared.iter().map(Pattern::as_str))
        );
    }
    for (folder, planned) in stages {
        stage(&mut text, plan, folder, planned);
    }
    let notes = notes(plan);
    if !notes.is_empty() {
        text.push_str("## What to know\n\n");
        for note in notes {
            let _ = writeln!(text, "- {note}.");
        }
    }
    text
}

fn stage(text: &mut String, plan: &Plan<'_>, folder: &str, planned: &Planned) {
    let (state, services) = (plan.state(), plan.services());
    match &planned.stage {
        Stage::Beside => {
            let _ = writeln!(
                text,
                "## {folder}: solewriter beside everybody\n\n- **For whom**: nobody. Every user of \
                 today is in `auth_users`, so the server does not ask about it.\n  Who is no user \
                 of the file is asked about, and let in when the policy has its NKEY.\n- **Brought \
                 in by** {}.\n{}- **Then** start `solewriter serve -c solewriter.toml`, create the \
                 audit streams (`solewriter state\n  apply`) and look with `solewriter doctor`.\n- \
                 **Protected**: nothing yet. Whoever is in {state} may write any bucket.\n- **Way \
                 back**: your own files, and a restart.{}\n",
                brought_in(planned),
                renamed(plan, false),
                back(plan),
            );
            let _ = writeln!(
                text,
                "## A service moves\n\nA service has moved when it connects with its NKEY from the \
                 policy and its own inbox prefix. The server\nneeds no change for that, and no \
                 restart: the service is then in {services}. (A service\nthat keeps the NKEY of its old \
                 user moves with the files below, and they need a restart.) When its old user is no\nlonger seen \
                 (`nats-server`'s `/connz?auth=true`), run\n\n    solewriter adopt … --moved \
                 NAME,NAME\n\nwith everything that has moved so far. That writes a folder in which \
                 these users are gone. The way\nback is the folder before it, and a reload.\n"
            );
        }
        Stage::Moved(moves) => {
            let _ = writeln!(
                text,
                "## {folder}: {}\n\n- **For whom**: these users are gone from {state}. Their \
                 services are in {services}.\n- **Brought in by** {}.\n- **Protected**: what only \
                 services that have moved may write today. A bucket is not, while anybody\n  in \
                 {state} is left who may write it, or ask JetStream anything.\n- **Way back**: the \
                 files of the stage before, brought in the same way.{}\n",
                moved(moves),
                brought_in(planned),
                if planned.no_guests {
                    " If these have `no_auth_user`,\n  with a restart: no reload brings that back."
                } else {
                    ""
                }
            );
        }
        Stage::Last { keep } => {
            let kept = if keep.is_empty() {
                "the admin of the buckets".to_owned()
            } else {
                format!("the admin of the buckets and {}", names(keep.iter().map(String::as_str)))
            };
            let messages = if plan.situation.has_leaves() {
                format!(
                    "Leaf nodes still log in to {state}, so plain messages\n  go on passing, and \
                     `doctor` names what lets them"
                )
            } else {
                format!("Plain messages stay in {services}")
            };
            let _ = writeln!(
                text,
                "## {folder}: nobody is left\n\n- **For whom**: all users of the old account are \
                 gone but {kept}. A password lets nobody in there.\n  {messages}.\n- **Brought in by** {}.\n- **Then** take `strangers` out of \
                 solewriter.toml, and restart `solewriter serve`.\n- **Protected**: one keyspace, \
                 one writer, for all that the policy has.\n- **Way back**: the files of the stage \
                 before, and a restart.\n",
                brought_in(planned),
            );
        }
    }
}

fn moved(moves: &[Move]) -> String {
    let each = moves.iter().map(|Move { service, user }| {
        if service == user { service.clone() } else { format!("{service} (was {user})") }
    });
    let each: Vec<String> = each.collect();
    format!("moved are {}", each.join(", "))
}

/// The folder that gets another name with the account.
fn renamed(plan: &Plan<'_>, back: bool) -> String {
    let Some((old, new)) = plan.renamed() else { return String::new() };
    let (from, to) = if back { (&new, &old) } else { (&old, &new) };
    let command = format!("mv '{}' '{}'", from.display(), to.display());
    if back {
        format!(" While it is stopped:\n  `{command}`.")
    } else {
        format!(
            "- **While the server is stopped**, give the folder of {GLOBAL} the new account's name: \
             `{command}`.\n  Without that the streams are not lost, but nobody sees them.\n"
        )
    }
}

fn back(plan: &Plan<'_>) -> String {
    renamed(plan, true)
}

/// The page of one stage.
#[must_use]
pub fn one(plan: &Plan<'_>, folder: &str, planned: &Planned) -> String {
    let mut text = String::new();
    stage(&mut text, plan, folder, planned);
    text
}
