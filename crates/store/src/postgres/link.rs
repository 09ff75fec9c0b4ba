//! A connection to PostgreSQL that this node writes by, and the epoch that it writes under.
//!
//! A node's *epoch* is a row of `nodes`. It says until when the node is believed to be at work, by the clock of the database; the
//! node puts that off ([`Link::renew`]) a few times before it comes. Once it has come, another node that meets a record of
//! this epoch may end it (as it may if it lies further ahead than any lease: then the clock was put back); a node that was away for longer and that nobody has missed goes on under the same. What a node
//! writes it writes in transactions that hold its row ([`FENCE`]): either all of it is there before the epoch has ended, or
//! none of it ever is.

use std::future::poll_fn;
use std::time::Duration;

use futures_util::try_join;
use tidegate_model::tick::Tick;
use tidegate_wire::session_tls::SessionTls;
use tidegate_wire::settings::ClientTlsSettings;
use tidegate_wire::{clock, task};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Row, Statement};

use super::away::{Away, Failed, VERSION_MIN};
use super::contents;
use super::schema;
use super::settings::PostgresSettings;
use super::tls::MakeTls;

/// How a session is. One that hangs in the middle of a transaction is ended by the server, so that it holds up nobody; of
/// plans there is one for each statement, made before there are rows: by index, never by reading a whole table.
const SESSION: &str = "
    SET search_path = tidegate;
    SET TimeZone = 'UTC';
    SET default_transaction_isolation = 'read committed';
    SET statement_timeout = {timeout};
    SET lock_timeout = {half};
    SET idle_in_transaction_session_timeout = {timeout};
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET enable_bitmapscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET jit = off";

fn session(timeout: Duration) -> String {
    let millis = timeout.as_millis().clamp(2, i32::MAX as u128);
    SESSION.replace("{timeout}", &millis.to_string()).replace("{half}", &(millis / 2).to_string())
}

/// Holds this node's epoch until the transaction ends: no row if it has ended.
const FENCE: &str = "SELECT FROM nodes WHERE epoch = $1 AND ended IS NULL FOR SHARE";

/// A connection, with all that is said by it.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) says: Statements,
    /// What this node writes under.
    pub(super) epoch: i64,
    /// When that was last put off.
    pub(super) renewed: Tick,
    /// How far.
    pub(super) lease: Duration,
}

/// What is said again and again.
pub(super) struct Statements {
    pub(super) fence: Statement,
    pub(super) renew: Statement,
    pub(super) end: Statement,
    pub(super) read: Statement,
    pub(super) taken: Statement,
    pub(super) whole: Statement,
    pub(super) insert: Statement,
    pub(super) update: Statement,
    pub(super) remove: Statement,
    pub(super) count: Statement,
    pub(super) sweep: Statement,
}

impl Link {
    /// Connects and takes up this epoch, if nobody has ended it, or a new one. Former connections of the same process, which
    /// is called `name`, are ended first: what they were doing is done or undone then.
    pub(super) async fn connect(
        settings: &PostgresSettings,
        name: &str,
        epoch: Option<i64>,
    ) -> Result<Link, Away> {
        Link::connect_hearing(settings, name, epoch, None).await
    }

    /// The same, and hands on what other sessions notify this one of. That is not heard where too much is.
    pub(super) async fn connect_hearing(
        settings: &PostgresSettings,
        name: &str,
        epoch: Option<i64>,
        hears: Option<mpsc::Sender<String>>,
    ) -> Result<Link, Away> {
        let by = clock::now().after(settings.timeout);
        let connecting = Box::pin(open(settings, name, epoch, hears));
        clock::timeout_at(by, connecting).await.map_err(|_| Away::Slow(settings.timeout))?
    }

    /// Puts off until when this node is believed to be there. Whether it is: its epoch has not been ended.
    pub(super) async fn renew(&mut self) -> Result<bool, Failed> {
        let now = clock::now();
        let renewed = self.client.execute(&self.says.renew, &[&self.epoch, &millis(self.lease)]).await?;
        self.renewed = now;
        Ok(renewed == 1)
    }

    /// Takes a new epoch.
    pub(super) async fn register(&mut self, name: &str) -> Result<(), Failed> {
        let now = clock::now();
        self.epoch = register(&self.client, name, self.lease).await?.get(0);
        self.renewed = now;
        Ok(())
    }

    /// Ends epochs whose time has come, and which nobody has put off meanwhile.
    pub(super) async fn end(&self, lapsed: &[i64]) -> Result<(), Failed> {
        self.client.execute(&self.says.end, &[&lapsed]).await?;
        Ok(())
    }

    /// Ends this node's own: nobody has to wait for what it will not do.
    pub(super) async fn leave(&self) -> Result<(), Failed> {
        let end = "UPDATE nodes SET ended = clock_timestamp() WHERE epoch = $1 AND ended IS NULL";
        self.client.execute(end, &[&self.epoch]).await?;
        Ok(())
    }
}

async fn open(
    settings: &PostgresSettings,
    name: &str,
    epoch: Option<i64>,
    hears: Option<mpsc::Sender<String>>,
) -> Result<Link, Away> {
    let mut config = settings.url.config();
    config.application_name(name).connect_timeout(settings.timeout);
    let client = client(&config, settings, hears).await?;
    client.batch_execute(&session(settings.timeout)).await?;
    let about = client
        .query_one(
            "SELECT current_setting('server_version_num')::integer / 10000, current_setting('synchronous_commit')",
            &[],
        )
        .await?;
    let version: i32 = about.get(0);
    if version < VERSION_MIN {
        return Err(Away::Old(version));
    }
    // Whatever else it waits for is for the operator to say; its own disk it waits for.
    if about.get::<_, &str>(1) == "off" {
        client.batch_execute("SET synchronous_commit = on").await?;
    }
    let former = client
        .query_one(
            "SELECT coalesce(bool_and(pg_terminate_backend(pid, 1000)), true) FROM pg_stat_activity
             WHERE application_name = $1 AND usename = current_user AND pid <> pg_backend_pid()",
            &[&name],
        )
        .await?;
    if !former.get::<_, bool>(0) {
        return Err(Away::Former);
    }
    schema::migrate(&client).await?;
    if !settings.brings && contents::is_unfinished(&client).await? {
        return Err(Away::Unfinished);
    }
    let says = prepare(&client).await?;
    let renewed = clock::now();
    let lease = settings.lease;
    // What is committed now comes after all that the former connections have committed: where a standby has to confirm, it
    // has confirmed those, too, before any of it is looked at.
    let kept = match epoch {
        Some(epoch) if client.execute(&says.renew, &[&epoch, &millis(lease)]).await? == 1 => Some(epoch),
        _ => None,
    };
    let epoch = match kept {
        Some(epoch) => epoch,
        None => register(&client, name, lease).await?.get(0),
    };
    Ok(Link { client, says, epoch, renewed, lease })
}

/// A connection whose work is done by a task of its own.
pub(super) async fn client(
    config: &Config,
    settings: &PostgresSettings,
    hears: Option<mpsc::Sender<String>>,
) -> Result<Client, Away> {
    let Some(verified) = settings.url.tls() else {
        let (client, connection) = config.connect(NoTls).await?;
        task::spawn(attend(connection, hears));
        return Ok(client);
    };
    let trust =
        ClientTlsSettings { ca: settings.ca.clone(), insecure: !verified, ..ClientTlsSettings::default() };
    let tls = MakeTls(SessionTls::new(&trust, b"postgresql")?);
    let (client, connection) = config.connect(tls).await?;
    task::spawn(attend(connection, hears));
    Ok(client)
}

/// Works on a connection until it ends. Whoever waits for an answer is told why there is none.
async fn attend<S, T>(mut connection: Connection<S, T>, hears: Option<mpsc::Sender<String>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let (AsyncMessage::Notification(told), Some(hears)) = (message, &hears) {
            let _ = hears.try_send(told.payload().to_owned());
        }
    }
}

async fn register(client: &Client, name: &str, lease: Duration) -> Result<Row, tokio_postgres::Error> {
    let insert = "INSERT INTO nodes (name, until, lease)
                  SELECT $1, clock_timestamp() + lease, lease
                  FROM (SELECT $2::float8 * interval '1 millisecond' AS lease) AS own RETURNING epoch";
    client.query_one(insert, &[&name, &millis(lease)]).await
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

async fn prepare(client: &Client) -> Result<Statements, tokio_postgres::Error> {
    let renew = "UPDATE nodes SET until = clock_timestamp() + $2::float8 * interval '1 millisecond'
                 WHERE epoch = $1 AND ended IS NULL";
    let end = "UPDATE nodes SET ended = clock_timestamp()
               WHERE epoch = ANY ($1) AND ended IS NULL
                 AND NOT until BETWEEN clock_timestamp() AND clock_timestamp() + 2 * lease";
    let (fence, renew, end) = try_join!(client.prepare(FENCE), client.prepare(renew), client.prepare(end))?;
    let (read, taken, whole) = try_join!(
        client.prepare(super::claims::READ),
        client.prepare(super::claims::TAKEN),
        client.prepare(super::claims::WHOLE)
    )?;
    let (insert, update, remove) = try_join!(
        client.prepare(super::claims::INSERT),
        client.prepare(super::claims::UPDATE),
        client.prepare(super::claims::REMOVE)
    )?;
    let (count, sweep) =
        try_join!(client.prepare(super::claims::COUNT), client.prepare(super::claims::SWEEP))?;
    Ok(Statements { fence, renew, end, read, taken, whole, insert, update, remove, count, sweep })
}
