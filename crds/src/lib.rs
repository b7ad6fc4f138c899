//! The words: the four kinds of `sallyport.dev/v1alpha1`, as Rust types without behaviour.

pub mod names;
