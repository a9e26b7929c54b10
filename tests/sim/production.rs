//! The tests proper: every scenario and every seed with one engine. Until the production engine is
//! named here, the lists only prove that all of it fits together.

use crate::fake::Fake;
use crate::scenarios::{crashes, network, resync};
use crate::seeds;

/// Each story by its name.
pub const SCENARIOS: &[fn()] = &[
    crashes::ack_c_then_primary_power_loss::<Fake>,
    crashes::primary_crash_during_al_update::<Fake>,
    crashes::primary_crash_after_local_before_peer::<Fake>,
    crashes::peer_crash_during_resync_then_source_crash::<Fake>,
    crashes::both_power_loss_mid_epoch::<Fake>,
    crashes::generation_bump_before_degraded_ack::<Fake>,
    crashes::crashed_primary_resyncs_its_hot_extents::<Fake>,
    crashes::blank_replacement_disk_full_sync::<Fake>,
    crashes::forced_primary_of_created_disks_syncs_all::<Fake>,
    resync::resync_target_refuses_promote::<Fake>,
    resync::bitmap_bit_cleared_only_after_target_durable::<Fake>,
    resync::write_during_resync_same_block::<Fake>,
    resync::resync_interrupted_resumes_without_full_sync::<Fake>,
    resync::stale_session_data_ignored::<Fake>,
    resync::flush_eio_detaches::<Fake>,
    resync::diskless_primary_is_served_by_its_peer::<Fake>,
    resync::reconnect_copies_what_changed::<Fake>,
    resync::a_small_activity_log_bounds_the_resync::<Fake>,
    network::split_brain_detected_on_both::<Fake>,
    network::discard_my_data_only_overwrites_victim::<Fake>,
    network::a_second_primary_is_refused::<Fake>,
    network::concurrent_promotions_leave_one_primary::<Fake>,
    network::one_way_cut_ends_the_session::<Fake>,
    network::one_socket_cut_ends_the_session::<Fake>,
    network::pause_primary_past_timeouts_then_resume::<Fake>,
    network::switchover_and_back::<Fake>,
    network::no_data_is_an_error::<Fake>,
    network::a_secondary_answers_no_client::<Fake>,
];

/// The runs over many seeds.
pub const SWEEPS: &[fn()] = &[
    seeds::seeds_hold_every_invariant::<Fake>,
    seeds::seeds_are_deterministic::<Fake>,
    seeds::planted_bugs_are_found::<Fake>,
];

#[test]
fn a_secondary_answers_no_client() {
    network::a_secondary_answers_no_client::<Fake>();
}

#[test]
fn nothing_is_missing_from_the_lists() {
    assert_eq!((SCENARIOS.len(), SWEEPS.len()), (28, 3));
}
