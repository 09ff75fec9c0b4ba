//! The directory of the disk tier: the one place that writes, so that whatever a disk can refuse is met in one place.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};

/// A directory that one process has for itself.
#[derive(Clone, Debug)]
pub struct Ground {
    directory: PathBuf,
    /// What tests let go wrong.
    #[cfg(test)]
    pub faults: std::sync::Arc<Faults>,
}

/// What a disk may do to whoever writes to it.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct Faults {
    /// There is no space for anything new.
    pub full: std::sync::atomic::AtomicBool,
    /// No write succeeds.
    pub broken: std::sync::atomic::AtomicBool,
    /// While somebody has it, no write ends.
    pub hangs: parking_lot::Mutex<()>,
}

/// The lock on the directory; the system gives it back when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Ground {
    /// This directory.
    #[must_use]
    pub fn new(directory: PathBuf) -> Ground {
        Ground {
            directory,
            #[cfg(test)]
            faults: std::sync::Arc::default(),
        }
    }

    /// The path of a file in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes the directory where there is none, and takes it for this process alone.
    ///
    /// # Errors
    /// It cannot be made or written to, or another process has it.
    pub fn lock(&self) -> io::Result<Lock> {
        std::fs::create_dir_all(&self.directory)?;
        let path = self.path("lock");
        let file = self.open("lock")?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { file, path }),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process has this directory"))
            }
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Opens a file to read and write, and makes it if it is not there.
    ///
    /// # Errors
    /// The system's.
    pub fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.path(name))
    }

    /// Writes all of this there.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        #[cfg(test)]
        drop(self.faults.hangs.lock());
        #[cfg(test)]
        if self.faults.broken.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(5));
        }
        file.write_all_at(bytes, at)
    }

    /// Makes a file this long, with space of its own where the file system can promise any: what is written into it later
    /// finds room.
    ///
    /// # Errors
    /// There is no space.
    pub fn reserve(&self, file: &File, bytes: u64) -> io::Result<()> {
        if file.metadata()?.len() == bytes {
            return Ok(());
        }
        #[cfg(test)]
        if self.faults.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.set_len(bytes)?;
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            reserved => reserved.map_err(Into::into),
        }
    }

    /// The names of all files in it.
    ///
    /// # Errors
    /// The system's.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.directory)?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Lock {
    /// Whether the directory that was locked is still the one that is found under its name.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        let id = |found: std::fs::Metadata| (found.dev(), found.ino());
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(held), Ok(found)) => id(held) == id(found),
            _ => false,
        }
    }
}
