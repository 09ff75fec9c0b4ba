//! A call that is answered by files: the one try that there is.

use std::sync::Arc;

use http::Method;
use http::header::ACCEPT_ENCODING;
use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE};
use rustix::io::Errno;
use smallvec::SmallVec;
use tidegate_model::coding::acceptable;
use tidegate_model::files::name::Name;
use tidegate_model::message::{Request, Response};
use tidegate_model::receipt::Step;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tidegate_wire::body::Body;
use tidegate_wire::clock;

use super::answer::{Content, answer, without_file};
use super::shelf::{Ask, Looked, Outcome};
use super::{Busy, FileBody, Unread};
use crate::answer::AnswerBody;
use crate::attempt::{Plan, opening};
use crate::gate::Slot;
use crate::settings::FilesSettings;

/// Answers a request that has a slot.
pub(crate) async fn call(
    plan: &Plan<'_>,
    files: &Arc<FilesSettings>,
    request: &Request<Body>,
    slot: Slot,
    (began, chance): (Tick, u64),
) -> Result<Response<AnswerBody>, Refusal> {
    let by = plan.by(began);
    let at_once = plan.local.door.at_once();
    let busy = plan.upstream.files.begin();
    plan.receipt.borrow_mut().tries += 1;
    let found = clock::timeout_at(by, open(plan, files, request, &busy, (began, chance))).await;
    let now = clock::latest();
    let latency = now.since(began);
    let answered = match found {
        Ok(Ok(response)) => stream(plan, response, slot, busy, now),
        Ok(Err(error)) => Err((busy, error)),
        Err(_) => Err((busy, Unread::Stalled)),
    };
    plan.receipt.borrow_mut().upstream_time += latency;
    if let Some(at_once) = at_once {
        plan.local.door.sample(at_once, latency, answered.is_ok(), now);
    }
    match answered {
        Ok(response) => {
            plan.upstream.latencies.add(latency, now);
            plan.upstream.breaker.succeeded(plan.trial.take(), now);
            let mut receipt = plan.receipt.borrow_mut();
            let number = receipt.tries;
            receipt.note(now, Step::TryAnswered(number, response.status()));
            drop(receipt);
            Ok(response)
        }
        Err((busy, error)) => Err(failed(plan, &busy, &error, began, now)),
    }
}

/// Finds the file and makes the head. What could not be read at once follows.
async fn open(
    plan: &Plan<'_>,
    files: &Arc<FilesSettings>,
    request: &Request<Body>,
    busy: &Busy,
    (now, chance): (Tick, u64),
) -> Result<Response<Content>, Unread> {
    if let Some(response) = without_file(request) {
        return Ok(response);
    }
    let fields = request.headers();
    let plain = [IF_NONE_MATCH, IF_MODIFIED_SINCE, RANGE].iter().all(|name| !fields.contains_key(name));
    let codings = match files.precompressed {
        true => acceptable(fields.get_all(ACCEPT_ENCODING).iter().map(|line| line.as_bytes())),
        false => SmallVec::new(),
    };
    let ask = Ask {
        settings: Arc::clone(files),
        name: named(plan, request, files),
        codings,
        content: plain && request.method() == Method::GET,
    };
    let Looked { outcome, from, anew } = plan.local.files.look(ask, busy, now).await?;
    if anew {
        plan.upstream.discovered(&plan.settings.discovery, &[], now);
    }
    {
        let mut receipt = plan.receipt.borrow_mut();
        match &outcome {
            Outcome::File(open) => {
                let coding = open.coding.map(|coding| coding.token());
                receipt.note(now, Step::FileRead { what: open.what, coding, from });
            }
            Outcome::Slash => {
                receipt.note(now, Step::FileMissing("a directory is asked for without its slash"))
            }
            Outcome::Missing(why, _) => receipt.note(now, Step::FileMissing(why)),
            Outcome::Denied => receipt.note(now, Step::FileMissing("this process may not read it")),
        }
    }
    let target = &plan.receipt.borrow().target;
    Ok(answer(outcome, request, target.path(), clock::wall(), chance))
}

/// The name that the request's path means. A client that asked for a directory without its slash did so, whatever was made of
/// the path since.
fn named(plan: &Plan<'_>, request: &Request<Body>, files: &FilesSettings) -> Result<Name, &'static str> {
    let path = request.uri().path();
    let name = Name::of(path, files.hidden).map_err(|error| error.detail())?;
    let asked = plan.receipt.borrow().target.path().ends_with('/');
    Ok(if name.is_folder() && !asked { name.without_slash() } else { name })
}

/// Gives the answer its body. The slot is held until the last byte was read, or for as long as a body may have one.
fn stream(
    plan: &Plan<'_>,
    response: Response<Content>,
    slot: Slot,
    busy: Busy,
    now: Tick,
) -> Result<Response<AnswerBody>, (Busy, Unread)> {
    let (head, content) = response.into_parts();
    let body = match content {
        Content::Nothing => AnswerBody::Whole(bytes::Bytes::new()),
        Content::Bytes(bytes) => AnswerBody::Whole(bytes),
        Content::Pieces(open, pieces) => {
            match FileBody::new(*open, pieces, slot.lend(now), busy, plan.settings.body_idle) {
                Ok(body) => AnswerBody::File(Box::new(body)),
                Err(failed) => return Err(failed),
            }
        }
    };
    Ok(Response::from_parts(head, body))
}

/// What becomes of a call that failed.
fn failed(plan: &Plan<'_>, busy: &Busy, error: &Unread, began: Tick, now: Tick) -> Refusal {
    busy.broke();
    plan.note(Step::Cause(error.to_string().into()));
    let second = std::time::Duration::from_secs(1);
    let (kind, why, wait) = match error {
        Unread::NoFile | Unread::System(Errno::MFILE | Errno::NFILE) => {
            (&refusal::SERVER_FILES, "the server has as many open files as it may", Some(second))
        }
        Unread::Full(_) => {
            (&refusal::UPSTREAM_SATURATED, "too many requests wait for the disk", Some(second))
        }
        Unread::Stalled => (&refusal::DEADLINE_EXCEEDED, "the file was not read before the deadline", None),
        Unread::Changed => (&refusal::UPSTREAM_FILES, "the file changes while it is read", Some(second)),
        Unread::Root(_) => {
            plan.upstream.not_discovered(&error.to_string());
            (&refusal::UPSTREAM_FILES, "the files cannot be reached", Some(second))
        }
        Unread::System(_) | Unread::Lost(_) => {
            (&refusal::UPSTREAM_FILES, "the file cannot be read", Some(second))
        }
    };
    tracing::debug!(upstream = %plan.settings.name, %error, "file not read");
    let number = plan.receipt.borrow().tries;
    plan.note(Step::TryFailed(number, kind.code));
    // A limit of ours says nothing of the disk.
    let counts =
        !std::ptr::eq(kind, &refusal::SERVER_FILES) && !std::ptr::eq(kind, &refusal::UPSTREAM_SATURATED);
    if counts
        && let Some(settings) = &plan.settings.breaker
        && plan.upstream.breaker.failed(&opening(settings), plan.trial.take(), began, now)
    {
        tracing::warn!(upstream = %plan.settings.name, "circuit breaker opened");
    }
    let refusal = Refusal::new(kind, why);
    match wait {
        Some(wait) => refusal.retry_after(wait),
        None => refusal,
    }
}
