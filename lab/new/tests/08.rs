//! A question is answered, though the server that works on it is killed.

#![allow(clippy::unwrap_used)]

mod support;

use support::Servers;

#[test]
fn a_question_is_answered_though_its_server_is_killed() {
    let servers = Servers::rabbitmq();
    let server = servers.start("rpc-server", &[]);
    let client = servers.begin("rpc-client", &["40", "--timeout", "100"]);
    server.wait_for(" [.] fib(40)");
    server.kill(); // it takes seconds to compute

    let server = servers.start("rpc-server", &[]);
    assert_eq!(client.wait_for(" [.] Got "), "102334155");
    server.stop();
}
