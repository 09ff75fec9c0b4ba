//! Whether there is anything in a database: asked before a store is brought into it.

use tokio::runtime::{Builder, LocalOptions};
use tokio_postgres::Client;

use super::away::Away;
use super::link;
use super::settings::PostgresSettings;

/// The kind of the document that marks a database into which a store is being brought.
pub(crate) const MIGRATION: &str = "migration";

/// What is in a database whose tables there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    Nothing,
    /// A store was being brought into it.
    Begun,
    Something,
}

/// Whether a store is being brought into it, or that was broken off.
pub(super) async fn is_unfinished(client: &Client) -> Result<bool, Away> {
    let marked = "SELECT EXISTS (SELECT FROM tidegate.documents WHERE kind = $1)";
    Ok(client.query_one(marked, &[&MIGRATION]).await?.try_get(0)?)
}

/// What is in it.
///
/// # Errors
/// [`Away`].
pub(crate) fn contents(settings: &PostgresSettings) -> Result<Contents, Away> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("the system has an event queue");
    runtime.block_on(async {
        let mut config = settings.url.config();
        config.connect_timeout(settings.timeout);
        let client = link::client(&config, settings, None).await?;
        let found = client
            .query_one(
                "SELECT EXISTS (SELECT FROM tidegate.documents WHERE kind = $1),
                     EXISTS (SELECT FROM tidegate.documents) OR EXISTS (SELECT FROM tidegate.claims)
                     OR EXISTS (SELECT FROM tidegate.deliveries) OR EXISTS (SELECT FROM tidegate.pauses)",
                &[&MIGRATION],
            )
            .await?;
        Ok(match (found.try_get(0)?, found.try_get(1)?) {
            (true, _) => Contents::Begun,
            (false, true) => Contents::Something,
            (false, false) => Contents::Nothing,
        })
    })
}
