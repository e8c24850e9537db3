//! Each receiver gets what its patterns match, whatever happens to the others.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Servers, unique};

#[test]
fn each_receiver_gets_what_its_pattern_matches() {
    let (servers, name) = (Servers::rabbitmq(), unique());
    let all = servers.start("receive-logs-topic", &["#"]);
    let kern = servers.start("receive-logs-topic", &["kern.*"]);
    for (key, line) in [("kern.critical", "first"), ("cron.info", "second")] {
        servers.run("emit-log-topic", &[key, &format!("{name} {line}")]);
    }
    let kern_critical = format!("kern.critical: {name} first");
    kern.wait_for_all(" [x] Received ", [kern_critical.clone()].into());
    kern.kill();
    let kern = servers.start("receive-logs-topic", &["kern.*"]);
    servers.run("emit-log-topic", &["kern.info", &format!("{name} third")]);
    let [cron_info, kern_info] =
        [format!("cron.info: {name} second"), format!("kern.info: {name} third")];
    // The first line that comes: `cron.info` is not for this one.
    assert_eq!(kern.wait_for(" [x] Received "), kern_info);
    all.wait_for_all(" [x] Received ", [kern_critical, cron_info, kern_info].into());
    all.stop();
    kern.stop();
}
