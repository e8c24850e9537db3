//! A mail: what is in a message, and what is to be done. Nothing here knows of RabbitMQ, so the
//! tests need none.

use std::io;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

/// JSON in the body of a message: `{"to":"ann@example.org","subject":"Your order"}`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Mail {
    pub to: String,
    pub subject: String,
}

impl Mail {
    /// Reads the body of a message.
    ///
    /// # Errors
    ///
    /// Nobody can ever send this.
    pub fn read(body: &[u8]) -> anyhow::Result<Self> {
        let mail: Self = serde_json::from_slice(body).context("not a mail")?;
        ensure!(mail.to.contains('@'), "not an address");
        // Each is one line of the mail. A second line could be anything.
        let one_line = |text: &str| !text.contains(char::is_control);
        ensure!(one_line(&mail.to) && one_line(&mail.subject), "more than one line");
        Ok(mail)
    }

    /// Sends it: puts it into the folder from which a mail server would take it. A mail with this
    /// `id` that is there already is the same one, delivered to us a second time. Says whether it
    /// was not.
    ///
    /// # Errors
    ///
    /// It cannot be sent now. That may be mended.
    pub async fn send(&self, id: Uuid, folder: &Path) -> io::Result<bool> {
        let path = folder.join(format!("{id}.eml"));
        if fs::try_exists(&path).await? {
            return Ok(false);
        }
        let Self { to, subject } = self;
        let text =
            format!("To: {to}\r\nSubject: {subject}\r\nMessage-ID: <{id}@localhost>\r\n\r\n");
        // Nobody sees half a mail: it is written under a name of its own, and renamed when it is on
        // disk.
        let draft = folder.join(format!("{id}.{}.draft", Uuid::now_v7()));
        fs::create_dir_all(folder).await?;
        let sent = async {
            let mut file = File::create_new(&draft).await?;
            file.write_all(text.as_bytes()).await?;
            file.sync_all().await?;
            fs::rename(&draft, &path).await
        };
        if let Err(error) = sent.await {
            let _ = fs::remove_file(&draft).await; // the next attempt has another name
            return Err(error);
        }
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mail() -> Mail {
        Mail { to: "ann@example.org".to_owned(), subject: "Your order".to_owned() }
    }

    #[test]
    fn what_nobody_can_send_is_refused() {
        let read = |body: &str| Mail::read(body.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(read(r#"{"to":"ann@example.org","subject":"Your order"}"#), Ok(mail()));
        assert_eq!(read("Your order"), Err("not a mail".to_owned()));
        assert_eq!(read(r#"{"to":"ann","subject":""}"#), Err("not an address".to_owned()));
        let second_line = r#"{"to":"ann@example.org","subject":"Hi\r\nBcc: all@example.org"}"#;
        assert_eq!(read(second_line), Err("more than one line".to_owned()));
    }

    #[tokio::test]
    async fn twice_is_once() {
        let (id, folder) = (Uuid::now_v7(), std::env::temp_dir().join(Uuid::now_v7().to_string()));
        assert!(mail().send(id, &folder).await.unwrap());
        assert!(!mail().send(id, &folder).await.unwrap());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_an_error() {
        let file = std::env::temp_dir().join(Uuid::now_v7().to_string());
        std::fs::write(&file, "no folder").unwrap();
        assert!(mail().send(Uuid::now_v7(), &file).await.is_err());
        std::fs::remove_file(&file).unwrap();
    }
}
