//! Large answers: kept in slices, served as streams, put together from parts, and never wrong.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

use tidegate_testkit::{Gate, Origin, Visit, connect, until};

use crate::cache_disk::Directory;
use crate::{app, control};

const KIB: u64 = 1 << 10;
/// The bytes of a slice here.
const SLICE: u64 = 64 * KIB;
/// What is large here, and ends in the middle of a slice.
const LARGE: u64 = 12 * SLICE + 5;

/// What an application has: bytes that tell where they are and of which version.
struct Library {
    version: AtomicU64,
    size: AtomicU64,
    knows_ranges: AtomicBool,
    is_tagged: AtomicBool,
    fields: &'static str,
    /// Bytes that are sent before it waits.
    sends_first: AtomicU64,
    goes_on: AtomicBool,
    /// While it waits it sends one byte after the other.
    drips: AtomicBool,
}

impl Library {
    fn of(size: u64, fields: &'static str) -> Arc<Library> {
        Arc::new(Library {
            version: AtomicU64::new(1),
            size: AtomicU64::new(size),
            knows_ranges: AtomicBool::new(true),
            is_tagged: AtomicBool::new(true),
            fields,
            sends_first: AtomicU64::new(u64::MAX),
            goes_on: AtomicBool::new(true),
            drips: AtomicBool::new(false),
        })
    }

    fn new() -> Arc<Library> {
        Library::of(LARGE, "Cache-Control: max-age=600\r\n")
    }

    fn open(self: &Arc<Library>) -> Origin {
        let library = Arc::clone(self);
        Origin::scripted(move |visit| library.answer(visit))
    }

    /// What it has now.
    fn content(&self) -> Vec<u8> {
        bytes(self.version.load(SeqCst), 0, self.size.load(SeqCst))
    }

    fn answer(&self, visit: &mut Visit) -> Option<()> {
        visit.read_body()?;
        if visit.head.starts_with("POST") {
            return visit.say("HTTP/1.1 204 No Content\r\n\r\n");
        }
        let (version, size) = (self.version.load(SeqCst), self.size.load(SeqCst));
        let tag = format!("\"v{version}\"");
        let tag_line = if self.is_tagged.load(SeqCst) { format!("ETag: {tag}\r\n") } else { String::new() };
        let common = format!("{}{tag_line}", self.fields);
        if visit.field("if-none-match").is_some_and(|asked| asked == tag) {
            return visit.say(format!("HTTP/1.1 304 Not Modified\r\n{common}\r\n"));
        }
        let same = visit.field("if-range").is_none_or(|asked| asked == tag);
        let range = visit.field("range").filter(|_| same && self.knows_ranges.load(SeqCst));
        let range = range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let (line, from, to) = match range.map(|(from, last)| (from.parse::<u64>(), last.parse::<u64>())) {
            Some((Ok(from), last)) if from < size => {
                let to = last.map_or(size, |last| size.min(last + 1));
                let place = format!("Content-Range: bytes {from}-{}/{size}\r\n", to - 1);
                (format!("HTTP/1.1 206 Partial Content\r\n{place}"), from, to)
            }
            _ => ("HTTP/1.1 200 OK\r\n".to_owned(), 0, size),
        };
        visit.say(format!("{line}{common}Content-Length: {}\r\n\r\n", to - from))?;
        if visit.head.starts_with("HEAD") {
            return Some(());
        }
        let mut first = self.sends_first.load(SeqCst).saturating_add(from).min(to);
        say(visit, version, from, first)?;
        if first < to {
            until("it goes on", || {
                let goes_on = self.goes_on.load(SeqCst);
                if !goes_on && self.drips.load(SeqCst) {
                    // Whether anybody takes it is for the gate to find out.
                    let _ = say(visit, version, first, first + 1);
                    first += 1;
                }
                goes_on
            });
        }
        say(visit, version, first, to)
    }
}

fn say(visit: &mut Visit, version: u64, mut from: u64, to: u64) -> Option<()> {
    while from < to {
        let end = to.min(from + SLICE);
        visit.say(bytes(version, from, end))?;
        from = end;
    }
    Some(())
}

fn bytes(version: u64, from: u64, to: u64) -> Vec<u8> {
    (from..to).map(|at| (at ^ (at >> 8) ^ (at >> 16) ^ (version * 0x5b)) as u8).collect()
}

/// A gate that keeps what is larger than a slice in slices, on disk if there is a directory.
fn sliced(name: &str, origin: &Origin, files: Option<&Directory>, more: &str) -> Gate {
    let disk =
        files.map(|files| format!("disk = {{ path = \"{}\", size = \"256MiB\" }}\n", files.path().display()));
    let cache = format!("[cache]\nobject = \"64KiB\"\nslice = \"64KiB\"\n{}{more}", disk.unwrap_or_default());
    let route = "cache = { client_directives = true, stale_if_error = \"10m\" }";
    let gate = crate::gate(name, &format!("{}{cache}", app(&[origin.address], "", route)));
    if files.is_some() {
        until("the disk tier serves", || gate.metric("tidegate_cache_disk_up") == Some(1.0));
    }
    gate
}

/// A head, and all bytes that came behind it until the connection ended.
struct Came {
    head: String,
    body: Vec<u8>,
}

impl Came {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    fn field(&self, name: &str) -> &str {
        let prefix = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default()
    }
}

fn ask_for(address: SocketAddr, line: &str, fields: &str) -> TcpStream {
    let mut stream = connect(address);
    write!(stream, "{line} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{fields}\r\n").unwrap();
    stream
}

fn read(mut stream: TcpStream) -> Came {
    let mut all = Vec::new();
    // What breaks off may be reset.
    let _ = stream.read_to_end(&mut all);
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    Came { head: String::from_utf8_lossy(&all[..end]).to_lowercase(), body: all.split_off(end) }
}

fn get(gate: &Gate, fields: &str) -> Came {
    read(ask_for(gate.address, "GET /film", fields))
}

/// Asks, and expects this of `Cache-Status`, and these bytes of what the library has.
fn check(gate: &Gate, library: &Library, fields: &str, begins: &str, from: u64, to: u64) -> Came {
    let came = get(gate, fields);
    assert!(came.field("cache-status").starts_with(begins), "{fields}: {}", came.head);
    let expected = bytes(library.version.load(SeqCst), from, to);
    assert_eq!(came.field("content-length"), expected.len().to_string(), "{}", came.head);
    assert!(
        came.body == expected,
        "{fields}: {} bytes of {}: {}",
        came.body.len(),
        expected.len(),
        came.head
    );
    came
}

fn slices(gate: &Gate, outcome: &str) -> f64 {
    gate.metric(&format!("tidegate_cache_slices_total{{outcome=\"{outcome}\"}}")).expect("it is told")
}

fn kept(gate: &Gate, count: u64) {
    until("its slices are kept", || slices(gate, "kept") >= count as f64);
}

/// The `Range` of each request but the first so many.
fn ranges(origin: &Origin, but: usize) -> Vec<String> {
    let heads = origin.recorded().into_iter().skip(but).map(|request| request.head.to_lowercase());
    let of = |head: String| {
        head.lines().find_map(|line| Some(line.strip_prefix("range: ")?.to_owned())).unwrap_or_default()
    };
    heads.map(of).collect()
}

/// Slices that the disk did not take in time, and readings of it that failed or took too long.
fn lost(gate: &Gate) -> f64 {
    let of = |metric| gate.metric(metric).unwrap_or_else(|| panic!("{metric} is told"));
    of("tidegate_cache_slices_total{outcome=\"dropped\"}")
        + of("tidegate_cache_disk_reads_total{outcome=\"unread\"}")
}

const MISS: &str = "tidegate; fwd=uri-miss; fwd-status=200";
const HIT: &str = "tidegate; hit; ttl=";
const PARTIAL: &str = "tidegate; fwd=partial; ";

#[test]
fn a_large_answer_is_served_from_disk_and_by_the_next_process() {
    let (library, files) = (Library::new(), Directory::new("large-disk"));
    let origin = library.open();
    let mut first = sliced("large-disk-1", &origin, Some(&files), "");
    check(&first, &library, "", MISS, 0, LARGE);
    kept(&first, 13);
    check(&first, &library, "", HIT, 0, LARGE);
    assert_eq!(origin.recorded().len(), 1);
    assert_eq!(first.metric("tidegate_cache_answers"), Some(1.0), "no slice is in memory");
    first.signal("-TERM");
    first.wait();
    let second = sliced("large-disk-2", &origin, Some(&files), "");
    check(&second, &library, "", HIT, 0, LARGE);
    assert_eq!(origin.recorded().len(), 1);
}

#[test]
fn head_conditions_and_ranges_are_answered_from_slices() {
    let (library, files) = (Library::new(), Directory::new("large-parts"));
    let origin = library.open();
    let gate = sliced("large-parts", &origin, Some(&files), "");
    check(&gate, &library, "", MISS, 0, LARGE);
    kept(&gate, 13);
    let head = read(ask_for(gate.address, "HEAD /film", ""));
    assert_eq!((head.status(), head.field("content-length")), ("200", &*LARGE.to_string()));
    assert_eq!(head.field("tidegate-slices"), "", "{}", head.head);
    assert_eq!(get(&gate, "If-None-Match: \"v1\"\r\n").status(), "304");
    let part = check(&gate, &library, "Range: bytes=100-299999\r\n", HIT, 100, 300_000);
    assert_eq!((part.status(), part.field("content-range")), ("206", &*format!("bytes 100-299999/{LARGE}")));
    check(&gate, &library, "Range: bytes=-7\r\n", HIT, LARGE - 7, LARGE);
    check(&gate, &library, "Range: bytes=5-9\r\nIf-Range: \"v1\"\r\n", HIT, 5, 10);
    check(&gate, &library, "Range: bytes=5-9\r\nIf-Range: \"v0\"\r\n", HIT, 0, LARGE);
    let none = get(&gate, &format!("Range: bytes={LARGE}-\r\n"));
    assert_eq!((none.status(), none.field("content-range")), ("416", &*format!("bytes */{LARGE}")));
    let both = get(&gate, "Range: bytes=65530-65540,-3\r\n");
    let boundary = both.field("content-type").rsplit('=').next().unwrap().to_owned();
    let mut expected = Vec::new();
    for (from, to) in [(65_530, 65_541), (LARGE - 3, LARGE)] {
        let head = format!("\r\n--{boundary}\r\nContent-Range: bytes {from}-{}/{LARGE}\r\n\r\n", to - 1);
        expected.extend(head.into_bytes());
        expected.extend(bytes(1, from, to));
    }
    expected.extend(format!("\r\n--{boundary}--\r\n").into_bytes());
    assert!(both.body == expected, "{}", both.head);
    assert_eq!(origin.recorded().len(), 1);
}

#[test]
fn parts_are_kept_and_what_is_missing_is_asked_for_by_slices() {
    let (library, files) = (Library::new(), Directory::new("large-put"));
    let origin = library.open();
    let gate = sliced("large-put", &origin, Some(&files), "");
    // Of what is not known yet a part is passed on as it was asked for; two slices lie in it.
    let passed = "tidegate; fwd=uri-miss; fwd-status=206; stored; detail=slices";
    check(&gate, &library, "Range: bytes=100000-300000\r\n", passed, 100_000, 300_001);
    kept(&gate, 2);
    until("they are on disk", || {
        gate.metric("tidegate_cache_disk_writes_total{outcome=\"written\"}") >= Some(3.0)
    });
    check(&gate, &library, "Range: bytes=131072-262143\r\n", HIT, 2 * SLICE, 4 * SLICE);
    assert_eq!(origin.recorded().len(), 1);
    let told = control(&gate, "/cache/inspect?url=http%3A%2F%2Ftest%2Ffilm&tenant=anonymous");
    let whole = format!("\"content_bytes\":{LARGE}");
    assert!(told.contains("\"slices\":{\"there\":2,\"all\":13}") && told.contains(&whole), "{told}");
    assert!(!told.contains("tidegate-slices"), "what is ours is told to nobody: {told}");
    check(&gate, &library, "Range: bytes=10-19\r\n", PARTIAL, 10, 20);
    assert_eq!(ranges(&origin, 1), ["bytes=0-65535"]);
    kept(&gate, 3);
    check(&gate, &library, "Range: bytes=0-65535\r\n", HIT, 0, SLICE);
    check(&gate, &library, "", PARTIAL, 0, LARGE);
    assert_eq!(ranges(&origin, 2), ["bytes=65536-131071".to_owned(), format!("bytes=262144-{}", LARGE - 1)]);
    kept(&gate, 13);
    check(&gate, &library, "", HIT, 0, LARGE);
    assert_eq!(origin.recorded().len(), 4);
    let asked = &origin.recorded()[1].head.to_lowercase();
    assert!(asked.contains("if-range: \"v1\"") && !asked.contains("if-none-match"), "{asked}");
}

#[test]
fn many_who_ask_at_once_for_something_large_make_one_request() {
    const MANY: usize = 10;
    let (library, files) = (Library::new(), Directory::new("large-many"));
    library.sends_first.store(SLICE + SLICE / 2, SeqCst);
    library.goes_on.store(false, SeqCst);
    let origin = library.open();
    let gate = sliced("large-many", &origin, Some(&files), "");
    let reading = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..MANY)
        .map(|_| {
            let (address, reading) = (gate.address, Arc::clone(&reading));
            std::thread::spawn(move || {
                let mut stream = ask_for(address, "GET /film", "");
                let mut begin = vec![0; SLICE as usize];
                stream.read_exact(&mut begin).unwrap();
                reading.fetch_add(1, SeqCst);
                stream.read_to_end(&mut begin).unwrap();
                begin
            })
        })
        .collect();
    until("each reads what has come", || reading.load(SeqCst) == MANY);
    library.goes_on.store(true, SeqCst);
    let whole = library.content();
    for client in clients {
        let all = client.join().unwrap();
        assert!(all.ends_with(&whole), "{} bytes", all.len());
    }
    // Whoever cannot have a slice back in time, of a disk that stands still, asks for it again: that is counted.
    let asked_again = ranges(&origin, 1);
    let lost = lost(&gate);
    assert!(asked_again.is_empty() || lost > 0.0, "{asked_again:?} were asked for though nothing was lost");
}

#[test]
fn many_who_ask_at_once_for_the_same_slice_make_one_request() {
    const MANY: usize = 8;
    let (library, files) = (Library::new(), Directory::new("large-slice"));
    let origin = library.open();
    let gate = sliced("large-slice", &origin, Some(&files), "");
    check(&gate, &library, "Range: bytes=0-9\r\n", "tidegate; fwd=uri-miss", 0, 10);
    library.sends_first.store(100, SeqCst);
    library.goes_on.store(false, SeqCst);
    let clients: Vec<_> =
        (0..MANY).map(|_| ask_for(gate.address, "GET /film", "Range: bytes=70000-70009\r\n")).collect();
    // Each of them has a head only when the one request is under way, and none before it has gone on has its bytes.
    until("the slice is asked for", || origin.recorded().len() == 2);
    let mut heads = Vec::new();
    for mut stream in clients {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        heads.push(stream);
    }
    library.goes_on.store(true, SeqCst);
    for mut stream in heads {
        let mut body = Vec::new();
        stream.read_to_end(&mut body).unwrap();
        assert!(body == bytes(1, 70_000, 70_010));
    }
    assert_eq!(ranges(&origin, 1), ["bytes=65536-131071"]);
}

#[test]
fn what_has_changed_is_never_mixed_with_what_was() {
    let (library, files) = (Library::new(), Directory::new("large-changed"));
    let origin = library.open();
    let gate = sliced("large-changed", &origin, Some(&files), "");
    check(&gate, &library, "Range: bytes=0-262143\r\n", "tidegate; fwd=uri-miss", 0, 4 * SLICE);
    until("its slices are on disk", || {
        gate.metric("tidegate_cache_disk_writes_total{outcome=\"written\"}") >= Some(5.0)
    });
    library.version.store(2, SeqCst);
    // Its head has been sent when it turns out that the rest is not there any more.
    let broken = get(&gate, "");
    assert!(broken.body == bytes(1, 0, 4 * SLICE), "{} bytes: {}", broken.body.len(), broken.head);
    assert_eq!((slices(&gate, "changed"), slices(&gate, "broken")), (1.0, 1.0));
    check(&gate, &library, "", MISS, 0, LARGE);
    kept(&gate, 4 + 13);
    // And where it turns out before: what is new is passed on.
    library.version.store(3, SeqCst);
    let other = sliced("large-changed-2", &origin, None, "");
    check(&other, &library, "Range: bytes=0-9\r\n", "tidegate; fwd=uri-miss", 0, 10);
    library.version.store(4, SeqCst);
    check(&other, &library, "Range: bytes=70000-70009\r\n", "tidegate; fwd=partial", 70_000, 70_010);
    assert_eq!(slices(&other, "broken"), 0.0);
}

#[test]
fn an_application_that_knows_no_ranges_is_asked_for_the_whole_once() {
    let (library, files) = (Library::new(), Directory::new("large-no-ranges"));
    let origin = library.open();
    let gate = sliced("large-no-ranges", &origin, Some(&files), "");
    check(&gate, &library, "Range: bytes=0-9\r\n", "tidegate; fwd=uri-miss", 0, 10);
    library.knows_ranges.store(false, SeqCst);
    check(&gate, &library, "", PARTIAL, 0, LARGE);
    kept(&gate, 13);
    check(&gate, &library, "Range: bytes=600000-600009\r\n", HIT, 600_000, 600_010);
    check(&gate, &library, "", HIT, 0, LARGE);
    assert_eq!(ranges(&origin, 1), [format!("bytes=0-{}", LARGE - 1)]);
}

#[test]
fn what_nobody_reads_any_more_ends_with_a_slice_and_is_gone_on_with() {
    let (library, files) = (Library::new(), Directory::new("large-left"));
    library.sends_first.store(4 * SLICE, SeqCst);
    library.goes_on.store(false, SeqCst);
    library.drips.store(true, SeqCst);
    let origin = library.open();
    let gate = sliced("large-left", &origin, Some(&files), "");
    let mut client = ask_for(gate.address, "GET /film", "");
    let mut begin = vec![0; SLICE as usize];
    client.read_exact(&mut begin).unwrap();
    kept(&gate, 4);
    drop(client);
    until("it has left", || gate.metric("tidegate_client_gone_total{route=\"all\"}") == Some(1.0));
    library.goes_on.store(true, SeqCst);
    until("it is given up", || gate.metric("tidegate_cache_awaited") == Some(0.0));
    check(&gate, &library, "", PARTIAL, 0, LARGE);
    let asked = ranges(&origin, 1);
    // It ended with the slice that was coming, or one that came with the same piece; with the fourth, where nothing more had come
    // when its reader left.
    let from = |slice: u64| vec![format!("bytes={}-{}", slice * SLICE, LARGE - 1)];
    assert!((4..12).any(|slice| asked == from(slice)), "{asked:?}");
    kept(&gate, 13);
    check(&gate, &library, "", HIT, 0, LARGE);
}

#[test]
fn without_a_validator_nothing_is_put_together() {
    let (library, files) = (Library::new(), Directory::new("large-untagged"));
    library.is_tagged.store(false, SeqCst);
    let origin = library.open();
    let gate = sliced("large-untagged", &origin, Some(&files), "");
    check(
        &gate,
        &library,
        "Range: bytes=0-262143\r\n",
        "tidegate; fwd=uri-miss; fwd-status=206; detail=part",
        0,
        4 * SLICE,
    );
    check(&gate, &library, "", MISS, 0, LARGE);
    kept(&gate, 13);
    check(&gate, &library, "Range: bytes=70000-70009\r\n", HIT, 70_000, 70_010);
    assert_eq!(origin.recorded().len(), 2);
}

#[test]
fn a_slice_that_is_spoilt_on_disk_is_asked_for_again() {
    let (library, files) = (Library::new(), Directory::new("large-spoilt"));
    let origin = library.open();
    let mut first = sliced("large-spoilt-1", &origin, Some(&files), "");
    check(&first, &library, "", MISS, 0, LARGE);
    kept(&first, 13);
    first.signal("-TERM");
    first.wait();
    let torn = bytes(1, 5 * SLICE + 1_000, 5 * SLICE + 1_064);
    let mut spoilt = 0;
    for entry in std::fs::read_dir(files.path()).unwrap().flatten() {
        let mut all = std::fs::read(entry.path()).unwrap();
        if let Some(at) = all.windows(torn.len()).position(|window| window == torn) {
            all[at] ^= 1;
            std::fs::write(entry.path(), all).unwrap();
            spoilt += 1;
        }
    }
    assert_eq!(spoilt, 1);
    let second = sliced("large-spoilt-2", &origin, Some(&files), "");
    check(&second, &library, "", HIT, 0, LARGE);
    let slice = format!("bytes={}-{}", 5 * SLICE, 6 * SLICE - 1);
    assert_eq!(ranges(&origin, 1), [slice]);
    assert_eq!(second.metric("tidegate_cache_disk_reads_total{outcome=\"spoilt\"}"), Some(1.0));
}

#[test]
fn a_purge_takes_it_away_and_leaves_who_is_in_its_middle() {
    let (library, files) = (Library::new(), Directory::new("large-purge"));
    library.sends_first.store(5 * SLICE, SeqCst);
    library.goes_on.store(false, SeqCst);
    let origin = library.open();
    let gate = sliced("large-purge", &origin, Some(&files), "");
    let mut client = ask_for(gate.address, "GET /film", "");
    let mut all = vec![0; SLICE as usize];
    client.read_exact(&mut all).unwrap();
    assert_eq!(read(ask_for(gate.address, "POST /film", "Content-Length: 0\r\n")).status(), "204");
    library.goes_on.store(true, SeqCst);
    client.read_to_end(&mut all).unwrap();
    assert!(all.ends_with(&library.content()), "{} bytes", all.len());
    check(&gate, &library, "", MISS, 0, LARGE);
}

#[test]
fn what_is_validated_keeps_its_slices_and_stands_in_when_the_application_fails() {
    let library = Library::of(LARGE, "Cache-Control: max-age=0\r\n");
    let files = Directory::new("large-validated");
    let origin = library.open();
    let gate = sliced("large-validated", &origin, Some(&files), "");
    check(&gate, &library, "", MISS, 0, LARGE);
    kept(&gate, 13);
    check(&gate, &library, "", "tidegate; fwd=stale; fwd-status=304", 0, LARGE);
    check(&gate, &library, "Range: bytes=9-99\r\n", "tidegate; fwd=stale; fwd-status=304", 9, 100);
    origin.stop();
    let stale = check(&gate, &library, "", "tidegate; hit; ttl=", 0, LARGE);
    assert!(stale.field("cache-status").contains("detail=stale-if-error"), "{}", stale.head);
}

#[test]
fn without_a_disk_slices_are_in_memory_up_to_an_eighth_of_it() {
    let library = Library::new();
    let origin = library.open();
    let gate = sliced("large-memory", &origin, None, "memory = \"16MiB\"\n");
    check(&gate, &library, "", MISS, 0, LARGE);
    kept(&gate, 13);
    check(&gate, &library, "", HIT, 0, LARGE);
    assert_eq!(origin.recorded().len(), 1);
    library.size.store(2 * KIB * KIB + 1, SeqCst);
    let more = read(ask_for(gate.address, "GET /more", ""));
    assert!(more.field("cache-status").ends_with("detail=large"), "{}", more.head);
    assert!(more.body == library.content());
}

#[test]
fn no_large_answer_is_kept_where_that_is_switched_off() {
    let (library, files) = (Library::new(), Directory::new("large-off"));
    let origin = library.open();
    let gate = sliced("large-off", &origin, Some(&files), "large = \"0\"\n");
    for _ in 0..2 {
        let came = check(&gate, &library, "", "tidegate; fwd=uri-miss", 0, LARGE);
        assert!(came.field("cache-status").ends_with("detail=large"), "{}", came.head);
    }
    assert!(control(&gate, "/status").contains("\"slices\""));
}

#[test]
fn what_is_very_large_takes_little_memory_and_comes_from_disk_the_second_time() {
    const MIB: u64 = 1 << 20;
    let library = Library::of(256 * MIB, "Cache-Control: max-age=600\r\n");
    let files = Directory::new("large-very");
    let origin = library.open();
    let cache = format!(
        "[cache]\nmemory = \"16MiB\"\ndisk = {{ path = \"{}\", size = \"2GiB\" }}\n",
        files.path().display()
    );
    let route = "deadline = \"120s\"\ncache = {}";
    let gate = crate::gate("large-very", &format!("{}{cache}", app(&[origin.address], "", route)));
    until("the disk tier serves", || gate.metric("tidegate_cache_disk_up") == Some(1.0));
    let before = gate.memory();
    for turn in 0..2 {
        let mut stream = ask_for(gate.address, "GET /film", "");
        let (mut block, mut most, mut came) = (vec![0; MIB as usize], 0, 0);
        loop {
            let length = stream.read(&mut block).unwrap();
            if length == 0 {
                break;
            }
            came += length as u64;
            most = most.max(gate.memory());
        }
        assert!((256 * MIB..257 * MIB).contains(&came), "{came} bytes came");
        assert!(most.saturating_sub(before) < 64 * MIB, "{} MiB more", (most - before) / MIB);
        kept(&gate, 1_024 * (1 - turn));
    }
    assert_eq!(ranges(&origin, 1), [""; 0]);
}
