//! Where the policy comes from, and the one in force.
//!
//! [`directory`] and [`bucket`] give texts; [`follower`] has them judged when they change, and puts
//! what holds into the [`snapshot_store`]. [`removed`] has the keys that the policy in force no longer
//! has, [`status`] what is known of its source; [`cache`] is for the next start, and [`events`] is what
//! the audit stream is told.

pub mod bucket;
pub mod cache;
pub mod directory;
pub mod events;
pub mod follower;
pub mod removed;
pub mod snapshot_store;
pub mod status;
