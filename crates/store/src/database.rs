//! The database: a directory with one SQLite database in it, locked, of a known version.

use std::fs::{File, TryLockError};
use std::ops::Deref;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use crate::ahead::{self, Ahead};
use crate::deliveries::sqlite::{self, fresh, schema};
use crate::deliveries::tables::Fault;
use crate::gather;
use crate::postgres::{Away, PostgresSettings};

/// The database's name in its directory.
pub(crate) const NAME: &str = "tidegate.db";
/// SQLite's name for the log beside it.
pub(crate) const LOG: &str = "tidegate.db-wal";
/// The file that whoever uses the directory holds a lock on.
const LOCK: &str = "lock";
/// In the header of the database, so that no other program's is taken for ours: "Tide".
pub(crate) const APPLICATION: i32 = 0x5469_6465;
/// Bytes of a page of the database.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// The smallest database: its tables, and some room.
pub(crate) const BYTES_MIN: u64 = 1 << 18;
/// KiB of pages that are kept in memory: those that are written to just now, and the upper ones of each tree. What is not here is in
/// the system's memory; of more of them fewer are in the processor's, and now and then a commit looks through them all. A
/// transaction that changes more has more, until it is committed.
const CACHE_KIB: i64 = 2 << 10;
/// Statements that are kept prepared: all that there are.
const STATEMENTS: usize = 128;
/// What `statfs` says of a file system whose locks and fsyncs are another machine's word.
const NFS: i64 = 0x6969;

/// What each version adds to the one before, the first to nothing.
pub(crate) const VERSIONS: [&str; 8] = [
    "
    CREATE TABLE claims (
        id INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        scope TEXT NOT NULL,
        key TEXT NOT NULL,
        account TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        claim INTEGER NOT NULL,
        until INTEGER NOT NULL,
        status INTEGER,
        told_to BLOB,
        fields BLOB,
        body BLOB,
        bytes INTEGER NOT NULL,
        UNIQUE (tenant, scope, key)
    ) STRICT;
    CREATE INDEX claims_until ON claims (until);
    CREATE TABLE accounts (
        account TEXT PRIMARY KEY,
        records INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    crate::documents::TABLES,
    schema::TABLES,
    schema::FEW,
    schema::WAITS,
    schema::SHORT,
    schema::BEGINS,
    ahead::TABLE,
];

/// Where the store is, and how large it may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Where it is.
    pub location: Location,
    /// The most bytes of the database, where it is this process's own: the log beside it has a few more. Else of what all
    /// records in it count for.
    pub bytes_max: u64,
    /// The most bytes of them for one tenant.
    pub tenant_bytes_max: u64,
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In this directory, by SQLite.
    Directory(PathBuf),
    /// In a PostgreSQL.
    Postgres(PostgresSettings),
}

impl std::fmt::Display for Location {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Location::Directory(path) => write!(out, "{}", path.display()),
            Location::Postgres(settings) => out.write_str(settings.url.shown()),
        }
    }
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// PostgreSQL will not have it.
    #[error("the store in {place} cannot be opened: {source}")]
    Postgres {
        /// Where, without any secret.
        place: String,
        /// Why.
        source: Away,
    },
    /// The directory cannot be used.
    #[error("the store's directory {} cannot be used: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("another process uses the store in {}", .0.display())]
    Taken(PathBuf),
    /// It is on another machine.
    #[error("the store in {} is on NFS, where neither locks nor fsync can be relied on", .0.display())]
    Remote(PathBuf),
    /// It holds something else.
    #[error("{} is no store of Tidegate's", .0.display())]
    Foreign(PathBuf),
    /// It was written by a newer version.
    #[error("the store in {} has version {version}, and this Tidegate knows {} at most", path.display(), VERSIONS.len())]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its version.
        version: i64,
    },
    /// It holds something that no Tidegate has written.
    #[error("the store in {} cannot be opened: {what}", path.display())]
    Odd {
        /// Where.
        path: PathBuf,
        /// What that is.
        what: String,
    },
    /// SQLite cannot open it.
    #[error("the store in {} cannot be opened: {source}", path.display())]
    Database {
        /// Where.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// There is no thread to write.
    #[error("the store has no thread to write: {0}")]
    Thread(std::io::Error),
}

/// A database that is open, and the lock on its directory.
pub(crate) struct Database {
    pub(crate) connection: Connection,
    /// What is on disk and not in the tables.
    pub(crate) ahead: Ahead,
    /// That is not at hand in rows: it comes into the tables before they are looked into.
    pub(crate) owes: bool,
    /// The most pages of the database.
    pub(crate) pages_max: i64,
    _lock: Lock,
}

impl Database {
    /// Opens it, makes it where there is none, and brings it to the newest version.
    pub(crate) fn open(path: &Path, bytes_max: u64) -> Result<Database, OpenError> {
        let _lock = take(path)?;
        let connection = connect(path, bytes_max).map_err(|source| match source {
            Unopened::Foreign => OpenError::Foreign(path.to_owned()),
            Unopened::Newer(version) => OpenError::Newer { path: path.to_owned(), version },
            Unopened::Database(source) => OpenError::Database { path: path.to_owned(), source },
        })?;
        // The names of what was made just now outlive a crash.
        let unusable = |source| OpenError::Directory { path: path.to_owned(), source };
        File::open(path).and_then(|directory| directory.sync_all()).map_err(unusable)?;
        let ahead = Ahead::open(path, &connection).map_err(|fault| fault.unopened(path))?;
        let owes = !ahead.is_empty();
        let mut database = Database { connection, ahead, owes, pages_max: pages_max(bytes_max), _lock };
        match database.settle() {
            // Where nothing can be written now, that may change.
            Err(Fault::Sqlite(error)) if is_of_disk(&error) => {}
            settled => settled.map_err(|fault| fault.unopened(path))?,
        }
        Ok(database)
    }

    /// Opens it, with all in its tables.
    pub(crate) fn open_whole(path: &Path) -> Result<Database, OpenError> {
        let mut database = Database::open(path, u64::MAX)?;
        database.settle().map_err(|fault| fault.unopened(path))?;
        Ok(database)
    }

    /// Brings into the tables what is ahead of them, where that is not at hand any more.
    fn settle(&mut self) -> Result<(), Fault> {
        if !self.owes {
            return Ok(());
        }
        let transaction = begin(&self.connection)?;
        bring(&transaction, &self.ahead, self.pages_max)?;
        self.ahead.note(&transaction)?;
        transaction.commit()?;
        self.ahead.begin_anew();
        self.owes = false;
        Ok(())
    }

    /// A transaction is undone: there is no more room than before, and what it had written to the log is not counted.
    pub(crate) fn undone(&mut self) {
        self.owes = !self.ahead.is_empty();
        self.written();
        // Where that fails, the next transaction that fails tries it again.
        let _ = bound(&self.connection, self.pages_max);
    }

    /// Writes the log back into the database, all of it: its file is all that there is then.
    pub(crate) fn whole(&self) -> rusqlite::Result<()> {
        let busy: i64 = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0))?;
        if busy == 0 { Ok(()) } else { Err(rusqlite::Error::StatementChangedRows(0)) }
    }

    /// Bytes that were written to the log since this was asked last.
    pub(crate) fn written(&self) -> u64 {
        let (mut pages, mut most) = (0, 0);
        // SAFETY: the connection is open as long as `self` is, nobody else uses it meanwhile, and both numbers outlive the call.
        let told = unsafe {
            let handle = self.connection.handle();
            ffi::sqlite3_db_status(handle, ffi::SQLITE_DBSTATUS_CACHE_WRITE, &raw mut pages, &raw mut most, 1)
        };
        debug_assert_eq!(told, ffi::SQLITE_OK);
        u64::try_from(pages).unwrap_or_default() * PAGE_BYTES
    }

    /// The database's file.
    pub(crate) fn file(&self) -> std::io::Result<File> {
        File::open(self.connection.path().unwrap_or_default())
    }
}

impl Fault {
    /// What it means for who opens a store.
    fn unopened(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Fault::Sqlite(source) => OpenError::Database { path, source },
            other => OpenError::Odd { path, what: other.to_string() },
        }
    }
}

/// The lock on a directory. It is let go by name: a process that is just being started holds a copy of each descriptor until
/// it runs its own program, and would hold a lock that only its closing ends.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Where that fails, closing it does the same a little later.
        let _ = self.0.unlock();
    }
}

/// Makes the directory where there is none, and takes the lock on it.
fn take(path: &Path) -> Result<Lock, OpenError> {
    let unusable = |source| OpenError::Directory { path: path.to_owned(), source };
    // What is kept may be anything that an application answers: nobody else's business.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
    let about = rustix::fs::statfs(path).map_err(|error| unusable(error.into()))?;
    if about.f_type as i64 == NFS {
        return Err(OpenError::Remote(path.to_owned()));
    }
    let lock =
        File::options().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::Taken(path.to_owned())),
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    // The directory's own name outlives a crash, too.
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for directory in [path, above] {
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(unusable)?;
    }
    Ok(Lock(lock))
}

/// Why a database is not opened.
enum Unopened {
    Foreign,
    Newer(i64),
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Unopened {
    fn from(error: rusqlite::Error) -> Unopened {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Unopened::Foreign,
            _ => Unopened::Database(error),
        }
    }
}

fn connect(directory: &Path, bytes_max: u64) -> Result<Connection, Unopened> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    // SQLite takes no link anywhere in the path: the directory may be behind one.
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let mut connection = gather::open(&directory.join(NAME), flags)?;
    // Alone with the file, SQLite needs no memory shared with others: none that a full disk could tear away.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "page_size", PAGE_BYTES as i64)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Else SQLite reads a statement anew whenever it is asked with other bounds, to see whether they suit another plan.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    bound(&connection, pages_max(bytes_max))?;
    migrate(&mut connection)?;
    // From here on transactions are small: pages of one that leave memory before it is committed, and come back, are written twice.
    connection.pragma_update(None, "cache_spill", false)?;
    sqlite::prepare(&connection)?;
    Ok(connection)
}

/// The most pages of a database of so many bytes.
fn pages_max(bytes: u64) -> i64 {
    i64::try_from(bytes / PAGE_BYTES).unwrap_or(i64::MAX)
}

/// The database has so many pages at most. If it has more by now, it has none beyond those.
fn bound(connection: &Connection, pages_max: i64) -> rusqlite::Result<()> {
    connection.pragma_update(None, "max_page_count", pages_max)
}

/// Brings into the tables what is ahead of them, in the transaction that the connection is in. It was accepted: it finds room, however
/// small the database is to be by now.
pub(crate) fn bring(connection: &Connection, ahead: &Ahead, pages_max: i64) -> Result<(), Fault> {
    bound(connection, i64::MAX)?;
    let brought = fresh::bring(connection, ahead.rounds());
    bound(connection, pages_max)?;
    brought
}

/// Brings a database to the newest version, each step whole or not at all.
fn migrate(connection: &mut Connection) -> Result<(), Unopened> {
    let number = |connection: &Connection, name: &str| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0))
    };
    let (application, version) = (number(connection, "application_id")?, number(connection, "user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    if application != i64::from(APPLICATION) && (application != 0 || version != 0 || tables != 0) {
        return Err(Unopened::Foreign);
    }
    let known = usize::try_from(version).ok().filter(|version| *version <= VERSIONS.len());
    let known = known.ok_or(Unopened::Newer(version))?;
    for (place, statements) in VERSIONS.iter().enumerate().skip(known) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(statements)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", place as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Whether an error is one that the disk may be over with.
fn is_of_disk(error: &rusqlite::Error) -> bool {
    let passes = matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure));
    passes && Trouble::of(error) != Trouble::Final
}

/// A transaction. What is not committed is undone.
pub(crate) struct Begun<'a>(&'a Connection);

/// rusqlite's own reads its statements anew each time.
pub(crate) fn begin(connection: &Connection) -> rusqlite::Result<Begun<'_>> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
    Ok(Begun(connection))
}

impl Begun<'_> {
    pub(crate) fn commit(self) -> rusqlite::Result<()> {
        self.0.prepare_cached("COMMIT")?.execute(()).map(drop)
    }
}

impl Deref for Begun<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.0
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        // Some errors have undone it already. Where this fails, the next one cannot begin, and says so.
        if !self.0.is_autocommit() {
            let _ = self.0.prepare_cached("ROLLBACK").and_then(|mut undo| undo.execute(()));
        }
    }
}

/// What an error of SQLite's means for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// There is no room. There may be some later.
    Full,
    /// It failed. It may succeed later.
    Passing,
    /// What is on disk can no longer be known: nothing may be written until all is opened anew.
    Final,
}

impl Trouble {
    /// What this error means.
    pub(crate) fn of(error: &rusqlite::Error) -> Trouble {
        let rusqlite::Error::SqliteFailure(ffi::Error { extended_code, .. }, _) = error else {
            return Trouble::Passing;
        };
        match *extended_code {
            // Of pages whose writing failed the kernel may have forgotten that they were to be written.
            ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => Trouble::Final,
            code => match code & 0xff {
                ffi::SQLITE_FULL => Trouble::Full,
                ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => Trouble::Final,
                _ => Trouble::Passing,
            },
        }
    }
}
