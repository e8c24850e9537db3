//! Lesson 10: a broker of three nodes.

use std::time::Instant;

use crate::support::Servers;

#[test]
fn three_nodes() {
    let start = Instant::now();
    let servers = Servers::start_cluster();
    println!("up after {:?}", start.elapsed());
    for args in [
        &["-q", "cluster_status"][..],
        &["--script-name", "rabbitmq-queues", "rebalance", "quorum"],
        &["--script-name", "rabbitmq-upgrade", "-n", "rabbit2@localhost", "drain"],
        &["--script-name", "rabbitmq-upgrade", "-n", "rabbit2@localhost", "revive"],
        &[
            "--script-name",
            "rabbitmq-queues",
            "-n",
            "rabbit2@localhost",
            "check_if_node_is_quorum_critical",
        ],
        &["--script-name", "rabbitmq-upgrade", "await_online_quorum_plus_one"],
    ] {
        let output = servers.instance.rabbitmqctl().unwrap().args(args).output().unwrap();
        println!(
            "{args:?} {} {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let start = Instant::now();
    servers.instance.stop(lab::servers::Service::Rabbitmq, false).unwrap();
    println!("down after {:?}", start.elapsed());
}
