//! No job is lost: not one that fails, nor one whose worker is killed.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Servers, unique};

#[test]
fn no_job_is_lost() {
    let (servers, name) = (Servers::rabbitmq(), unique());
    let [quick, slow, fails] = ["quick", "slow", "fails"].map(|what| format!("{name} {what}"));
    servers.run("submit-job", &[&fails, "--fails", "1"]);
    let worker = servers.start("run-jobs", &[]);
    worker.wait_for(&format!(" [!] {fails}: attempt 1 failed"));
    worker.kill();
    let worker = servers.start("run-jobs", &[]);
    worker.wait_for(&format!(" [x] {fails}: done at attempt 2"));
    worker.stop();

    // killed in the middle of a job: it is done by the next worker
    servers.run("submit-job", &[&quick]);
    servers.run("submit-job", &[&slow, "--seconds", "3"]);
    let worker = servers.start("run-jobs", &[]);
    worker.wait_for(&format!(" [x] {quick}: done"));
    worker.kill();
    let worker = servers.start("run-jobs", &[]);
    worker.wait_for(&format!(" [x] {slow}: done at attempt 1"));
    worker.stop();
}
