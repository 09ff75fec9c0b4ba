//! What a file holds, told by the end of its name.

use std::borrow::Cow;

/// Of what nothing is known, no browser is to make something that runs.
const UNKNOWN: &str = "application/octet-stream";

/// What the common table has not, has otherwise than browsers want it, or has for something rare.
const OWN: [(&str, &str); 7] = [
    ("cjs", "text/javascript"),
    ("geojson", "application/geo+json"),
    ("map", "application/json"),
    ("mjs", "text/javascript"),
    // Parts of HLS streams; who serves sources of TypeScript wants them shown.
    ("ts", "video/mp2t"),
    ("jsonld", "application/ld+json"),
    ("webmanifest", "application/manifest+json"),
];

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(&'static str);

impl Kind {
    /// Of a file whose name ends so.
    pub(super) fn of(extension: Option<&str>) -> Kind {
        let Some(extension) = extension else { return Kind(UNKNOWN) };
        let own = OWN.iter().find(|(own, _)| extension.eq_ignore_ascii_case(own));
        let common = || mime_guess::from_ext(extension).first_raw();
        Kind(own.map(|(_, kind)| *kind).or_else(common).unwrap_or(UNKNOWN))
    }

    /// The value of `Content-Type`. Text is UTF-8.
    pub(super) fn content_type(self) -> Cow<'static, str> {
        match self.0 {
            "text/html" => "text/html; charset=utf-8".into(),
            "text/css" => "text/css; charset=utf-8".into(),
            "text/javascript" => "text/javascript; charset=utf-8".into(),
            "text/plain" => "text/plain; charset=utf-8".into(),
            text if text.starts_with("text/") => format!("{text}; charset=utf-8").into(),
            other => other.into(),
        }
    }

    /// Whether compressed siblings are looked for: it is not compressed in itself.
    pub(super) fn is_compressible(self) -> bool {
        let (family, rest) = self.0.split_once('/').unwrap_or((self.0, ""));
        match family {
            "text" => true,
            "image" => matches!(rest, "svg+xml" | "bmp" | "x-icon" | "vnd.microsoft.icon"),
            "font" => !matches!(rest, "woff" | "woff2"),
            "application" => {
                rest.ends_with("json")
                    || rest.ends_with("xml")
                    || matches!(rest, "javascript" | "wasm" | "x-font-ttf" | "vnd.ms-fontobject" | "rtf")
            }
            _ => false,
        }
    }

    /// Whether it is a part of a page rather than a page: one that is missing is not replaced by the application's shell.
    pub(super) fn is_asset(self) -> bool {
        let family = self.0.split('/').next().unwrap_or_default();
        matches!(family, "image" | "font" | "audio" | "video")
            || matches!(self.0, "text/css" | "text/javascript" | "application/wasm" | "application/json")
            || self.0 == "application/manifest+json"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(extension: &str, kind: &str, compressible: bool, asset: bool) {
        let of = Kind::of(Some(extension));
        assert_eq!(of.content_type(), kind, "{extension}");
        assert_eq!((of.is_compressible(), of.is_asset()), (compressible, asset), "{extension}");
    }

    #[test]
    fn the_end_of_a_name_tells_what_it_is() {
        check("html", "text/html; charset=utf-8", true, false);
        check("HTM", "text/html; charset=utf-8", true, false);
        check("css", "text/css; charset=utf-8", true, true);
        check("js", "text/javascript; charset=utf-8", true, true);
        check("mjs", "text/javascript; charset=utf-8", true, true);
        check("json", "application/json", true, true);
        check("map", "application/json", true, true);
        check("wasm", "application/wasm", true, true);
        check("svg", "image/svg+xml", true, true);
        check("xml", "text/xml; charset=utf-8", true, false);
        check("png", "image/png", false, true);
        check("woff2", "font/woff2", false, true);
        check("mp4", "video/mp4", false, true);
        check("pdf", "application/pdf", false, false);
        check("gz", "application/gzip", false, false);
        check("webmanifest", "application/manifest+json", true, true);
        check("doe", UNKNOWN, false, false);
        assert_eq!(Kind::of(None).content_type(), UNKNOWN);
    }
}
