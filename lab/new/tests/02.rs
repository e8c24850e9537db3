//! No task is lost when its worker is killed.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Servers, unique};

#[test]
fn no_task_is_lost_when_a_worker_is_killed() {
    let (servers, name) = (Servers::rabbitmq(), unique());
    // Each dot is a second of work.
    let tasks: Vec<String> = (1..=5).map(|number| format!("{name} {number}.")).collect();
    for task in &tasks {
        servers.run("new-task", &[task]);
    }
    let worker = servers.start("worker", &[]);
    worker.wait_for(" [x] Received ");
    worker.kill(); // in the middle of the first one

    let worker = servers.start("worker", &[]);
    worker.wait_for_all(" [x] Received ", tasks.into_iter().collect());
    worker.wait_for(" [x] Done");
    worker.stop();
}
