//! The recorder against folders and stores that fail.
mod crash;
mod fixture;
mod life;
mod outage;
