//! What routes do with bodies: compression of answers, decompression of requests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_model::compress::Types;

use crate::config::scalar::Size;

/// Which answers are compressed, and how.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compress {
    /// The codings, those that are liked best first. What a client prefers counts before that.
    #[schemars(length(min = 1, max = 3))]
    pub codings: Vec<CodingName>,
    /// The content types: `text/html`, `text/*`, or `*+json`. `text/event-stream` is meant only where it stands itself.
    #[schemars(length(min = 1, max = 64))]
    pub types: Vec<String>,
    /// Content that is shorter is told as it is.
    pub min_size: Size,
    /// The level of gzip, from 1, quick, to 9, small.
    #[schemars(range(min = 1, max = 9))]
    pub gzip: u8,
    /// The quality of Brotli, from 1, quick, to 9, small.
    #[schemars(range(min = 1, max = 9))]
    pub br: u8,
    /// The level of Zstandard, from 1, quick, to 12, small.
    #[schemars(range(min = 1, max = 12))]
    pub zstd: u8,
    /// Whether the application is asked for content as it is, so that Tidegate alone compresses: `Accept-Encoding` is then not
    /// sent on.
    pub offload: bool,
    /// Whether answers are compressed, too, that a page of another site has asked for with its user's cookies. See BREACH in
    /// `docs/bodies.md`.
    pub cross_site: bool,
}

impl Default for Compress {
    fn default() -> Compress {
        Compress {
            codings: vec![CodingName::Zstd, CodingName::Br, CodingName::Gzip],
            types: Types::USUAL.map(str::to_owned).to_vec(),
            min_size: Size(1024),
            gzip: 5,
            br: 4,
            zstd: 3,
            offload: false,
            cross_site: false,
        }
    }
}

/// A coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CodingName {
    /// Zstandard, RFC 8878.
    Zstd,
    /// Brotli, RFC 7932.
    Br,
    /// RFC 1952.
    Gzip,
}

/// How compressed bodies of requests are decoded.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decompress {
    /// The most bytes of a decoded body.
    pub max_size: Size,
    /// The most decoded bytes for each that was sent, once a MiB has been decoded.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_ratio: u32,
}

impl Default for Decompress {
    fn default() -> Decompress {
        Decompress { max_size: Size(10 << 20), max_ratio: 100 }
    }
}
