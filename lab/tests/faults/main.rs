//! `cargo lab faults`: the fault run alone, compiled for speed.

#[path = "../lessons/all_faults/mod.rs"]
mod all_faults;
#[path = "../shared/mod.rs"]
mod shared;
