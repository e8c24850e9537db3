//! A job: JSON in the body of a message.

use std::process;
use std::time::Duration;

use anyhow::ensure;
use common::{note, printable};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

/// A job that says how it ends, so that you can play with it: `{"name":"invoice"}`, or
/// `{"name":"invoice","seconds":3,"ends":{"well_after":2}}`.
#[derive(Serialize, Deserialize)]
pub struct Job {
    pub name: String,
    /// How long an attempt takes.
    #[serde(default)]
    pub seconds: u32,
    #[serde(default)]
    pub ends: Ends,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    #[default]
    Well,
    /// After so many failures.
    WellAfter(u32),
    Badly,
    /// It kills the worker, as a picture does that needs more memory than the machine has.
    WithItsWorker,
}

impl Job {
    /// One attempt at the job; `attempt` is 1 the first time. If the cause is `fixed`, it does not
    /// fail.
    ///
    /// # Errors
    ///
    /// It has failed, and may do better later.
    pub async fn run(&self, attempt: u32, fixed: bool) -> anyhow::Result<()> {
        // Here a program of yours calls a payment service or a mail server. Give the call a time
        // limit; and if it computes for seconds, put it into `tokio::task::spawn_blocking`.
        sleep(Duration::from_secs(self.seconds.into())).await;
        let well = match self.ends {
            Ends::Well => true,
            Ends::WellAfter(failures) => attempt > failures,
            Ends::Badly => false,
            Ends::WithItsWorker => {
                note!("Error: the job {} has killed this worker", printable(self.name.as_bytes()));
                process::exit(1);
            }
        };
        ensure!(well || fixed, "the service does not answer");
        Ok(())
    }
}
