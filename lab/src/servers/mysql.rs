//! A MySQL or MariaDB that is installed on this machine, started with settings of our own only.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result};
use rustix::process::geteuid;

use crate::process::{Group, run};
use crate::progress::Task;
use crate::servers::{Instance, Service, server_program};

/// Users for the tests: one who may not write, and one who may do everything.
pub(super) fn users_of_tests(host: &str) -> String {
    format!(
        "CREATE USER IF NOT EXISTS reader@'{host}' IDENTIFIED BY 'reader';\n\
         GRANT SELECT ON `test%`.* TO reader@'{host}';\n\
         CREATE USER IF NOT EXISTS operator@'{host}' IDENTIFIED BY 'operator';\n\
         GRANT ALL ON *.* TO operator@'{host}';\n"
    )
}

impl Instance {
    fn mysql_socket(&self) -> PathBuf {
        // Not in the folder: the path of a socket may have about a hundred characters.
        env::temp_dir().join(format!("lab-mysql-{}.sock", self.ports.mysql))
    }

    pub(super) fn remove_mysql_socket(&self) {
        let socket = self.mysql_socket();
        for file in [socket.with_extension("sock.lock"), socket] {
            let _ = fs::remove_file(file); // they are left by a server that was killed
        }
    }

    pub(super) fn start_mysql(&self, task: &Task) -> Result<()> {
        let server = Service::Mysql.program().context("MySQL or MariaDB is not installed")?;
        let version = Command::new(&server).arg("--version").output()?.stdout;
        let mariadb = String::from_utf8_lossy(&version).contains("MariaDB");
        let data = self.file("mysql");
        // Not /tmp: a server that starts removes there what another has in use.
        let temporary = self.file("tmp");
        fs::create_dir_all(&temporary)?;
        let with = |mut command: Command, data: &Path| {
            command.arg(format!("--datadir={}", data.display()));
            command.env("TMPDIR", &temporary); // `--tmpdir` must not have a space, either
            if geteuid().is_root() {
                command.arg("--user=root");
            }
            command
        };

        if !data.exists() {
            task.say("preparing its data");
            let new = self.file("mysql.new"); // one that was interrupted must not be taken for ours
            let _ = fs::remove_dir_all(&new);
            // A checkout may be in a path with a space: `mariadb-install-db` takes that apart.
            let link = self.mysql_socket().with_extension("folder");
            let _ = fs::remove_file(&link);
            symlink(&self.folder, &link)?;
            let install = if mariadb {
                let program = server_program(&["/usr/bin"], &["mariadb-install-db"])
                    .context("`mariadb-install-db` is not installed")?;
                let mut install = Command::new(program);
                install.args([
                    "--no-defaults",
                    "--skip-test-db",
                    "--auth-root-authentication-method=socket",
                ]);
                install
            } else {
                let mut install = Command::new(&server);
                install.args(["--no-defaults", "--initialize-insecure"]);
                install
            };
            let prepared = run(task, with(install, &link.join("mysql.new")));
            fs::remove_file(&link)?;
            prepared?;
            fs::rename(&new, &data)?;
        }

        // Run at each start. `test%` takes in the databases of the lab's tests. MySQL's root has no
        // password after `--initialize-insecure`, so nobody may use it.
        let lock_root = if mariadb { "" } else { "ALTER USER root@localhost ACCOUNT LOCK;\n" };
        let sql = format!(
            "CREATE DATABASE IF NOT EXISTS test;\n\
             CREATE USER IF NOT EXISTS guest@localhost IDENTIFIED BY 'guest';\n\
             CREATE USER IF NOT EXISTS guest@'%' IDENTIFIED BY 'guest';\n\
             GRANT ALL ON `test%`.* TO guest@localhost;\n\
             GRANT ALL ON `test%`.* TO guest@'%';\n\
             {}{lock_root}",
            if self.is_temporary() { users_of_tests("localhost") } else { String::new() }
        );
        let init = self.file("mysql.sql");
        fs::write(&init, sql)?;
        let mut command = Command::new(&server);
        command.args(["--no-defaults", "--bind-address=127.0.0.1"]);
        let mut command = with(command, &data);
        command
            .arg(format!("--port={}", self.ports.mysql))
            .arg(format!("--socket={}", self.mysql_socket().display()))
            .arg(format!("--pid-file={}", self.file("mysqld.pid").display()))
            .arg(format!("--init-file={}", init.display()));
        if !mariadb {
            command.arg("--mysqlx=OFF"); // a second protocol, on a port of its own
        }
        self.remove_mysql_socket();
        Group::start(command, &self.log_file(Service::Mysql), &self.pid_file("mysql"))?;
        Ok(())
    }
}
