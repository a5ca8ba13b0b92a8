//! End to end: real nats-servers, the real binary, real client libraries.
//!
//! Each test runs once for each supported server version. The oldest and the newest run by
//! default; `cargo test -- --include-ignored` runs the versions between them too.

// Helpers of tests fail the test when something is not as it must be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs)]
// Metrics hold whole numbers; and a type beside its use reads better.
#![allow(clippy::float_cmp, clippy::items_after_statements, clippy::print_stdout)]

mod answers;
mod audit;
mod broker;
mod bucket;
mod buckets;
mod clients;
mod cluster;
mod consumers;
mod deployment;
mod doctor;
mod documentation;
mod gateways;
mod guard;
mod identity;
mod keyspaces;
mod liars;
mod load;
mod map_page;
mod messaging;
mod operations;
mod outages;
mod overload;
mod policy;
mod protocol;
mod raw;
mod script;
mod second_connect;
mod seeds;
mod sessions;
mod subjects;
mod swaps;
mod sweeps;
mod tls;
mod upgrade;
mod violations;

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

#[tokio::test(flavor = "multi_thread")]
async fn load_direct_measures_a_real_service() {
    load::load_direct_measures_a_real_service().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_leaves_nothing() {
    load::an_interrupted_run_leaves_nothing().await;
}

on_every_server! {
    crate::load::load_connect_compares_on_a_real_server as load_connect_compares_on_a_real_server;
    crate::load::load_connect_keeps_a_rate_and_survives_a_storm
        as load_connect_keeps_a_rate_and_survives_a_storm;
    crate::load::load_report_and_soak_write_the_page as load_report_and_soak_write_the_page;
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
    crate::keyspaces::the_older_npm_package_works_without_its_check
        as the_older_npm_package_works_without_its_check;
    crate::keyspaces::a_client_leaves_the_domain_out as a_client_leaves_the_domain_out;
    crate::keyspaces::a_key_with_a_ttl_runs_out as a_key_with_a_ttl_runs_out;
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
    crate::broker::a_slow_authorisation_is_survived as a_slow_authorisation_is_survived;
    crate::broker::an_issuer_is_rotated_without_a_failed_login as an_issuer_is_rotated_without_a_failed_login;
    crate::broker::a_restart_of_the_server_is_survived as a_restart_of_the_server_is_survived;
    crate::broker::it_waits_for_a_server_that_is_not_there_yet as it_waits_for_a_server_that_is_not_there_yet;
    crate::broker::it_can_be_stopped_while_it_waits_for_a_server as it_can_be_stopped_while_it_waits_for_a_server;
    crate::broker::health_and_metrics_tell_how_it_is as health_and_metrics_tell_how_it_is;
    crate::broker::no_seed_reaches_a_log as no_seed_reaches_a_log;
    crate::policy::an_edit_takes_effect_on_the_next_connection as an_edit_takes_effect_on_the_next_connection;
    crate::policy::an_invalid_edit_changes_nothing_and_says_why as an_invalid_edit_changes_nothing_and_says_why;
    crate::policy::a_checkout_of_another_branch_is_one_change as a_checkout_of_another_branch_is_one_change;
    crate::policy::sighup_reads_the_policy_at_once as sighup_reads_the_policy_at_once;
    crate::policy::a_swap_of_symbolic_links_is_seen as a_swap_of_symbolic_links_is_seen;
    crate::policy::a_policy_that_does_not_load_keeps_it_from_starting as a_policy_that_does_not_load_keeps_it_from_starting;
    crate::protocol::requests_and_answers_are_sealed_by_default as requests_and_answers_are_sealed_by_default;
    crate::protocol::without_an_xkey_on_both_sides_it_works_in_the_clear as without_an_xkey_on_both_sides_it_works_in_the_clear;
    crate::protocol::a_request_in_the_clear_is_refused_where_an_xkey_is_set as a_request_in_the_clear_is_refused_where_an_xkey_is_set;
    crate::protocol::a_sealed_request_is_refused_where_no_xkey_is_set as a_sealed_request_is_refused_where_no_xkey_is_set;
    crate::protocol::a_request_sealed_to_another_key_is_refused as a_request_sealed_to_another_key_is_refused;
    crate::protocol::a_server_that_trusts_another_issuer_is_refused as a_server_that_trusts_another_issuer_is_refused;
    crate::protocol::with_another_issuer_it_is_not_ready as with_another_issuer_it_is_not_ready;
    crate::protocol::the_callouts_user_can_do_nothing_else as the_callouts_user_can_do_nothing_else;
    crate::protocol::who_says_much_of_itself_is_answered as who_says_much_of_itself_is_answered;
    crate::protocol::sealed_garbage_gets_no_answer as sealed_garbage_gets_no_answer;
    crate::protocol::forged_requests_get_no_answer as forged_requests_get_no_answer;
    crate::protocol::a_captured_request_expires as a_captured_request_expires;
    crate::subjects::matching_is_what_the_server_does as matching_is_what_the_server_does;
    crate::protocol::no_client_can_publish_a_request as no_client_can_publish_a_request;
    crate::overload::a_request_that_waited_too_long_is_dropped as a_request_that_waited_too_long_is_dropped;
    crate::overload::a_rush_costs_those_who_do_not_fit_and_nobody_after as a_rush_costs_those_who_do_not_fit_and_nobody_after;
    crate::overload::a_key_that_asks_too_often_is_refused as a_key_that_asks_too_often_is_refused;
    crate::overload::a_huge_grant_keeps_nobody_waiting as a_huge_grant_keeps_nobody_waiting;
    crate::overload::a_grant_that_the_server_has_no_room_for_is_refused_at_once
        as a_grant_that_the_server_has_no_room_for_is_refused_at_once;
    crate::overload::idle_http_connections_stop_nothing as idle_http_connections_stop_nothing;
    crate::overload::garbage_costs_no_more_than_honest_clients
        as garbage_costs_no_more_than_honest_clients;
    crate::answers::the_answers_of_explain_are_the_servers as the_answers_of_explain_are_the_servers;
    crate::answers::who_can_names_those_whom_the_server_lets as who_can_names_those_whom_the_server_lets;
    crate::answers::what_diff_says_is_lost_the_server_refuses as what_diff_says_is_lost_the_server_refuses;
    crate::policy::a_refused_change_that_is_taken_back_is_over as a_refused_change_that_is_taken_back_is_over;
    crate::broker::it_stops_at_once_when_the_server_is_gone as it_stops_at_once_when_the_server_is_gone;
    crate::broker::with_another_users_seed_it_is_not_ready as with_another_users_seed_it_is_not_ready;
    crate::documentation::the_client_examples_work as the_client_examples_work;
    crate::documentation::the_page_about_the_bucket_is_true as the_page_about_the_bucket_is_true;
    crate::cluster::a_service_works_through_any_node as a_service_works_through_any_node;
    crate::buckets::apply_creates_what_is_declared_and_nothing_more_to_do as apply_creates_what_is_declared_and_nothing_more_to_do;
    crate::buckets::every_setting_that_strayed_is_seen_and_mended as every_setting_that_strayed_is_seen_and_mended;
    crate::buckets::what_loses_data_is_refused_unless_told_so as what_loses_data_is_refused_unless_told_so;
    crate::buckets::what_no_update_changes_is_said as what_no_update_changes_is_said;
    crate::buckets::streams_that_nobody_declared_are_reported as streams_that_nobody_declared_are_reported;
    crate::buckets::who_is_not_the_admin_is_told_so as who_is_not_the_admin_is_told_so;
    crate::buckets::buckets_of_a_cluster_have_replicas as buckets_of_a_cluster_have_replicas;
    crate::doctor::a_server_that_was_reloaded as a_server_that_was_reloaded;
    crate::doctor::explain_knows_the_mappings as explain_knows_the_mappings;
    crate::doctor::logins_beside_the_callout as logins_beside_the_callout;
    crate::doctor::a_mapping_in_the_services_account as a_mapping_in_the_services_account;
    crate::doctor::a_healthy_deployment_has_no_problem as a_healthy_deployment_has_no_problem;
    crate::doctor::an_address_where_nobody_is as an_address_where_nobody_is;
    crate::doctor::servers_of_different_versions as servers_of_different_versions;
    crate::doctor::a_clock_that_is_wrong as a_clock_that_is_wrong;
    crate::doctor::a_server_that_gives_no_nonce as a_server_that_gives_no_nonce;
    crate::doctor::a_user_that_the_server_asks_about as a_user_that_the_server_asks_about;
    crate::doctor::a_seed_that_others_can_read as a_seed_that_others_can_read;
    crate::doctor::a_callout_in_another_account as a_callout_in_another_account;
    crate::doctor::another_issuer_than_ours as another_issuer_than_ours;
    crate::doctor::another_xkey_than_ours as another_xkey_than_ours;
    crate::doctor::requests_that_are_not_sealed as requests_that_are_not_sealed;
    crate::doctor::nobody_takes_requests as nobody_takes_requests;
    crate::doctor::somebody_else_takes_requests as somebody_else_takes_requests;
    crate::doctor::an_instance_that_does_not_answer as an_instance_that_does_not_answer;
    crate::doctor::instances_that_serve_different_policies as instances_that_serve_different_policies;
    crate::doctor::a_policy_in_its_bucket as a_policy_in_its_bucket;
    crate::doctor::a_timeout_that_is_too_short as a_timeout_that_is_too_short;
    crate::doctor::a_server_that_lets_anybody_in as a_server_that_lets_anybody_in;
    crate::doctor::a_listener_that_lets_anybody_in as a_listener_that_lets_anybody_in;
    crate::doctor::buckets_beside_the_services as buckets_beside_the_services;
    crate::doctor::jetstream_beside_the_services as jetstream_beside_the_services;
    crate::doctor::an_export_too_many as an_export_too_many;
    crate::doctor::an_import_too_few as an_import_too_few;
    crate::doctor::an_account_that_reaches_the_buckets as an_account_that_reaches_the_buckets;
    crate::doctor::a_user_whom_no_policy_holds as a_user_whom_no_policy_holds;
    crate::doctor::a_policy_that_does_not_hold as a_policy_that_does_not_hold;
    crate::doctor::a_bucket_that_is_not_as_declared as a_bucket_that_is_not_as_declared;
    crate::doctor::an_audit_stream_that_forgets as an_audit_stream_that_forgets;
    crate::doctor::without_a_system_user_it_says_how_long_permissions_stay as without_a_system_user_it_says_how_long_permissions_stay;
    crate::doctor::with_nothing_but_an_address_it_says_what_it_could_not_see as with_nothing_but_an_address_it_says_what_it_could_not_see;
    crate::documentation::the_readmes_commands_work_on_a_server as the_readmes_commands_work_on_a_server;
    crate::documentation::what_init_says_to_do_next_works as what_init_says_to_do_next_works;
    crate::buckets::the_page_about_buckets_shows_what_is_printed as the_page_about_buckets_shows_what_is_printed;
    crate::audit::each_decision_is_one_event_at_both_places as each_decision_is_one_event_at_both_places;
    crate::audit::while_the_stream_is_away_events_wait_and_arrive_once as while_the_stream_is_away_events_wait_and_arrive_once;
    crate::audit::a_killed_server_loses_no_event as a_killed_server_loses_no_event;
    crate::audit::what_a_killed_instance_left_is_sent_by_the_next as what_a_killed_instance_left_is_sent_by_the_next;
    crate::audit::an_instance_killed_under_load_accounts_for_every_event as an_instance_killed_under_load_accounts_for_every_event;
    crate::audit::old_events_are_not_sent_twice_after_the_duplicate_window as old_events_are_not_sent_twice_after_the_duplicate_window;
    crate::audit::what_a_killed_instance_had_in_memory_is_told as what_a_killed_instance_had_in_memory_is_told;
    crate::audit::past_the_spools_limit_the_loss_is_counted_and_told as past_the_spools_limit_the_loss_is_counted_and_told;
    crate::audit::who_may_publish_and_read_is_what_the_policy_says as who_may_publish_and_read_is_what_the_policy_says;
    crate::audit::an_id_that_somebody_used_first_is_told_as_a_loss as an_id_that_somebody_used_first_is_told_as_a_loss;
    crate::audit::one_service_wipes_its_own_events_alone as one_service_wipes_its_own_events_alone;
    crate::audit::message_ids_of_services_are_not_the_events_ids as message_ids_of_services_are_not_the_events_ids;
    crate::audit::an_auditor_reads_with_each_library as an_auditor_reads_with_each_library;
    crate::audit::people_read_the_stream as people_read_the_stream;
    crate::audit::people_read_it_by_the_settings as people_read_it_by_the_settings;
    crate::audit::it_is_read_up_to_a_time as it_is_read_up_to_a_time;
    crate::audit::a_policy_that_keeps_it_from_starting_is_an_event as a_policy_that_keeps_it_from_starting_is_an_event;
    crate::sessions::who_loses_something_is_closed_and_nobody_else as who_loses_something_is_closed_and_nobody_else;
    crate::sessions::who_gains_is_closed_only_when_the_settings_say_so as who_gains_is_closed_only_when_the_settings_say_so;
    crate::sessions::a_transfer_reaches_its_new_owner_and_who_waits_is_named as a_transfer_reaches_its_new_owner_and_who_waits_is_named;
    crate::sessions::a_push_names_who_is_not_reached as a_push_names_who_is_not_reached;
    crate::sessions::who_waits_is_named_where_the_policy_is_a_directory as who_waits_is_named_where_the_policy_is_a_directory;
    crate::sessions::no_idle_client_meets_the_end_of_its_permissions as no_idle_client_meets_the_end_of_its_permissions;
    crate::gateways::a_bucket_of_another_cluster_is_erased_and_everybody_says_so as a_bucket_of_another_cluster_is_erased_and_everybody_says_so;
    crate::sessions::a_leafnode_is_closed_too as a_leafnode_is_closed_too;
    crate::sessions::who_loses_the_system_account_says_when_it_is_back as who_loses_the_system_account_says_when_it_is_back;
    crate::sessions::each_library_comes_back_by_itself as each_library_comes_back_by_itself;
    crate::sessions::without_a_system_user_the_delay_is_told as without_a_system_user_the_delay_is_told;
    crate::sessions::a_system_user_that_is_not_let_in_is_told as a_system_user_that_is_not_let_in_is_told;
    crate::sessions::sessions_lists_and_closes_connections as sessions_lists_and_closes_connections;
    crate::sessions::who_closes_without_having_seen_everything_is_told as who_closes_without_having_seen_everything_is_told;
    crate::sweeps::a_lost_keyspace_is_lost_on_every_server_within_moments as a_lost_keyspace_is_lost_on_every_server_within_moments;
    crate::sweeps::a_sweep_is_finished_by_another_when_the_sweeper_is_killed as a_sweep_is_finished_by_another_when_the_sweeper_is_killed;
    crate::sweeps::every_one_of_many_connections_is_found as every_one_of_many_connections_is_found;
    crate::sweeps::what_a_paused_instance_let_in_is_swept as what_a_paused_instance_let_in_is_swept;
    crate::sweeps::a_push_while_the_sweeper_is_paused_reaches_everybody as a_push_while_the_sweeper_is_paused_reaches_everybody;
    crate::sweeps::a_sweeper_that_slept_does_not_sweep_by_what_it_knew as a_sweeper_that_slept_does_not_sweep_by_what_it_knew;
    crate::sweeps::connections_that_outlived_every_instance_are_found as connections_that_outlived_every_instance_are_found;
    crate::consumers::what_was_watched_ends_with_the_right_to_it as what_was_watched_ends_with_the_right_to_it;
    crate::consumers::consumers_that_outlived_every_instance_are_found as consumers_that_outlived_every_instance_are_found;
    crate::consumers::nobody_takes_all_consumers_of_a_bucket as nobody_takes_all_consumers_of_a_bucket;
    crate::consumers::descriptions_out_of_proportion_hide_nothing as descriptions_out_of_proportion_hide_nothing;
    crate::consumers::doctor_and_sessions_show_what_no_grant_covers as doctor_and_sessions_show_what_no_grant_covers;
    crate::consumers::a_cluster_is_swept_through_all_of_its_servers as a_cluster_is_swept_through_all_of_its_servers;
    crate::consumers::without_a_system_user_consumers_end_all_the_same as without_a_system_user_consumers_end_all_the_same;
    crate::consumers::a_page_that_never_arrives_hides_nothing as a_page_that_never_arrives_hides_nothing;
    crate::consumers::a_pull_under_way_ends_with_its_connection as a_pull_under_way_ends_with_its_connection;
    crate::consumers::a_watch_whose_consumer_was_deleted_comes_back as a_watch_whose_consumer_was_deleted_comes_back;
    crate::consumers::a_deployment_without_the_imports_is_told_so as a_deployment_without_the_imports_is_told_so;
    crate::bucket::a_fleet_waits_for_its_bucket_and_follows_it as a_fleet_waits_for_its_bucket_and_follows_it;
    crate::bucket::what_was_pushed_is_logged_shown_pulled_and_rolled_back as what_was_pushed_is_logged_shown_pulled_and_rolled_back;
    crate::bucket::questions_are_answered_by_what_is_served as questions_are_answered_by_what_is_served;
    crate::bucket::a_folder_that_is_not_what_is_served_is_said as a_folder_that_is_not_what_is_served_is_said;
    crate::bucket::a_removed_key_is_known_as_its_former_services as a_removed_key_is_known_as_its_former_services;
    crate::bucket::an_invalid_push_changes_nothing_and_everyone_hears as an_invalid_push_changes_nothing_and_everyone_hears;
    crate::bucket::where_nobody_can_be_asked_nothing_is_pushed as where_nobody_can_be_asked_nothing_is_pushed;
    crate::bucket::of_two_who_push_at_once_one_wins as of_two_who_push_at_once_one_wins;
    crate::bucket::an_instance_that_slept_through_a_push_grants_nothing_old as an_instance_that_slept_through_a_push_grants_nothing_old;
    crate::bucket::a_deleted_bucket_costs_nothing_but_updates as a_deleted_bucket_costs_nothing_but_updates;
    crate::bucket::a_revision_is_never_overwritten as a_revision_is_never_overwritten;
    crate::bucket::services_do_not_reach_the_bucket as services_do_not_reach_the_bucket;
    crate::swaps::a_hundred_swaps_of_a_directory_mix_nothing as a_hundred_swaps_of_a_directory_mix_nothing;
    crate::swaps::a_hundred_swaps_cost_no_authorisation as a_hundred_swaps_cost_no_authorisation;
    crate::outages::the_leader_dies_during_a_push as the_leader_dies_during_a_push;
    crate::outages::losing_jetstream_costs_nothing_but_updates as losing_jetstream_costs_nothing_but_updates;
    crate::outages::a_kept_policy_starts_an_instance_and_ends_in_time as a_kept_policy_starts_an_instance_and_ends_in_time;
    crate::outages::a_kept_policy_stands_in_for_a_directory as a_kept_policy_stands_in_for_a_directory;
    crate::outages::an_instance_that_slept_reads_the_directory_first as an_instance_that_slept_reads_the_directory_first;
    crate::documentation::the_guard_lines_of_python_and_javascript_work as the_guard_lines_of_python_and_javascript_work;
    crate::guard::a_refusal_is_said_at_once_and_told_once as a_refusal_is_said_at_once_and_told_once;
    crate::guard::a_guard_without_a_right_to_tell_does_not_go_round_in_circles as a_guard_without_a_right_to_tell_does_not_go_round_in_circles;
    crate::guard::the_example_service_is_guarded as the_example_service_is_guarded;
    crate::violations::each_violation_is_told_once_with_the_true_owner as each_violation_is_told_once_with_the_true_owner;
    crate::violations::a_follower_that_is_killed_loses_nothing_and_tells_nothing_twice as a_follower_that_is_killed_loses_nothing_and_tells_nothing_twice;
    crate::violations::no_client_can_forge_a_violation as no_client_can_forge_a_violation;
    crate::violations::a_leafnode_writes_no_violation_of_another as a_leafnode_writes_no_violation_of_another;
    crate::violations::a_follower_without_a_right_to_tell_does_not_go_round_in_circles as a_follower_without_a_right_to_tell_does_not_go_round_in_circles;
    crate::violations::standard_input_is_resumed_too as standard_input_is_resumed_too;
    crate::upgrade::a_policy_in_its_bucket_moves_by_the_printed_steps as a_policy_in_its_bucket_moves_by_the_printed_steps;
    crate::upgrade::a_policy_in_a_directory_goes_on_by_the_printed_steps as a_policy_in_a_directory_goes_on_by_the_printed_steps;
    crate::upgrade::what_is_there_stays as what_is_there_stays;
    crate::seeds::the_callouts_seed as the_callouts_seed;
    crate::seeds::the_publishers_seed as the_publishers_seed;
    crate::seeds::the_admins_seed as the_admins_seed;
    crate::seeds::the_audit_admins_seed as the_audit_admins_seed;
    crate::seeds::the_system_users_seed as the_system_users_seed;
    crate::second_connect::who_asks_an_instance_twice_is_refused as who_asks_an_instance_twice_is_refused;
    crate::second_connect::who_asks_two_instances_is_closed as who_asks_two_instances_is_closed;
    crate::second_connect::who_asks_again_after_a_restart_is_closed as who_asks_again_after_a_restart_is_closed;
    crate::liars::who_lies_about_its_connections_keeps_nobody_elses_open as who_lies_about_its_connections_keeps_nobody_elses_open;
    crate::policy::of_two_that_begin_alike_the_second_replaces_the_first as of_two_that_begin_alike_the_second_replaces_the_first;
    crate::tls::it_connects_over_tls_with_a_certificate as it_connects_over_tls_with_a_certificate;
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_14_6_a_reader_watches_with_the_newer_flow_control() {
    keyspaces::a_reader_watches_with_the_newer_flow_control("2.14.6").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_15_1_a_reader_watches_with_the_newer_flow_control() {
    keyspaces::a_reader_watches_with_the_newer_flow_control("2.15.1").await;
}

#[ignore = "takes a minute"]
#[tokio::test(flavor = "multi_thread")]
async fn a_minute_without_the_stream_loses_nothing() {
    audit::a_minute_without_the_stream_loses_nothing("2.15.1").await;
}

#[ignore = "takes minutes"]
#[tokio::test(flavor = "multi_thread")]
async fn a_minute_with_one_server_of_three_loses_nothing() {
    audit::a_minute_with_one_server_of_three_loses_nothing("2.15.1").await;
}

#[ignore = "takes a minute, and the machine for itself"]
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_repeated_violations_a_second() {
    violations::ten_thousand_repeated_violations_a_second("2.15.1").await;
}

#[ignore = "takes minutes, and the machine for itself"]
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_different_violations_a_second() {
    violations::ten_thousand_different_violations_a_second("2.15.1").await;
}

#[ignore = "measures, and wants the machine for itself"]
#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_login_takes() {
    for version in ["2.10.25", "2.11.11", "2.12.8", "2.14.6", "2.15.1"] {
        overload::how_long_a_login_takes(version).await;
    }
}

#[ignore = "takes minutes"]
#[tokio::test(flavor = "multi_thread")]
async fn much_garbage_costs_no_more_than_honest_clients() {
    overload::much_garbage_costs_no_more_than_honest_clients("2.15.1").await;
}
