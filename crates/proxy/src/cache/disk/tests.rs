//! The tier as a whole, with real files: what it keeps over restarts and crashes, and what it makes of a disk that fails.

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderName, HeaderValue, StatusCode};
use tidegate_model::cache::Wall;
use tidegate_model::cache::evict::Bounds;
use tidegate_model::cache::freshness::Freshness;
use tidegate_model::cache::orders::Place;
use tidegate_model::cache::purge::{Label, Purge};
use tidegate_model::cache::reuse::Rules;
use tidegate_model::cache::tags::Tag;

use super::*;
use crate::cache::kept::Head;
use crate::cache::known;
use crate::cache::memory::Memory;

const MIB: u64 = 1 << 20;
const NOW: Wall = Wall(1_000);
/// A test that waits longer for a thread has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process with a memory tier and a disk tier.
struct Process {
    memory: Memory,
    ground: Ground,
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let by = clock::now().after(PATIENCE);
    while !is() {
        assert!(clock::now() < by, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Process {
    fn start(directory: &std::path::Path) -> Process {
        Process::start_with(directory, 8 * MIB, 7)
    }

    fn start_with(directory: &std::path::Path, size: u64, boot: u128) -> Process {
        let process = Process::begin(directory, size, boot);
        until("it serves", || process.disk().told().standing == Standing::Serving);
        process
    }

    fn begin(directory: &std::path::Path, size: u64, boot: u128) -> Process {
        let bounds = Bounds { bytes: MIB, tenant_bytes: MIB, tenant_entries: 9 };
        let (memory, ground) = (Memory::new(bounds), Ground::new(directory.to_owned()));
        let settings = DiskSettings { path: directory.to_owned(), size };
        memory.put_disk(|marks| {
            let again = Duration::from_millis(5);
            Some(Arc::new(Disk::start_on(ground.clone(), settings, marks, boot, again)))
        });
        Process { memory, ground }
    }

    fn disk(&self) -> Arc<Disk> {
        self.memory.disk().unwrap()
    }

    fn told(&self) -> Told {
        self.disk().told()
    }

    /// Keeps an answer on disk alone.
    fn put(&self, tenant: &str, path: &str, body: &str) {
        self.put_for(tenant, path, body, "", &Fields::default());
    }

    fn put_for(&self, tenant: &str, path: &str, body: &str, vary: &str, request: &Fields) {
        let before = self.told();
        self.try_put(tenant, path, body, vary, request);
        until("it is written", || self.told().written > before.written);
    }

    fn try_put(&self, tenant: &str, path: &str, body: &str, vary: &str, request: &Fields) {
        let rules = Rules {
            freshness: Freshness { initial_age: 0, lifetime: 100, answered: NOW, heuristic: false },
            validate_always: false,
            never_stale: false,
            while_revalidate: 0,
            if_error: None,
            immutable: false,
        };
        let head = Head {
            status: StatusCode::OK,
            fields: Fields::default(),
            rules,
            tags: Box::new([Tag::named(b"t")]),
            made: self.memory.newest(),
            took_ms: 1,
            vary: known::tests::vary(vary),
            variant: Vec::new(),
        };
        let kept = Arc::new(Kept::new(&head, &[Bytes::copy_from_slice(body.as_bytes())]));
        self.disk().keep(&named(tenant, path), room(tenant), request, &head.vary, &kept);
    }

    /// The content that is found on disk, or what else is found.
    fn get(&self, tenant: &str, path: &str) -> String {
        self.get_for(tenant, path, &Fields::default())
    }

    fn get_for(&self, tenant: &str, path: &str, request: &Fields) -> String {
        let found = self.find(&named(tenant, path), request);
        match found.filter(|found| self.memory.is_good(&found.kept, &named(tenant, path))) {
            None => "nothing".to_owned(),
            Some(found) if found.kept.rules().freshness.lifetime < 100 => "stale".to_owned(),
            Some(found) => String::from_utf8(found.kept.content().collect::<Vec<_>>().concat()).unwrap(),
        }
    }

    fn find(&self, named: &Named<'_>, request: &Fields) -> Option<Brought> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async { self.disk().find(named, request)?.await })
    }

    /// Purges, and waits until it is written down.
    fn purge(&self, label: Label, purge: Purge) -> bool {
        self.memory.purge(label, purge, NOW);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(self.disk().purges_settled(PATIENCE))
    }

    fn close(self) {
        self.disk().close(PATIENCE);
    }

    fn crash(self) {
        let disk = self.disk();
        disk.jobs.send(Job::Crash).unwrap();
        until("it has ended", || matches!(disk.told().standing, Standing::Away(_)));
    }
}

fn key(tenant: &str, path: &str) -> Key {
    Key(0).variant(0, format!("{tenant} {path}").as_bytes())
}

fn room(tenant: &str) -> u64 {
    crc32fast::hash(tenant.as_bytes()).into()
}

fn named<'a>(tenant: &'a str, path: &'a str) -> Named<'a> {
    Named { tenant: Some(tenant), host: "h", path, key: key(tenant, path) }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Each way in which a process ends and another begins.
fn restarts() -> [fn(Process); 2] {
    [Process::close, Process::crash]
}

#[test]
fn what_was_kept_is_there_after_a_restart_and_after_a_crash() {
    for end in restarts() {
        let directory = directory();
        let process = Process::start(directory.path());
        process.put("acme", "/a", "first");
        process.put("acme", "/b", "old");
        process.put("acme", "/b", "new");
        assert_eq!(process.get("acme", "/b"), "new");
        end(process);
        let process = Process::start(directory.path());
        assert_eq!([process.get("acme", "/a"), process.get("acme", "/b")], ["first", "new"]);
        assert_eq!(process.get("other", "/a"), "nothing", "another tenant's");
        process.put("acme", "/c", "third");
        end(process);
        let process = Process::start(directory.path());
        assert_eq!([process.get("acme", "/a"), process.get("acme", "/c")], ["first", "third"]);
        assert_eq!(process.told().answers, 3);
    }
}

#[test]
fn nothing_that_was_purged_comes_back() {
    for end in restarts() {
        for (label, path) in [
            (Label::EVERYTHING, "/v1/a"),
            (Label::tenant("acme"), "/v1/a"),
            (Label::host("h"), "/v1/a"),
            (Label::prefix("h", "/v1"), "/v1/a"),
            (Label::path("h", "/v1/a"), "/v1/a"),
            (Label::target(key("acme", "/v1/a")), "/v1/a"),
            (Label::tag(Tag::named(b"t"), None), "/v1/a"),
            (Label::tag(Tag::named(b"t"), Some("acme")), "/v1/a"),
        ] {
            let directory = directory();
            let process = Process::start(directory.path());
            process.put("acme", path, "purged");
            assert!(process.purge(label, Purge::Hard));
            assert_eq!(process.get("acme", path), "nothing");
            process.put("acme", "/new", "later");
            end(process);
            for _ in 0..2 {
                let process = Process::start(directory.path());
                assert_eq!([process.get("acme", path), process.get("acme", "/new")], ["nothing", "later"]);
                process.close();
            }
        }
    }
}

#[test]
fn what_a_purge_made_stale_is_stale_after_a_restart() {
    for end in restarts() {
        let directory = directory();
        let process = Process::start(directory.path());
        process.put("acme", "/a", "x");
        assert!(process.purge(Label::host("h"), Purge::Soft));
        assert_eq!(process.get("acme", "/a"), "stale");
        end(process);
        let process = Process::start(directory.path());
        assert_eq!(process.get("acme", "/a"), "stale");
        assert!(process.purge(Label::tenant("acme"), Purge::Hard), "of what is from before");
        assert_eq!(process.get("acme", "/a"), "nothing");
    }
}

#[test]
fn what_was_purged_before_there_was_a_disk_is_known_to_it() {
    let directory = directory();
    let process = Process::start(directory.path());
    process.put("acme", "/a", "x");
    process.crash();
    let held = Ground::new(directory.path().to_owned()).lock().unwrap();
    let process = Process::begin(directory.path(), 8 * MIB, 7);
    until("it is refused", || matches!(process.told().standing, Standing::Away(_)));
    assert!(!process.purge(Label::host("h"), Purge::Hard), "nobody can write it down");
    drop(held);
    until("it serves", || process.told().standing == Standing::Serving);
    assert_eq!(process.get("acme", "/a"), "nothing");
    process.crash();
    assert_eq!(Process::start(directory.path()).get("acme", "/a"), "nothing");
}

#[test]
fn after_the_system_went_down_only_what_was_closed_is_believed() {
    for (end, expected) in [(Process::close as fn(Process), "x"), (Process::crash, "nothing")] {
        let directory = directory();
        let process = Process::start_with(directory.path(), 8 * MIB, 7);
        process.put("acme", "/a", "x");
        end(process);
        let process = Process::start_with(directory.path(), 8 * MIB, 8);
        assert_eq!(process.get("acme", "/a"), expected);
    }
}

#[test]
fn each_variant_is_there_after_a_restart_for_those_who_asked_for_it() {
    let language = |value| {
        Fields::from_iter([(HeaderName::from_static("accept-language"), HeaderValue::from_static(value))])
    };
    let directory = directory();
    let process = Process::start(directory.path());
    process.put_for("acme", "/a", "gut", "accept-language", &language("de"));
    process.put_for("acme", "/a", "good", "accept-language", &language("en"));
    process.crash();
    let process = Process::start(directory.path());
    assert_eq!(process.get_for("acme", "/a", &language("de")), "gut");
    assert_eq!(process.get_for("acme", "/a", &language("EN")), "good");
    assert_eq!(process.get("acme", "/a"), "nothing");
}

#[test]
fn an_answer_that_does_not_say_that_it_varies_is_kept_for_requests_like_its_own() {
    let language = |value| {
        Fields::from_iter([(HeaderName::from_static("accept-language"), HeaderValue::from_static(value))])
    };
    let directory = directory();
    let process = Process::start(directory.path());
    process.put_for("acme", "/a", "gut", "accept-language", &language("de"));
    process.put_for("acme", "/a", "bon", "", &language("fr"));
    let found = ["de", "fr", "en"].map(|value| process.get_for("acme", "/a", &language(value)));
    assert_eq!(found, ["gut", "bon", "nothing"]);
}

/// What is found of three answers after a crash and this.
fn check_spoilt(spoil: impl FnOnce(&std::path::Path, [u64; 3]), expected: [&str; 3]) {
    let directory = directory();
    let process = Process::start(directory.path());
    for (path, body) in [("/a", "first"), ("/b", "second"), ("/c", "third")] {
        process.put("acme", path, body);
    }
    let open = process.disk().shared.open.load_full().unwrap();
    let at = ["/a", "/b", "/c"].map(|path| {
        let (_, place) = open.index.find(key("acme", path), &Fields::default()).unwrap();
        u64::from(place.at)
    });
    drop(open);
    process.crash();
    spoil(&directory.path().join(segment::name(0)), at);
    let process = Process::start(directory.path());
    assert_eq!(["/a", "/b", "/c"].map(|path| process.get("acme", path)), expected);
    process.put("acme", "/d", "it goes on");
    assert_eq!(process.get("acme", "/d"), "it goes on");
}

#[test]
fn a_torn_tail_takes_the_last_answer_with_it_and_no_other() {
    let write = |path: &std::path::Path, at, bytes: &[u8]| {
        std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
    };
    check_spoilt(|path, at| write(path, at[2] + 20, &[0; 200]), ["first", "second", "nothing"]);
}

#[test]
fn a_byte_that_changed_is_noticed_and_served_to_nobody() {
    let flip = |path: &std::path::Path, at: u64| {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut bytes = vec![0; 400];
        file.read_exact_at(&mut bytes, at).unwrap();
        let content = bytes.windows(6).position(|window| window == b"second").unwrap();
        file.write_all_at(b"S", at + content as u64).unwrap();
    };
    check_spoilt(|path, at| flip(path, at[1]), ["first", "nothing", "third"]);
}

#[test]
fn a_file_that_was_cut_is_given_up_and_the_tier_goes_on() {
    check_spoilt(
        |path, at| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(at[2]).unwrap(),
        ["nothing", "nothing", "nothing"],
    );
    check_spoilt(|path, _| std::fs::remove_file(path).unwrap(), ["nothing", "nothing", "nothing"]);
}

#[test]
fn what_a_byte_changes_while_it_runs_is_counted_and_missed() {
    let directory = directory();
    let process = Process::start(directory.path());
    process.put("acme", "/a", "content");
    let open = process.disk().shared.open.load_full().unwrap();
    let (_, place) = open.index.find(key("acme", "/a"), &Fields::default()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(directory.path().join(segment::name(0))).unwrap();
    file.write_all_at(&[9; 8], u64::from(place.at) + 40).unwrap();
    assert_eq!(process.get("acme", "/a"), "nothing");
    let told = process.told();
    assert_eq!((told.spoilt, told.answers), (1, 0));
}

#[test]
fn a_lost_journal_gives_up_all_that_it_spoke_of() {
    for end in restarts() {
        let directory = directory();
        let process = Process::start(directory.path());
        process.put("acme", "/a", "x");
        end(process);
        std::fs::remove_file(directory.path().join("purges-0")).unwrap();
        std::fs::remove_file(directory.path().join("purges-1")).unwrap();
        let process = Process::start(directory.path());
        assert_eq!(process.get("acme", "/a"), "nothing");
    }
}

#[test]
fn it_never_takes_more_than_it_may_and_keeps_what_is_asked_for() {
    let directory = directory();
    let process = Process::start_with(directory.path(), 4 * MIB, 7);
    let body = "x".repeat(100_000);
    process.put("acme", "/hot", "hot");
    for turn in 0..120 {
        assert_eq!(process.get("acme", "/hot"), "hot", "after {turn} others");
        process.put("acme", &format!("/{turn}"), &body);
    }
    let told = process.told();
    assert!(told.size <= 4 * MIB && told.bytes <= told.size && told.evicted > 60, "{told:?}");
    let on_disk: u64 = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| segment::number(entry.file_name().to_str().unwrap()).is_some())
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert_eq!(on_disk, told.size);
    assert_eq!(process.get("acme", "/119"), body);
    process.crash();
    let process = Process::start_with(directory.path(), 4 * MIB, 7);
    assert_eq!([process.get("acme", "/hot"), process.get("acme", "/119")], ["hot", &body]);
}

#[test]
fn a_tenant_that_stores_much_pushes_out_its_own() {
    let directory = directory();
    let process = Process::start_with(directory.path(), 4 * MIB, 7);
    process.put("small", "/a", &"s".repeat(50_000));
    for turn in 0..120 {
        process.put("large", &format!("/{turn}"), &"x".repeat(100_000));
    }
    assert_eq!(process.get("small", "/a").len(), 50_000);
    assert_eq!(process.get("large", "/0"), "nothing");
}

#[test]
fn a_tier_of_another_size_keeps_what_has_room_in_it() {
    let body = "x".repeat(300_000);
    for end in restarts() {
        let directory = directory();
        let names: Vec<String> = (0..20).map(|number| format!("/{number}")).collect();
        let process = Process::start_with(directory.path(), 64 * MIB, 7);
        names.iter().for_each(|name| process.put("acme", name, &body));
        end(process);
        let process = Process::start_with(directory.path(), 100 * MIB, 7);
        assert!(names.iter().all(|name| process.get("acme", name) == body), "a larger one has all of it");
        process.put("acme", "/later", &body);
        end(process);
        // Segments of both sizes are there: of two and of three mebibytes.
        let process = Process::start_with(directory.path(), 8 * MIB, 7);
        let there: Vec<bool> = names.iter().map(|name| process.get("acme", name) == body).collect();
        assert!(process.told().size <= 8 * MIB && process.get("acme", "/later") == body);
        assert!(!there[0] && there[19], "what was written last stays: {there:?}");
        for turn in 0..60 {
            process.put("acme", &format!("/new/{turn}"), &body);
            assert!(process.told().size <= 8 * MIB);
        }
        assert_eq!(process.get("acme", "/new/59"), body);
        assert_eq!(process.told().standing, Standing::Serving);
    }
}

#[test]
fn how_far_the_log_was_read_is_known_to_the_next_process_with_what_was_purged() {
    let place = |millis| LogPlace { log: 9, place: Place { millis, number: 0 } };
    let read = |process: &Process| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(process.disk().log_place(PATIENCE))
    };
    for end in restarts() {
        let directory = directory();
        let process = Process::start(directory.path());
        assert_eq!(read(&process), None);
        process.put("acme", "/a", "purged");
        process.memory.purge(Label::path("h", "/a"), Purge::Hard, NOW);
        process.disk().log_read(place(5));
        assert!(process.purge(Label::path("h", "/b"), Purge::Hard), "what is written down after it has it");
        end(process);
        let process = Process::start(directory.path());
        assert_eq!((read(&process), process.get("acme", "/a")), (Some(place(5)), "nothing".to_owned()));
        end(process);
        let process = Process::start(directory.path());
        assert_eq!(read(&process), Some(place(5)), "it stays where nobody reads on");
    }
}

#[test]
fn what_is_larger_than_a_segment_is_not_kept_and_counted() {
    let directory = directory();
    let process = Process::start_with(directory.path(), 4 * MIB, 7);
    process.try_put("acme", "/a", &"x".repeat(2 * MIB as usize), "", &Fields::default());
    until("it is looked at", || process.told().large == 1);
    assert_eq!(process.told().standing, Standing::Serving);
}

#[test]
fn a_full_disk_is_gone_on_with_what_is_there() {
    let directory = directory();
    let process = Process::start_with(directory.path(), 4 * MIB, 7);
    process.put("acme", "/0", "first");
    process.ground.faults.full.store(true, Relaxed);
    for turn in 1..40 {
        process.put("acme", &format!("/{turn}"), &"x".repeat(100_000));
    }
    assert_eq!(process.get("acme", "/39").len(), 100_000);
    assert!(process.told().size < 4 * MIB);
    process.ground.faults.full.store(false, Relaxed);
    for turn in 40..80 {
        process.put("acme", &format!("/{turn}"), &"x".repeat(100_000));
    }
    assert_eq!(process.told().size, 4 * MIB, "it has grown as far as it may");
}

#[test]
fn a_disk_without_any_space_keeps_nothing_and_mends_itself() {
    let directory = directory();
    let settings = DiskSettings { path: directory.path().to_owned(), size: 4 * MIB };
    let ground = Ground::new(directory.path().to_owned());
    ground.faults.full.store(true, Relaxed);
    let disk = Disk::start_on(ground.clone(), settings, Marks::new(9), 7, Duration::from_millis(5));
    until("it is away", || matches!(disk.told().standing, Standing::Away(_)));
    ground.faults.full.store(false, Relaxed);
    until("it serves", || disk.told().standing == Standing::Serving);
}

#[test]
fn a_disk_that_takes_no_writes_is_still_read_and_mends_itself() {
    let directory = directory();
    let process = Process::start(directory.path());
    process.put("acme", "/a", "x");
    process.ground.faults.broken.store(true, Relaxed);
    process.try_put("acme", "/b", "y", "", &Fields::default());
    until("it is noticed", || matches!(process.told().standing, Standing::Failing(_)));
    assert_eq!([process.get("acme", "/a"), process.get("acme", "/b")], ["x", "nothing"]);
    assert_eq!((process.told().dropped, process.told().write_errors), (1, 1));
    process.ground.faults.broken.store(false, Relaxed);
    until("it writes again", || {
        process.try_put("acme", "/b", "y", "", &Fields::default());
        process.told().written > 1
    });
    until("the last of them is written", || process.get("acme", "/b") == "y");
}

#[test]
fn a_purge_that_cannot_be_written_down_gives_up_all_that_is_kept() {
    let directory = directory();
    let process = Process::start(directory.path());
    process.put("acme", "/a", "x");
    process.ground.faults.broken.store(true, Relaxed);
    assert!(!process.purge(Label::host("h"), Purge::Hard));
    until("it is away", || matches!(process.told().standing, Standing::Away(_)));
    process.ground.faults.broken.store(false, Relaxed);
    until("it serves", || process.told().standing == Standing::Serving);
    process.crash();
    assert_eq!(Process::start(directory.path()).get("acme", "/a"), "nothing");
}

#[test]
fn a_directory_that_is_taken_away_is_made_again_and_not_believed_when_it_comes_back() {
    let above = directory();
    let (here, away) = (above.path().join("cache"), above.path().join("away"));
    let process = Process::start(&here);
    process.put("acme", "/a", "x");
    std::fs::rename(&here, &away).unwrap();
    until("it is noticed", || {
        process.get("acme", "/a") == "nothing" && process.told().standing == Standing::Serving
    });
    process.memory.purge(Label::host("h"), Purge::Hard, NOW);
    process.put("acme", "/b", "y");
    process.crash();
    std::fs::remove_dir_all(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    let process = Process::start(&here);
    assert_eq!([process.get("acme", "/a"), process.get("acme", "/b")], ["nothing", "nothing"]);
}

#[test]
fn a_directory_that_cannot_be_is_tried_again_until_it_can() {
    let above = directory();
    let blocked = above.path().join("file");
    std::fs::write(&blocked, "in the way").unwrap();
    let process = Process::begin(&blocked.join("cache"), 8 * MIB, 7);
    until("it is away", || matches!(process.told().standing, Standing::Away(_)));
    assert_eq!(process.get("acme", "/a"), "nothing");
    process.try_put("acme", "/a", "x", "", &Fields::default());
    std::fs::remove_file(&blocked).unwrap();
    until("it serves", || process.told().standing == Standing::Serving);
    process.put("acme", "/a", "x");
    assert_eq!(process.get("acme", "/a"), "x");
}

#[test]
fn a_directory_serves_one_process_and_the_next_when_that_has_ended() {
    let directory = directory();
    let first = Process::start(directory.path());
    first.put("acme", "/a", "x");
    let second = Process::begin(directory.path(), 8 * MIB, 7);
    until(
        "it is refused",
        || matches!(second.told().standing, Standing::Away(why) if why.contains("another process")),
    );
    assert_eq!(first.get("acme", "/a"), "x");
    first.close();
    until("it serves", || second.told().standing == Standing::Serving);
    assert_eq!(second.get("acme", "/a"), "x");
}

#[test]
fn a_disk_that_hangs_holds_up_nobody_and_takes_no_memory() {
    let directory = directory();
    let process = Process::start(directory.path());
    process.put("acme", "/a", "x");
    let hangs = process.ground.faults.hangs.lock();
    for turn in 0..2 * WRITES_MAX {
        process.try_put("acme", &format!("/{turn}"), "y", "", &Fields::default());
    }
    assert!(process.told().dropped >= WRITES_MAX as u64 - 2);
    let most = process.disk().shared.waiting_bytes.load(Relaxed);
    process.try_put("acme", "/big", &"z".repeat(2 * WRITES_BYTES_MAX as usize), "", &Fields::default());
    assert_eq!(process.disk().shared.waiting_bytes.load(Relaxed), most);
    assert_eq!(process.get("acme", "/a"), "x", "what is there is read");
    drop(hangs);
    until("it has caught up", || process.disk().shared.waiting_bytes.load(Relaxed) == 0);
}

#[test]
fn many_who_ask_for_the_same_have_it_read_once() {
    let directory = directory();
    let process = Process::start(directory.path());
    process.put("acme", "/a", "x");
    let (disk, named, none) = (process.disk(), named("acme", "/a"), Fields::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let found = runtime.block_on(async {
        let one = || disk.find(&named, &none).unwrap();
        tokio::join!(one(), one(), one(), one())
    });
    assert!(found.0.is_some() && found.1.is_some() && found.2.is_some() && found.3.is_some());
    assert!(disk.shared.reading.lock().is_empty());
    assert_eq!(disk.told().hits, 4);
}

#[test]
fn what_is_only_fresher_is_not_written_again() {
    let directory = directory();
    let process = Process::start(directory.path());
    process.put("acme", "/a", "x");
    let Brought { kept, vary } = process.find(&named("acme", "/a"), &Fields::default()).unwrap();
    process.disk().keep_fresher(&named("acme", "/a"), 1, &Fields::default(), &vary, &kept);
    process.disk().keep_fresher(&named("acme", "/b"), 1, &Fields::default(), &vary, &kept);
    until("what is not there is written", || process.told().written == 2);
    assert_eq!(process.get("acme", "/a"), "x");
}

/// Measures what `docs/adr/0004-disk-tier.md` tells.
#[test]
#[ignore = "it writes a gibibyte: cargo test -p tidegate-proxy a_gibibyte -- --ignored --nocapture"]
fn a_gibibyte_is_there_again() {
    let directory = directory();
    let body = "x".repeat(16 * 1024 - 300);
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    let mut process = Process::start_with(directory.path(), 1024 * MIB, 7);
    for turn in 0..62_000 {
        process.try_put("acme", &format!("/{turn}"), &body, "", &Fields::default());
        if turn % 500 == 0 {
            until("it is written", || process.disk().shared.waiting_bytes.load(Relaxed) == 0);
        }
    }
    until("it is written", || process.disk().shared.waiting_bytes.load(Relaxed) == 0);
    for (how, end) in [("closed", Process::close as fn(Process)), ("killed", Process::crash)] {
        let told = process.told();
        println!(
            "{} answers, {} MiB of {} MiB, {} evicted",
            told.answers,
            told.bytes / MIB,
            told.size / MIB,
            told.evicted
        );
        end(process);
        let (began, before) = (clock::now(), resident());
        process = Process::start_with(directory.path(), 1024 * MIB, 7);
        let took = clock::now().since(began);
        let each = resident().saturating_sub(before) / process.told().answers.max(1);
        println!(
            "{how}: {} answers found in {took:?}, {each} bytes more memory for each",
            process.told().answers
        );
    }
}
