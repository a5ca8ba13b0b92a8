//! The settings of a connection to nats-server, for whoever makes one.

use async_nats::ConnectOptions;

use super::{Login, Nats, Tls};

impl Nats {
    /// Who we are and how it is encrypted; name, events and reconnecting are up to who connects.
    ///
    /// # Errors
    /// A message, when the credentials are none.
    pub fn options(&self) -> Result<ConnectOptions, String> {
        let options = match &self.login {
            Login::Nkey(seed) => ConnectOptions::with_nkey(seed.expose().to_owned()),
            Login::Credentials(text) => ConnectOptions::with_credentials(text.expose())
                .map_err(|error| format!("credentials: {error}"))?,
        };
        Ok(self.tls.apply(options))
    }
}

impl Tls {
    /// Puts TLS into the options of a connection.
    #[must_use]
    pub fn apply(&self, mut options: ConnectOptions) -> ConnectOptions {
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some((cert, key)) = &self.identity {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        if self.first {
            options = options.tls_first();
        }
        options.require_tls(self.required)
    }
}
