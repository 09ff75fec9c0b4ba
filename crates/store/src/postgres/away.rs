//! Why PostgreSQL is of no use: for ever, for now, or for one command alone.

use std::time::Duration;

use tidegate_wire::client_tls::ClientTlsError;
use tokio_postgres::error::SqlState;

/// The oldest version that is served.
pub(super) const VERSION_MIN: i32 = 15;

/// Why PostgreSQL is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Away {
    /// It refuses, or cannot be reached.
    #[error("{}", said(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// It does not answer.
    #[error("no answer within {0:?}")]
    Slow(Duration),
    /// What a former connection was doing is neither done nor undone yet.
    #[error("a former connection of this process has not ended yet")]
    Former,
    /// TLS to it cannot be set up.
    #[error("{0}")]
    Tls(#[from] ClientTlsError),
    /// It is too old.
    #[error("it is PostgreSQL {0}, and {VERSION_MIN} is the oldest that is served")]
    Old(i32),
    /// Its deliveries are divided otherwise.
    #[error("its deliveries are divided into {there} shards for ever, and `shards` says {asked}")]
    Shards {
        /// Into so many.
        there: i64,
        /// And not into these.
        asked: u16,
    },
    /// A store is being brought into it, or that was broken off.
    #[error(
        "a store is being brought into it (`tidegate store migrate`), or that was broken off: let it come to its end, or begin \
         anew: DROP SCHEMA tidegate CASCADE, and `tidegate store migrate` again; the directory has everything"
    )]
    Unfinished,
    /// Its tables are those of a newer Tidegate.
    #[error("its tables have version {version}, and this Tidegate knows {known} at most")]
    Newer {
        /// The version it has.
        version: i32,
        /// The newest that is known.
        known: usize,
    },
}

impl Away {
    /// Whether waiting does not help: somebody has to change something.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Away::Postgres(error) => error.code().is_some_and(|code| {
                [
                    SqlState::INVALID_PASSWORD,
                    SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                    SqlState::UNDEFINED_DATABASE,
                    SqlState::INSUFFICIENT_PRIVILEGE,
                ]
                .contains(code)
            }),
            Away::Slow(_) | Away::Former => false,
            Away::Tls(_) | Away::Old(_) | Away::Newer { .. } | Away::Shards { .. } => true,
            Away::Unfinished => true,
        }
    }
}

/// What an error says, in one line.
pub(super) fn said(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    if let Some(told) = error.as_db_error() {
        return told.message().to_owned();
    }
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_said = cause.to_string();
        if !said.contains(&cause_said) {
            said = format!("{said}: {cause_said}");
        }
        source = cause.source();
    }
    said
}

/// Why a transaction was not carried out, and what that means for what comes next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The connection is of no use any more. Whether it was carried out nobody knows, if it had come to its end.
    #[error("{0}")]
    Lost(String),
    /// Another has ended this node's epoch.
    #[error("another has ended this node's epoch")]
    Fenced,
    /// It was in another's way. Nothing of it was done.
    #[error("{0}")]
    Again(String),
    /// There is no room. Nothing of it was done.
    #[error("{0}")]
    Full(String),
    /// It cannot be done. Nothing of it was.
    #[error("{0}")]
    Refused(String),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Failed {
        let text = said(&error);
        let Some(code) = error.code() else { return Failed::Lost(text) };
        let again = [
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::QUERY_CANCELED,
            // Another was first with an id, or has dropped a part of a table: what is looked at anew tells so.
            SqlState::UNIQUE_VIOLATION,
            SqlState::CHECK_VIOLATION,
        ];
        match code.code() {
            _ if again.contains(code) => Failed::Again(text),
            _ if *code == SqlState::DISK_FULL => Failed::Full(text),
            // Connections, the operator's hand, a server that starts, ends or has become a standby, and its own troubles.
            // A new connection may be to another server.
            state if ["08", "57", "25", "53", "58", "XX"].contains(&&state[..2]) => Failed::Lost(text),
            _ => Failed::Refused(text),
        }
    }
}
