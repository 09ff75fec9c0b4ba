//! SQLite's writes, gathered: what is written behind what was written just before goes to the system in one piece.
//!
//! SQLite writes its log page by page, each with a head of its own, and the same way the log back into the database: dozens of
//! system calls a commit. Nothing of that has to be in a file before it is read, or synced. What is written back into the database is
//! on its way to the disk once it is some: whoever waits behind its sync waits for less.
//!
//! What always holds: what is read, synced, cut or measured of a file is so after what was written to it. Where that could not be
//! written, the call that found that out is told, and what was gathered is gone: SQLite counts no page of a transaction, and none that
//! it has written back, before a sync has gone well. Pages of a transaction that did not fit into memory may be among what is gone, so
//! whoever learns of it while reading is told what ends a whole transaction, not a statement. What SQLite may not heed the answer of
//! (locks, `xFileControl`) writes nothing; nor does closing, as what was not synced before counts for nobody.
//!
//! It takes files that one connection has alone (`locking_mode=EXCLUSIVE`): there is no memory shared with others.

use std::ffi::{CStr, OsStr, c_int, c_void};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::null;
use std::sync::OnceLock;

use rusqlite::{Connection, OpenFlags, ffi};

use crate::memory;

/// What this is called among the ways to files that SQLite knows.
const NAME: &CStr = c"tidegate-gather";
/// Bytes that are gathered. SQLite's own way to a file takes no more than 131,071 at once.
const BYTES_MAX: usize = 124 << 10;
/// Bytes that were written back into the database when they are sent on their way. To tell the disk of less costs as much.
const BACK_BYTES: usize = 256 << 10;

/// Opens a database whose writes are gathered. It is to be locked for itself alone before anything else is asked of it.
pub(crate) fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    memory::prepare();
    register()?;
    #[expect(clippy::disallowed_methods, reason = "SQLite's memory is prepared")]
    Connection::open_with_flags_and_vfs(path, flags, NAME)
}

/// Tells SQLite of it, once.
fn register() -> rusqlite::Result<()> {
    static CODE: OnceLock<c_int> = OnceLock::new();
    let code = *CODE.get_or_init(|| {
        let real = system();
        if real.is_null() {
            return ffi::SQLITE_ERROR;
        }
        // SAFETY: what SQLite finds is its own way to files, and stays; the copy stays, too, as SQLite keeps it.
        unsafe {
            let own = size_of::<Gathering>() as c_int;
            let vfs = ffi::sqlite3_vfs {
                szOsFile: (*real).szOsFile.max(own),
                zName: NAME.as_ptr(),
                xOpen: Some(open_file),
                ..*real
            };
            ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0)
        }
    });
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// SQLite's own way to files.
fn system() -> *mut ffi::sqlite3_vfs {
    // SAFETY: without a name it is the one that SQLite has chosen.
    unsafe { ffi::sqlite3_vfs_find(null()) }
}

/// A file, as SQLite holds it.
#[repr(C)]
struct Gathering {
    /// First, as SQLite looks here for what can be done with it.
    base: ffi::sqlite3_file,
    real: Real,
    /// What is not written yet.
    pending: Vec<u8>,
    /// Where it belongs.
    at: i64,
    /// Of the database, not of the log.
    database: Option<Back>,
}

/// What was written back into the database.
struct Back {
    /// A descriptor beside SQLite's. It is closed after that one, as any that is closed takes the process's locks on the file away.
    file: File,
    /// Where that is which is not on its way to the disk.
    place: Range<i64>,
    /// Its bytes.
    bytes: usize,
}

/// The system's file: as many bytes as SQLite's own way wants, aligned as it may want them.
struct Real(Box<[u128]>);

type Methods = ffi::sqlite3_io_methods;

impl Real {
    fn new(bytes: usize) -> Real {
        Real(vec![0; bytes.div_ceil(size_of::<u128>())].into_boxed_slice())
    }

    fn file(&mut self) -> *mut ffi::sqlite3_file {
        self.0.as_mut_ptr().cast()
    }

    /// Does something with it by what its methods have for that.
    fn call<F>(
        &mut self,
        method: impl FnOnce(&Methods) -> Option<F>,
        call: impl FnOnce(F, *mut ffi::sqlite3_file) -> c_int,
    ) -> c_int {
        let file = self.file();
        // SAFETY: it was opened, and its methods stay as long as it is open.
        let method = unsafe { (*file).pMethods.as_ref() }.and_then(method);
        method.map_or(ffi::SQLITE_IOERR, |method| call(method, file))
    }

    fn write(&mut self, bytes: &[u8], mut at: i64) -> c_int {
        for some in bytes.chunks(BYTES_MAX) {
            let count = some.len() as c_int;
            // SAFETY: there are so many bytes.
            let code = self.call(
                |methods| methods.xWrite,
                |write, file| unsafe { write(file, some.as_ptr().cast(), count, at) },
            );
            if code != ffi::SQLITE_OK {
                return if self.is_over_its_quota(code) { ffi::SQLITE_FULL } else { code };
            }
            at += i64::from(count);
        }
        ffi::SQLITE_OK
    }

    /// Whether a write failed as a quota is used up: that is a full disk, which SQLite does not know of it.
    fn is_over_its_quota(&mut self, code: c_int) -> bool {
        let mut number: c_int = 0;
        // SAFETY: what it failed with last is told there.
        let told = self.call(
            |methods| methods.xFileControl,
            |control, file| unsafe { control(file, ffi::SQLITE_FCNTL_LAST_ERRNO, (&raw mut number).cast()) },
        );
        (code, told, number) == (ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_OK, libc::EDQUOT)
    }
}

impl Gathering {
    /// Writes what was gathered. It is gone then, whether that went well or not.
    fn flush(&mut self) -> c_int {
        if self.pending.is_empty() {
            return ffi::SQLITE_OK;
        }
        let code = self.real.write(&self.pending, self.at);
        // A call that fails would cover up why the write did.
        if code == ffi::SQLITE_OK
            && let Some(back) = &mut self.database
        {
            back.add(self.at, self.pending.len());
        }
        self.pending.clear();
        code
    }

    fn write(&mut self, bytes: &[u8], at: i64) -> c_int {
        let end = self.at + self.pending.len() as i64;
        if self.pending.is_empty() || end != at || self.pending.len() + bytes.len() > BYTES_MAX {
            let code = self.flush();
            if code != ffi::SQLITE_OK {
                return code;
            }
            if bytes.len() > BYTES_MAX {
                return self.real.write(bytes, at);
            }
            self.at = at;
        }
        self.pending.extend_from_slice(bytes);
        ffi::SQLITE_OK
    }

    /// Reads, once what lies there is written; and what lies behind it, where the file would else be too short.
    fn read(&mut self, to: *mut c_void, count: c_int, at: i64) -> c_int {
        let end = self.at + self.pending.len() as i64;
        if at >= end || at + i64::from(count) <= self.at {
            let code = self.read_written(to, count, at);
            if code != ffi::SQLITE_IOERR_SHORT_READ || self.pending.is_empty() {
                return code;
            }
        }
        match self.flush() {
            ffi::SQLITE_OK => self.read_written(to, count, at),
            _ => ffi::SQLITE_IOERR_WRITE,
        }
    }

    fn read_written(&mut self, to: *mut c_void, count: c_int, at: i64) -> c_int {
        // SAFETY: SQLite has room for so many bytes there.
        self.real.call(|methods| methods.xRead, |read, file| unsafe { read(file, to, count, at) })
    }

    /// Does something else, once all is written.
    fn after<F>(
        &mut self,
        method: impl FnOnce(&Methods) -> Option<F>,
        call: impl FnOnce(F, *mut ffi::sqlite3_file) -> c_int,
    ) -> c_int {
        match self.flush() {
            ffi::SQLITE_OK => self.real.call(method, call),
            code => code,
        }
    }
}

impl Back {
    fn of(file: File) -> Back {
        Back { file, place: 0..0, bytes: 0 }
    }

    /// Has the system begin to write back what was written just now, and before, so that its sync has less to wait for. Where that
    /// fails, the sync does all of it, and is told itself of what could not be written: each descriptor is.
    fn add(&mut self, at: i64, count: usize) {
        let end = at + count as i64;
        self.place =
            if self.bytes == 0 { at..end } else { self.place.start.min(at)..self.place.end.max(end) };
        self.bytes += count;
        if self.bytes < BACK_BYTES {
            return;
        }
        let Range { start, end } = self.place;
        // SAFETY: the descriptor is open.
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), start, end - start, libc::SYNC_FILE_RANGE_WRITE)
        };
        self.bytes = 0;
    }
}

/// What SQLite holds is one of these.
///
/// # Safety
/// It was opened by [`open_file`] with [`METHODS`], and is not closed.
unsafe fn gathering<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Gathering {
    // SAFETY: as just said; SQLite uses a connection's files from one thread at a time.
    unsafe { &mut *file.cast::<Gathering>() }
}

/// Opens a file. What is neither the database nor its log is the system's own.
unsafe extern "C" fn open_file(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    told: *mut c_int,
) -> c_int {
    let system = system();
    // SAFETY: it was found when this was registered. SQLite gives room for either kind of file.
    unsafe {
        let Some(open) = (*system).xOpen else { return ffi::SQLITE_CANTOPEN };
        if flags & (ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_WAL) == 0 {
            return open(system, name, file, flags, told);
        }
        (*file).pMethods = null();
        let mut real = Real::new((*system).szOsFile as usize);
        let code = open(system, name, real.file(), flags, told);
        if code == ffi::SQLITE_OK {
            let base = ffi::sqlite3_file { pMethods: &raw const METHODS };
            let database = match flags & ffi::SQLITE_OPEN_MAIN_DB {
                0 => None,
                // A database has a name.
                _ => File::open(OsStr::from_bytes(CStr::from_ptr(name).to_bytes())).ok().map(Back::of),
            };
            file.cast::<Gathering>().write(Gathering { base, real, pending: Vec::new(), at: 0, database });
        }
        code
    }
}

/// Without shared memory and mapped files: neither is used by who has a file alone.
static METHODS: Methods = Methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(is_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector),
    xDeviceCharacteristics: Some(device),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

// SAFETY, of all that follow: SQLite calls them with a file that `open_file` has made, and with memory as its documentation of the
// real ones says, to which that is handed on as it came.

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe {
        let closed = gathering(file).real.call(|methods| methods.xClose, |close, file| close(file));
        file.cast::<Gathering>().drop_in_place();
        (*file).pMethods = null();
        closed
    }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, count: c_int, at: i64) -> c_int {
    unsafe { gathering(file).read(to, count, at) }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    count: c_int,
    at: i64,
) -> c_int {
    let Ok(count) = usize::try_from(count) else { return ffi::SQLITE_IOERR_WRITE };
    unsafe { gathering(file).write(std::slice::from_raw_parts(from.cast(), count), at) }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, bytes: i64) -> c_int {
    unsafe { gathering(file).after(|methods| methods.xTruncate, |truncate, file| truncate(file, bytes)) }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    unsafe { gathering(file).after(|methods| methods.xSync, |sync, file| sync(file, flags)) }
}

unsafe extern "C" fn size(file: *mut ffi::sqlite3_file, bytes: *mut i64) -> c_int {
    unsafe { gathering(file).after(|methods| methods.xFileSize, |size, file| size(file, bytes)) }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, how: c_int) -> c_int {
    unsafe { gathering(file).real.call(|methods| methods.xLock, |lock, file| lock(file, how)) }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, how: c_int) -> c_int {
    unsafe { gathering(file).real.call(|methods| methods.xUnlock, |unlock, file| unlock(file, how)) }
}

unsafe extern "C" fn is_reserved(file: *mut ffi::sqlite3_file, told: *mut c_int) -> c_int {
    unsafe {
        gathering(file)
            .real
            .call(|methods| methods.xCheckReservedLock, |is_reserved, file| is_reserved(file, told))
    }
}

unsafe extern "C" fn control(file: *mut ffi::sqlite3_file, what: c_int, about: *mut c_void) -> c_int {
    unsafe {
        gathering(file).real.call(|methods| methods.xFileControl, |control, file| control(file, what, about))
    }
}

unsafe extern "C" fn sector(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe { gathering(file).real.call(|methods| methods.xSectorSize, |sector, file| sector(file)) }
}

unsafe extern "C" fn device(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe {
        gathering(file).real.call(|methods| methods.xDeviceCharacteristics, |device, file| device(file))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use proptest::prelude::*;

    use super::*;

    /// A log as SQLite would hold it.
    struct Log {
        file: Vec<u128>,
        _name: CString,
    }

    impl Log {
        fn open(path: &Path) -> Log {
            Log::open_as(path, ffi::SQLITE_OPEN_WAL)
        }

        /// Opens what is this to SQLite.
        fn open_as(path: &Path, kind: c_int) -> Log {
            memory::prepare();
            register().unwrap();
            // SQLite looks behind a file's name for parameters, which end with an empty one.
            let mut name = path.as_os_str().as_bytes().to_vec();
            name.extend([0; 4]);
            // SAFETY: its bytes end with zeros, and no others are among them.
            let name = unsafe { CString::from_vec_unchecked(name) };
            let flags = kind | ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE;
            // SAFETY: SQLite is begun; the file is given as many bytes as it wants, and its name outlives it.
            let file = unsafe {
                assert_eq!(ffi::sqlite3_initialize(), ffi::SQLITE_OK);
                let vfs = ffi::sqlite3_vfs_find(NAME.as_ptr());
                let mut file = vec![0; ((*vfs).szOsFile as usize).div_ceil(size_of::<u128>())];
                let code =
                    open_file(vfs, name.as_ptr(), file.as_mut_ptr().cast(), flags, std::ptr::null_mut());
                assert_eq!(code, ffi::SQLITE_OK);
                file
            };
            Log { file, _name: name }
        }

        fn file(&mut self) -> *mut ffi::sqlite3_file {
            self.file.as_mut_ptr().cast()
        }

        /// Whether it has a descriptor beside SQLite's, by which what is written is on its way to the disk at once.
        fn has_descriptor(&mut self) -> bool {
            // SAFETY: the file is open.
            unsafe { gathering(self.file()).database.is_some() }
        }

        fn write(&mut self, bytes: &[u8], at: usize) -> c_int {
            // SAFETY: the file is open, and there are so many bytes.
            unsafe { write(self.file(), bytes.as_ptr().cast(), bytes.len() as c_int, at as i64) }
        }

        fn sync(&mut self) -> c_int {
            // SAFETY: the file is open.
            unsafe { sync(self.file(), ffi::SQLITE_SYNC_NORMAL) }
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            // SAFETY: the file is open, and is not used any more.
            unsafe { close(self.file()) };
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Behind what was written last, or elsewhere.
        Write {
            at: Option<usize>,
            count: usize,
            byte: u8,
        },
        Read {
            at: usize,
            count: usize,
        },
        Truncate(usize),
        Sync,
        Size,
    }

    fn step() -> impl Strategy<Value = Step> {
        let place = 0_usize..300_000;
        prop_oneof![
            6 => (proptest::option::weighted(0.2, place.clone()), 1_usize..9_000, any::<u8>())
                .prop_map(|(at, count, byte)| Step::Write { at, count, byte }),
            1 => (1_usize..200_000, any::<u8>())
                .prop_map(|(count, byte)| Step::Write { at: None, count, byte }),
            1 => (place.clone(), 1_usize..9_000).prop_map(|(at, count)| Step::Read { at, count }),
            1 => place.prop_map(Step::Truncate),
            1 => Just(Step::Sync),
            1 => Just(Step::Size),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn a_file_is_as_if_each_write_had_gone_to_it(
            kind in prop_oneof![Just(ffi::SQLITE_OPEN_WAL), Just(ffi::SQLITE_OPEN_MAIN_DB)],
            steps in proptest::collection::vec(step(), 1..60),
        ) {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("log");
            let (mut log, mut model, mut end) = (Log::open_as(&path, kind), Vec::new(), 0);
            prop_assert_eq!(log.has_descriptor(), kind == ffi::SQLITE_OPEN_MAIN_DB);
            for step in steps {
                match step {
                    Step::Write { at, count, byte } => {
                        let at = at.unwrap_or(end);
                        prop_assert_eq!(log.write(&vec![byte; count], at), ffi::SQLITE_OK);
                        end = at + count;
                        model.resize(model.len().max(end), 0);
                        model[at..end].fill(byte);
                    }
                    Step::Read { at, count } => {
                        let mut found = vec![1; count];
                        // SAFETY: there is room for so many bytes.
                        let code = unsafe {
                            read(log.file(), found.as_mut_ptr().cast(), count as c_int, at as i64)
                        };
                        let there = model.get(at..model.len().min(at + count)).unwrap_or_default();
                        let short = there.len() < count;
                        prop_assert_eq!(code, if short { ffi::SQLITE_IOERR_SHORT_READ } else { ffi::SQLITE_OK });
                        prop_assert_eq!(&found[..there.len()], there);
                    }
                    Step::Truncate(bytes) => {
                        // SAFETY: the file is open.
                        prop_assert_eq!(unsafe { truncate(log.file(), bytes as i64) }, ffi::SQLITE_OK);
                        model.resize(bytes, 0);
                    }
                    Step::Sync => {
                        prop_assert_eq!(log.sync(), ffi::SQLITE_OK);
                        prop_assert_eq!(&std::fs::read(&path).unwrap(), &model);
                    }
                    Step::Size => {
                        let mut bytes = 0;
                        // SAFETY: the file is open.
                        prop_assert_eq!(unsafe { size(log.file(), &raw mut bytes) }, ffi::SQLITE_OK);
                        prop_assert_eq!(bytes, model.len() as i64);
                    }
                }
            }
            prop_assert_eq!(log.sync(), ffi::SQLITE_OK);
            prop_assert_eq!(std::fs::read(&path).unwrap(), model);
        }
    }

    #[test]
    fn what_lies_behind_one_another_is_written_in_one_piece_when_it_is_synced() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        let mut log = Log::open(&path);
        let written = || std::fs::metadata(&path).unwrap().len();
        let pages = BYTES_MAX / 4_096;
        for page in 0..pages {
            assert_eq!(log.write(&[7; 4_096], page * 4_096), ffi::SQLITE_OK);
        }
        assert_eq!(written(), 0);
        // There is no room for one more: it is the first of the next piece.
        assert_eq!(log.write(&[7; 4_096], pages * 4_096), ffi::SQLITE_OK);
        assert_eq!(written(), BYTES_MAX as u64);
        assert_eq!(log.sync(), ffi::SQLITE_OK);
        assert_eq!(written(), (BYTES_MAX + 4_096) as u64);
    }

    #[test]
    fn what_could_not_be_written_is_told_and_gone() {
        // Whatever is written there finds no room.
        let mut log = Log::open(Path::new("/dev/full"));
        assert_eq!(log.write(b"a page", 0), ffi::SQLITE_OK);
        // SQLite says that it has written a log back before it syncs, and hears no answer to that.
        // SAFETY: the file is open.
        unsafe { control(log.file(), ffi::SQLITE_FCNTL_CKPT_DONE, std::ptr::null_mut()) };
        assert_eq!(log.sync(), ffi::SQLITE_FULL);
        assert_eq!(log.write(b"a page", 0), ffi::SQLITE_OK);
        assert_eq!(log.write(b"elsewhere", 100), ffi::SQLITE_FULL);
        // Whoever reads it may go on with its transaction where a disk is full, but not where it fails.
        assert_eq!(log.write(b"a page", 0), ffi::SQLITE_OK);
        let mut found = [0; 3];
        // SAFETY: there is room for so many bytes.
        unsafe {
            assert_eq!(
                read(log.file(), found.as_mut_ptr().cast(), 3, 6),
                ffi::SQLITE_OK,
                "none of it is there"
            );
            assert_eq!(read(log.file(), found.as_mut_ptr().cast(), 3, 5), ffi::SQLITE_IOERR_WRITE);
        }
        assert_eq!(log.write(&vec![7; BYTES_MAX + 1], 0), ffi::SQLITE_FULL);
    }
}
