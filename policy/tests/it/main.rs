//! What the meaning promises, shown by tables in files and by properties.

mod approval;
mod bundles;
mod properties;
mod reference;
mod support;
mod tables;
mod texts;
