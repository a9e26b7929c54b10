//! The tests proper: every scenario and every seed with the production engine.

use twinblk::engine::Engine;

use crate::scenarios::{
    crashes, freeze, generations, handlers, network, policies, rate, resync, resync_forms, verbs,
    verify,
};
use crate::seeds;

macro_rules! tests {
    ($($module:ident :: $name:ident),+ $(,)?) => { $(
        #[test]
        fn $name() {
            $module::$name::<Engine>();
        }
    )+ };
}

tests! {
    crashes::ack_c_then_primary_power_loss,
    crashes::primary_crash_during_al_update,
    crashes::primary_crash_after_local_before_peer,
    crashes::peer_crash_during_resync_then_source_crash,
    crashes::both_power_loss_mid_epoch,
    crashes::generation_bump_before_degraded_ack,
    crashes::crashed_primary_resyncs_its_hot_extents,
    crashes::blank_replacement_disk_full_sync,
    crashes::forced_primary_of_created_disks_syncs_all,
    generations::a_promotion_while_connected_is_one_bit,
    generations::a_lost_peer_begins_a_generation_and_a_resync_ends_it,
    generations::a_promotion_alone_begins_a_generation,
    generations::two_secondaries_part_without_a_trace,
    generations::a_crashed_primary_keeps_its_generation,
    generations::a_forced_promotion_begins_a_generation,
    resync::resync_target_refuses_promote,
    resync::bitmap_bit_cleared_only_after_target_durable,
    resync::write_during_resync_same_block,
    resync::resync_interrupted_resumes_without_full_sync,
    resync::stale_session_data_ignored,
    resync::flush_eio_detaches,
    resync::a_source_that_failed_its_last_flush_becomes_target,
    resync::a_lone_source_that_failed_its_last_flush_becomes_target,
    resync::diskless_primary_is_served_by_its_peer,
    resync::a_flush_of_half_a_resync_is_an_error,
    resync::a_target_reads_behind_its_own_writes,
    resync::reconnect_copies_what_changed,
    resync::a_small_activity_log_bounds_the_resync,
    rate::a_chosen_rate_is_kept,
    rate::a_resync_yields_to_the_application,
    resync_forms::checksums_spare_what_is_equal,
    resync_forms::checksum_resync_survives_crashes,
    resync_forms::zeroes_are_not_sent,
    resync_forms::a_paused_resync_waits_and_goes_on,
    resync_forms::a_resync_waits_for_another_resource,
    resync_forms::interruptions_do_not_start_over,
    verify::verify_finds_exactly_what_differs,
    verify::what_verify_found_is_resynced_by_reconnecting,
    verify::verify_is_never_wrong_about_blocks_being_written,
    verify::repair_mends_exactly_what_differs,
    verify::an_interrupted_repair_is_completed,
    verify::verify_is_refused_where_it_makes_no_sense,
    verify::verify_goes_on_where_it_was,
    network::split_brain_detected_on_both,
    network::discard_my_data_only_overwrites_victim,
    network::a_second_primary_is_refused,
    network::concurrent_promotions_leave_one_primary,
    network::one_way_cut_ends_the_session,
    network::one_socket_cut_ends_the_session,
    network::pause_primary_past_timeouts_then_resume,
    network::switchover_and_back,
    network::no_data_is_an_error,
    network::a_secondary_answers_no_client,
    freeze::suspended_io_waits_for_resume,
    freeze::a_lost_peer_is_fenced_before_anything_is_answered,
    freeze::a_broken_fence_leaves_io_frozen,
    freeze::a_fenced_node_is_not_promoted,
    freeze::promotion_fences_first,
    freeze::a_restarted_node_asks_before_it_is_promoted,
    freeze::a_graceful_disconnect_outdates_the_secondary,
    freeze::requests_wait_for_data,
    handlers::a_resync_waits_for_its_handlers,
    handlers::a_handler_may_refuse_a_resync,
    verbs::invalidate_copies_everything,
    verbs::an_interrupted_invalidate_goes_on_the_same_way,
    verbs::alone_one_side_is_invalidated,
    verbs::worthless_wishes_are_refused,
    verbs::the_first_sync_is_skipped,
    verbs::skipping_the_first_sync_may_be_interrupted,
    verbs::a_new_generation_by_command,
    policies::policies_without_a_primary,
    policies::policies_with_one_primary,
    policies::policies_with_two_primaries,
    policies::a_tentative_connect_changes_nothing,
    seeds::seeds_hold_every_invariant,
    seeds::seeds_are_deterministic,
    seeds::planted_bugs_are_found,
}
