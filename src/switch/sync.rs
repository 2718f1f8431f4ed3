//! The primitives that admission stands on, named in one place so that the model checker can put its own in their stead:
//! `admission.rs` is compiled a second time, under test, against loom's (see `admission_model.rs`).

pub(super) use std::sync::{
    RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering, fence},
};
