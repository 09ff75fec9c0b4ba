//! A connection to Redis: made within a time, and every answer within a time.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, TlsCertificates};
use tidegate_wire::clock;

use crate::config::RedisSettings;

/// Why Redis is of no use at the moment.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It refuses, is not there, does not answer in time, or says what it should not.
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    /// There is no connection, with all that belongs to one, within its time.
    #[error("no connection within {0:?}")]
    Slow(Duration),
    /// The authority's certificate cannot be read.
    #[error("the certificate of the authority cannot be read: {0}")]
    Authority(std::io::Error),
    /// What should be the place of an entry is none.
    #[error("the log of purges holds `{0}` where the place of an entry should be")]
    Place(String),
}

/// Whether this is a URL that can be connected to; where that is, without any secret.
#[must_use]
pub fn is_url(url: &str) -> Option<String> {
    let info = url.into_connection_info().ok()?;
    Some(info.addr().to_string())
}

/// Connects. The answers may take so long in addition to what the settings allow.
pub(super) async fn connect(
    settings: &RedisSettings,
    patience: Duration,
) -> Result<MultiplexedConnection, Error> {
    let client = match &settings.ca {
        None => Client::open(settings.url.secret())?,
        Some(path) => {
            let certificate = std::fs::read(path).map_err(Error::Authority)?;
            let root_cert = Some(certificate);
            Client::build_with_tls(settings.url.secret(), TlsCertificates { client_tls: None, root_cert })?
        }
    };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.connect_timeout))
        .set_response_timeout(Some(settings.timeout + patience));
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    // With its own time-outs, each answer of a greeting has one of its own.
    let most = settings.connect_timeout + settings.timeout;
    let by = clock::now().after(most);
    Ok(clock::timeout_at(by, Box::pin(connecting)).await.map_err(|_| Error::Slow(most))??)
}
