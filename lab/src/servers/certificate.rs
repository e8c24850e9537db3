//! What RabbitMQ needs to speak TLS.

use serde::{Deserialize, Serialize};

/// Each of them as PEM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificate {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

impl Certificate {
    pub(super) fn files(&self) -> [(&'static str, &str); 3] {
        [
            ("authority.pem", &self.authority),
            ("server.pem", &self.certificate),
            ("server.key", &self.key),
        ]
    }
}
