//! Memory: where it comes from, and that it goes back to the system when it is no longer needed.
//!
//! It comes from mimalloc by the shortest way. mimalloc's calls with an alignment, which the crate of that name makes for
//! everything, find a block at once only if its size is a power of two: for others they ask for a larger one by the slow way, each time.
//! What needs no more than the alignment that every block has is asked for without one.
//!
//! mimalloc gives back what was freed a while ago when something is allocated anew. A gate whose many connections have
//! become idle allocates nothing: without being asked it would keep the buffers of its busiest second for ever.

use std::alloc::{GlobalAlloc, Layout};
use std::time::Duration;

use libmimalloc_sys as mimalloc;

use tidegate_wire::{clock, task};

/// How often it is looked what can be given back.
const INTERVAL: Duration = Duration::from_secs(4);

/// The allocator of the process.
pub struct Allocator;

/// The alignment of every block of at least as many bytes (`MI_MAX_ALIGN_SIZE`); a smaller one has that of its size.
const ALIGNED: usize = 16;

/// Whether any block of this size is aligned as it has to be.
const fn is_plain(size: usize, align: usize) -> bool {
    align <= ALIGNED && align <= size
}

// SAFETY: blocks are mimalloc's, which gives none twice and all of which `mi_free` takes, whoever has asked for them by
// which call. Each call below has the alignment that the layout asks for: said, or the one that every block of the size has.
// Nothing here unwinds.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: any size will do, and the alignment of a layout is a power of two.
        unsafe {
            match is_plain(size, align) {
                true => mimalloc::mi_malloc(size).cast(),
                false => mimalloc::mi_malloc_aligned(size, align).cast(),
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as in `alloc`.
        unsafe {
            match is_plain(size, align) {
                true => mimalloc::mi_zalloc(size).cast(),
                false => mimalloc::mi_zalloc_aligned(size, align).cast(),
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller has it from this allocator.
        unsafe { mimalloc::mi_free(block.cast()) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller has the block from this allocator; any size and alignment will do, as in `alloc`.
        unsafe {
            match is_plain(size, layout.align()) {
                true => mimalloc::mi_realloc(block.cast(), size).cast(),
                false => mimalloc::mi_realloc_aligned(block.cast(), size, layout.align()).cast(),
            }
        }
    }
}

/// Gives back what this core has freed, from now on.
pub fn give_back() {
    task::spawn(async {
        loop {
            clock::sleep(INTERVAL).await;
            collect(false);
        }
    });
}

/// Gives back what this thread has freed: what was freed a while ago, or all of it.
pub fn collect(all: bool) {
    // SAFETY: it may be called at any time, by any thread, for whose own heap it is.
    unsafe { mimalloc::mi_collect(all) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_as_asked_and_keep_what_they_hold_when_they_grow() {
        for align in [1, 2, 4, 8, 16, 32, 64, 4096] {
            for size in (1..200).chain([255, 384, 1000, 1024, 1025, 1536, 5000, 40_000]) {
                let layout = Layout::from_size_align(size, align).expect("a layout");
                let more = size * 3 + 1;
                // SAFETY: the layouts are those that the blocks were asked for with, and no byte beyond them is touched.
                unsafe {
                    let zeroed = Allocator.alloc_zeroed(layout);
                    assert!(std::slice::from_raw_parts(zeroed, size).iter().all(|&byte| byte == 0));
                    Allocator.dealloc(zeroed, layout);
                    let block = Allocator.alloc(layout);
                    block.write_bytes(7, size);
                    let grown = Allocator.realloc(block, layout, more);
                    assert!(std::slice::from_raw_parts(grown, size).iter().all(|&byte| byte == 7));
                    assert!(
                        [zeroed, block, grown].iter().all(|block| block.addr() % align == 0),
                        "{layout:?}"
                    );
                    Allocator.dealloc(grown, Layout::from_size_align(more, align).expect("a layout"));
                }
            }
        }
    }
}
