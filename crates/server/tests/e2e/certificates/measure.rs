//! What `cargo xtask bench certificates` measures: memory and CPU of handshakes, with few names and with many in the store.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use tidegate_store::documents::{Expect, Place, Room, Write, Written};
use tidegate_store::{Location, Store, StoreSettings};
use tidegate_testkit::{Gate, block_on, nobody};

use super::{LISTEN, handshake};
use crate::{BINARY, app};

/// Names, and certificates in memory; the bound that is there by default first.
const ROWS: [(usize, usize); 4] = [(10, 1000), (1000, 1000), (10_000, 1000), (10_000, 20_000)];
/// Names that are asked for again and again.
const HOT: usize = 10;
/// Handshakes of a round, rounds, and clients at once.
const HANDSHAKES: usize = 2000;
const ROUNDS: usize = 3;
const CLIENTS: usize = 4;
/// A tick of the kernel's accounts, in microseconds (USER_HZ is 100 everywhere).
const TICK_US: u64 = 10_000;

fn name(number: usize) -> String {
    format!("shop-{number}.tenants.test")
}

/// An authority that is no root: chains are as long as those that are bought.
fn issuer() -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority between");
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

/// A document as it stands in the store behind an order.
fn document(number: usize, issuer: &Issuer<'static, KeyPair>, between: &str) -> Write {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name(number)]).unwrap();
    params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    let chain = params.signed_by(&key, issuer).unwrap().pem() + between;
    let (issued, ends) = (1_700_000_000, 3_786_912_000_u64);
    let record = json!({
        "chain": chain, "key": { "plain": key.serialize_pem() }, "not_before": issued, "not_after": ends,
        "issued": issued, "renew": ends - 1,
    });
    Write::Put {
        place: Place { kind: "certificate", tenant: "".into(), name: name(number).into() },
        expect: Expect::Absent,
        at: (ends - 1) * 1000,
        until: None,
        body: record.to_string().into(),
        room: Room { count: 1_000_000, bytes: 1 << 40 },
    }
}

/// A store with certificates for so many names.
fn fill(folder: &Path, names: usize) {
    let (location, bytes) = (Location::Directory(folder.to_owned()), 4 << 30);
    let store = Store::open(StoreSettings { location, bytes_max: bytes, tenant_bytes_max: bytes }).unwrap();
    let (issuer, between) = issuer();
    for first in (0..names).step_by(100) {
        let last = names.min(first + 100);
        let writes = (first..last).map(|number| document(number, &issuer, &between)).collect();
        assert!(matches!(block_on(store.write(writes)), Ok(Written::Done(_))));
    }
    store.close();
}

/// CPU time that the process has used, in microseconds.
fn cpu(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * TICK_US
}

/// So many handshakes, of several clients at once; the names by their number in the row.
fn shake(address: SocketAddr, count: usize, which: impl Fn(usize) -> usize + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Relaxed);
                    if turn >= count {
                        break;
                    }
                    let name = name(which(turn));
                    assert!(handshake(address, &name).is_some(), "{name}");
                }
            });
        }
    });
}

/// Numbers that look like chance, the same each time (a round of SplitMix64).
fn scattered(turn: usize, below: usize) -> usize {
    let mut x = (turn as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    usize::try_from((x ^ (x >> 31)) % below as u64).unwrap()
}

/// Microseconds of CPU a handshake: the median round, and the rounds it lies between.
fn cost(gate: &Gate, address: SocketAddr, names: usize) -> String {
    let mut rounds: Vec<u64> = (0..ROUNDS)
        .map(|round| {
            let before = cpu(gate.pid());
            shake(address, HANDSHAKES, |turn| scattered(round * HANDSHAKES + turn, names));
            (cpu(gate.pid()) - before) / HANDSHAKES as u64
        })
        .collect();
    rounds.sort_unstable();
    format!("{} ({} to {})", rounds[ROUNDS / 2], rounds[0], rounds[ROUNDS - 1])
}

fn row(names: usize, memory: usize) -> String {
    let label = format!("certificates-{names}-{memory}");
    let folder = std::env::temp_dir().join(format!("tidegate-{label}-{}", std::process::id()));
    fill(&folder.join("store"), names);
    // Nobody orders anything: all names are there.
    let config = format!(
        "{}\n[store]\nurl = \"sqlite:{}\"\n[acme]\ndirectory = \"https://{}/none\"\nterms_agreed = true\non_demand = {{}}\nmemory = {memory}\n",
        app(&[nobody()], "", ""),
        folder.join("store").display(),
        nobody(),
    );
    let binary = std::env::var("TIDEGATE_BINARY").unwrap_or_else(|_| BINARY.to_owned());
    let gate = Gate::start_listening(&binary, &label, LISTEN, &config);
    let https = gate.listeners[1];
    let before = gate.memory();
    // Whatever is made once is there already.
    shake(https, 200, |_| 0);
    let once = gate.memory();
    shake(https, names, |turn| turn);
    let after = gate.memory();
    let held = gate.metric("tidegate_certificates_in_memory").unwrap();
    let spread = cost(&gate, https, names);
    let hot = cost(&gate, https, HOT.min(names));
    let at_last = gate.memory();
    drop(gate);
    std::fs::remove_dir_all(folder).unwrap();
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let [before, once, after, at_last] = [before, once, after, at_last].map(mib);
    format!("| {names} | {memory} | {before} | {once} | {after} | {at_last} | {held} | {spread} | {hot} |\n")
}

#[test]
#[ignore = "a measure of minutes: cargo xtask bench certificates"]
fn memory_and_cpu_of_handshakes_with_few_names_and_with_many() {
    let mut told = String::from(
        "| names | `memory` | at the start | after 200 handshakes to one name | after one to each | at the end | then in memory | CPU µs a handshake, over all names | to ten of them |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for (names, memory) in ROWS {
        write!(told, "{}", row(names, memory)).unwrap();
    }
    println!("measured\n{told}end of what was measured");
}
