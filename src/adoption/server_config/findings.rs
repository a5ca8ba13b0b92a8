//! What a company may not know of its own configuration: who can write which KV bucket, and by
//! which ways around the permissions.
//!
//! Findings are about one account each and name all its users whom they are about, so that two
//! hundred users without permissions are one finding.

mod buckets;
mod doors;
pub mod ways;

use solewriter_core::diagnostics::Span;
use solewriter_types::keyspace::BucketName;

use super::accounts::{Account, Config, User};
use super::permissions::{Rights, rights};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Users and permissions are in JWTs.
    OperatorMode,
    /// Whoever reaches the port is let in, and may do everything.
    Open,
    /// Who gives no login is let in, and may write.
    Anonymous,
    /// Users may do everything: nothing restricts them.
    NoPermissions,
    /// Users with permissions may publish everything all the same.
    PublishesEverything,
    /// An empty list that allows everything.
    EmptyList,
    /// Users may write any bucket, for they may publish below `$KV.>`.
    AnyBucket,
    /// Users may change or delete any bucket with JetStream's API.
    AnyStream,
    /// Users may have JetStream write its answer into any bucket.
    ReplySubject,
    /// Users may answer to whatever subject a request names, a key of a bucket included.
    Responses,
    /// Several users may write a bucket.
    SharedBucket,
    /// One user may write a bucket.
    OneWriter,
    /// No user that is named a bucket may write it.
    NoWriter,
    /// Users in the system account.
    SystemUser,
    /// Users log in with a name alone.
    NameAlone,
    /// Leaf servers that act for users nobody here knows.
    Leaf,
    /// Permissions of `authorization` that hold for nobody.
    Ineffective,
    /// A service is asked already.
    Callout,
}

impl Kind {
    /// Its name in a script.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::OperatorMode => "operator-mode",
            Self::Open => "open",
            Self::Anonymous => "anonymous",
            Self::NoPermissions => "no-permissions",
            Self::PublishesEverything => "publishes-everything",
            Self::EmptyList => "empty-list",
            Self::AnyBucket => "any-bucket",
            Self::AnyStream => "any-stream",
            Self::ReplySubject => "reply-subject",
            Self::Responses => "responses",
            Self::SharedBucket => "shared-bucket",
            Self::OneWriter => "one-writer",
            Self::NoWriter => "no-writer",
            Self::SystemUser => "system-user",
            Self::NameAlone => "name-alone",
            Self::Leaf => "leaf",
            Self::Ineffective => "ineffective",
            Self::Callout => "callout",
        }
    }
}

/// A user whom a finding is about, and what of it.
#[derive(Clone, Debug)]
pub struct Whom {
    /// Its name.
    pub user: String,
    /// The permission by which it can, or the user.
    pub span: Span,
    /// What is written there, as far as it matters.
    pub by: String,
}

/// Something to know.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// In which account.
    pub account: Option<String>,
    /// About which bucket.
    pub bucket: Option<BucketName>,
    /// In one sentence.
    pub message: String,
    /// The place to look at first.
    pub span: Span,
    /// Whom it is about.
    pub whom: Vec<Whom>,
    /// What to do about it.
    pub help: &'static str,
}

/// A user with what it may do.
struct Known<'c> {
    user: &'c User,
    rights: Rights,
}

/// An account with its users.
struct Seen<'c> {
    config: &'c Config,
    account: &'c Account,
    users: Vec<Known<'c>>,
}

impl Seen<'_> {
    fn name(&self) -> &str {
        &self.account.name.value
    }

    /// A finding about users of this account; none about nobody.
    fn about(
        &self,
        kind: Kind,
        whom: Vec<Whom>,
        message: String,
        help: &'static str,
    ) -> Option<Finding> {
        let span = whom.first()?.span.clone();
        let account = Some(self.name().to_owned());
        Some(Finding { kind, account, bucket: None, message, span, whom, help })
    }
}

fn whom(user: &User, span: &Span, by: impl Into<String>) -> Whom {
    Whom { user: user.label().to_owned(), span: span.clone(), by: by.into() }
}

/// All that is to be known, the accounts in their order. `whole` is where the configuration
/// begins: for what is said nowhere in it.
#[must_use]
pub fn of(config: &Config, whole: &Span) -> Vec<Finding> {
    let mut findings = doors::server(config, whole);
    for account in &config.accounts {
        let users = account.users.iter();
        let users = users.map(|user| Known { user, rights: rights(user) }).collect();
        let seen = Seen { config, account, users };
        findings.extend(doors::account(&seen));
        if account.name.value != config.system() {
            findings.extend(buckets::of(&seen));
        }
    }
    findings
}

#[cfg(test)]
mod tests;
