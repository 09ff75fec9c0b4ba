//! What answers take in memory, as the allocator counts it: in a program of its own, since it counts all of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use http::{HeaderValue, StatusCode};
use tidegate_model::cache::Wall;
use tidegate_model::cache::evict::Bounds;
use tidegate_model::cache::freshness::Freshness;
use tidegate_model::cache::key::Key;
use tidegate_model::cache::reuse::Rules;
use tidegate_model::cache::vary::Vary;
use tidegate_model::fields::Fields;
use tidegate_proxy::cache::kept::{Head, Kept};
use tidegate_proxy::cache::memory::{Memory, Named};

/// The system's allocator, and how much of it is in use if it rounds as the product's does.
struct Counted;

static IN_USE: AtomicI64 = AtomicI64::new(0);

/// The steps of mimalloc: of eight bytes, later of a quarter of the power of two below.
fn rounded(layout: Layout) -> i64 {
    let bytes = layout.size();
    let step = if bytes <= 64 { 8 } else { bytes.next_power_of_two() / 8 };
    bytes.next_multiple_of(step) as i64
}

// SAFETY: all is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(rounded(layout), Relaxed);
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(rounded(layout), Relaxed);
        // SAFETY: the caller's promise is the system's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

const ANSWERS: u64 = 50_000;
const CONTENT: usize = 1024;

fn head(number: u64, made: u64) -> Head {
    let value = |text: &str| HeaderValue::from_str(text).unwrap();
    let fields = Fields::from_iter([
        (CONTENT_TYPE, value("application/octet-stream")),
        (CACHE_CONTROL, value("public, max-age=3600")),
        (ETAG, value(&format!("\"{number}\""))),
        (LAST_MODIFIED, value("Thu, 01 Jan 2026 00:00:00 GMT")),
        (CONTENT_LENGTH, value(&CONTENT.to_string())),
    ]);
    let freshness = Freshness { initial_age: 0, lifetime: 3600, answered: Wall(1_000), heuristic: false };
    let rules = Rules {
        freshness,
        validate_always: false,
        never_stale: false,
        while_revalidate: 0,
        if_error: None,
        immutable: false,
    };
    let (vary, variant) = (Vary::default(), Vec::new());
    Head { status: StatusCode::OK, fields, rules, tags: Box::default(), made, took_ms: 1, vary, variant }
}

/// The bytes of an answer as it comes: its fields and its content.
fn own(head: &Head) -> i64 {
    let mut lines = Vec::new();
    head.fields.write(&mut lines, |_, _| true);
    (lines.len() + CONTENT) as i64
}

#[test]
fn an_answer_takes_less_than_300_bytes_beyond_its_own_and_is_counted_for_what_it_takes() {
    let bytes = 1 << 30;
    let memory = Memory::new(Bounds { bytes, tenant_bytes: bytes, tenant_entries: u32::MAX });
    let (none, mut of_answers) = (Fields::default(), 0);
    let before = IN_USE.load(Relaxed);
    for number in 0..ANSWERS {
        let head = head(number, memory.newest());
        of_answers += own(&head);
        // Keys are digests: these are spread as they are.
        let key = Key(u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let named = Named { tenant: Some("acme"), host: "h", path: "/", key };
        let kept = Arc::new(Kept::new(&head, &[Bytes::from(vec![b'x'; CONTENT])]));
        assert!(memory.keep(&named, 1, &none, &head.vary, kept));
    }
    let taken = IN_USE.load(Relaxed) - before;
    let beyond = (taken - of_answers) / ANSWERS as i64;
    assert!(beyond < 300, "{beyond} bytes beyond those of the answer");
    let (counted, answers) = memory.size();
    assert_eq!(answers as u64, ANSWERS);
    let share = taken as f64 / counted as f64;
    assert!((0.95..1.02).contains(&share), "{taken} bytes were taken, {counted} were counted");
}
