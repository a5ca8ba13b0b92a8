//! End to end: real nats-servers, the real binary, real client libraries.
//!
//! Each test runs once for each supported server version. The oldest and the newest run by
//! default; `cargo test -- --include-ignored` runs the versions between them too.

// Helpers of tests fail the test when something is not as it must be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs)]
// Metrics hold whole numbers; and a type beside its use reads better.
#![allow(clippy::float_cmp, clippy::items_after_statements, clippy::print_stdout)]

/// `on_every_server!(its_name);` above a test runs it on every supported server; on those between
/// the oldest and the newest, with `--include-ignored`. `v2_15_1::its_name` finds it.
/// `on_every_server!(its_name, more_room);` is for what fails when many others run, and `much_room` for
/// what measures time.
macro_rules! on_every_server {
    ($test:ident) => {
        on_every_server!($test, some_room);
    };
    ($test:ident, $room:ident) => {
        mod $test {
            on_server!($test, $room, v2_10_25, "2.10.25");
            on_server!($test, $room, v2_11_11, "2.11.11", "between the oldest and the newest");
            on_server!($test, $room, v2_12_8, "2.12.8", "between the oldest and the newest");
            on_server!($test, $room, v2_14_6, "2.14.6", "between the oldest and the newest");
            on_server!($test, $room, v2_15_1, "2.15.1");
        }
    };
}

/// The same for what does not depend on the server: on all but the newest, with
/// `--include-ignored`.
macro_rules! on_the_newest_server {
    ($test:ident, $room:ident) => {
        mod $test {
            on_server!($test, $room, v2_10_25, "2.10.25", "not the newest");
            on_server!($test, $room, v2_11_11, "2.11.11", "not the newest");
            on_server!($test, $room, v2_12_8, "2.12.8", "not the newest");
            on_server!($test, $room, v2_14_6, "2.14.6", "not the newest");
            on_server!($test, $room, v2_15_1, "2.15.1");
        }
    };
}

macro_rules! on_server {
    ($test:ident, $room:ident, $module:ident, $version:literal $(, $ignored:literal)?) => {
        mod $module {
            $(#[ignore = $ignored])?
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let _room = crate::room::$room().await;
                super::super::$test($version).await;
            }
        }
    };
}

mod adopt;
mod adoption_paths;
mod answers;
#[path = "../attacks/mod.rs"]
mod attacks;
mod audit;
mod authors;
mod broker;
mod bucket;
mod buckets;
mod clients;
mod cluster;
mod company;
mod consumers;
mod deployment;
mod doctor;
mod documentation;
mod emergency;
mod found;
mod gateways;
mod guard;
mod handover;
mod handover_facts;
mod identity;
mod keyspaces;
mod leafnodes;
mod learn;
mod liars;
mod map_page;
mod messaging;
mod movers;
mod mqtt;
mod observe;
mod operations;
mod operator;
mod operator_facts;
mod operator_plan;
mod outages;
mod overload;
mod packaging;
mod passes;
mod policy;
mod protocol;
mod raw;
mod rehearse;
mod room;
mod rotation;
mod script;
mod second_connect;
mod seeds;
mod server_config;
mod sessions;
mod signer;
mod state;
mod stream_clients;
mod stream_facts;
mod streams;
mod subjects;
mod swaps;
mod sweeps;
mod tenants;
mod tls;
mod traces;
mod upgrade;
mod versions;
mod violations;
mod websocket;
