//! Backups: a store's directory copied while it is in use, put back, and looked at as a whole.
//!
//! The database's file is only written to when the log is written back into it, and that is the writing thread's to decide. So a
//! backup is: write the log back, leave the file alone, copy it, go on. What is written meanwhile goes into the log, and no
//! command waits for the copy. When the log becomes too large before the copy has ended, the copy is given up,
//! not the log's bound.
//!
//! A backup is a directory like the store's own: what looks at the one looks at the other, and a restore is a copy.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::sync::oneshot;

use crate::ahead;
use crate::claims;
use crate::database::{Database, LOG, NAME, OpenError};
use crate::deliveries::sqlite::audit;
use crate::store::{Job, Store, Unavailable};

/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;

/// Why there is no backup, or nothing was put back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store does not answer.
    #[error("the store is not to be copied: {0}")]
    Unavailable(#[from] Unavailable),
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is something already.
    #[error("there is {} already", .0.display())]
    There(PathBuf),
    /// It could not be copied.
    #[error("{} could not be copied: {source}", path.display())]
    Copy {
        /// What was read or written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// So much was written meanwhile that the log became too large.
    #[error("too much was written meanwhile: try again when there is less to do")]
    Overtaken,
}

/// A database whose file nobody writes to.
#[derive(Clone, Debug)]
pub(crate) struct Frozen {
    /// The file. Whoever has it does not close it: that would take the locks of the process away.
    pub(crate) file: Arc<File>,
    /// Set before it is written to again.
    pub(crate) thawed: Arc<AtomicBool>,
}

impl Store {
    /// Copies what is on disk into a new directory, while the store goes on. Blocks until that is on disk, too. How many bytes it
    /// has.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn backup(&self, to: &Path) -> Result<u64, BackupError> {
        let (told, answer) = oneshot::channel();
        self.commands.blocking_send(Job::Freeze { told }).map_err(|_| Unavailable::Stopped)?;
        let frozen = answer.blocking_recv().unwrap_or(Err(Unavailable::Stopped))?;
        let copied = copy(&frozen.file, to);
        let overtaken = frozen.thawed.load(SeqCst);
        // One that has gone writes nothing any more.
        let _ = self.commands.blocking_send(Job::Thaw);
        match copied {
            Ok(_) if overtaken => {
                // Whoever finds it there would take it for one.
                let _ = std::fs::remove_file(to.join(NAME));
                let _ = std::fs::remove_dir(to);
                Err(BackupError::Overtaken)
            }
            told => told,
        }
    }
}

/// Copies the store in a directory that no process uses. How many bytes it has.
///
/// # Errors
/// [`BackupError`].
pub fn backup(from: &Path, to: &Path) -> Result<u64, BackupError> {
    if !from.join(NAME).exists() {
        return Err(OpenError::Foreign(from.to_owned()).into());
    }
    let database = Database::open_whole(from)?;
    database.whole().map_err(|source| OpenError::Database { path: from.to_owned(), source })?;
    let file = File::open(from.join(NAME));
    let copied = copy(&file.map_err(|source| BackupError::Copy { path: from.to_owned(), source })?, to);
    drop(database);
    copied
}

/// Puts a backup where a store is to be: a directory in which there is none.
///
/// # Errors
/// [`BackupError`].
pub fn restore(from: &Path, to: &Path) -> Result<u64, BackupError> {
    vacant(to)?;
    backup(from, to)
}

/// What is wrong with a store that no process uses: nothing, if it is empty.
///
/// # Errors
/// [`OpenError`].
pub fn check(directory: &Path) -> Result<Vec<String>, OpenError> {
    if !directory.join(NAME).exists() {
        return Err(OpenError::Foreign(directory.to_owned()));
    }
    let database = Database::open_whole(directory)?;
    let connection = &database.connection;
    let look = || {
        let mut wrong = Vec::new();
        let mut select = connection.prepare("PRAGMA integrity_check(20)")?;
        for told in select.query_map((), |row| row.get::<_, String>(0))? {
            wrong.push(told?);
        }
        wrong.retain(|told| told != "ok");
        // What the tables say is nothing to go by where the database itself is damaged.
        if wrong.is_empty() {
            wrong.extend(claims::audit(connection)?);
            wrong.extend(audit::audit(connection)?);
        }
        Ok(wrong)
    };
    look().map_err(|source| OpenError::Database { path: directory.to_owned(), source })
}

/// There is nothing of a store's here: neither one, nor what another has left behind, which would be taken for the copy's own.
fn vacant(directory: &Path) -> Result<(), BackupError> {
    let names = [NAME, LOG, ahead::NAME];
    // A link is there wherever it leads.
    let there = names.iter().map(|name| directory.join(name)).find(|path| path.symlink_metadata().is_ok());
    there.map_or(Ok(()), |path| Err(BackupError::There(path)))
}

/// Copies a database's file into a directory in which there is none: whole and on disk, or not at all.
fn copy(file: &File, to: &Path) -> Result<u64, BackupError> {
    vacant(to)?;
    let part = to.join(format!("{NAME}.part"));
    let done = (|| {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(to)?;
        // What an earlier copy has left behind goes; a link, not what it leads to.
        let _ = std::fs::remove_file(&part);
        let mut out = File::create_new(&part)?;
        let (mut chunk, mut at) = (vec![0; CHUNK], 0);
        loop {
            let count = file.read_at(&mut chunk, at)?;
            if count == 0 {
                break;
            }
            out.write_all(&chunk[..count])?;
            at += count as u64;
        }
        out.sync_all()?;
        std::fs::rename(&part, to.join(NAME))?;
        File::open(to)?.sync_all()?;
        Ok(at)
    })();
    done.map_err(|source| {
        let _ = std::fs::remove_file(&part);
        BackupError::Copy { path: to.to_owned(), source }
    })
}
