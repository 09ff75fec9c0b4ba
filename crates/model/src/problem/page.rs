//! The page that a browser shows: self-contained, no script, nothing loaded.

use bytes::Bytes;

use super::{detail, seconds_up};
use crate::receipt::RequestId;
use crate::refusal::{Blame, Refusal, Repeat};

const PAGE: &str = include_str!("page.html");

/// The page of this refusal.
pub(super) fn html(refusal: &Refusal, request_id: RequestId) -> Bytes {
    let kind = refusal.kind;
    let mut out = String::with_capacity(PAGE.len() + 512);
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((name, after)) = after.split_once("}}") else { break };
        match name {
            "status" => push_number(&mut out, u64::from(kind.status)),
            "title" => push_text(&mut out, kind.title),
            "detail" => push_text(&mut out, detail(refusal)),
            "advice" => advise(&mut out, refusal),
            "code" => push_text(&mut out, kind.code),
            "request_id" => push_text(&mut out, std::str::from_utf8(&request_id.hex()).unwrap_or("")),
            _ => {}
        }
        rest = after;
    }
    out.push_str(rest);
    Bytes::from(out)
}

/// What the person before the browser can do.
fn advise(out: &mut String, refusal: &Refusal) {
    match (refusal.kind.repeat, refusal.retry_after) {
        (Repeat::Never, _) if refusal.kind.blame == Blame::Operator => {
            out.push_str("Trying again will not help. Please tell whoever runs this site.");
        }
        (Repeat::Never, _) => out.push_str("Trying again will not help until the request changes."),
        (Repeat::Later, None) => out.push_str("Please try again in a moment."),
        (Repeat::Later, Some(wait)) => {
            let seconds = seconds_up(wait).max(1);
            out.push_str("Please try again in ");
            push_number(out, seconds);
            out.push_str(if seconds == 1 { " second." } else { " seconds." });
        }
    }
}

fn push_number(out: &mut String, number: u64) {
    out.push_str(&number.to_string());
}

fn push_text(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
}
