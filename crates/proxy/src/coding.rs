//! Codings of bodies: answers are compressed for clients that take it, compressed requests are decoded for upstreams.
//!
//! ```text
//! request --- begin ---> what its client takes; which coding its content comes in
//!    body --- decoded -----------------------------> upstream, cache key, idempotency, deliveries
//! answer <--- compressed <--- from wherever it comes: upstream, cache, record, configuration
//! ```
//!
//! What stands behind the answer's stage is always the content as it was: what is stored, recorded and compared is not coded. What
//! memory has of the cache's answers is kept compressed beside them, once somebody has asked for it so (`crate::cache::coded`).
//! `tidegate_model::compress` and `tidegate_model::coding` decide; `encode` and `decode` are the codings, piece by piece,
//! with bounded windows; `answer` and `request` are the bodies. A route without either pays one look at an `Option`.

mod answer;
mod compressed;
mod decode;
mod encode;
mod hit;
mod request;

use http::HeaderName;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use http_body::Body as _;
use tidegate_model::coding::{Packing, Unreadable};
use tidegate_model::compress::{self, Offer, Terms};
use tidegate_model::receipt::Step;
use tidegate_model::refusal::{self, Refusal};

use crate::exchange::Exchange;

pub(crate) use self::answer::answer;
pub(crate) use self::compressed::Compressed;
pub(crate) use self::decode::{Undecoded, whole};
pub use self::encode::Levels;
pub(crate) use self::request::{decoded, may_hold};

/// What vouches for a request's content as it was sent, and is not true of what it is decoded to (RFC 9530).
const OF_CODED_CONTENT: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// What a route does with bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodingSettings {
    /// Whether and how answers are compressed.
    pub compress: Option<CompressSettings>,
    /// Whether and how requests are decoded.
    pub decompress: Option<DecompressSettings>,
}

/// How a route's answers are compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressSettings {
    /// Which.
    pub terms: Terms,
    /// How hard.
    pub levels: Levels,
    /// The application is asked for what is not coded.
    pub offload: bool,
}

/// How far a route's requests are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecompressSettings {
    /// The most bytes of a decoded body.
    pub bytes_max: u64,
    /// The most decoded bytes for each that was sent.
    pub ratio_max: u32,
}

/// What is known of an exchange's bodies, on a route that does anything with them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bodies {
    /// What the client takes.
    offer: Option<Offer>,
    /// The coding that the request's content comes in, and how far it is decoded.
    unpack: Option<(Packing, DecompressSettings)>,
}

/// Finds out what the client takes and what it sends, and makes of its head what the application is to see.
///
/// # Errors
/// `request.coding`.
#[cold]
pub(crate) fn begin(settings: &CodingSettings, exchange: &mut Exchange) -> Result<Box<Bodies>, Refusal> {
    let mut bodies = Bodies::default();
    let fields = &mut exchange.head.headers;
    if let Some(settings) = &settings.compress {
        bodies.offer = Some(Offer::of(&settings.terms, fields));
        if exchange.seen.conditional {
            compress::strengthen_if_match(fields);
        }
        if settings.offload {
            fields.remove(ACCEPT_ENCODING);
        }
    }
    let has_body = exchange.body.as_ref().is_some_and(|body| !body.is_end_stream());
    if let Some(settings) = settings.decompress.filter(|_| has_body)
        && let Some(packing) = Packing::of(fields).map_err(unreadable)?
    {
        for name in OF_CODED_CONTENT.iter().chain(&[CONTENT_ENCODING, CONTENT_LENGTH]) {
            fields.remove(name);
        }
        bodies.unpack = Some((packing, settings));
        exchange.note(Step::Decoded(packing.token()));
    }
    Ok(Box::new(bodies))
}

/// Whether the client would have the answer compressed.
pub(crate) fn is_wanted(exchange: &Exchange) -> bool {
    exchange.bodies.as_ref().is_some_and(|bodies| bodies.offer.is_some_and(|offer| offer.coding.is_some()))
}

fn unreadable(why: Unreadable) -> Refusal {
    let why = match why {
        Unreadable::Unknown => "the request's content comes in a coding that is not decoded here",
        Unreadable::Several => "the request's content comes in more than one coding",
    };
    Refusal::new(&refusal::REQUEST_CODING, why)
}
