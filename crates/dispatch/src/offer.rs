//! What somebody wants delivered, and what its queue makes of it: a promise that the store can take.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use tidegate_model::delivery::{AFTER_MAX, BODY_BYTES_MAX, Id, KEY_BYTES_MAX, Lane, Ms, Request};
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;
use tidegate_model::tenant::is_id;
use tidegate_store::deliveries::{Callback, Promise, Unique};

use crate::settings::QueueSettings;

/// The most bytes of a request's path and query.
const TARGET_BYTES_MAX: usize = 8 << 10;
/// The most bytes of a request's fields.
const FIELDS_BYTES_MAX: usize = 64 << 10;

/// What somebody wants delivered.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// Whose it is.
    pub tenant: Arc<str>,
    /// What it has in common with others of its tenant.
    pub key: Option<Arc<str>>,
    /// `None`: as the queue says.
    pub priority: Option<Priority>,
    /// Not begun before; `None`: now.
    pub due: Option<Ms>,
    /// Not begun from then on.
    pub expires: Option<Ms>,
    /// `None`: as many as the queue says.
    pub attempts_max: Option<u32>,
    /// What else counts as the same.
    pub unique: Option<Unique>,
    /// Those that it comes after.
    pub after: Vec<Id>,
    /// What is made once it has ended.
    pub callback: Option<Callback>,
    /// Its method; `None`: as the queue says.
    pub method: Option<Method>,
    /// Its path and query; `None`: as the queue says.
    pub target: Option<Arc<str>>,
    /// Its fields.
    pub fields: Fields,
    /// Its content.
    pub body: Bytes,
}

/// Why an offer is not taken, whatever there is room for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// There is no such queue.
    #[error("there is no queue `{0}`")]
    Queue(Arc<str>),
    /// That is no tenant's id.
    #[error("a tenant's id has 1 to 128 printable characters without spaces")]
    Tenant,
    /// A key is empty or too long.
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes")]
    Key,
    /// The path is no path.
    #[error("a target is a path and query of at most {TARGET_BYTES_MAX} bytes")]
    Target,
    /// The fields are too large.
    #[error("fields have at most {FIELDS_BYTES_MAX} bytes")]
    Fields,
    /// The content is too large.
    #[error("the content has at most {BODY_BYTES_MAX} bytes")]
    Body,
    /// It would have no attempt.
    #[error("a delivery has one attempt at least")]
    Attempts,
    /// It expires before it is due.
    #[error("it would expire before it is due")]
    Expired,
    /// It comes after too many.
    #[error("a delivery comes after {AFTER_MAX} others at most")]
    After,
}

impl QueueSettings {
    /// What this queue makes of an offer, under this id.
    ///
    /// # Errors
    /// [`Unacceptable`].
    pub fn promise(&self, offer: Offer, id: Id, now: Ms) -> Result<Promise, Unacceptable> {
        check(&offer, now)?;
        let lane = offer.key.map(|key| Lane {
            key,
            ordered: self.per_key.ordered,
            open_max: match &self.per_key {
                keyed if keyed.ordered => 1,
                keyed => keyed.concurrency.unwrap_or(u32::MAX).max(1),
            },
        });
        let request = Request {
            method: offer.method.unwrap_or_else(|| self.method.clone()),
            target: offer.target.unwrap_or_else(|| Arc::clone(&self.path)),
            fields: offer.fields,
            body: offer.body,
        };
        Ok(Promise {
            id,
            queue: Arc::clone(&self.name),
            tenant: offer.tenant,
            lane,
            priority: offer.priority.unwrap_or(self.priority),
            aging: u64::try_from(self.aging.as_millis()).unwrap_or(u64::MAX),
            due: offer.due,
            expires: offer.expires,
            attempts_max: offer.attempts_max,
            unique: offer.unique,
            after: offer.after,
            callback: offer.callback,
            request: Arc::new(request),
        })
    }
}

fn check(offer: &Offer, now: Ms) -> Result<(), Unacceptable> {
    let keys = [offer.key.as_ref(), offer.unique.as_ref().map(|unique| &unique.key)];
    let is_target =
        |target: &str| target.starts_with('/') && target.parse::<http::uri::PathAndQuery>().is_ok();
    let due = offer.due.unwrap_or(now);
    match () {
        () if !is_id(&offer.tenant) => Err(Unacceptable::Tenant),
        () if keys.into_iter().flatten().any(|key| !(1..=KEY_BYTES_MAX).contains(&key.len())) => {
            Err(Unacceptable::Key)
        }
        () if offer
            .target
            .as_ref()
            .is_some_and(|target| target.len() > TARGET_BYTES_MAX || !is_target(target)) =>
        {
            Err(Unacceptable::Target)
        }
        () if offer.fields.bytes() > FIELDS_BYTES_MAX => Err(Unacceptable::Fields),
        () if offer.body.len() > BODY_BYTES_MAX => Err(Unacceptable::Body),
        () if offer.attempts_max == Some(0) => Err(Unacceptable::Attempts),
        () if offer.expires.is_some_and(|expires| expires <= due.max(now)) => Err(Unacceptable::Expired),
        () if offer.after.len() > AFTER_MAX => Err(Unacceptable::After),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{PerKey, Way};

    fn queue() -> QueueSettings {
        QueueSettings::new("mails".into(), Way::Push("app".into()))
    }

    fn offer() -> Offer {
        Offer { tenant: "acme".into(), ..Offer::default() }
    }

    fn check(offer: Offer, expected: Result<(), Unacceptable>) {
        assert_eq!(queue().promise(offer, Id(1), 1_000).map(|_| ()), expected);
    }

    #[test]
    fn what_an_offer_does_not_say_its_queue_does() {
        let settings = QueueSettings { path: "/jobs".into(), priority: Priority::Critical, ..queue() };
        let promise = settings.promise(offer(), Id(1), 0).unwrap();
        assert_eq!((&promise.request.method, &*promise.request.target), (&Method::POST, "/jobs"));
        assert_eq!((promise.priority, promise.lane), (Priority::Critical, None));
    }

    #[test]
    fn an_ordered_key_has_one_open_and_another_as_many_as_may_be() {
        let lane = |per_key| {
            let settings = QueueSettings { per_key, ..queue() };
            let keyed = Offer { key: Some("k".into()), ..offer() };
            settings.promise(keyed, Id(1), 0).unwrap().lane.unwrap().open_max
        };
        assert_eq!(lane(PerKey { ordered: true, concurrency: Some(5), rate: None }), 1);
        assert_eq!(lane(PerKey { ordered: false, concurrency: Some(5), rate: None }), 5);
        assert_eq!(lane(PerKey::default()), u32::MAX);
    }

    #[test]
    fn what_could_never_be_made_is_not_accepted() {
        check(offer(), Ok(()));
        check(Offer { tenant: "two words".into(), ..offer() }, Err(Unacceptable::Tenant));
        check(Offer { key: Some("".into()), ..offer() }, Err(Unacceptable::Key));
        check(Offer { key: Some("k".repeat(256).into()), ..offer() }, Err(Unacceptable::Key));
        for target in ["", "jobs", "http://other/", "/a b"] {
            check(Offer { target: Some(target.into()), ..offer() }, Err(Unacceptable::Target));
        }
        check(Offer { body: vec![0; BODY_BYTES_MAX + 1].into(), ..offer() }, Err(Unacceptable::Body));
        check(Offer { attempts_max: Some(0), ..offer() }, Err(Unacceptable::Attempts));
        check(Offer { expires: Some(1_000), ..offer() }, Err(Unacceptable::Expired));
        check(Offer { due: Some(2_000), expires: Some(2_000), ..offer() }, Err(Unacceptable::Expired));
        check(Offer { after: vec![Id(1); AFTER_MAX + 1], ..offer() }, Err(Unacceptable::After));
    }
}
