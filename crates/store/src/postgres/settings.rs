//! Where PostgreSQL is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

/// Where PostgreSQL is, and how long a node is believed to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresSettings {
    /// Where it is.
    pub url: PostgresUrl,
    /// PEM file of the authorities to trust, where TLS is demanded; else the system's.
    pub ca: Option<PathBuf>,
    /// How long a node that is not heard of is believed to be at work.
    pub lease: Duration,
    /// How long whoever asks waits for it, and a transaction may take; who tells of what has happened waits twice as long.
    pub timeout: Duration,
    /// What deliveries are divided into, each part made by one node at a time. Fixed when the database is made.
    pub shards: u16,
    /// What other nodes call this one.
    pub node: Arc<str>,
    /// Whether this process brings a store into it. Nobody else serves one that was not brought whole.
    pub brings: bool,
}

/// The URL of a database. It may have a password in it: only what is shown of it is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    url: String,
    shown: String,
}

impl PostgresUrl {
    /// The URL that is written so.
    ///
    /// # Errors
    /// What is wrong with it, in words and without any secret.
    pub fn parse(text: &str) -> Result<PostgresUrl, String> {
        // Of the modes of `libpq` the strictest is what `require` is here.
        let url = text.replace("sslmode=verify-full", "sslmode=require");
        let wrong = |why: &dyn fmt::Display| format!("this is no URL of a PostgreSQL: {why}");
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(wrong(&"it begins with postgres://"));
        }
        let config = Config::from_str(&url).map_err(|error| {
            use std::error::Error as _;
            wrong(&error.source().map_or_else(|| error.to_string(), ToString::to_string))
        })?;
        let database =
            config.get_dbname().ok_or_else(|| wrong(&"it names no database: postgres://HOST/DATABASE"))?;
        if config.get_hosts().is_empty() {
            return Err(wrong(&"it names no host"));
        }
        if config.get_user().is_none() {
            return Err(wrong(&"it names no user: postgres://USER@HOST/DATABASE"));
        }
        let shown = format!("postgres://{}/{database}", hosts(&config));
        Ok(PostgresUrl { url, shown })
    }

    /// It without its secret.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// What is connected to: the primary alone, if there are several servers.
    pub(super) fn config(&self) -> Config {
        let mut config = Config::from_str(&self.url).expect("it was parsed before");
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        // One that has vanished without a word is noticed by its silence, well before the kernel would.
        config.keepalives_idle(Duration::from_secs(5)).keepalives_interval(Duration::from_secs(2));
        config
    }

    /// Whether there is another server to go to.
    pub(super) fn has_several(&self) -> bool {
        self.config().get_hosts().len() > 1
    }

    /// Whether TLS is wanted, and whether the server must show who it is.
    pub(super) fn tls(&self) -> Option<bool> {
        match self.config().get_ssl_mode() {
            SslMode::Disable => None,
            SslMode::Require => Some(true),
            _ => Some(false),
        }
    }
}

fn hosts(config: &Config) -> String {
    let ports = config.get_ports();
    let each = config.get_hosts().iter().enumerate().map(|(place, host)| {
        let port = ports.get(place).or_else(|| ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(path) => path.display().to_string(),
        }
    });
    each.collect::<Vec<_>>().join(",")
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PostgresUrl({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of a URL, or wrong with it.
    fn check(text: &str, expected: Result<&str, &str>) {
        let parsed = PostgresUrl::parse(text);
        let told = parsed.as_ref().map(PostgresUrl::shown).map_err(String::as_str);
        match expected {
            Ok(shown) => assert_eq!(told, Ok(shown), "{text}"),
            Err(part) => assert!(told.is_err_and(|why| why.contains(part)), "{text}: {told:?}"),
        }
    }

    #[test]
    fn a_url_is_shown_without_its_secret() {
        check("postgres://me:hunter2@db/app", Ok("postgres://db:5432/app"));
        check("postgresql://me@[::1]:5433/app?sslmode=verify-full", Ok("postgres://[::1]:5433/app"));
        check("postgres://me@a:1,b:2/app?target_session_attrs=any", Ok("postgres://a:1,b:2/app"));
        let url = PostgresUrl::parse("postgres://me:hunter2@db/app").unwrap();
        assert!(!format!("{url:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_wrong_with_one_is_told() {
        check("mysql://db/app", Err("begins with postgres://"));
        check("postgres://me@db", Err("names no database"));
        check("postgres://me@/app", Err("names no host"));
        check("postgres://db/app", Err("names no user"));
        check("postgres://me@db/app?sslmode=maybe", Err("sslmode"));
        check("postgres://me:hunter2@db:port/app", Err("port"));
    }

    #[test]
    fn tls_is_what_the_url_says() {
        let tls = |mode: &str| PostgresUrl::parse(&format!("postgres://me@db/app{mode}")).unwrap().tls();
        let modes = ["", "?sslmode=disable", "?sslmode=prefer", "?sslmode=require", "?sslmode=verify-full"];
        assert_eq!(modes.map(tls), [Some(false), None, Some(false), Some(true), Some(true)]);
    }
}
