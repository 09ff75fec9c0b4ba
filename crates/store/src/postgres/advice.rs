//! What an operator should know of a PostgreSQL before anything is trusted to it.

use std::time::Duration;

use tidegate_wire::clock;
use tokio::runtime::{Builder, LocalOptions};

use super::away::{Away, VERSION_MIN};
use super::link;
use super::settings::PostgresSettings;

/// How long all of it may take.
const ADVISE_MAX: Duration = Duration::from_secs(5);
/// Questions that its latency is found from.
const ROUND_TRIPS: u32 = 5;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// What speaks against this server, a sentence each.
    pub warnings: Vec<String>,
    /// Its version.
    pub version: i32,
    /// How long a question takes to be answered.
    pub round_trip: Duration,
    /// Connections that there are, and those that this user may have at most.
    pub connections: (i64, i64),
}

/// Looks at this server. It connects, asks, and changes nothing.
///
/// # Errors
/// [`Away`].
///
/// # Panics
/// If the system has no event queue.
pub fn advise(settings: &PostgresSettings) -> Result<Advice, Away> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("the system has an event queue");
    runtime.block_on(async {
        let by = clock::now().after(ADVISE_MAX);
        clock::timeout_at(by, Box::pin(look(settings))).await.map_err(|_| Away::Slow(ADVISE_MAX))?
    })
}

async fn look(settings: &PostgresSettings) -> Result<Advice, Away> {
    let mut config = settings.url.config();
    config.connect_timeout(ADVISE_MAX);
    let client = link::client(&config, settings, None).await?;
    let about = client
        .query_one(
            "SELECT current_setting('server_version_num')::integer / 10000, current_setting('fsync'),
                    current_setting('full_page_writes'), current_setting('synchronous_commit'),
                    current_setting('synchronous_standby_names'), (SELECT count(*) FROM pg_stat_replication),
                    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
                    (SELECT CASE WHEN rolconnlimit >= 0 THEN least(rolconnlimit, most) ELSE most END
                       FROM pg_roles, (SELECT current_setting('max_connections')::integer
                                            - current_setting('superuser_reserved_connections')::integer AS most) AS m
                      WHERE rolname = current_user)::bigint",
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
    let mut warnings = Vec::new();
    for (place, name) in [(1, "fsync"), (2, "full_page_writes")] {
        if is(place, "off") {
            warnings.push(format!(
                "it runs with {name} = off: what was acknowledged is lost when its machine fails"
            ));
        }
    }
    if fails_over && is(4, "") {
        warnings.push(
            "no standby has to confirm what it commits (synchronous_standby_names is empty): what was acknowledged last is \
             lost in a failover"
                .to_owned(),
        );
    }
    if fails_over && !is(4, "") && is(3, "local") {
        warnings.push(
            "synchronous_commit = local waits for no standby: what was acknowledged last is lost in a failover".to_owned(),
        );
    }
    let connections = (about.try_get(6)?, about.try_get(7)?);
    Ok(Advice { warnings, version, round_trip: round_trip(&client).await?, connections })
}

/// The shortest of a few questions: what the way takes, whatever else the machine does.
async fn round_trip(client: &tokio_postgres::Client) -> Result<Duration, Away> {
    let mut shortest = Duration::MAX;
    for _ in 0..ROUND_TRIPS {
        let began = clock::now();
        client.simple_query("SELECT 1").await?;
        shortest = shortest.min(clock::now().since(began));
    }
    Ok(shortest)
}
