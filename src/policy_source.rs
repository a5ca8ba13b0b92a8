//! Where the policy comes from, and the one in force.
//!
//! [`directory`] and [`bucket`] give texts, [`watcher`] news of changes; [`follower`] has them judged, and puts
//! what holds into the [`snapshot_store`]. [`removed`] has the keys that the policy in force no longer
//! has, [`status`] what is known of its source, and [`stall_guard`] keeps a process
//! that was stopped from deciding by what it knew before; [`origin`] is which revision of a bucket it is; [`cache`] is for the next start, and [`events`] is what
//! the audit stream is told; [`temporary`] is what counts for a while only.

pub mod bucket;
pub mod cache;
pub mod directory;
pub mod events;
pub mod follower;
pub mod losses;
pub mod origin;
pub mod removed;
pub mod snapshot_store;
pub mod stall_guard;
pub mod status;
pub mod temporary;
pub mod tenancy;
pub mod watcher;
