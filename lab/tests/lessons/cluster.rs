//! Lesson 10: a broker of three nodes.

use crate::support::Servers;

#[test]
fn experiment() {
    let servers = Servers::start_cluster();
    std::fs::write(std::env::var("EXP").unwrap(), servers.instance.folder.to_str().unwrap())
        .unwrap();
    while std::path::Path::new(&std::env::var("EXP").unwrap()).exists() {
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
}
