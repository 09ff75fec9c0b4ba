//! The fuzz targets on a stable compiler: over their committed seeds, and over some thousands of inputs that are made of
//! them, the same ones each time. An input that breaks something is shown and becomes a seed.

use std::panic::catch_unwind;
use std::path::Path;

#[path = "../../../../fuzz/src/targets.rs"]
mod targets;

/// Chance that is the same each time (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most.max(1) as u64) as usize
    }
}

/// Bytes that parsers care about.
const TELLING: &[u8] = b"\r\n\0 :;,./%-_\"\\[]0129aAfF\xff\x80";

/// A seed with a few changes: bytes flipped, set, taken out, doubled, exchanged with another seed's.
fn mutated(seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = seeds[chance.below(seeds.len())].clone();
    for _ in 0..=chance.below(4) {
        let from = chance.below(bytes.len() + 1);
        let to = from + chance.below((bytes.len() - from + 1).min(24));
        match chance.below(6) {
            0 if from < bytes.len() => bytes[from] ^= 1 << chance.below(8),
            1 if from < bytes.len() => bytes[from] = TELLING[chance.below(TELLING.len())],
            2 => drop(bytes.drain(from..to)),
            3 => {
                let part = bytes[from..to].to_vec();
                bytes.splice(from..from, part);
            }
            4 => {
                let other = &seeds[chance.below(seeds.len())];
                let begin = chance.below(other.len() + 1);
                let end = begin + chance.below((other.len() - begin + 1).min(64));
                bytes.splice(from..to, other[begin..end].iter().copied());
            }
            _ => bytes.truncate(from.max(1)),
        }
    }
    bytes
}

/// Runs a target over its seeds and so many inputs made of them.
fn check(name: &str, target: fn(&[u8]), count: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(seeds.len() > 5, "{name} has seeds");
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let made = (0..count).map(|_| mutated(&seeds, &mut chance));
    for input in seeds.iter().cloned().chain(made) {
        let held = catch_unwind(|| target(&input));
        assert!(held.is_ok(), "{name} breaks on {:?}", String::from_utf8_lossy(&input));
    }
}

#[test]
fn a_request_that_is_read_can_be_read_in_one_way() {
    check("request", targets::request, 20_000);
}

#[test]
fn an_answer_means_the_same_however_it_arrives() {
    check("response", targets::response, 10_000);
}

#[test]
fn a_proxy_protocol_header_is_whole_and_bounded() {
    check("proxy_protocol", targets::proxy_protocol, 6000);
}

#[test]
fn a_path_and_a_host_have_one_form() {
    check("path", targets::path, 6000);
    check("host", targets::host, 6000);
}

#[test]
fn no_path_names_a_file_outside_of_the_root() {
    check("file", targets::file, 10_000);
}

#[test]
fn a_client_address_is_not_chosen_by_the_client() {
    check("forwarded", targets::forwarded, 6000);
}

#[test]
fn a_configuration_is_read_or_refused_with_its_places() {
    check("config", targets::config, 500);
}

#[test]
fn a_token_is_taken_or_refused_for_what_it_is() {
    check("jwt", targets::jwt, 5000);
}

#[test]
fn a_trace_and_a_deadline_are_told_on_well_formed() {
    check("traceparent", targets::traceparent, 4000);
    check("deadline", targets::deadline, 4000);
}

#[test]
fn an_idempotency_key_means_the_same_in_quotes() {
    check("idempotency_key", targets::idempotency_key, 4000);
}

#[test]
fn a_webhooks_url_leads_outside_and_its_signature_is_somebodys() {
    check("webhook_url", targets::webhook_url, 6000);
    check("webhook_signature", targets::webhook_signature, 3000);
}
