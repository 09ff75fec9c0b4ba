//! What an operator should know of a PostgreSQL before anything is trusted to it.

use std::time::Duration;

use tidegate_wire::clock;
use tokio::runtime::{Builder, LocalOptions};

use super::away::{Away, VERSION_MIN};
use super::link;
use super::settings::PostgresSettings;

/// How long all of it may take.
const ADVISE_MAX: Duration = Duration::from_secs(5);

/// What speaks against this server, a sentence each. It connects, looks, and changes nothing.
///
/// # Errors
/// [`Away`].
///
/// # Panics
/// If the system has no event queue.
pub fn advise(settings: &PostgresSettings) -> Result<Vec<String>, Away> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("the system has an event queue");
    runtime.block_on(async {
        let by = clock::now().after(ADVISE_MAX);
        clock::timeout_at(by, Box::pin(look(settings))).await.map_err(|_| Away::Slow(ADVISE_MAX))?
    })
}

async fn look(settings: &PostgresSettings) -> Result<Vec<String>, Away> {
    let mut config = settings.url.config();
    config.connect_timeout(ADVISE_MAX);
    let client = link::client(&config, settings, None).await?;
    let about = client
        .query_one(
            "SELECT current_setting('server_version_num')::integer / 10000, current_setting('fsync'),
                    current_setting('full_page_writes'), current_setting('synchronous_commit'),
                    current_setting('synchronous_standby_names'), (SELECT count(*) FROM pg_stat_replication)",
            &[],
        )
        .await?;
    let version: i32 = about.try_get(0)?;
    if version < VERSION_MIN {
        return Err(Away::Old(version));
    }
    let is = |place: usize, value: &str| about.try_get::<_, &str>(place).is_ok_and(|told| told == value);
    let standbys: i64 = about.try_get(5)?;
    let fails_over = standbys > 0 || settings.url.has_several();
    let mut advice = Vec::new();
    for (place, name) in [(1, "fsync"), (2, "full_page_writes")] {
        if is(place, "off") {
            advice.push(format!(
                "it runs with {name} = off: what was acknowledged is lost when its machine fails"
            ));
        }
    }
    if fails_over && is(4, "") {
        advice.push(
            "no standby has to confirm what it commits (synchronous_standby_names is empty): what was acknowledged last is \
             lost in a failover"
                .to_owned(),
        );
    }
    if fails_over && !is(4, "") && is(3, "local") {
        advice.push(
            "synchronous_commit = local waits for no standby: what was acknowledged last is lost in a failover".to_owned(),
        );
    }
    Ok(advice)
}
