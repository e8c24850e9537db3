//! The names of the benchmarks: `benches/course` runs them.

use clap::ValueEnum;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Benchmark {
    Start,
    Publish,
    Consume,
    WorkQueue,
    FanOut,
    Orders,
    Services,
    Rpc,
    Streams,
    Cluster,
    Faults,
    Growth,
    Build,
}
