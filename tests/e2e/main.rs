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
    crate::keyspaces::a_reader_of_a_bucket_has_every_reading_operation
        as a_reader_of_a_bucket_has_every_reading_operation;
    crate::keyspaces::a_reader_watches_three_thousand_keys as a_reader_watches_three_thousand_keys;
    crate::keyspaces::a_reader_is_refused_each_write as a_reader_is_refused_each_write;
    crate::keyspaces::a_reader_of_a_part_reads_that_part_alone
        as a_reader_of_a_part_reads_that_part_alone;
    crate::keyspaces::an_owner_of_a_part_writes_that_part_alone
        as an_owner_of_a_part_writes_that_part_alone;
    crate::keyspaces::a_service_without_a_grant_for_a_bucket_is_refused_everything
        as a_service_without_a_grant_for_a_bucket_is_refused_everything;
    crate::keyspaces::a_watch_goes_on_after_a_reconnect as a_watch_goes_on_after_a_reconnect;
}
