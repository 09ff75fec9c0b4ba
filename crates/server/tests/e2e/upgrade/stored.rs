//! Upgrades with a store: what is promised once is made once, whichever process has the store.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use tidegate_testkit::tls::{certificate, tls_connect};
use tidegate_testkit::{Gate, Origin, Postgres, connect, read_answer, until};

use super::load::exchange;
use super::{own_binary, status};
use crate::deferred::Data;

/// A server that counts the effects of each key, and of each delivery.
fn counting() -> (Origin, Arc<Mutex<HashMap<String, usize>>>) {
    let effects = Arc::<Mutex<HashMap<String, usize>>>::default();
    let counted = Arc::clone(&effects);
    let origin = Origin::scripted(move |visit| {
        visit.read_body()?;
        let name = visit.field("x-name").unwrap_or_default();
        *counted.lock().entry(name).or_default() += 1;
        visit.say("HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nmade")
    });
    (origin, effects)
}

fn config(store: &str, origin: &Origin) -> String {
    format!(
        "workers = 2\n[store]\nurl = \"{store}\"\n[tenants]\nfrom = [{{ address = \"client\" }}]\n\
         [defaults.route]\ndeadline = \"20s\"\n[upstream.app]\nendpoints = [\"{}\"]\n[queue.later]\nupstream = \"app\"\n\
         [[route]]\nname = \"pay\"\npath = \"/pay\"\nupstream = \"app\"\nidempotency = {{}}\n\
         [[route]]\nname = \"later\"\npath = \"/later\"\nupstream = \"app\"\ndefer = \"always\"\nqueue = \"later\"\n",
        origin.address
    )
}

pub fn post(path: &str, name: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: a.test\r\nIdempotency-Key: {name}\r\nX-Name: {name}\r\nContent-Length: 2\r\n\r\nhi"
    )
    .into_bytes()
}

/// Upgrades twice while requests under keys and deferred ones come: by kept connections with TLS and without, and by new ones.
/// Each has one effect.
fn check(test: &str, store: &str) {
    let (origin, effects) = counting();
    let folder = Gate::folder(test);
    let (cert, key) = (folder.join("a.pem"), folder.join("a.key"));
    let _ = certificate(&["a.test"], &cert, &key);
    let tls = format!("[[tls]]\ncert = \"{}\"\nkey = \"{}\"\n", cert.display(), key.display());
    let listen = "http = [\"127.0.0.1:0\"]\nhttps = [\"127.0.0.1:0\"]";
    let binary = own_binary(test);
    let config = config(store, &origin) + &tls;
    let mut gate = Gate::start_listening(binary.to_str().unwrap(), test, listen, &config);
    let (http, https) = (gate.listeners[0], gate.listeners[1]);
    let mut first = connect(http);
    first.write_all(&post("/pay", "before")).unwrap();
    assert_eq!(read_answer(&mut first).status, 201);
    let stop = AtomicBool::new(false);
    let sent = [const { AtomicUsize::new(0) }; 4];
    std::thread::scope(|scope| {
        let (stop, sent) = (&stop, &sent);
        let client = |kind: usize, path: &'static str, answered: u16| {
            move || {
                let mut plain = None;
                let mut secure = None;
                while !stop.load(Relaxed) {
                    let number = sent[kind].load(Relaxed);
                    let request = post(path, &format!("{kind}-{number}"));
                    let done = if kind == 2 {
                        let make = || tls_connect(https, "a.test", &["http/1.1"]).expect("a handshake");
                        exchange(secure.get_or_insert_with(make), &request)
                    } else {
                        exchange(plain.get_or_insert_with(|| connect(http)), &request)
                    };
                    let (status, kept) = done.unwrap_or_else(|why| panic!("{kind}-{number}: {why}"));
                    assert_eq!(status, answered, "{kind}-{number}");
                    sent[kind].fetch_add(1, Relaxed);
                    if kind == 0 || !kept {
                        (plain, secure) = (None, None);
                    }
                }
            }
        };
        let clients = [
            scope.spawn(client(0, "/pay", 201)),
            scope.spawn(client(1, "/pay", 201)),
            scope.spawn(client(2, "/pay", 201)),
            scope.spawn(client(3, "/later", 202)),
        ];
        let all_served = || {
            let before: Vec<usize> = sent.iter().map(|one| one.load(Relaxed)).collect();
            until("every kind of client is served", || {
                clients.iter().any(std::thread::ScopedJoinHandle::is_finished)
                    || sent.iter().zip(&before).all(|(one, before)| one.load(Relaxed) > before + 3)
            });
        };
        all_served();
        for _ in 0..2 {
            gate.upgrade().unwrap_or_else(|why| panic!("{why} {}", gate.said()));
            all_served();
        }
        stop.store(true, Relaxed);
        for client in clients {
            client.join().expect("no request failed");
        }
    });
    assert_eq!(gate.wait(), Some(0));
    // What was recorded by the first process is told again by the third.
    let mut again = connect(http);
    again.write_all(&post("/pay", "before")).unwrap();
    assert_eq!(read_answer(&mut again).status, 201);
    until("all that was put off is made", || {
        let made = effects.lock();
        (0..sent[3].load(Relaxed)).all(|number| made.contains_key(&format!("3-{number}")))
    });
    let mut expected: HashMap<String, usize> = HashMap::from([("before".to_owned(), 1)]);
    for (kind, sent) in sent.iter().enumerate() {
        expected.extend((0..sent.load(Relaxed)).map(|number| (format!("{kind}-{number}"), 1)));
    }
    let twice: Vec<_> = effects
        .lock()
        .iter()
        .filter(|(name, count)| expected.get(*name) != Some(count))
        .map(|(name, count)| (name.clone(), *count))
        .collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(effects.lock().len(), expected.len());
    assert_eq!(status(&gate)["store"]["state"], "serving");
}

#[test]
fn what_is_asked_once_is_made_once_while_the_store_changes_hands() {
    let data = Data::new("upgrade-sqlite");
    check("upgrade-sqlite", &format!("sqlite:{}", data.0.display()));
}

#[test]
fn what_is_asked_once_is_made_once_by_processes_that_share_postgresql() {
    check("upgrade-postgres", &Postgres::shared().database());
}
