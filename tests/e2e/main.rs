//! End to end: real nats-servers, the real binary, real client libraries.
//!
//! Each test runs once for each supported server version. The oldest and the newest run by
//! default; `cargo test -- --include-ignored` runs the versions between them too.

// Helpers of tests fail the test when something is not as it must be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs)]
// Metrics hold whole numbers; and a type beside its use reads better.
#![allow(clippy::float_cmp, clippy::items_after_statements)]

mod answers;
mod broker;
mod clients;
mod cluster;
mod deployment;
mod documentation;
mod identity;
mod keyspaces;
mod messaging;
mod operations;
mod overload;
mod policy;
mod protocol;
mod raw;
mod script;
mod subjects;
mod tls;

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
    crate::messaging::a_callers_requests_are_answered_where_it_may_call as a_callers_requests_are_answered_where_it_may_call;
    crate::messaging::who_answers_publishes_to_inboxes_alone as who_answers_publishes_to_inboxes_alone;
    crate::messaging::nobody_is_made_to_answer_outside_inboxes as nobody_is_made_to_answer_outside_inboxes;
    crate::messaging::inboxes_are_private as inboxes_are_private;
    crate::messaging::events_go_from_who_publishes_to_who_subscribes as events_go_from_who_publishes_to_who_subscribes;
    crate::messaging::each_library_receives_what_it_subscribes_to as each_library_receives_what_it_subscribes_to;
    crate::messaging::a_star_is_one_token_however_it_is_subscribed_to as a_star_is_one_token_however_it_is_subscribed_to;
    crate::messaging::nothing_is_granted_beyond_the_rules as nothing_is_granted_beyond_the_rules;
    crate::messaging::a_service_without_rules_can_do_nothing as a_service_without_rules_can_do_nothing;
    crate::identity::each_refusal_comes_at_once_and_has_its_reason as each_refusal_comes_at_once_and_has_its_reason;
    crate::identity::a_key_counts_only_with_its_own_signature as a_key_counts_only_with_its_own_signature;
    crate::identity::who_may_come_in_does as who_may_come_in_does;
    crate::identity::a_library_is_told_that_it_was_refused_and_not_why as a_library_is_told_that_it_was_refused_and_not_why;
    crate::identity::a_connections_name_leads_back_to_service_key_and_policy as a_connections_name_leads_back_to_service_key_and_policy;
    crate::identity::a_connection_ends_with_its_permissions_and_comes_back as a_connection_ends_with_its_permissions_and_comes_back;
    crate::broker::two_instances_share_the_load as two_instances_share_the_load;
    crate::broker::after_a_crash_the_other_instance_goes_on as after_a_crash_the_other_instance_goes_on;
    crate::broker::an_instance_that_is_stopped_answers_what_it_took_on as an_instance_that_is_stopped_answers_what_it_took_on;
    crate::broker::a_rolling_restart_loses_nobody as a_rolling_restart_loses_nobody;
    crate::broker::a_restart_of_the_server_is_survived as a_restart_of_the_server_is_survived;
    crate::broker::it_waits_for_a_server_that_is_not_there_yet as it_waits_for_a_server_that_is_not_there_yet;
    crate::broker::it_can_be_stopped_while_it_waits_for_a_server as it_can_be_stopped_while_it_waits_for_a_server;
    crate::broker::health_and_metrics_tell_how_it_is as health_and_metrics_tell_how_it_is;
    crate::broker::no_seed_reaches_a_log as no_seed_reaches_a_log;
    crate::policy::an_edit_takes_effect_on_the_next_connection as an_edit_takes_effect_on_the_next_connection;
    crate::policy::an_invalid_edit_changes_nothing_and_says_why as an_invalid_edit_changes_nothing_and_says_why;
    crate::policy::sighup_reads_the_policy_at_once as sighup_reads_the_policy_at_once;
    crate::policy::a_swap_of_symbolic_links_is_seen as a_swap_of_symbolic_links_is_seen;
    crate::policy::a_policy_that_does_not_load_keeps_it_from_starting as a_policy_that_does_not_load_keeps_it_from_starting;
    crate::protocol::requests_and_answers_are_sealed_by_default as requests_and_answers_are_sealed_by_default;
    crate::protocol::without_an_xkey_on_both_sides_it_works_in_the_clear as without_an_xkey_on_both_sides_it_works_in_the_clear;
    crate::protocol::a_request_in_the_clear_is_refused_where_an_xkey_is_set as a_request_in_the_clear_is_refused_where_an_xkey_is_set;
    crate::protocol::a_sealed_request_is_refused_where_no_xkey_is_set as a_sealed_request_is_refused_where_no_xkey_is_set;
    crate::protocol::a_request_sealed_to_another_key_is_refused as a_request_sealed_to_another_key_is_refused;
    crate::protocol::a_server_that_trusts_another_issuer_is_refused as a_server_that_trusts_another_issuer_is_refused;
    crate::protocol::the_callouts_user_can_do_nothing_else as the_callouts_user_can_do_nothing_else;
    crate::protocol::sealed_garbage_gets_no_answer as sealed_garbage_gets_no_answer;
    crate::protocol::forged_requests_get_no_answer as forged_requests_get_no_answer;
    crate::protocol::a_captured_request_expires as a_captured_request_expires;
    crate::subjects::matching_is_what_the_server_does as matching_is_what_the_server_does;
    crate::protocol::no_client_can_publish_a_request as no_client_can_publish_a_request;
    crate::overload::a_request_that_waited_too_long_is_dropped as a_request_that_waited_too_long_is_dropped;
    crate::overload::a_rush_costs_those_who_do_not_fit_and_nobody_after as a_rush_costs_those_who_do_not_fit_and_nobody_after;
    crate::answers::the_answers_of_explain_are_the_servers as the_answers_of_explain_are_the_servers;
    crate::answers::who_can_names_those_whom_the_server_lets as who_can_names_those_whom_the_server_lets;
    crate::answers::what_diff_says_is_lost_the_server_refuses as what_diff_says_is_lost_the_server_refuses;
    crate::policy::a_refused_change_that_is_taken_back_is_over as a_refused_change_that_is_taken_back_is_over;
    crate::broker::it_stops_at_once_when_the_server_is_gone as it_stops_at_once_when_the_server_is_gone;
    crate::broker::with_another_users_seed_it_is_not_ready as with_another_users_seed_it_is_not_ready;
    crate::documentation::the_client_examples_work as the_client_examples_work;
    crate::cluster::a_service_works_through_any_node as a_service_works_through_any_node;
    crate::tls::it_connects_over_tls_with_a_certificate as it_connects_over_tls_with_a_certificate;
}
