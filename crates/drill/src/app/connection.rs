//! One connection: requests one after another, each answered when its work is done.

use std::sync::Arc;
use std::time::Duration;

use tidegate_wire::clock;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::counts::Outcome;
use super::head::{self, Head};
use super::{ANSWER_BYTES_MAX, Answer, Posture, Shared, slots};

/// Where the gate asks whether the server is well. Answered past the slots: what is gravely overloaded is not unwell.
const HEALTH: &str = "/healthz";

/// Serves a connection to its end: the client's, the server's good one, or its death.
pub(super) async fn serve(shared: &Arc<Shared>, mut stream: TcpStream) {
    let mut posture = shared.posture.subscribe();
    let life = posture.borrow().life;
    let died = tokio::select! {
        biased;
        _ = posture.wait_for(|posture| posture.life != life || posture.ended) => true,
        () = requests(shared, &mut stream) => false,
    };
    if died {
        // Whatever the kernel still holds is thrown away, and the client is told by a reset. A socket that takes no
        // option is closed all the same.
        let _ = stream.set_zero_linger();
    }
    shared.state.lock().counts.open -= 1;
}

async fn requests(shared: &Arc<Shared>, stream: &mut TcpStream) {
    // Without it, answers are late by the kernel's batching; they come all the same.
    let _ = stream.set_nodelay(true);
    let mut posture = shared.posture.subscribe();
    let mut buffer = Vec::new();
    loop {
        let next = tokio::select! {
            biased;
            next = head::read(stream, &mut buffer) => next,
            _ = posture.wait_for(|posture| !posture.listening) => return,
        };
        let Ok(Some(head)) = next else { return };
        let Some(status) = answer(shared, (stream, &mut buffer), &mut posture, &head).await else { return };
        let close = head.close || !posture.borrow().listening;
        let good = shared.state.lock().behaviour.answer.clone();
        if stream.write_all(told(status, &good, close, &head).as_bytes()).await.is_err() || close {
            return;
        }
    }
}

/// Does a request's work. `None`: nobody is left to be answered.
async fn answer(
    shared: &Arc<Shared>,
    (stream, buffer): (&TcpStream, &mut Vec<u8>),
    posture: &mut watch::Receiver<Posture>,
    head: &Head,
) -> Option<u16> {
    if head.path == HEALTH {
        awake(posture).await;
        shared.state.lock().counts.checked += 1;
        return Some(200);
    }
    let (number, round, harm) = {
        let mut state = shared.state.lock();
        let state = &mut *state;
        let round = head.number.map_or(0, |number| state.seen.note(number, clock::now()));
        state.counts.came(&head.tenant, place(&head.path), round);
        (head.number.unwrap_or(state.counts.requests), round, state.behaviour.harm(&head.tenant))
    };
    if let Some(harm) = harm {
        shared.suffer(harm);
    }
    awake(posture).await;
    let Some(slot) = slots::take(shared).await else { return Some(503) };
    let fate = shared.state.lock().behaviour.fate(shared.seed, number, round);
    work(fate.service).await;
    awake(posture).await;
    let gone = is_gone(stream, buffer);
    let outcome = match (gone, fate.fails) {
        (true, _) => Outcome::Wasted,
        (false, true) => Outcome::Failed,
        (false, false) => Outcome::Served,
    };
    {
        let mut state = shared.state.lock();
        state.counts.worked(fate.service, outcome);
        if let Some(number) = head.number.filter(|_| !fate.fails) {
            state.seen.made(number, clock::now());
        }
    }
    drop(slot);
    (!gone).then_some(if fate.fails { 500 } else { 200 })
}

/// The first part of a path.
fn place(path: &str) -> &str {
    path.split(['/', '?']).find(|part| !part.is_empty()).unwrap_or_default()
}

/// Work is time that passes.
async fn work(service: Duration) {
    clock::sleep_until(clock::latest().after(service)).await;
}

/// Waits while the process hangs.
async fn awake(posture: &mut watch::Receiver<Posture>) {
    // The sender lives as long as the server: there is always an answer.
    let _ = posture.wait_for(|posture| !posture.hung).await;
}

/// Whether the client has closed. Asked once work is done, never before: a server that computes looks at no socket.
fn is_gone(stream: &TcpStream, buffer: &mut Vec<u8>) -> bool {
    match stream.try_read_buf(buffer) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

fn told(status: u16, good: &Answer, close: bool, head: &Head) -> String {
    let (reason, mut body) = match status {
        200 => ("OK", "ok\n".to_owned()),
        500 => ("Internal Server Error", "failed\n".to_owned()),
        _ => ("Service Unavailable", "full\n".to_owned()),
    };
    let mut fields = String::new();
    if status == 200 && good.bytes > 0 {
        body = "x".repeat(good.bytes.min(ANSWER_BYTES_MAX));
    }
    if status == 200 && !head.is_post && !good.cache_control.is_empty() {
        fields = format!("Cache-Control: {}\r\n", good.cache_control);
    }
    if status == 200 && head.is_post && !good.purge.is_empty() {
        fields = format!("Tidegate-Purge: {}\r\n", good.purge);
    }
    if close {
        fields.push_str("Connection: close\r\n");
    }
    let length = body.len();
    if head.is_head {
        body.clear();
    }
    format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {length}\r\n{fields}\r\n{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_may_be_kept_and_only_one_to_a_write_purges() {
        let good = Answer { cache_control: "max-age=1", bytes: 5, purge: "\"tenant\"" };
        let (get, mut head, mut post) = (Head::default(), Head::default(), Head::default());
        (head.is_head, post.is_post) = (true, true);
        let told = |status, head: &Head| told(status, &good, false, head);
        assert_eq!(
            told(200, &get),
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=1\r\n\r\nxxxxx"
        );
        assert!(told(200, &head).ends_with("Content-Length: 5\r\nCache-Control: max-age=1\r\n\r\n"));
        assert!(told(200, &post).contains("5\r\nTidegate-Purge: \"tenant\"\r\n\r\n"));
        for head in [&get, &post] {
            assert!(
                told(503, head).starts_with("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\n")
            );
        }
    }

    #[test]
    fn a_place_is_the_first_part_of_a_path() {
        for (path, first) in [("/", ""), ("/a", "a"), ("/a/17?b", "a"), ("/a?b/c", "a")] {
            assert_eq!(place(path), first);
        }
    }
}
