//! Where a process writes to, which outlives it: a folder with SQLite in it, or a PostgreSQL ([`Server`]).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;

use tempfile::TempDir;
use tidegate_store::{Hand, Location, Store};

use super::scene::Sabotage;
use super::server::Server;

const BYTES_MAX: u64 = 1 << 30;

/// Which store a seed is played on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Sqlite,
    Postgres,
}

/// Either of them.
pub enum Disk {
    Folder(Folder),
    Server(Box<Server>),
}

impl Disk {
    /// An empty one.
    pub fn new(on: On, seed: u64, sabotage: Sabotage) -> Disk {
        match on {
            On::Sqlite => Disk::Folder(Folder::new(sabotage)),
            On::Postgres => Disk::Server(Box::new(Server::new(seed, sabotage))),
        }
    }

    /// What a process begins with: its store, and who writes.
    pub fn open(&self) -> (Store, Vec<Hand>) {
        let location = match self {
            Disk::Folder(folder) => Location::Directory(folder.home.borrow().clone()),
            Disk::Server(server) => server.location(),
        };
        Store::open_by_hand(location, BYTES_MAX).expect("a store")
    }

    /// What is wrong with it once all is over.
    pub async fn audit(&self, store: &Store) -> Vec<String> {
        match self {
            // Of a file it is looked at as a whole, when the process is gone.
            Disk::Folder(_) => Vec::new(),
            Disk::Server(_) => store.audit().await.expect("a store that nothing ails"),
        }
    }

    /// The same, when no process has it any more.
    pub fn audit_after(&self) -> Vec<String> {
        match self {
            Disk::Folder(folder) => tidegate_store::check(&folder.home.borrow()).expect("a store"),
            Disk::Server(_) => Vec::new(),
        }
    }

    /// The server, if it is one.
    pub fn server(&self) -> Option<&Server> {
        match self {
            Disk::Folder(_) => None,
            Disk::Server(server) => Some(server),
        }
    }
}

/// A folder with SQLite in it.
pub struct Folder {
    all: TempDir,
    sabotage: Sabotage,
    /// Where the database of this process is.
    home: RefCell<PathBuf>,
    /// What was on disk after each of the last commits.
    images: RefCell<VecDeque<PathBuf>>,
    images_made: Cell<u64>,
}

impl Folder {
    fn new(sabotage: Sabotage) -> Folder {
        // Where there is memory to be had as a disk: what is synced is not the point.
        let memory = std::path::Path::new("/dev/shm");
        let all = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let all = all.expect("a folder");
        let home = RefCell::new(all.path().join("0"));
        Folder { all, sabotage, home, images: RefCell::default(), images_made: Cell::new(0) }
    }

    /// Remembers what is on disk now, where that is to be lost later.
    pub fn remember(&self) {
        let Sabotage::LosesCommits(count) = self.sabotage else { return };
        let mut images = self.images.borrow_mut();
        images.push_back(self.copy());
        while images.len() > count + 1 {
            let oldest = images.pop_front().expect("there are more");
            std::fs::remove_dir_all(oldest).expect("an image can be removed");
        }
    }

    /// The next process finds what was on disk when this one was gone.
    pub fn change(&self, was_killed: bool) {
        let kept = self.images.borrow_mut().pop_front().filter(|_| was_killed);
        self.images.borrow_mut().clear();
        let next = kept.unwrap_or_else(|| self.copy());
        if was_killed && self.sabotage == Sabotage::LosesAhead {
            // There may be none.
            let _ = std::fs::remove_file(next.join("tidegate.db-ahead"));
        }
        let before = self.home.replace(next);
        // The process before may have it open: of that nobody reads any more.
        let _ = std::fs::remove_dir_all(before);
    }

    fn copy(&self) -> PathBuf {
        self.images_made.set(self.images_made.get() + 1);
        let (from, to) = (self.home.borrow(), self.all.path().join(self.images_made.get().to_string()));
        std::fs::create_dir_all(&to).expect("a folder");
        for entry in std::fs::read_dir(&*from).expect("a store's folder").flatten() {
            let name = entry.file_name();
            if name != "lock" {
                std::fs::copy(entry.path(), to.join(name)).expect("a file can be copied");
            }
        }
        to
    }
}
