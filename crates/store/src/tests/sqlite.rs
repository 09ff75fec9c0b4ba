//! What is so of a directory with a SQLite database alone.

use super::*;

fn open(directory: &TempDir) -> Result<Store, OpenError> {
    Store::open(settings(Location::Directory(directory.path().join("data"))))
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
        let other = rusqlite::Connection::open(data.join("tidegate.db")).unwrap();
        other.execute_batch(sql).unwrap();
    };
    change("CREATE TABLE other (a)");
    assert!(matches!(open(&directory), Err(OpenError::Foreign(_))));
    change("DROP TABLE other");
    drop(open(&directory).unwrap());
    until("the store is closed", || {
        let other = rusqlite::Connection::open(data.join("tidegate.db")).unwrap();
        other.execute_batch("PRAGMA user_version = 99").is_ok()
    });
    until("a newer version is refused", || {
        matches!(open(&directory), Err(OpenError::Newer { version: 99, .. }))
    });
    std::fs::write(data.join("tidegate.db"), vec![7; 8192]).unwrap();
    let _ = std::fs::remove_file(data.join("tidegate.db-wal"));
    assert!(matches!(open(&directory), Err(OpenError::Foreign(_))));
}
