//! The companies of `tests/adopt/configurations`: what they have, and what their services do.

use async_nats::jetstream::stream::RetentionPolicy;

use super::traffic::Language;

/// A company, beside its configuration.
pub struct Company {
    /// Its folder in `tests/adopt/configurations`.
    pub folder: &'static str,
    /// What has to be another than it is, to run here: a file, a text in it, and what it becomes.
    pub edits: &'static [(&'static str, &'static str, &'static str)],
    /// The account that has the state, and the folder.
    pub account: &'static str,
    pub store: &'static str,
    pub domain: Option<&'static str>,
    /// Whether another server is a leaf of it; `{leaf}` in an edit is the port for that.
    pub leaf: bool,
    /// Whether every client needs a certificate.
    pub certificates: bool,
    pub buckets: &'static [&'static str],
    pub streams: &'static [(&'static str, &'static [&'static str], RetentionPolicy)],
    /// Stream, durable name and filter.
    pub consumers: &'static [(&'static str, &'static str, &'static str)],
    /// Its policy in the end; `{NAME}` is the key of a service.
    pub policy: &'static str,
    /// What `adopt` is told beside the policy.
    pub adopt: &'static [&'static str],
    /// In the order in which they move.
    pub services: &'static [Service],
    /// Who does not move, and works all the same.
    pub others: &'static [Service],
    /// What `doctor` goes on finding, because the plan leaves it as it is.
    pub elsewhere: &'static [&'static str],
    /// Whether somebody stays in the old account.
    pub stays: bool,
}

/// A service, by the name that it has in the policy.
pub struct Service {
    pub name: &'static str,
    pub login: Login,
    pub inbox: Option<&'static str>,
    pub language: Language,
    /// What it does, as `traffic.py` has it.
    pub tasks: &'static str,
    /// The same when it has moved, where that is not the same.
    pub moved_tasks: Option<&'static str>,
}

/// How it logs in before it moves.
pub enum Login {
    Password(&'static str, &'static str),
    /// With the NKEY of the file, which it keeps.
    Key(&'static str),
    /// With the NKEY of the file, and then with another.
    OldKey(&'static str),
    /// With a certificate of these names.
    Certificate(&'static str),
    /// With nothing, and is this user.
    Guest(&'static str),
    /// With nothing, where nobody logs in.
    Nobody,
    /// At a server of its own, which is a leaf.
    AtLeaf,
}

const NOTHING: Company = Company {
    folder: "",
    edits: &[],
    account: "$G",
    store: "data",
    domain: None,
    leaf: false,
    certificates: false,
    buckets: &[],
    streams: &[],
    consumers: &[],
    policy: "",
    adopt: &[],
    services: &[],
    others: &[],
    elsewhere: &[],
    stays: false,
};

const fn service(
    name: &'static str,
    login: Login,
    language: Language,
    tasks: &'static str,
) -> Service {
    Service { name, login, inbox: None, language, tasks, moved_tasks: None }
}

/// `web` and `api` may both write sessions; `web` does.
pub const SMALL: Company = Company {
    folder: "small",
    edits: &[("nats-server.conf", "port: 4222", "listen: \"127.0.0.1:-1\"")],
    buckets: &["sessions", "config"],
    streams: &[
        ("VISITS", &["web.visits"], RetentionPolicy::Limits),
        ("REFRESH", &["web.refresh"], RetentionPolicy::Limits),
    ],
    policy: r#"
[bucket.sessions]
[bucket.config]
[stream.VISITS]
subjects = ["web.visits"]
[stream.REFRESH]
subjects = ["web.refresh"]

[service.web]
nkeys = ["{web}"]
owns = ["sessions"]
publishes = ["web.visits"]

[service.api]
nkeys = ["{api}"]
owns = ["config"]
reads = ["sessions"]
subscribes = ["web.>"]

[service.cron]
nkeys = ["{cron}"]
publishes = ["web.refresh"]
"#,
    services: &[
        service(
            "api",
            Login::Password("api", "fake-api"),
            Language::JavaScript,
            r#"[
              {"id": "config", "kind": "put", "bucket": "config", "key": "limits", "get": true},
              {"id": "api-watches", "kind": "watch", "bucket": "sessions", "key": "one", "of": ["sessions"]},
              {"id": "api-hears", "kind": "hear", "subject": "web.>", "of": ["visits", "refresh"]}
            ]"#,
        ),
        service(
            "web",
            Login::Password("web", "fake-web"),
            Language::Python,
            r#"[
              {"id": "sessions", "kind": "put", "bucket": "sessions", "key": "one", "get": true},
              {"id": "visits", "kind": "publish", "subject": "web.visits", "stream": "VISITS"}
            ]"#,
        ),
        service(
            "cron",
            Login::Password("cron", "fake-cron"),
            Language::Rust,
            r#"[{"id": "refresh", "kind": "publish", "subject": "web.refresh", "stream": "REFRESH"}]"#,
        ),
    ],
    ..NOTHING
};

/// Every client has a certificate that says who it is.
pub const CERTIFICATES: Company = Company {
    folder: "certificates",
    edits: &[
        ("nats-server.conf", "\nport: 4222", "\nlisten: \"127.0.0.1:-1\""),
        ("nats-server.conf", "port: 1883", "listen: \"127.0.0.1:-1\""),
    ],
    account: "BANK",
    certificates: true,
    buckets: &["balances"],
    streams: &[
        ("LEDGER", &["ledger.entries.>"], RetentionPolicy::Limits),
        ("CARDS", &["cards.>"], RetentionPolicy::Limits),
    ],
    policy: r#"
[bucket.balances]
[stream.LEDGER]
subjects = ["ledger.entries.>"]
[stream.CARDS]
subjects = ["cards.>"]

[service.ledger]
nkeys = ["{ledger}"]
owns = ["balances"]
publishes = ["ledger.entries.>"]
answers = ["ledger.post"]

[service.cards]
nkeys = ["{cards}"]
publishes = ["cards.>"]
calls = ["ledger.post"]
"#,
    services: &[
        service(
            "cards",
            Login::Certificate("CN=cards,OU=services"),
            Language::JavaScript,
            r#"[
              {"id": "posts", "kind": "ask", "subject": "ledger.post"},
              {"id": "used", "kind": "publish", "subject": "cards.used", "stream": "CARDS"}
            ]"#,
        ),
        service(
            "ledger",
            Login::Certificate("CN=ledger,OU=services"),
            Language::Python,
            r#"[
              {"id": "ledger-answers", "kind": "answer", "subject": "ledger.post", "of": ["posts"]},
              {"id": "balances", "kind": "put_raw", "subject": "$KV.balances.one"},
              {"id": "entries", "kind": "publish", "subject": "ledger.entries.one", "stream": "LEDGER"}
            ]"#,
        ),
    ],
    ..NOTHING
};

/// NKEYs, one of which its service keeps; a durable consumer; answers from a queue group.
pub const FACTORY: Company = Company {
    folder: "factory",
    edits: &[
        ("nats-server.conf", "127.0.0.1:4222", "\"127.0.0.1:-1\""),
        ("nats-server.conf", "127.0.0.1:8222", "\"127.0.0.1:-1\""),
    ],
    account: "FACTORY",
    streams: &[("ORDERS", &["orders.>"], RetentionPolicy::Limits)],
    consumers: &[("ORDERS", "shipping", "orders.>")],
    policy: r#"
[stream.ORDERS]
subjects = ["orders.>"]
[stream.ORDERS.consumer.shipping]
filter = ["orders.>"]
ack_wait = "5s"

[service.erp]
nkeys = ["{erp}"]
publishes = ["orders.>"]

[service.shipping]
nkeys = ["{shipping}"]
consumes = ["ORDERS/shipping"]
calls = ["labels.print"]

[service.labels]
nkeys = ["{labels}"]
answers = ["labels.print"]
"#,
    services: &[
        service(
            "shipping",
            Login::OldKey("UBC5GJIJI77I2UEGGCCWWOZBJ2ZM27MVBSEA4IN2JUTF466R2ZWD4B53"),
            Language::Python,
            r#"[
              {"id": "shipping-takes", "kind": "fetch", "stream": "ORDERS", "durable": "shipping", "of": ["orders"]},
              {"id": "prints", "kind": "ask", "subject": "labels.print"}
            ]"#,
        ),
        service(
            "erp",
            Login::Key("UD2DD4ULK6A6PNGNVYJYXREWACGGRVVFPDMC4CB7YZBCV5QWTJ5KXGZF"),
            Language::Rust,
            r#"[{"id": "orders", "kind": "publish", "subject": "orders.new", "stream": "ORDERS"}]"#,
        ),
        service(
            "labels",
            Login::OldKey("UAJNUUXKJAMAKILPOMHILO44Z7ZK6NZXPDO7S7N4MEECDMYJOGJEEJP6"),
            Language::JavaScript,
            r#"[{"id": "labels-answers", "kind": "answer", "subject": "labels.print", "queue": "labels", "of": ["prints"]}]"#,
        ),
    ],
    ..NOTHING
};

/// Two hundred users, one bucket and one stream for all of them.
pub const FLEET: Company = Company {
    folder: "fleet",
    edits: &[("nats-server.conf", "port: 4222", "listen: \"127.0.0.1:-1\"")],
    account: "FLEET",
    buckets: &["devices"],
    streams: &[("STATES", &["dev.*.state"], RetentionPolicy::Limits)],
    policy: r#"
[bucket.devices]
part_owners = true
rollup = false
duplicate_window = "100ms"
[stream.STATES]
subjects = ["dev.*.state"]
duplicate_window = "100ms"

[service.d001]
nkeys = ["{d001}"]
owns = ["devices/d001.>"]
publishes = ["dev.d001.>"]

[service.d002]
nkeys = ["{d002}"]
owns = ["devices/d002.>"]
publishes = ["dev.d002.>"]

[service.d004]
nkeys = ["{d004}"]
owns = ["devices/d004.>"]
publishes = ["dev.d004.>"]
"#,
    services: &[
        Service {
            inbox: Some("_INBOX.d001"),
            ..service(
                "d001",
                Login::Password("d001", "fake-d001"),
                Language::Rust,
                r#"[
                  {"id": "key-1", "kind": "put_raw", "subject": "$KV.devices.d001.one"},
                  {"id": "state-1", "kind": "publish", "subject": "dev.d001.state", "stream": "STATES"}
                ]"#,
            )
        },
        Service {
            inbox: Some("_INBOX.d002"),
            ..service(
                "d002",
                Login::Password("d002", "fake-d002"),
                Language::JavaScript,
                r#"[
                  {"id": "key-2", "kind": "put_raw", "subject": "$KV.devices.d002.one"},
                  {"id": "state-2", "kind": "publish", "subject": "dev.d002.state", "stream": "STATES"}
                ]"#,
            )
        },
        Service {
            inbox: Some("_INBOX.d004"),
            ..service(
                "d004",
                Login::Password("d004", "fake-d004"),
                Language::Python,
                r#"[
                  {"id": "key-4", "kind": "put_raw", "subject": "$KV.devices.d004.one"},
                  {"id": "state-4", "kind": "publish", "subject": "dev.d004.state", "stream": "STATES"}
                ]"#,
            )
        },
    ],
    ..NOTHING
};

/// A JetStream domain, and a leaf whose messages everybody hears.
pub const LEAF: Company = Company {
    folder: "leaf",
    edits: &[
        ("nats-server.conf", "\"127.0.0.1:4222\"", "\"127.0.0.1:-1\""),
        ("nats-server.conf", "port: 7422", "listen: \"127.0.0.1:{leaf}\""),
    ],
    account: "PLANT",
    store: "./hub-data",
    domain: Some("hub"),
    leaf: true,
    buckets: &["setpoints"],
    streams: &[("MEASURED", &["plant.measured.>"], RetentionPolicy::Limits)],
    policy: r#"
[bucket.setpoints]
[stream.MEASURED]
subjects = ["plant.measured.>"]

[service.collector]
nkeys = ["{collector}"]
owns = ["setpoints"]
publishes = ["plant.measured.>"]
subscribes = ["plant.>"]

[service.screens]
nkeys = ["{screens}"]
reads = ["setpoints"]
subscribes = ["plant.>"]
"#,
    services: &[
        service(
            "screens",
            Login::Password("screens", "fake-screens"),
            Language::JavaScript,
            r#"[{"id": "screens-hear", "kind": "hear", "subject": "plant.>", "of": ["measured", "ticks"]}]"#,
        ),
        service(
            "collector",
            Login::Password("collector", "fake-collector"),
            Language::Rust,
            r#"[
              {"id": "setpoints", "kind": "put_raw", "subject": "$KV.setpoints.one"},
              {"id": "measured", "kind": "publish", "subject": "plant.measured.one", "stream": "MEASURED"},
              {"id": "collector-hears", "kind": "hear", "subject": "plant.>", "of": ["measured", "ticks"]}
            ]"#,
        ),
    ],
    others: &[service(
        "north",
        Login::AtLeaf,
        Language::Rust,
        r#"[{"id": "ticks", "kind": "tell", "subject": "plant.north.tick"}]"#,
    )],
    elsewhere: &[
        "movers        no service of the policy, in PLANT",
        "one-writer    not yet: setpoints, stream MEASURED; in the way: north (leafnode)",
    ],
    stays: true,
    ..NOTHING
};

/// Nobody logs in.
pub const OPEN: Company = Company {
    folder: "open",
    edits: &[
        ("nats-server.conf", "port: 4222", "listen: \"127.0.0.1:-1\""),
        ("nats-server.conf", "http: 8222", "http: \"127.0.0.1:-1\""),
        ("nats-server.conf", "/var/lib/nats", "data"),
    ],
    buckets: &["sessions"],
    streams: &[("EVENTS", &["events.>"], RetentionPolicy::Limits)],
    consumers: &[("EVENTS", "mail", "events.>")],
    policy: r#"
[bucket.sessions]
[stream.EVENTS]
subjects = ["events.>"]
[stream.EVENTS.consumer.mail]
filter = ["events.>"]
ack_wait = "5s"

[service.web]
nkeys = ["{web}"]
owns = ["sessions"]
publishes = ["events.>"]
calls = ["ask.api"]

[service.api]
nkeys = ["{api}"]
reads = ["sessions"]
answers = ["ask.api"]

[service.mail]
nkeys = ["{mail}"]
consumes = ["EVENTS/mail"]
subscribes = ["events.>"]
"#,
    services: &[
        service(
            "mail",
            Login::Nobody,
            Language::Rust,
            r#"[
              {"id": "mail-takes", "kind": "fetch", "stream": "EVENTS", "durable": "mail", "of": ["events"]},
              {"id": "mail-hears", "kind": "hear", "subject": "events.>", "of": ["events"]}
            ]"#,
        ),
        service(
            "web",
            Login::Nobody,
            Language::Python,
            r#"[
              {"id": "sessions", "kind": "put", "bucket": "sessions", "key": "one", "get": true},
              {"id": "events", "kind": "publish", "subject": "events.one", "stream": "EVENTS"},
              {"id": "asks", "kind": "ask", "subject": "ask.api"}
            ]"#,
        ),
        service(
            "api",
            Login::Nobody,
            Language::JavaScript,
            r#"[
              {"id": "api-watches", "kind": "watch", "bucket": "sessions", "key": "one", "of": ["sessions"]},
              {"id": "api-answers", "kind": "answer", "subject": "ask.api", "of": ["asks"]}
            ]"#,
        ),
    ],
    ..NOTHING
};

/// Guests give no login; one user hears keys as plain messages.
pub const PUBLIC: Company = Company {
    folder: "public",
    edits: &[
        ("nats-server.conf", "host: 0.0.0.0\nport: 4222", "listen: \"127.0.0.1:-1\""),
        ("nats-server.conf", "port: 8080", "listen: \"127.0.0.1:-1\""),
        ("nats-server.conf", "jetstream: enabled", "jetstream: {store_dir: data}"),
    ],
    buckets: &["board"],
    streams: &[("GUESTBOOK", &["guestbook.>"], RetentionPolicy::Limits)],
    policy: r#"
[bucket.board]
[stream.GUESTBOOK]
subjects = ["guestbook.>"]

[service.visitors]
nkeys = ["{visitors}"]
publishes = ["guestbook.>"]
calls = ["help.ask"]

[service.viewer]
nkeys = ["{viewer}"]
reads = ["board"]
subscribes = ["demo.>"]

[service.board]
nkeys = ["{board}"]
owns = ["board"]
publishes = ["demo.>"]

[service.admin]
nkeys = ["{admin}"]
answers = ["help.ask"]
"#,
    services: &[
        Service {
            moved_tasks: Some(
                r#"[
                  {"id": "viewer-hears", "kind": "hear", "subject": "demo.>", "of": ["ticks"]},
                  {"id": "viewer-watches", "kind": "watch", "bucket": "board", "key": "now", "of": ["now"]}
                ]"#,
            ),
            ..service(
                "viewer",
                Login::Password("viewer", "viewer"),
                Language::JavaScript,
                r#"[
                  {"id": "viewer-hears", "kind": "hear", "subject": "demo.>", "of": ["ticks"]},
                  {"id": "viewer-hears-keys", "kind": "hear", "subject": "$KV.board.>", "of": ["now"]}
                ]"#,
            )
        },
        service(
            "visitors",
            Login::Guest("guest"),
            Language::Python,
            r#"[
              {"id": "lines", "kind": "publish", "subject": "guestbook.lines", "stream": "GUESTBOOK"},
              {"id": "asks", "kind": "ask", "subject": "help.ask"}
            ]"#,
        ),
        Service {
            moved_tasks: Some(
                r#"[
                  {"id": "ticks", "kind": "tell", "subject": "demo.tick"},
                  {"id": "now", "kind": "put", "bucket": "board", "key": "now", "get": true}
                ]"#,
            ),
            ..service(
                "board",
                Login::Password("board", "fake-board"),
                Language::Rust,
                r#"[
                  {"id": "ticks", "kind": "tell", "subject": "demo.tick"},
                  {"id": "now", "kind": "tell", "subject": "$KV.board.now"}
                ]"#,
            )
        },
        service(
            "admin",
            Login::Password("admin", "fake-admin"),
            Language::Rust,
            r#"[{"id": "admin-answers", "kind": "answer", "subject": "help.ask", "of": ["asks"]}]"#,
        ),
    ],
    ..NOTHING
};

/// One account of several; what it imports from another is used by a service that moves.
pub const TEAMS: Company = Company {
    folder: "teams",
    edits: &[(
        "nats-server.conf",
        "server_name: shared",
        "server_name: shared\nlisten: \"127.0.0.1:-1\"",
    )],
    account: "SALES",
    buckets: &["prices"],
    streams: &[
        ("ORDERS", &["sales.orders"], RetentionPolicy::Limits),
        ("SLIPS", &["sales.slips"], RetentionPolicy::Limits),
    ],
    policy: r#"
[bucket.prices]
[stream.ORDERS]
subjects = ["sales.orders"]
[stream.SLIPS]
subjects = ["sales.slips"]

[service.shop]
nkeys = ["{shop}"]
publishes = ["sales.orders"]
calls = ["stock.count.*"]

[service.till]
nkeys = ["{till}"]
publishes = ["sales.slips"]
subscribes = ["sales.>"]

[service.prices]
nkeys = ["{prices}"]
owns = ["prices"]
"#,
    adopt: &["--account", "SALES"],
    services: &[
        service(
            "shop",
            Login::Password("shop", "fake-shop"),
            Language::Python,
            r#"[
              {"id": "orders", "kind": "publish", "subject": "sales.orders", "stream": "ORDERS"},
              {"id": "counts", "kind": "ask", "subject": "stock.count.apples"}
            ]"#,
        ),
        service(
            "till",
            Login::Password("till", "fake-till"),
            Language::JavaScript,
            r#"[
              {"id": "slips", "kind": "publish", "subject": "sales.slips", "stream": "SLIPS"},
              {"id": "till-hears", "kind": "hear", "subject": "sales.>", "of": ["orders", "slips"]}
            ]"#,
        ),
        service(
            "prices",
            Login::Password("prices", "fake-prices"),
            Language::Rust,
            r#"[{"id": "prices", "kind": "put", "bucket": "prices", "key": "apples"}]"#,
        ),
    ],
    others: &[
        service(
            "counter",
            Login::Password("counter", "fake-counter"),
            Language::Rust,
            r#"[{"id": "counter-answers", "kind": "answer", "subject": "stock.count.*", "of": ["counts", "platform-counts"]}]"#,
        ),
        service(
            "platform",
            Login::Password("platform", "fake-platform"),
            Language::Rust,
            r#"[{"id": "platform-counts", "kind": "ask", "subject": "teams.stock.count.pears"}]"#,
        ),
    ],
    elsewhere: &["PLATFORM imports `stock.count.*` of STOCK as `teams.stock.count.*`"],
    ..NOTHING
};

/// Permissions by variables and by default; one password for all.
pub const TEMPLATES: Company = Company {
    folder: "templates",
    edits: &[
        ("nats-server.conf", "$SERVER_NAME_OF_TEST", "templates-1"),
        ("nats-server.conf", "port: 4222", "listen: \"127.0.0.1:-1\""),
        ("nats-server.conf", "jetstream: true", "jetstream: {store_dir: data}"),
    ],
    buckets: &["state"],
    streams: &[
        ("BILLS", &["svc.bills.>"], RetentionPolicy::Limits),
        ("ITEMS", &["svc.items.>"], RetentionPolicy::Limits),
    ],
    policy: r#"
[bucket.state]
part_owners = true
rollup = false
duplicate_window = "100ms"
[stream.BILLS]
subjects = ["svc.bills.>"]
[stream.ITEMS]
subjects = ["svc.items.>"]

[service.billing]
nkeys = ["{billing}"]
owns = ["state/billing.>"]
publishes = ["svc.bills.>"]
subscribes = ["svc.items.>"]

[service.catalogue]
nkeys = ["{catalogue}"]
owns = ["state/catalogue.>"]
publishes = ["svc.items.>"]
subscribes = ["svc.bills.>"]

[service.report]
nkeys = ["{report}"]
reads = ["state"]
"#,
    services: &[
        service(
            "billing",
            Login::Password("billing", "fake-for-all"),
            Language::Python,
            r#"[
              {"id": "key-1", "kind": "put_raw", "subject": "$KV.state.billing.one"},
              {"id": "bills", "kind": "publish", "subject": "svc.bills.one", "stream": "BILLS"},
              {"id": "billing-hears", "kind": "hear", "subject": "svc.items.>", "of": ["items"]}
            ]"#,
        ),
        service(
            "report",
            Login::Password("report", "fake-for-all"),
            Language::JavaScript,
            r#"[
              {"id": "report-bills", "kind": "get_raw", "subject": "$JS.API.DIRECT.GET.KV_state.$KV.state.billing.one"},
              {"id": "report-items", "kind": "get_raw", "subject": "$JS.API.DIRECT.GET.KV_state.$KV.state.catalogue.one"}
            ]"#,
        ),
        service(
            "catalogue",
            Login::Password("catalogue", "fake-for-all"),
            Language::Rust,
            r#"[
              {"id": "key-2", "kind": "put_raw", "subject": "$KV.state.catalogue.one"},
              {"id": "items", "kind": "publish", "subject": "svc.items.one", "stream": "ITEMS"},
              {"id": "catalogue-hears", "kind": "hear", "subject": "svc.bills.>", "of": ["bills"]}
            ]"#,
        ),
    ],
    ..NOTHING
};

/// Workers, each with a durable consumer of one queue.
pub const WORKERS: Company = Company {
    folder: "workers",
    edits: &[("nats-server.conf", "port = 4222", "listen = \"127.0.0.1:-1\"")],
    store: "./js",
    buckets: &["progress"],
    streams: &[
        ("JOBS", &["jobs.>"], RetentionPolicy::WorkQueue),
        ("SENT", &["mail.sent"], RetentionPolicy::Limits),
    ],
    consumers: &[("JOBS", "resize", "jobs.resize"), ("JOBS", "mail", "jobs.mail")],
    policy: r#"
[bucket.progress]
[stream.JOBS]
subjects = ["jobs.>"]
retention = "workqueue"
[stream.JOBS.consumer.resize]
filter = ["jobs.resize"]
ack_wait = "5s"
[stream.JOBS.consumer.mail]
filter = ["jobs.mail"]
ack_wait = "5s"
[stream.SENT]
subjects = ["mail.sent"]

[service.dispatcher]
nkeys = ["{dispatcher}"]
publishes = ["jobs.>"]

[service.resize]
nkeys = ["{resize}"]
owns = ["progress"]
consumes = ["JOBS/resize"]

[service.mail]
nkeys = ["{mail}"]
publishes = ["mail.sent"]
consumes = ["JOBS/mail"]
"#,
    services: &[
        Service {
            inbox: Some("_INBOX.resize"),
            ..service(
                "resize",
                Login::Password("resize", "fake-resize"),
                Language::JavaScript,
                r#"[
                  {"id": "resize-takes", "kind": "fetch", "stream": "JOBS", "durable": "resize", "of": ["images"]},
                  {"id": "progress", "kind": "put_raw", "subject": "$KV.progress.resize.done"}
                ]"#,
            )
        },
        service(
            "dispatcher",
            Login::Password("dispatcher", "fake-dispatcher"),
            Language::Rust,
            r#"[
              {"id": "images", "kind": "publish", "subject": "jobs.resize", "stream": "JOBS"},
              {"id": "letters", "kind": "publish", "subject": "jobs.mail", "stream": "JOBS"}
            ]"#,
        ),
        Service {
            inbox: Some("_INBOX.mail"),
            ..service(
                "mail",
                Login::Password("mail", "fake-mail"),
                Language::Python,
                r#"[
                  {"id": "mail-takes", "kind": "fetch", "stream": "JOBS", "durable": "mail", "of": ["letters"]},
                  {"id": "sent", "kind": "publish", "subject": "mail.sent", "stream": "SENT"}
                ]"#,
            )
        },
    ],
    ..NOTHING
};
