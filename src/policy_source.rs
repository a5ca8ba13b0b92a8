//! Where the policy comes from and how it is followed: a directory or a bucket, the snapshot in
//! force, and the cache for the next start.

pub mod bucket;
pub mod cache;
pub mod directory;
pub mod events;
pub mod follower;
pub mod removed;
pub mod snapshot_store;
pub mod status;
