//! The recorder against folders and stores that fail.
mod crash;
pub(crate) mod fixture;
mod life;
mod outage;
