//! End to end: real nats-servers, the real binary, real client libraries.
//!
//! Each test runs once for each supported server version. The oldest and the newest run by
//! default; `cargo test -- --include-ignored` runs the versions between them too.

mod clients;
mod deployment;
mod keyspaces;
mod operations;
mod raw;
mod script;

/// Declares tests that run on every supported server.
macro_rules! on_every_server {
    ($($(#[$attribute:meta])* $test:path as $name:ident;)*) => {
        mod v2_10_25 { $( $(#[$attribute])* #[tokio::test(flavor = "multi_thread")]
            async fn $name() { $test("2.10.25").await } )* }
        mod v2_11_11 { $( $(#[$attribute])* #[ignore = "a version between the oldest and the newest"]
            #[tokio::test(flavor = "multi_thread")] async fn $name() { $test("2.11.11").await } )* }
        mod v2_12_8 { $( $(#[$attribute])* #[ignore = "a version between the oldest and the newest"]
            #[tokio::test(flavor = "multi_thread")] async fn $name() { $test("2.12.8").await } )* }
        mod v2_14_6 { $( $(#[$attribute])* #[ignore = "a version between the oldest and the newest"]
            #[tokio::test(flavor = "multi_thread")] async fn $name() { $test("2.14.6").await } )* }
        mod v2_15_1 { $( $(#[$attribute])* #[tokio::test(flavor = "multi_thread")]
            async fn $name() { $test("2.15.1").await } )* }
    };
}

on_every_server! {
    crate::keyspaces::the_owner_has_every_operation as the_owner_has_every_operation;
    crate::keyspaces::the_owner_has_every_operation_without_direct_get
        as the_owner_has_every_operation_without_direct_get;
}
