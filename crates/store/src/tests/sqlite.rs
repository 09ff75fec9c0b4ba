//! What is so of a directory with a SQLite database alone.

use super::*;
use crate::database::{APPLICATION, NAME, VERSIONS};

fn open(directory: &TempDir) -> Result<Store, OpenError> {
    Store::open(settings(Location::Directory(directory.path().join("data"))))
}

/// Another one's connection to it.
fn beside(data: &std::path::Path) -> rusqlite::Connection {
    crate::memory::open(&data.join(NAME), rusqlite::OpenFlags::default()).unwrap()
}

#[test]
fn a_directory_has_one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).unwrap();
    assert!(matches!(open(&directory), Err(OpenError::Taken(_))));
    store.close();
    drop(store);
    until("the lock is free", || open(&directory).is_ok());
}

#[test]
fn what_is_no_store_of_this_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    let change = |sql: &str| {
        let other = beside(&data);
        other.execute_batch(sql).unwrap();
    };
    change("CREATE TABLE other (a)");
    assert!(matches!(open(&directory), Err(OpenError::Foreign(_))));
    change("DROP TABLE other");
    drop(open(&directory).unwrap());
    until("the store is closed", || {
        let other = beside(&data);
        other.execute_batch("PRAGMA user_version = 99").is_ok()
    });
    until("a newer version is refused", || {
        matches!(open(&directory), Err(OpenError::Newer { version: 99, .. }))
    });
    std::fs::write(data.join("tidegate.db"), vec![7; 8192]).unwrap();
    let _ = std::fs::remove_file(data.join("tidegate.db-wal"));
    assert!(matches!(open(&directory), Err(OpenError::Foreign(_))));
}

#[test]
fn what_an_earlier_version_has_written_is_brought_to_this_one() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    for known in 0..VERSIONS.len() {
        let _ = std::fs::remove_file(data.join(NAME));
        let other = beside(&data);
        VERSIONS[..known].iter().for_each(|statements| other.execute_batch(statements).unwrap());
        // An empty one is whoever comes first's.
        let application = if known == 0 { 0 } else { APPLICATION };
        other.pragma_update(None, "application_id", application).unwrap();
        other.pragma_update(None, "user_version", known as i64).unwrap();
        drop(other);
        reopened(data.clone()).close();
        assert_eq!(checked(&data), Vec::<String>::new(), "{known}");
    }
}

/// A process that is begun beside may have the lock for a moment.
fn reopened(directory: std::path::PathBuf) -> Store {
    let mut store = None;
    until("it is opened", || {
        store = Store::open(settings(Location::Directory(directory.clone()))).ok();
        store.is_some()
    });
    store.unwrap()
}

fn checked(directory: &std::path::Path) -> Vec<String> {
    let mut wrong = None;
    until("it is looked at", || {
        wrong = crate::check(directory).ok();
        wrong.is_some()
    });
    wrong.unwrap()
}

#[test]
fn a_backup_is_what_was_there_when_it_was_begun_and_the_store_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).unwrap();
    check(&store, &named("a", "1"), &[(claim(1, LATER), Told::Claimed)]);
    let copy = directory.path().join("copy");
    assert!(store.backup(&copy).unwrap() > 0);
    assert!(matches!(store.backup(&copy), Err(crate::BackupError::There(_))));
    check(&store, &named("a", "2"), &[(claim(2, LATER), Told::Claimed)]);
    assert!(matches!(crate::check(&directory.path().join("data")), Err(OpenError::Taken(_))));
    store.close();
    drop(store);
    assert_eq!(checked(&copy), Vec::<String>::new());
    let put_back = directory.path().join("back");
    // What another store has left behind would be taken for this one's, and be it a link to nothing by now.
    std::fs::create_dir(&put_back).unwrap();
    for (name, is_link) in
        [("tidegate.db-wal", false), ("tidegate.db-ahead", false), ("tidegate.db-wal", true)]
    {
        let left = put_back.join(name);
        match is_link {
            true => std::os::unix::fs::symlink("gone", &left).unwrap(),
            false => std::fs::write(&left, b"").unwrap(),
        }
        assert!(
            matches!(crate::restore(&copy, &put_back), Err(crate::BackupError::There(path)) if path == left)
        );
        std::fs::remove_file(left).unwrap();
    }
    // An earlier one that was broken off leaves its part behind. What that leads to is nobody's.
    std::os::unix::fs::symlink("aside", put_back.join("tidegate.db.part")).unwrap();
    until("it is put back", || crate::restore(&copy, &put_back).is_ok());
    assert!(!put_back.join("aside").exists());
    assert!(matches!(crate::restore(&copy, &put_back), Err(crate::BackupError::There(_))));
    let store = reopened(put_back);
    assert_eq!(store.standing().records, 1);
    check(&store, &named("a", "1"), &[(claim(3, LATER), Told::Unknown)]);
    store.close();
}

#[test]
fn the_log_is_written_back_once_nothing_comes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).unwrap();
    let bytes = 1 << 20;
    let commands = [(claim(1, LATER), Told::Claimed), (finish(1, whole(bytes), LATER), Told::Done)];
    check(&store, &named("a", "1"), &commands);
    let database = directory.path().join("data").join(NAME);
    until("it is in the database", || database.metadata().unwrap().len() > bytes as u64);
    store.close();
}

#[test]
fn what_is_damaged_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).unwrap();
    check(&store, &named("a", "1"), &[(claim(1, LATER), Told::Claimed)]);
    store.close();
    drop(store);
    let data = directory.path().join("data");
    until("it is damaged", || {
        let other = beside(&data);
        other.execute_batch("UPDATE accounts SET records = 7").is_ok()
    });
    assert_eq!(checked(&data).len(), 1);
    assert!(matches!(crate::check(directory.path()), Err(OpenError::Foreign(_))));
}
