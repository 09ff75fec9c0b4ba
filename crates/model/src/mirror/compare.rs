//! Two answers to the same request, compared: status, the headers that were chosen, and the body.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, StatusCode};
use serde_json::Value;

use super::json::Walk;
use super::pattern::Pattern;
use crate::fields::Fields;
use crate::headers::is_credential;

/// Characters of a value that are told.
const VALUE_CHARS_MAX: usize = 120;

/// What answers are compared by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Headers, besides the status and the body.
    pub headers: Vec<HeaderName>,
    /// Places in JSON that may differ.
    pub ignore: Vec<Pattern>,
    /// Arrays whose order says nothing.
    pub unordered: Vec<Pattern>,
}

/// What is compared of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: StatusCode,
    /// In the order of the rules; each as one value.
    headers: Vec<Option<String>>,
    json: bool,
    /// Its content.
    pub body: Content,
}

/// An answer's content, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// All of it.
    Whole(Bytes),
    /// It is longer than what is compared.
    Longer,
    /// It is in a coding that is not read.
    Coded,
}

/// Where two answers differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// In what.
    pub kind: Kind,
    /// Where: two statuses, a header, a place in JSON with `*` for elements.
    pub place: String,
    /// What the upstream's answer has there, shortened; `None`: nothing.
    pub ours: Option<String>,
    /// What the mirror's has.
    pub theirs: Option<String>,
}

/// In what answers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The status.
    Status,
    /// A header.
    Header,
    /// The body.
    Body,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Status, Kind::Header, Kind::Body];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Status => "status",
            Kind::Header => "header",
            Kind::Body => "body",
        }
    }
}

/// What a comparison came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compared {
    /// They are the same.
    Equal,
    /// They are not.
    Different(Vec<Difference>),
    /// Nobody can say: this is missing.
    Unknown(&'static str),
}

impl Answer {
    /// What is compared of an answer by these rules.
    #[must_use]
    pub fn of(rules: &Rules, status: StatusCode, fields: &Fields, body: Content) -> Answer {
        let value = |name: &HeaderName| {
            let values: Vec<_> = fields.get_all(name).iter().map(|value| lossy(value.as_bytes())).collect();
            (!values.is_empty()).then(|| values.join(", "))
        };
        let json = fields.get(CONTENT_TYPE).is_some_and(|value| is_json(value.as_bytes()));
        Answer { status, headers: rules.headers.iter().map(value).collect(), json, body }
    }
}

/// Compares the answer of a route's upstream with the mirror's.
#[must_use]
pub fn compare(rules: &Rules, ours: &Answer, theirs: &Answer) -> Compared {
    let mut found = Vec::new();
    // What the client has already, the mirror's server cannot know: their validators are their own.
    if (ours.status == StatusCode::NOT_MODIFIED) != (theirs.status == StatusCode::NOT_MODIFIED) {
        return Compared::Unknown("conditional");
    }
    if ours.status != theirs.status {
        let (one, other) = (ours.status.as_u16(), theirs.status.as_u16());
        found.push(Difference {
            kind: Kind::Status,
            place: format!("{one} -> {other}"),
            ours: Some(one.to_string()),
            theirs: Some(other.to_string()),
        });
    }
    for ((name, one), other) in rules.headers.iter().zip(&ours.headers).zip(&theirs.headers) {
        if one != other {
            let tell = |value: &String| if is_credential(name.as_str()) { hidden() } else { shown(value) };
            found.push(Difference {
                kind: Kind::Header,
                place: name.as_str().to_owned(),
                ours: one.as_ref().map(tell),
                theirs: other.as_ref().map(tell),
            });
        }
    }
    let unknown = match (&ours.body, &theirs.body) {
        (Content::Whole(one), Content::Whole(other)) => {
            bodies(rules, ours.json && theirs.json, one, other, &mut found);
            None
        }
        (Content::Coded, _) | (_, Content::Coded) => Some("coded"),
        (Content::Longer, _) | (_, Content::Longer) => Some("large"),
    };
    match (found.is_empty(), unknown) {
        (false, _) => Compared::Different(found),
        (true, None) => Compared::Equal,
        (true, Some(why)) => Compared::Unknown(why),
    }
}

fn bodies(rules: &Rules, json: bool, ours: &Bytes, theirs: &Bytes, found: &mut Vec<Difference>) {
    if ours == theirs {
        return;
    }
    if json
        && let (Ok(one), Ok(other)) =
            (serde_json::from_slice::<Value>(ours), serde_json::from_slice::<Value>(theirs))
    {
        let (ignore, unordered) = (&rules.ignore[..], &rules.unordered[..]);
        Walk { ignore, unordered, path: Vec::new(), found }.compare(&one, &other);
        return;
    }
    let same = ours.iter().zip(theirs).take_while(|(one, other)| one == other).count();
    let told = |bytes: &Bytes| Some(format!("{} bytes, different from byte {same} on", bytes.len()));
    found.push(Difference {
        kind: Kind::Body,
        place: "bytes".to_owned(),
        ours: told(ours),
        theirs: told(theirs),
    });
}

fn is_json(kind: &[u8]) -> bool {
    let kind = lossy(kind).to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A value as it is told.
pub(super) fn shown(value: &str) -> String {
    match value.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// What is told in the place of a credential.
pub(super) fn hidden() -> String {
    "hidden".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    type Told<'a> = (u16, &'a [(&'static str, &'static str)], Content);

    fn whole(text: &str) -> Content {
        Content::Whole(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// What comparing these comes to: the kind and place of each difference.
    fn check(ours: &Told<'_>, theirs: &Told<'_>, expected: Result<&[(&str, &str)], &str>) -> Compared {
        let headers = ["content-type", "x-version", "set-cookie"].map(HeaderName::from_static).to_vec();
        let ignore = vec![Pattern::parse("/id").expect("a place")];
        let rules = Rules { headers, ignore, unordered: Vec::new() };
        let answer = |(status, fields, body): &Told<'_>| {
            let mut all = Fields::default();
            for (name, value) in *fields {
                all.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            Answer::of(&rules, StatusCode::from_u16(*status).expect("a status"), &all, body.clone())
        };
        let compared = compare(&rules, &answer(ours), &answer(theirs));
        let found: Result<Vec<(&str, &str)>, &str> = match &compared {
            Compared::Equal => Ok(Vec::new()),
            Compared::Different(all) => Ok(all.iter().map(|one| (one.kind.name(), &*one.place)).collect()),
            Compared::Unknown(why) => Err(why),
        };
        assert_eq!(found, expected.map(<[_]>::to_vec));
        compared
    }

    const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

    #[test]
    fn answers_are_the_same_by_what_they_mean() {
        check(&(200, &[], whole("a")), &(200, &[], whole("a")), Ok(&[]));
        check(
            &(200, JSON, whole(r#"{"a": 1, "id": 1}"#)),
            &(200, JSON, whole(r#"{"id":2,"a":1.0}"#)),
            Ok(&[]),
        );
        let problem = &[("content-type", "application/problem+json; charset=utf-8")];
        check(&(404, problem, whole("{ }")), &(404, problem, whole("{}")), Ok(&[]));
        // Only headers that are chosen count.
        check(&(200, &[("date", "now")], whole("")), &(200, &[], whole("")), Ok(&[]));
    }

    #[test]
    fn each_difference_is_told_with_its_kind() {
        check(
            &(200, JSON, whole("{}")),
            &(500, &[], whole("oh")),
            Ok(&[("status", "200 -> 500"), ("header", "content-type"), ("body", "bytes")]),
        );
        check(&(200, JSON, whole("[1]")), &(200, JSON, whole("[2]")), Ok(&[("body", "/*")]));
        check(&(200, JSON, whole("{")), &(200, JSON, whole("{}")), Ok(&[("body", "bytes")]));
        check(&(200, &[], whole("{ }")), &(200, &[], whole("{}")), Ok(&[("body", "bytes")]));
        let twice = &[("x-version", "1"), ("x-version", "2")];
        check(
            &(200, twice, whole("")),
            &(200, &[("x-version", "1")], whole("")),
            Ok(&[("header", "x-version")]),
        );
    }

    #[test]
    fn what_is_not_known_is_not_said_to_be_the_same() {
        check(&(200, &[], Content::Longer), &(200, &[], whole("a")), Err("large"));
        check(&(200, &[], whole("a")), &(200, &[], Content::Coded), Err("coded"));
        check(&(304, &[], whole("")), &(200, &[], whole("a")), Err("conditional"));
        check(&(200, &[], Content::Longer), &(404, &[], whole("a")), Ok(&[("status", "200 -> 404")]));
    }

    #[test]
    fn no_credential_is_told() {
        let ours = &[("set-cookie", "session=secret1")];
        let told = check(
            &(200, ours, whole("x")),
            &(200, &[], whole("y")),
            Ok(&[("header", "set-cookie"), ("body", "bytes")]),
        );
        assert!(!format!("{told:?}").contains("secret1"), "{told:?}");
    }

    #[test]
    fn hostile_bytes_break_nothing() {
        let deep = "[".repeat(100_000);
        check(&(200, JSON, whole(&deep)), &(200, JSON, whole("[]")), Ok(&[("body", "bytes")]));
        let odd = Content::Whole(Bytes::from_static(b"\xff\xfe{\"a\":\xc0}"));
        check(&(200, JSON, odd), &(200, JSON, whole("{}")), Ok(&[("body", "bytes")]));
    }
}
