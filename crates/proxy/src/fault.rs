//! Fault: what an operator has injected to rehearse strikes here, after the limits and before anything is forwarded.
//!
//! Without any, an exchange pays one relaxed load. What strikes it stands in its receipt and in `Tidegate-Fault`. A delay
//! counts to the deadline and holds no slot of an upstream; dropped with the exchange when its client leaves, it waits no
//! longer. An injected status takes the ladder as the first upstream's would, and neither endpoint nor breaker hears
//! of it. Faults end by the clock of the exchanges themselves: whoever made them may be gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderName, Method};
use parking_lot::Mutex;
use tidegate_model::fault::{self, FAULTS_MAX, Fault, Instead, Kind, Struck};
use tidegate_model::fields::Fields;
use tidegate_model::message::Response;
use tidegate_model::receipt::{Receipt, Step};
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tidegate_wire::clock;

use crate::entropy::Entropy;
use crate::exchange::Exchange;
use crate::forward::deadline_of;
use crate::limit::Permitted;
use crate::route::Routed;
use crate::settle::Content;
use crate::site::Site;

mod body;

pub use body::{FaultBody, Injected};

/// Names the faults that struck an exchange, in its response.
pub const TIDEGATE_FAULT: HeaderName = HeaderName::from_static("tidegate-fault");

/// The faults of the process.
#[derive(Debug, Default)]
pub struct Faults {
    /// Whether there are any: what every exchange asks.
    any: AtomicBool,
    list: ArcSwap<Vec<Arc<Active>>>,
    counts: [AtomicU64; Kind::NAMES.len()],
    changing: Mutex<()>,
}

/// A fault that has begun.
#[derive(Debug)]
pub struct Active {
    /// It.
    pub fault: Fault,
    struck: AtomicU64,
    ended: AtomicBool,
}

impl Active {
    /// Exchanges that it has struck.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.struck.load(Relaxed)
    }
}

/// Why a fault does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBegun {
    /// There are as many as there may be.
    #[error("there are {FAULTS_MAX} faults already")]
    Full,
    /// Another one has its name.
    #[error("there is a fault of this name already")]
    Taken,
}

impl Faults {
    /// Begins a fault.
    ///
    /// # Errors
    /// [`NotBegun`]; nothing is changed then.
    pub fn begin(&self, fault: Fault, now: Tick) -> Result<Arc<Active>, NotBegun> {
        let _changing = self.changing.lock();
        let mut list: Vec<Arc<Active>> = self.all(now);
        if list.iter().any(|held| held.fault.name == fault.name) {
            return Err(NotBegun::Taken);
        }
        if list.len() >= FAULTS_MAX {
            return Err(NotBegun::Full);
        }
        let active = Active { fault, struck: AtomicU64::new(0), ended: AtomicBool::new(false) };
        let active = Arc::new(active);
        list.push(Arc::clone(&active));
        self.put(list);
        Ok(active)
    }

    /// Ends the fault of this name.
    pub fn end(&self, name: &str, now: Tick) -> Option<Arc<Active>> {
        let found = self.all(now).into_iter().find(|held| &*held.fault.name == name)?;
        self.forget(&found).then_some(found)
    }

    /// Forgets a fault. `true`: it was there until now, and whoever asked is the one to say that it has ended.
    pub fn forget(&self, active: &Arc<Active>) -> bool {
        let _changing = self.changing.lock();
        let list = self.list.load();
        self.put(list.iter().filter(|held| !Arc::ptr_eq(held, active)).cloned().collect());
        !active.ended.swap(true, Relaxed)
    }

    fn put(&self, list: Vec<Arc<Active>>) {
        let any = !list.is_empty();
        self.list.store(Arc::new(list));
        self.any.store(any, Relaxed);
    }

    /// Those that have not ended, the oldest first.
    #[must_use]
    pub fn all(&self, now: Tick) -> Vec<Arc<Active>> {
        self.list.load().iter().filter(|held| now < held.fault.until).cloned().collect()
    }

    /// Exchanges struck, by kind as in [`Kind::NAMES`], ever.
    #[must_use]
    pub fn counts(&self) -> [u64; Kind::NAMES.len()] {
        self.counts.each_ref().map(|count| count.load(Relaxed))
    }
}

/// What strikes this exchange. Notes it.
#[must_use]
pub fn draw(
    site: &Site,
    exchange: &Exchange,
    routed: &Routed<'_>,
    permitted: &Permitted,
    entropy: &Entropy,
) -> Option<Box<Struck>> {
    if !site.faults.any.load(Relaxed) {
        return None;
    }
    drawn(&site.faults, exchange, routed, permitted, entropy)
}

#[cold]
fn drawn(
    faults: &Faults,
    exchange: &Exchange,
    routed: &Routed<'_>,
    permitted: &Permitted,
    entropy: &Entropy,
) -> Option<Box<Struck>> {
    let list = faults.list.load();
    let (tenant, route) = (permitted.permit().tenant().id(), &routed.route.settings.name);
    let now = clock::now();
    let struck = fault::draw(list.iter().map(|held| &held.fault), tenant, route, entropy.word(), now)?;
    let mut names = String::new();
    let mut receipt = exchange.open.receipt_mut();
    for held in struck.by.iter().map(|&place| &list[usize::from(place)]) {
        let Fault { name, kind, .. } = &held.fault;
        held.struck.fetch_add(1, Relaxed);
        faults.counts[kind.place()].fetch_add(1, Relaxed);
        receipt.note(now, Step::Faulted(Arc::clone(name), *kind));
        names.push_str(if names.is_empty() { "" } else { ", " });
        names.push_str(name);
    }
    receipt.fault = Some(names.into());
    Some(Box::new(struck))
}

/// What comes in the place of the first upstream's answer, if anything does. Boxed: no exchange that nothing strikes is the
/// larger for it.
pub type InItsPlace = Option<Replaced>;

/// What is put there.
pub type Replaced = Box<Result<Response<Content>, Refusal>>;

/// Lets the exchange suffer what comes before its answer.
pub async fn suffer(site: &Site, exchange: &Exchange, routed: &Routed<'_>, struck: &Struck) -> InItsPlace {
    if !struck.delay.is_zero() {
        let by = deadline_of(site, exchange, &routed.route.settings);
        let due = clock::now().after(struck.delay);
        clock::sleep_until(due.min(by)).await;
        if due >= by {
            let why = "an injected delay took all the time that there was";
            return Some(Box::new(Err(Refusal::new(&refusal::DEADLINE_EXCEEDED, why))));
        }
    }
    let response = match struck.instead? {
        Instead::Reset => Response::new(Content::Cut),
        Instead::Abort(status) => {
            let head = exchange.open.receipt().method == Method::HEAD;
            let told = Bytes::from_static(b"This answer is an injected fault.\n");
            let mut response = Response::new(if head { Content::Empty } else { Content::Full(told) });
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response
        }
    };
    Some(Box::new(Ok(response)))
}

/// The response's content as the faults shape it.
#[must_use]
pub fn shaped(content: Content, struck: Option<Box<Struck>>) -> Content {
    match struck {
        Some(struck) if struck.throttle.is_some() || struck.truncate.is_some() => {
            Content::Faulted(Box::new(FaultBody::new(content, struck.throttle, struck.truncate)))
        }
        _ => content,
    }
}

/// Tells in a response which faults struck the exchange.
pub fn tell(response: &mut Fields, receipt: &Receipt) {
    if let Some(names) = &receipt.fault {
        response.extend(HeaderValue::from_str(names).ok().map(|names| (TIDEGATE_FAULT, names)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(name: &str, until: u64) -> Fault {
        let (kind, by, until) = (Kind::Reset, "ops".into(), Tick(until));
        Fault { name: name.into(), kind, tenant: None, route: None, share: 1.0, by, until }
    }

    /// The names of those that have not ended at this time, and whether exchanges look for any.
    fn check(faults: &Faults, now: u64, names: &[&str], any: bool) {
        let held: Vec<Arc<str>> =
            faults.all(Tick(now)).iter().map(|held| Arc::clone(&held.fault.name)).collect();
        assert_eq!(held.iter().map(|name| &**name).collect::<Vec<_>>(), names);
        assert_eq!(faults.any.load(Relaxed), any);
    }

    #[test]
    fn a_fault_is_there_until_it_is_ended() {
        let faults = Faults::default();
        check(&faults, 0, &[], false);
        faults.begin(fault("a", 100), Tick(0)).unwrap();
        faults.begin(fault("b", 100), Tick(0)).unwrap();
        check(&faults, 0, &["a", "b"], true);
        assert!(faults.end("a", Tick(0)).is_some() && faults.end("a", Tick(0)).is_none());
        check(&faults, 0, &["b"], true);
        assert!(faults.end("b", Tick(0)).is_some());
        check(&faults, 0, &[], false);
    }

    #[test]
    fn a_name_is_taken_until_its_fault_has_ended() {
        let faults = Faults::default();
        let first = faults.begin(fault("a", 100), Tick(0)).unwrap();
        assert_eq!(faults.begin(fault("a", 200), Tick(99)).unwrap_err(), NotBegun::Taken);
        faults.begin(fault("a", 200), Tick(100)).unwrap();
        check(&faults, 100, &["a"], true);
        // The first one's timer comes late: it ends nothing but the first.
        assert!(faults.forget(&first) && !faults.forget(&first));
        check(&faults, 100, &["a"], true);
    }

    #[test]
    fn there_are_no_more_than_there_may_be() {
        let faults = Faults::default();
        for number in 0..FAULTS_MAX {
            faults.begin(fault(&number.to_string(), 100), Tick(0)).unwrap();
        }
        assert_eq!(faults.begin(fault("more", 100), Tick(0)).unwrap_err(), NotBegun::Full);
        assert!(faults.begin(fault("more", 200), Tick(100)).is_ok(), "those before have ended");
    }
}
