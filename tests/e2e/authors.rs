//! Authors: who may change which part of the policy, and what a leaked seed of the publisher's is
//! good for.

use std::path::PathBuf;

use async_nats::jetstream;
use serde_json::{Value, json};
use solewriter_core::keys::{Seed, Signer, User};

use super::bucket::{self, serves};
use super::deployment::{Deployment, Instance, Prepared, Ran, edit};

/// A team's author: a name, a seed, and the file that it is in.
pub struct Author {
    pub name: &'static str,
    key: String,
    file: PathBuf,
}

impl Author {
    fn new(prepared: &Prepared, name: &'static str) -> Self {
        let (seed, file) =
            (Seed::<User>::generate(), prepared.dir.path().join(format!("{name}.nk")));
        solewriter::scaffold::write_secret(&file, seed.expose()).unwrap();
        let key = Signer::new(&seed).unwrap().public().to_string();
        Self { name, key, file }
    }

    async fn pushes(&self, deployment: &Deployment, more: &[&str]) -> Ran {
        let (dir, key) = (deployment.files.policy(), self.file.display().to_string());
        let dir = dir.display().to_string();
        let arguments = ["policy", "push", &dir, "--yes", "-m", "because", "--key", &key];
        deployment.tool(&[&arguments[..], more].concat()).await
    }

    async fn may_push(&self, deployment: &Deployment) -> Ran {
        let dir = deployment.files.policy().display().to_string();
        deployment.tool(&["policy", "may-push", &dir, "--as", self.name]).await
    }

    async fn pushed(&self, deployment: &Deployment, number: u64) {
        let ran = self.pushes(deployment, &["--wait", "0s"]).await;
        assert!(
            ran.code == 0 && ran.out.contains(&format!("pushed revision {number} ")),
            "{ran:?}"
        );
    }
}

/// An author of everything, and one for each of two teams.
pub struct Authors {
    pub ops: Author,
    pub lea: Author,
    pub max: Author,
}

/// The settings name authors, and the policy has a file for each team.
fn prepared() -> (Prepared, Authors) {
    let prepared = bucket::prepared().without_buckets();
    let author = |name| Author::new(&prepared, name);
    let authors = Authors { ops: author("ops"), lea: author("lea"), max: author("max") };
    let team = |author: &Author, team: &str, reads: &str| {
        format!(
            "[author.{}]\nkeys = [\"{}\"]\nfiles = [\"team-{team}/\"]\nservices = [\"{team}-*\"]\n\
             buckets = [\"{team}_*\"]\nsubjects = [\"{team}.>\"]\nreads = [{reads}]\n\n",
            author.name, author.key
        )
    };
    let ops = format!("[author.ops]\nkeys = [\"{}\"]\nall = true\n\n", authors.ops.key);
    let teams = team(&authors.lea, "a", "\"b_prices\"") + &team(&authors.max, "b", "");
    std::fs::write(
        prepared.files.dir.join("authors.toml"),
        format!("fleet = \"east\"\n\n{ops}{teams}"),
    )
    .unwrap();
    let settings = "authors = \"authors.toml\"\nbucket = ";
    (prepared.with_settings("bucket = ", settings), authors)
}

pub fn write(deployment: &Deployment, team: &str, text: &str) {
    let folder = deployment.files.policy().join(format!("team-{team}"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("services.toml"), deployment.policy_text(text)).unwrap();
}

const TEAM_A: &str =
    "[bucket.a_orders]\n\n[service.a-api]\nnkeys = [\"{a-api}\"]\nowns = [\"a_orders\"]\n";
pub const TEAM_B: &str = "[bucket.b_prices]\n[bucket.b_secrets]\n\n[service.b-api]\nnkeys = [\"{b-api}\"]\n\
                      owns = [\"b_prices\", \"b_secrets\"]\n";

/// One server, a first revision by the author of everything, and an instance.
pub async fn fleet(version: &'static str) -> (Deployment, Authors) {
    let (prepared, authors) = prepared();
    let policy = "[service.test]\nnkeys = [\"{test}\"]\npublishes = [\"test.>\"]\n";
    let mut deployment = prepared.start_broker(version, policy).await;
    write(&deployment, "a", TEAM_A);
    write(&deployment, "b", TEAM_B);
    let ran = authors.lea.pushes(&deployment, &[]).await;
    assert!(ran.code == 1 && ran.err.contains("the whole policy is new"), "{ran:?}");
    authors.ops.pushed(&deployment, 1).await;
    deployment.add_instance(&[]).await;
    serves(&mut deployment.instances[0], 1).await;
    (deployment, authors)
}

/// Whoever has the publisher's seed, and no tool of ours.
async fn publisher(deployment: &Deployment) -> jetstream::Context {
    let bucket = bucket::bucket(deployment).await;
    jetstream::context::ContextBuilder::new()
        .api_prefix("$JS.POLICY.API")
        .build(bucket.client().clone())
}

/// Writes a revision as it is, or whatever was made of it.
pub async fn put(deployment: &Deployment, number: u64, entry: &Value) {
    let publisher = publisher(deployment).await;
    let subject = format!("$KV.solewriter_policy.revision.{number}");
    let sent = publisher.publish(subject, entry.to_string().into()).await.unwrap();
    sent.await.unwrap();
}

/// What is written for a revision.
pub async fn entry(deployment: &Deployment, number: u64) -> Value {
    let entry = bucket::bucket(deployment).await.revision(number).await.unwrap().unwrap();
    serde_json::to_value(&entry).unwrap()
}

/// The instance says that it refuses a revision, and why.
async fn refuses(instance: &mut Instance, number: u64, why: &str) {
    instance
        .says_where("policy_refused", |line| {
            line["number"] == number && line.to_string().contains(why)
        })
        .await;
}

on_the_newest_server!(each_author_changes_the_authors_part, some_room);
async fn each_author_changes_the_authors_part(version: &'static str) {
    let (mut deployment, authors) = fleet(version).await;
    let Authors { ops, lea, max } = &authors;

    // Each pushes what is the author's own.
    write(&deployment, "a", &TEAM_A.replace("owns", "reads = [\"b_prices\"]\nowns"));
    let may = lea.may_push(&deployment).await;
    assert!(may.code == 0 && may.out.contains("`lea` may make "), "{may:?}");
    assert_eq!(max.may_push(&deployment).await.code, 1);
    lea.pushed(&deployment, 2).await;
    serves(&mut deployment.instances[0], 2).await;
    let more = TEAM_B
        .replace("[service", "[bucket.b_more]\n[service")
        .replace("\"b_p", "\"b_more\", \"b_p");
    write(&deployment, "b", &more);
    max.pushed(&deployment, 3).await;
    serves(&mut deployment.instances[0], 3).await;

    // Each is refused for what is the other's, with its place and who may, before anything is written.
    write(&deployment, "a", &TEAM_A.replace("owns", "reads = [\"b_secrets\"]\nowns"));
    for ran in [lea.pushes(&deployment, &[]).await, lea.may_push(&deployment).await] {
        assert_eq!(ran.code, 1, "{ran:?}");
        for part in [
            "`a-api` reads b_secrets now, which lies outside of the part of the author `lea`",
            "team-a/services.toml:5:",
            "this may be changed by `ops`",
            "nothing was pushed",
        ] {
            assert!(ran.err.contains(part), "{part}: {ran:?}");
        }
    }
    write(&deployment, "a", &TEAM_A.replace("owns", "reads = [\"b_prices\"]\nowns"));
    write(
        &deployment,
        "b",
        &more.replace("[service.b-api]", "[service.b-api]\ndisabled = \"by a\""),
    );
    let ran = lea.pushes(&deployment, &[]).await;
    assert!(ran.err.contains("the file team-b/services.toml changes"), "{ran:?}");
    assert!(ran.err.contains("service `b-api` changes"), "{ran:?}");
    assert!(ran.err.contains("this may be changed by `max`, `ops`"), "{ran:?}");
    // Going back is a change as any other: what max pushed is max's.
    let key = lea.file.display().to_string();
    let back = deployment.tool(&["policy", "rollback", "2", "--yes", "--key", &key]).await;
    assert!(back.code == 1 && back.err.contains("bucket `b_more` changes"), "{back:?}");

    // Without a key, or with another's, nothing is even read.
    let dir = deployment.files.policy().display().to_string();
    let unsigned = deployment.tool(&["policy", "push", &dir, "--yes", "-m", "x"]).await;
    assert!(unsigned.err.contains("error[not-signed]"), "{unsigned:?}");
    let stranger = deployment.files.seed_file("publisher").display().to_string();
    let stranger =
        deployment.tool(&["policy", "push", &dir, "--yes", "-m", "x", "--key", &stranger]).await;
    assert!(stranger.err.contains("error[not-an-author]"), "{stranger:?}");
    assert_eq!(bucket::bucket(&deployment).await.head().await.unwrap().unwrap().number, 3);

    // The log says who.
    let log = deployment.tool(&["policy", "log", "--format", "json"]).await.json();
    let signed: Vec<&Value> = log.as_array().unwrap().iter().map(|one| &one["signed_by"]).collect();
    let by = |author: &Author| json!({"author": author.name, "key": author.key});
    assert_eq!(signed, [&by(max), &by(lea), &by(ops)], "{log}");
    let log = deployment.tool(&["policy", "log"]).await;
    assert!(log.out.contains(&format!("lea: because (signed by {})", lea.key)), "{log:?}");

    // An instance that starts later finds the same, with nothing kept.
    let late = deployment.add_instance(&[]).await;
    serves(&mut deployment.instances[late], 3).await;
    let loaded = deployment.instances[late].says("policy_loaded").await;
    assert_eq!((&loaded["number"], &loaded["signed_by"]), (&json!(3), &json!(max.key)), "{loaded}");
}

on_the_newest_server!(who_has_the_publishers_seed_alone_pushes_nothing, some_room);
async fn who_has_the_publishers_seed_alone_pushes_nothing(version: &'static str) {
    let (mut deployment, authors) = fleet(version).await;
    let Authors { ops, lea, .. } = &authors;
    write(&deployment, "a", &TEAM_A.replace("owns", "publishes = [\"a.x\"]\nowns"));
    lea.pushed(&deployment, 2).await;
    serves(&mut deployment.instances[0], 2).await;

    // A revision that nobody signed, and one with the signature of another.
    let (first, second) = (entry(&deployment, 1).await, entry(&deployment, 2).await);
    let numbered = |mut entry: Value, number: u64| {
        entry["number"] = number.into();
        entry
    };
    let mut unsigned = numbered(first.clone(), 3);
    unsigned.as_object_mut().unwrap().remove("signature");
    put(&deployment, 3, &unsigned).await;
    refuses(&mut deployment.instances[0], 3, "nobody signed it").await;
    // An older signed push again: the first one would take back what lea pushed.
    put(&deployment, 4, &numbered(first.clone(), 4)).await;
    refuses(&mut deployment.instances[0], 4, "its signature is of another push: of another number")
        .await;
    // The signature of one on the documents of another.
    let mut mixed = numbered(second.clone(), 5);
    mixed["policy"] = first["policy"].clone();
    mixed["list"] = first["list"].clone();
    put(&deployment, 5, &mixed).await;
    refuses(&mut deployment.instances[0], 5, "its signature is of another push").await;
    // Signed by a key that the attacker made.
    let made = Author::new_in(&deployment, "made");
    put(&deployment, 6, &made.signs(numbered(unsigned.clone(), 6), "east", &second)).await;
    refuses(&mut deployment.instances[0], 6, "which is no author's key").await;
    // Signed by an author, for another fleet.
    put(&deployment, 7, &ops.signs(numbered(unsigned.clone(), 7), "west", &second)).await;
    refuses(&mut deployment.instances[0], 7, "it was signed for the fleet").await;
    // Signed by an author who has not that part.
    put(
        &deployment,
        8,
        &lea.signs(with_author(numbered(unsigned.clone(), 8), "lea"), "east", &first),
    )
    .await;
    refuses(&mut deployment.instances[0], 8, "it follows revision 1, and 2 counts").await;

    let number = deployment.instances[0].metric("solewriter_policy_number").await;
    assert!((number - 2.0).abs() < 0.5, "{number}");
    let refused =
        deployment.instances[0].metric("solewriter_policy_loads_total{outcome=\"refused\"}").await;
    assert!(refused >= 6.0, "{refused}");
    let status = deployment.tool(&["policy", "status"]).await;
    assert!(status.code == 1 && status.out.contains("has refused revision 8 for "), "{status:?}");
    let doctor = deployment.tool(&["doctor"]).await;
    assert!(doctor.out.contains("revision 8 does not count"), "{doctor:?}");
    let log = deployment.tool(&["policy", "log"]).await;
    assert!(log.out.contains("(does not count: nobody signed it)"), "{log:?}");

    // Who starts now does not know whether another one took what a key signed that is not in its table.
    let late = deployment.launch_instance(&[]);
    refuses(&mut deployment.instances[late], 8, "does not count").await;
    assert_eq!(deployment.instances[late].get("/readyz").await.0, 503);

    // Who has something in force goes on with what authors push; and so does who starts later.
    write(&deployment, "a", TEAM_A);
    ops.pushed(&deployment, 9).await;
    for instance in &mut deployment.instances {
        serves(instance, 9).await;
    }
    let status = deployment.tool(&["policy", "status"]).await;
    assert_eq!(status.code, 0, "{status:?}");
}

pub fn with_author(mut entry: Value, name: &str) -> Value {
    entry["author"] = name.into();
    entry
}

impl Author {
    /// One whom nobody named.
    fn new_in(deployment: &Deployment, name: &'static str) -> Self {
        let (seed, file) =
            (Seed::<User>::generate(), deployment.dir.path().join(format!("{name}.nk")));
        solewriter::scaffold::write_secret(&file, seed.expose()).unwrap();
        Self { name, key: Signer::new(&seed).unwrap().public().to_string(), file }
    }

    /// Signs what is written for a revision, as it is.
    pub fn signs(&self, mut entry: Value, fleet: &str, follows: &Value) -> Value {
        use solewriter::policy_source::bucket::entry::Entry;
        use solewriter_core::authors::Push;
        use solewriter_types::keyspace::BucketName;
        let number = entry["number"].to_string();
        let read =
            |key: &str, entry: &Value| Entry::read(key, entry.to_string().as_bytes()).unwrap();
        let follows = read(&follows["number"].to_string(), follows).to_follow();
        let bucket = BucketName::parse("solewriter_policy").unwrap();
        let made = read(&number, &entry);
        let push = Push { follows: Some(follows), ..made.to_sign(&bucket) };
        let seed = Seed::parse(&std::fs::read_to_string(&self.file).unwrap()).unwrap();
        let signature = push.sign(fleet, made.time, &Signer::new(&seed).unwrap()).unwrap();
        entry["signature"] = signature.into();
        entry
    }
}

on_the_newest_server!(an_author_without_the_part_is_refused_by_instances_too, some_room);
/// An author with the publisher's seed, and without the tool that would refuse it.
async fn an_author_without_the_part_is_refused_by_instances_too(version: &'static str) {
    let (mut deployment, authors) = fleet(version).await;
    let Authors { ops, lea, max } = &authors;
    let first = entry(&deployment, 1).await;
    // What the author of everything could push: the documents are there, and not signed.
    write(
        &deployment,
        "b",
        &TEAM_B.replace("[service.b-api]", "[service.b-api]\ndisabled = \"by a\""),
    );
    let pushed = files(&deployment);
    let bucket = bucket::bucket(&deployment).await;
    bucket::push_unasked(&bucket, &pushed).await.unwrap();
    refuses(&mut deployment.instances[0], 2, "nobody signed it").await;
    let mut evil = with_author(entry(&deployment, 2).await, "lea");
    evil["number"] = 3.into();
    put(&deployment, 3, &lea.signs(evil, "east", &first)).await;
    refuses(&mut deployment.instances[0], 3, "outside of the part of the author `lea`").await;

    // It counts for nobody, so that one who starts now begins with the one before.
    let late = deployment.add_instance(&[]).await;
    serves(&mut deployment.instances[late], 1).await;
    refuses(&mut deployment.instances[late], 3, "outside of the part of the author `lea`").await;
    let event =
        deployment.instances[0].says_where("policy_refused", |line| line["number"] == 3).await;
    assert_eq!(event["level"], "ERROR", "{event}");

    // Who has that part pushes after it, and it is judged against what counts.
    max.pushed(&deployment, 4).await;
    for instance in &mut deployment.instances {
        serves(instance, 4).await;
    }
    // An author who is not in the table any more signed what others may have.
    edit(&deployment.files.dir.join("authors.toml"), &max.key, &lea_free_key());
    let late = deployment.launch_instance(&[]);
    refuses(&mut deployment.instances[late], 4, "which is no author's key").await;
    // The author of everything pushes the same again, and anybody can begin with that.
    let ran = ops.pushes(&deployment, &["--wait", "0s"]).await;
    assert!(ran.code == 0 && ran.out.contains("pushed revision 5 "), "{ran:?}");
    for instance in &mut deployment.instances {
        serves(instance, 5).await;
    }
}

/// A key that nobody has.
fn lea_free_key() -> String {
    Signer::new(&Seed::<User>::generate()).unwrap().public().to_string()
}

/// The policy's files, as the tools read them.
pub fn files(deployment: &Deployment) -> Vec<solewriter_core::diagnostics::SourceFile> {
    solewriter::policy_source::directory::Directory::new(deployment.files.policy()).read().unwrap()
}
