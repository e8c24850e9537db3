//! Each receiver gets each line, whatever happens to the others.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Servers, unique};

#[test]
fn a_receiver_that_is_killed_takes_nothing_from_the_others() {
    let (servers, name) = (Servers::rabbitmq(), unique());
    let [one, other] = [(); 2].map(|()| servers.start("receive-logs", &[]));
    let lines: Vec<String> = (1..=4).map(|number| format!("{name} {number}")).collect();
    for line in &lines[..2] {
        servers.run("emit-log", &[line]);
    }
    one.wait_for_all(" [x] Received ", [lines[0].clone()].into());
    one.kill();
    let again = servers.start("receive-logs", &[]);
    for line in &lines[2..] {
        servers.run("emit-log", &[line]);
    }
    other.wait_for_all(" [x] Received ", lines.iter().cloned().collect());
    again.wait_for_all(" [x] Received ", lines[2..].iter().cloned().collect());
    other.stop();
    again.stop();
}
