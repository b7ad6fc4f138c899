//! What the meaning promises, shown by tables in files and by properties.

mod approval;
mod bundles;
mod properties;
mod support;
mod tables;
mod texts;
