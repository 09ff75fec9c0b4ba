//! SQLite's memory: from the process's own allocator, and without statistics of it.
//!
//! By default SQLite takes a lock around each block that it asks for, to count them, which nobody reads; and the C library, from
//! whom it has them, grows the memory of a thread that is not the first page by page, by a system call each.
//!
//! What always holds: it is said once, before SQLite is used for the first time; later it is not taken any more. So whoever opens a
//! connection says it before.

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::Once;

use rusqlite::ffi;
#[cfg(test)]
use rusqlite::{Connection, OpenFlags};

/// Bytes before each block, which hold its size. A block is aligned as they are: SQLite wants 8.
const HEAD: usize = 8;

static SAID: Once = Once::new();

/// Opens a database as SQLite does by itself.
#[cfg(test)]
pub(crate) fn open(path: &std::path::Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    prepare();
    #[expect(clippy::disallowed_methods, reason = "SQLite's memory is prepared")]
    Connection::open_with_flags(path, flags)
}

/// A database that is nowhere.
#[cfg(test)]
pub(crate) fn nowhere() -> Connection {
    open(std::path::Path::new(":memory:"), OpenFlags::default()).expect("there is memory")
}

/// Says where SQLite has its memory from. To be called before any connection is opened.
pub(crate) fn prepare() {
    SAID.call_once(|| {
        let methods = METHODS;
        // SAFETY: SQLite copies the methods. Whoever opens a connection calls this before and waits until it has returned, so
        // that nobody uses SQLite meanwhile. If it is in use nevertheless it says so, and all stays as it was.
        unsafe {
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, c_int::from(false));
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw const methods);
        }
    });
}

const METHODS: ffi::sqlite3_mem_methods = ffi::sqlite3_mem_methods {
    xMalloc: Some(give),
    xFree: Some(take),
    xRealloc: Some(change),
    xSize: Some(size),
    xRoundup: Some(round),
    xInit: Some(begin),
    xShutdown: Some(end),
    pAppData: null_mut(),
};

fn layout(bytes: c_int) -> Option<Layout> {
    Layout::from_size_align(usize::try_from(bytes).ok()? + HEAD, HEAD).ok()
}

/// Notes the size at the head of a block, and gives what comes behind. `start`: null, or the start of a block of that size.
///
/// # Safety
/// As just said.
unsafe fn noted(start: *mut u8, bytes: c_int) -> *mut c_void {
    if start.is_null() {
        return null_mut();
    }
    // SAFETY: the block begins with `HEAD` bytes more than were asked for, aligned for a number of so many.
    unsafe {
        start.cast::<usize>().write(bytes as usize);
        start.add(HEAD).cast()
    }
}

unsafe extern "C" fn give(bytes: c_int) -> *mut c_void {
    let Some(layout) = layout(bytes) else { return null_mut() };
    // SAFETY: the layout has `HEAD` bytes at least.
    unsafe { noted(alloc(layout), bytes) }
}

/// The start of a block, and its layout.
///
/// # Safety
/// It was given by `give` or `change`, and not taken back since.
unsafe fn whole(block: *mut c_void) -> (*mut u8, Layout) {
    // SAFETY: before the block is its head, and what lies there is a size that a layout was made of.
    unsafe {
        let start = block.cast::<u8>().sub(HEAD);
        let bytes = start.cast::<usize>().read();
        (start, Layout::from_size_align_unchecked(bytes + HEAD, HEAD))
    }
}

unsafe extern "C" fn take(block: *mut c_void) {
    if !block.is_null() {
        // SAFETY: SQLite gives back what it was given, once.
        unsafe {
            let (start, layout) = whole(block);
            dealloc(start, layout);
        }
    }
}

unsafe extern "C" fn change(block: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(wanted) = layout(bytes) else { return null_mut() };
    // SAFETY: SQLite changes what it was given and has not given back; where there is no room it keeps what it has.
    unsafe {
        let (start, layout) = whole(block);
        noted(realloc(start, layout, wanted.size()), bytes)
    }
}

unsafe extern "C" fn size(block: *mut c_void) -> c_int {
    if block.is_null() {
        return 0;
    }
    // SAFETY: SQLite asks of what it was given and has not given back. It fitted into a `c_int` when it was asked for.
    unsafe { (whole(block).1.size() - HEAD) as c_int }
}

unsafe extern "C" fn round(bytes: c_int) -> c_int {
    bytes.saturating_add(7) & !7
}

unsafe extern "C" fn begin(_: *mut c_void) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn end(_: *mut c_void) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_what_was_asked_for_and_keeps_it_as_it_grows() {
        // SAFETY: each block is used as SQLite does: within its size, and until it is given back.
        unsafe {
            for bytes in [1, 8, 100, 4_360] {
                let block = give(bytes);
                assert!(!block.is_null() && block.addr().is_multiple_of(8));
                block.cast::<u8>().write_bytes(7, bytes as usize);
                let block = change(block, 2 * bytes + 1);
                assert_eq!(size(block), 2 * bytes + 1);
                assert!((0..bytes as usize).all(|at| block.cast::<u8>().add(at).read() == 7));
                take(block);
            }
            take(null_mut());
            assert!(give(-1).is_null());
        }
        assert_eq!(
            [0, 1, 8, 9, c_int::MAX].map(|bytes| unsafe { round(bytes) }),
            [0, 8, 8, 16, c_int::MAX - 7]
        );
    }
}
