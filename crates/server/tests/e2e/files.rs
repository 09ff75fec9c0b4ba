//! Static files as an upstream.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use tidegate_testkit::{
    Answer, Gate, Origin, Reply, ask, ask_on, block_on, connect, h2_connect, h2_read, send, until,
};

use crate::{control, gate};

/// A directory of files, and what must not be seen beside it.
struct Site {
    gate: Gate,
    root: PathBuf,
}

impl Site {
    /// `files` stands in the table of the upstream's files, `upstream` in that of the upstream, `route` in the route's.
    fn new(name: &str, files: &str, upstream: &str, route: &str) -> Site {
        let folder = Gate::folder(name);
        let root = folder.join("public");
        for (path, text) in [
            ("secret.txt", "secret"),
            ("public/index.html", "<h1>home</h1>"),
            ("public/a.txt", "0123456789"),
            ("public/docs/index.html", "<h1>docs</h1>"),
            ("public/empty/x", ""),
            ("public/.env", "KEY=1"),
            ("public/.git/config", "[core]"),
            ("public/.well-known/security.txt", "Contact: us"),
            ("public/404.html", "<h1>nothing here</h1>"),
        ] {
            write(&folder.join(path), text);
        }
        // What was changed just now has a weak tag for a while.
        for path in ["index.html", "a.txt"] {
            age(&root.join(path), 60);
        }
        let config = format!(
            "workers = 1\n[upstream.site]\n{upstream}\n[upstream.site.files]\nroot = \"public\"\n{files}\n\
             [[route]]\nname = \"all\"\nupstream = \"site\"\n{route}\n"
        );
        Site { gate: gate(name, &config), root }
    }

    fn get(&self, path: &str, fields: &str) -> Answer {
        ask(self.gate.address, &format!("GET {path}"), fields)
    }

    /// The status and the body of an answer to GET.
    fn check(&self, path: &str, status: u16, body: &str) {
        let answer = self.get(path, "");
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path}: {}", answer.head);
    }

    /// What was noted of an exchange.
    fn explain(&self, answer: &Answer) -> String {
        let path = format!("/explain/{}", answer.header("x-request-id"));
        let mut told = String::new();
        until("the receipt is settled", || {
            told = control(&self.gate, &path);
            told.starts_with("HTTP/1.0 200")
        });
        told
    }
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Makes a file as old as this, in seconds.
fn age(path: &Path, seconds: u64) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    let then = tidegate_wire::clock::wall() - std::time::Duration::from_secs(seconds);
    file.set_modified(then).unwrap();
}

#[test]
fn a_directory_answers_with_its_files() {
    let site = Site::new("files-plain", "", "", "");
    site.check("/", 200, "<h1>home</h1>");
    site.check("/index.html?v=3", 200, "<h1>home</h1>");
    site.check("/docs/", 200, "<h1>docs</h1>");
    site.check("/.well-known/security.txt", 200, "Contact: us");
    site.check("/empty/x", 200, "");
    for missing in ["/none", "/empty/", "/empty", "/a.txt/", "/a.txt/b", "/docs/index.html/"] {
        site.check(missing, 404, "404 Not Found\n");
    }
    let answer = site.get("/a.txt", "");
    for (name, value) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", "10"),
        ("accept-ranges", "bytes"),
        ("vary", "accept-encoding"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(answer.header(name), value, "{}", answer.head);
    }
    assert!(
        !answer.header("last-modified").is_empty() && !answer.header("date").is_empty(),
        "{}",
        answer.head
    );
    let told = site.explain(&answer);
    assert!(told.contains("found the file, in ") && told.contains("answered with 200"), "{told}");
    assert!(site.explain(&site.get("/.env", "")).contains("hidden files are not served"));
}

#[test]
fn a_directory_without_its_slash_is_redirected_to_itself() {
    let site = Site::new("files-slash", "", "", "path = \"/site/\"\nrewrite = \"/\"");
    for (path, location) in
        [("/site/docs", "./docs/"), ("/site/docs?q=1", "./docs/?q=1"), ("/site", "./site/")]
    {
        let answer = site.get(path, "");
        assert_eq!((answer.status, answer.header("location")), (308, location), "{path}");
    }
    assert_eq!(site.get("/site/docs/", "").body, "<h1>docs</h1>");
    assert_eq!(site.get("/site/", "").body, "<h1>home</h1>");
    // It does not tell that there is a directory in which nothing is to be seen.
    assert_eq!(site.get("/site/empty", "").status, 404);
}

#[test]
fn nothing_outside_of_the_root_is_ever_served() {
    let site = Site::new("files-escape", "hidden = true", "", "");
    symlink("../secret.txt", site.root.join("link")).unwrap();
    symlink(site.root.join("../secret.txt"), site.root.join("absolute")).unwrap();
    symlink("..", site.root.join("up")).unwrap();
    symlink("/", site.root.join("everything")).unwrap();
    symlink("a.txt", site.root.join("inside")).unwrap();
    site.check("/inside", 200, "0123456789");
    let long = format!("/{}", "x".repeat(4_000));
    let deep = "/a".repeat(2_000);
    for path in [
        "/../secret.txt",
        "/docs/../../secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "/%2e%2e%2fsecret.txt",
        "/%252e%252e/secret.txt",
        "/%252e%252e%252fsecret.txt",
        "/..%5csecret.txt",
        "/..\\secret.txt",
        "/docs/..;/..;/secret.txt",
        "/./../secret.txt",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "///etc/passwd",
        "/docs//../../secret.txt",
        "/%c0%ae%c0%ae/secret.txt",
        "/%uff0e%uff0e/secret.txt",
        "/a.txt%00.html",
        "/../secret.txt%00",
        "/a.txt%0a",
        "/link",
        "/absolute",
        "/up/secret.txt",
        "/everything/etc/passwd",
        "/file:///etc/passwd",
        &long,
        &deep,
    ] {
        let answer = send(
            site.gate.address,
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        let status = &answer[9..12];
        assert!(["400", "404"].contains(&status), "{path}: {answer}");
        assert!(!answer.contains("root:") && !answer.ends_with("secret"), "{path}: {answer}");
    }
    // The absolute form of a request line names the same.
    let answer =
        send(site.gate.address, b"GET http://a/a.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.ends_with("0123456789"), "{answer}");
}

#[test]
fn what_is_hidden_or_no_file_is_not_served() {
    let site = Site::new("files-hidden", "", "", "");
    let pipe = site.root.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(site.root.join("socket")).unwrap();
    symlink("/dev/zero", site.root.join("zero")).unwrap();
    for path in ["/.env", "/.git/config", "/%2egit/config", "/docs/.hidden", "/pipe", "/socket", "/zero"] {
        site.check(path, 404, "404 Not Found\n");
    }
    let shown = Site::new("files-shown", "hidden = true", "", "");
    shown.check("/.env", 200, "KEY=1");
}

#[test]
fn only_reading_is_allowed() {
    let site = Site::new("files-methods", "", "", "");
    let raw = send(site.gate.address, b"HEAD /a.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(
        raw.to_ascii_lowercase().contains("content-length: 10\r\n") && raw.ends_with("\r\n\r\n"),
        "{raw}"
    );
    for method in ["PUT", "DELETE", "PATCH", "PROPFIND"] {
        let answer = ask(site.gate.address, &format!("{method} /a.txt"), "Content-Length: 0\r\n");
        assert_eq!((answer.status, answer.header("allow")), (405, "get, head, options"), "{method}");
    }
    let post = send(
        site.gate.address,
        b"POST /a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    );
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    let options = ask(site.gate.address, "OPTIONS /a.txt", "");
    assert_eq!((options.status, options.header("allow")), (204, "get, head, options"));
}

#[test]
fn conditions_are_answered_by_tag_and_date() {
    let site = Site::new("files-conditions", "", "", "");
    let first = site.get("/a.txt", "");
    let tag = first.header("etag");
    let raw = send(site.gate.address, b"GET /a.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let modified = raw.lines().find_map(|line| line.strip_prefix("last-modified: ")).unwrap();
    assert!(tag.starts_with("w/\"") || tag.starts_with('"'), "{tag}");
    let opaque = tag.trim_start_matches("w/");
    for (fields, status) in [
        (format!("If-None-Match: {opaque}\r\n"), 304),
        (format!("If-None-Match: \"x\", W/{opaque}\r\n"), 304),
        ("If-None-Match: *\r\n".to_owned(), 304),
        ("If-None-Match: \"x\"\r\n".to_owned(), 200),
        (format!("If-Modified-Since: {modified}\r\n"), 304),
        ("If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n".to_owned(), 200),
        (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {modified}\r\n"), 200),
        ("If-Match: \"x\"\r\n".to_owned(), 412),
        ("If-Match: *\r\n".to_owned(), 200),
        ("If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n".to_owned(), 412),
    ] {
        let answer = site.get("/a.txt", &fields);
        assert_eq!(answer.status, status, "{fields}: {}", answer.head);
        if status == 304 {
            // Weak while the file is so young that it could change within its time stamp.
            let told = answer.header("etag").trim_start_matches("w/");
            assert_eq!((told, answer.body.as_str()), (opaque, ""), "{fields}");
        }
    }
    // Another content is another tag.
    write(&site.root.join("a.txt"), "987654321");
    let changed = site.get("/a.txt", &format!("If-None-Match: {opaque}\r\n"));
    assert_eq!((changed.status, changed.body.as_str()), (200, "987654321"));
}

#[test]
fn ranges_are_cut_from_small_files_and_large_ones() {
    let site = Site::new("files-ranges", "", "", "");
    let large: Vec<u8> = (0..300_000u32).map(|n| b'a' + (n % 23) as u8).collect();
    write(&site.root.join("large.bin"), &large);
    for (path, bytes) in [("/a.txt", b"0123456789".to_vec()), ("/large.bin", large)] {
        let text = |from: usize, to: usize| String::from_utf8(bytes[from..to].to_vec()).unwrap();
        let length = bytes.len();
        let part = |range: &str| site.get(path, &format!("Range: bytes={range}\r\n"));
        let middle = part("3-6");
        assert_eq!((middle.status, middle.body.as_str()), (206, text(3, 7).as_str()), "{path}");
        assert_eq!(middle.header("content-range"), format!("bytes 3-6/{length}"));
        assert_eq!(part("2-").body, text(2, length));
        assert_eq!(part("-4").body, text(length - 4, length));
        let beyond = part(&format!("{length}-"));
        assert_eq!(
            (beyond.status, beyond.header("content-range")),
            (416, format!("bytes */{length}").as_str())
        );
        assert_eq!(part("9-3").status, 200, "what makes no sense is not heard");
        let several = part("0-0,4-5");
        assert_eq!(several.status, 206);
        let boundary =
            several.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
        let parts: Vec<&str> = several.body.split(&format!("--{boundary}")).collect();
        assert_eq!(parts.len(), 4, "{}", several.body);
        assert!(parts[1].contains(&format!("Content-Range: bytes 0-0/{length}\r\n")), "{}", parts[1]);
        assert!(parts[2].ends_with(&format!("\r\n\r\n{}\r\n", text(4, 6))), "{}", parts[2]);
        assert_eq!(parts[3], "--\r\n");
    }
}

#[test]
fn a_range_of_another_version_is_not_mixed_into_ours() {
    // What has not changed for a while: its tag is strong.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let config = format!(
        "[upstream.site]\nfiles = \"{}\"\n[[route]]\nname = \"all\"\nupstream = \"site\"",
        root.display()
    );
    let gate = gate("files-if-range", &config);
    let tag = ask(gate.address, "GET /main.rs", "").header("etag").to_owned();
    assert!(tag.starts_with('"'), "{tag}");
    let part = |condition: &str| {
        ask(gate.address, "GET /main.rs", &format!("Range: bytes=0-2\r\nIf-Range: {condition}\r\n"))
    };
    assert_eq!((part(&tag).status, part(&tag).body.as_str()), (206, "//!"));
    assert_eq!((part("\"x\"").status, part(&format!("W/{tag}")).status), (200, 200));
}

#[test]
fn the_compressed_sibling_that_the_client_likes_best_is_sent() {
    let site = Site::new("files-coded", "", "", "");
    for (name, text) in [
        ("app.js", "plain"),
        ("app.js.br", "in br"),
        ("app.js.gz", "in gzip"),
        ("app.js.zst", "in zstd"),
        ("p.png", "png"),
        ("p.png.gz", "no"),
    ] {
        write(&site.root.join(name), text);
    }
    let mut tags = std::collections::HashSet::new();
    for (accept, coding, body) in [
        ("", "", "plain"),
        ("gzip", "gzip", "in gzip"),
        ("gzip, deflate, br, zstd", "br", "in br"),
        ("gzip;q=1, br;q=0.5", "gzip", "in gzip"),
        ("zstd", "zstd", "in zstd"),
        ("br;q=0, *", "zstd", "in zstd"),
        ("deflate", "", "plain"),
        ("identity, br;q=0.1", "", "plain"),
    ] {
        let fields = if accept.is_empty() { String::new() } else { format!("Accept-Encoding: {accept}\r\n") };
        let answer = site.get("/app.js", &fields);
        assert_eq!((answer.header("content-encoding"), answer.body.as_str()), (coding, body), "{accept}");
        assert_eq!(answer.header("content-type"), "text/javascript; charset=utf-8");
        assert_eq!(answer.header("vary"), "accept-encoding");
        // Strong, once it has not been changed for a while.
        tags.insert(answer.header("etag").trim_start_matches("w/").to_owned());
    }
    assert_eq!(tags.len(), 4, "each has a tag of its own");
    let image = site.get("/p.png", "Accept-Encoding: gzip\r\n");
    assert_eq!(
        (image.header("vary"), image.body.as_str()),
        ("", "png"),
        "what is compressed has no siblings"
    );
    // A sibling of what was changed since is not the same thing any more.
    age(&site.root.join("app.js.br"), 60);
    let answer = site.get("/app.js", "Accept-Encoding: br, gzip\r\n");
    assert_eq!(answer.header("content-encoding"), "gzip");
    let off = Site::new("files-uncoded", "precompressed = false", "", "");
    write(&off.root.join("app.js"), "plain");
    write(&off.root.join("app.js.gz"), "in gzip");
    let answer = off.get("/app.js", "Accept-Encoding: gzip\r\n");
    assert_eq!((answer.header("vary"), answer.body.as_str()), ("", "plain"));
}

#[test]
fn an_application_of_one_page_answers_for_its_pages_and_for_no_part_of_them() {
    let shell = "fallback = \"/index.html\"\nnot_found = \"/404.html\"";
    let site = Site::new("files-shell", shell, "", "");
    for page in ["/users/42", "/users/john.doe", "/docs/none", "/empty/"] {
        site.check(page, 200, "<h1>home</h1>");
    }
    for part in ["/old.js", "/style.css", "/x/y.png", "/.git/config"] {
        site.check(part, 404, "<h1>nothing here</h1>");
    }
    site.check("/docs/", 200, "<h1>docs</h1>");
    let told = site.explain(&site.get("/users/42", ""));
    assert!(told.contains("found the fallback"), "{told}");
}

#[test]
fn a_large_file_comes_whole_and_a_slow_client_holds_little() {
    let site = Site::new("files-large", "", "", "");
    let large = b"0123456789abcdefg".repeat(1 << 20);
    write(&site.root.join("large.bin"), &large);
    let request = b"GET /large.bin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut slow: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect(site.gate.address);
            stream.write_all(request).unwrap();
            stream
        })
        .collect();
    // What the sockets take, and a piece each: never the files.
    let waits = |stream: &mut std::net::TcpStream| {
        let mut head = [0; 4096];
        stream.read(&mut head).unwrap()
    };
    slow.iter_mut().for_each(|stream| assert!(waits(stream) > 0));
    let held = site.gate.memory();
    assert!(held < 100 << 20, "{held} bytes for eight clients that read nothing of 136 MiB");
    let mut fresh = connect(site.gate.address);
    fresh.write_all(request).unwrap();
    let mut all = Vec::new();
    fresh.read_to_end(&mut all).unwrap();
    let begin = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(all[begin..] == large[..], "{} bytes", all.len() - begin);
    drop(slow);
    until("nothing is under way", || {
        site.gate.metric("tidegate_files_active{upstream=\"site\"}") == Some(0.0)
    });
}

#[test]
fn a_file_that_changes_while_it_is_sent_breaks_off() {
    let site = Site::new("files-torn", "", "", "");
    let path = site.root.join("large.bin");
    let length = 20 << 20;
    for (number, change) in ["truncated", "overwritten"].into_iter().enumerate() {
        write(&path, vec![b'a'; length]);
        let mut stream = connect(site.gate.address);
        stream.write_all(b"GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut all = vec![0; 4096];
        let count = stream.read(&mut all).unwrap();
        all.truncate(count);
        assert!(
            String::from_utf8_lossy(&all).to_ascii_lowercase().contains(&format!("content-length: {length}"))
        );
        if number == 0 {
            std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
        } else {
            // In place, and of the same length.
            let mut file = std::fs::File::options().write(true).open(&path).unwrap();
            file.write_all(&vec![b'b'; length]).unwrap();
        }
        let _ = stream.read_to_end(&mut all);
        assert!(all.len() < length, "{change}: {} bytes came", all.len());
        until("it is told", || site.gate.access_log().matches("upstream-broke").count() == number + 1);
    }
    // One that is replaced goes on as what it was.
    write(&path, vec![b'a'; length]);
    let mut stream = connect(site.gate.address);
    stream.write_all(b"GET /large.bin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut all = vec![0; 4096];
    let count = stream.read(&mut all).unwrap();
    all.truncate(count);
    write(&site.root.join("new"), "new");
    std::fs::rename(site.root.join("new"), &path).unwrap();
    stream.read_to_end(&mut all).unwrap();
    assert!(all.ends_with(b"aaaa") && all.len() > length);
    site.check("/large.bin", 200, "new");
}

#[test]
fn another_upstream_answers_for_what_the_files_have_not() {
    let origin = Origin::start(|_| Reply::Status(200, "from the application".into()));
    let upstream = format!("[upstream.app]\nendpoints = [\"{}\"]", origin.address);
    let route = format!("fallback = [{{ upstream = \"app\" }}]\nfallback_on = [404, 405]\n{upstream}");
    let site = Site::new("files-ladder", "", "", &route);
    site.check("/a.txt", 200, "0123456789");
    site.check("/api/users", 200, "from the application");
    let post = b"POST /a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    let answer = send(site.gate.address, post);
    assert!(answer.ends_with("from the application"), "{answer}");
    assert_eq!(origin.recorded()[1].length, 5);
}

#[test]
fn a_new_release_is_served_when_its_link_is_switched() {
    let folder = Gate::folder("files-release");
    for release in ["1", "2"] {
        write(&folder.join(release).join("index.html"), format!("release {release}"));
    }
    symlink("1", folder.join("current")).unwrap();
    let config = "[upstream.site]\nfiles = \"current\"\n[[route]]\nupstream = \"site\"\nname = \"all\"";
    let gate = gate("files-release", config);
    assert_eq!(ask(gate.address, "GET /", "").body, "release 1");
    symlink("2", folder.join("next")).unwrap();
    std::fs::rename(folder.join("next"), folder.join("current")).unwrap();
    until("the new one is served", || ask(gate.address, "GET /", "").body == "release 2");
    // Without it there is nothing to serve from, and that is no 404; then it mends itself.
    std::fs::rename(folder.join("current"), folder.join("away")).unwrap();
    let mut last = None;
    until("it is missed", || {
        let answer = ask(gate.address, "GET /", "");
        let missed = answer.status == 503;
        last = Some(answer);
        missed
    });
    assert!(last.unwrap().body.contains("upstream.files"));
    assert!(control(&gate, "/status").contains("No such file"), "{}", control(&gate, "/status"));
    std::fs::rename(folder.join("away"), folder.join("current")).unwrap();
    until("it is served again", || ask(gate.address, "GET /", "").body == "release 2");
    until("nothing is missed", || {
        let served = ask(gate.address, "GET /", "").status == 200;
        served && !control(&gate, "/status").contains("No such file")
    });
}

#[test]
fn the_gate_and_the_counts_hold_for_files_too() {
    let site = Site::new("files-gate", "", "concurrency = 1\nwaiting = { limit = 0 }", "");
    write(&site.root.join("large.bin"), vec![b'a'; 24 << 20]);
    let mut stream = connect(site.gate.address);
    stream.write_all(b"GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut some = [0; 100];
    assert!(stream.read(&mut some).unwrap() > 0);
    // The one slot is the large file's, until it is only its reader that is slow.
    let refused = site.get("/a.txt", "");
    if refused.status != 200 {
        assert!(refused.body.contains("upstream.saturated"), "{}", refused.body);
    }
    until("the slot is given up for a slow reader", || site.get("/a.txt", "").status == 200);
    drop(stream);
    until("nothing is under way", || {
        site.gate.metric("tidegate_files_active{upstream=\"site\"}") == Some(0.0)
    });
    assert!(site.gate.metric("tidegate_files_requests_total{upstream=\"site\"}") >= Some(2.0));
    until("all slots are back", || {
        site.gate.metric("tidegate_upstream_slots_used{upstream=\"site\"}") == Some(0.0)
    });
    let status = control(&site.gate, "/status");
    assert!(
        status.contains("\"discovery\":\"files ") && status.contains("\"files\":{\"active\":0"),
        "{status}"
    );
}

#[test]
fn what_may_not_be_read_is_told_apart_from_what_is_not_there() {
    let site = Site::new("files-denied", "", "", "");
    let path = site.root.join("denied.txt");
    write(&path, "denied");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Whoever is root may read it all the same.
    let may = std::fs::File::open(&path).is_ok();
    assert_eq!(site.get("/denied.txt", "").status, if may { 200 } else { 403 });
}

#[test]
fn answers_of_one_connection_follow_one_another() {
    let site = Site::new("files-keep", "", "", "");
    let mut stream = connect(site.gate.address);
    for _ in 0..3 {
        assert_eq!(ask_on(&mut stream, "GET /a.txt", "").body, "0123456789");
        assert_eq!(ask_on(&mut stream, "GET /none", "").status, 404);
        assert_eq!(ask_on(&mut stream, "GET /a.txt", "If-None-Match: *\r\n").status, 304);
    }
}

#[test]
fn answers_are_kept_by_the_cache_as_those_of_any_upstream() {
    let route = "cache = { public = true }\nresponse_headers = { set = { cache-control = \"max-age=60\" } }";
    let site = Site::new("files-cached", "", "", route);
    write(&site.root.join("app.js"), "plain");
    write(&site.root.join("app.js.gz"), "in gzip");
    let hit = |path: &str, fields: &str| {
        let first = site.get(path, "");
        assert!(first.header("cache-status").contains("fwd="), "{}", first.head);
        let mut answer = None;
        until("it is stored", || {
            let again = site.get(path, fields);
            let hit = again.header("cache-status").starts_with("tidegate; hit");
            answer = Some(again);
            hit
        });
        answer.unwrap()
    };
    let whole = hit("/a.txt", "");
    assert_eq!((whole.status, whole.body.as_str()), (200, "0123456789"));
    // What is stored answers, whatever became of the file.
    std::fs::remove_file(site.root.join("a.txt")).unwrap();
    let part = site.get("/a.txt", "Range: bytes=3-6\r\n");
    assert_eq!(
        (part.status, part.body.as_str(), part.header("content-range")),
        (206, "3456", "bytes 3-6/10")
    );
    let tag = whole.header("etag").trim_start_matches("w/").to_owned();
    assert_eq!(site.get("/a.txt", &format!("If-None-Match: {tag}\r\n")).status, 304);
    // Each coding is an answer of its own.
    assert_eq!(hit("/app.js", "").body, "plain");
    let coded = site.get("/app.js", "Accept-Encoding: gzip\r\n");
    assert_eq!((coded.header("content-encoding"), coded.body.as_str()), ("gzip", "in gzip"));
}

#[test]
fn the_breaker_opens_when_the_directory_is_gone() {
    let breaker = "breaker = { consecutive = 2, cooldown = \"60s\" }";
    let site = Site::new("files-breaker", "", breaker, "");
    site.check("/a.txt", 200, "0123456789");
    std::fs::rename(&site.root, site.root.with_file_name("away")).unwrap();
    until("it is left alone", || site.get("/a.txt", "").body.contains("upstream.breaker-open"));
    assert_eq!(site.gate.metric("tidegate_files_failures_total{upstream=\"site\"}"), Some(2.0));
}

#[test]
fn files_go_over_http2_too_and_a_torn_one_is_reset() {
    let site = Site::new("files-h2", "", "", "");
    let large = b"0123456789abcdefg".repeat(1 << 18);
    let path = site.root.join("large.bin");
    write(&path, &large);
    block_on(async {
        let mut client = h2_connect(site.gate.address).await;
        let mut get = |path: &str| {
            let request = http::Request::get(format!("http://a{path}")).body(()).unwrap();
            client.send_request(request, true).unwrap().0
        };
        let response = get("/large.bin").await.unwrap();
        assert_eq!(response.headers()["content-length"], large.len().to_string());
        assert!(h2_read(&mut response.into_body()).await.0 == large);
        // Its window is full when it is cut short.
        let mut torn = get("/large.bin").await.unwrap().into_body();
        let first = torn.data().await.unwrap().unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 17).unwrap();
        let mut count = first.len();
        let _ = torn.flow_control().release_capacity(count);
        while let Some(Ok(data)) = torn.data().await {
            count += data.len();
            let _ = torn.flow_control().release_capacity(data.len());
        }
        assert!(count < large.len() && !torn.is_end_stream(), "{count} bytes came as if they were all");
    });
}
