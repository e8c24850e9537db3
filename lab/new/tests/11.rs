//! No mail is lost when a mailer is killed.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Servers, unique};

#[test]
fn no_mail_is_lost() {
    let (servers, name) = (Servers::rabbitmq(), unique());
    let [first, second] = ["first", "second"].map(|what| format!("{what}.{name}@example.org"));
    servers.run("submit-mail", &[&first, &second]);
    let mailer = servers.start("mailer", &["--takes", "60"]);
    mailer.wait_for(&format!(" [x] Received a mail to {second}"));
    mailer.kill();
    let mailer = servers.start("mailer", &[]);
    let sent = [first, second].map(|to| to.to_string()).into();
    mailer.wait_for_all(" [x] Sent the mail to ", sent);
    mailer.stop();
}
