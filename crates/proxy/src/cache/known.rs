//! What is known of an answer beside its content, as bytes: the same in memory, on disk and where all nodes see it.
//!
//! ```text
//! status, time taken, rules, number of tags, tags, fields
//! ```
//!
//! An answer has them from when it is kept, and who writes it elsewhere copies them. Whether bytes that come from elsewhere
//! are those that were written is told by the checksum of the record around them, which is not made here; that they are
//! something of this kind at all is seen before they are believed ([`Known::read`]). What an answer varies with stands
//! beside them: a target's answers may vary with more elsewhere than this one says.

use bytes::BufMut as _;
use http::header::VARY;
use http::{HeaderName, HeaderValue, StatusCode};
use tidegate_model::cache::reuse::Rules;
use tidegate_model::cache::tags::Tag;
use tidegate_model::cache::vary::Vary;
use tidegate_model::fields::Fields;

use super::kept::Head;
use tidegate_model::numbers::Take;

const TOOK_AT: usize = 2;
const RULES_AT: usize = TOOK_AT + 4;
const TAGS_AT: usize = RULES_AT + Rules::BYTES;
/// The most tags that there is a number for. Answers with so many are not kept.
const TAGS_MAX: usize = u16::MAX as usize;

/// What is known of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known<'b>(&'b [u8]);

/// Appends what is known of an answer.
pub fn write(out: &mut Vec<u8>, head: &Head) {
    assert!(head.tags.len() <= TAGS_MAX, "tags were counted when they were read");
    out.put_u16_le(head.status.as_u16());
    out.put_u32_le(head.took_ms);
    head.rules.pack(out);
    out.put_u16_le(head.tags.len() as u16);
    for tag in &head.tags {
        out.put_u128_le(tag.0);
    }
    head.fields.pack(out);
}

impl<'b> Known<'b> {
    /// What this process has written, or found to be sound.
    #[must_use]
    pub fn of(bytes: &'b [u8]) -> Known<'b> {
        Known(bytes)
    }

    /// What somebody has written. `None`: it is nothing of that kind.
    #[must_use]
    pub fn read(bytes: &'b [u8]) -> Option<Known<'b>> {
        let mut take = Take(bytes);
        StatusCode::from_u16(take.u16()?).ok()?;
        take.u32()?;
        Rules::unpack(&mut take)?;
        let tags = usize::from(take.u16()?);
        take.bytes(tags * size_of::<u128>())?;
        Fields::read(take.0).map(|_| Known(bytes))
    }

    /// All of it.
    #[must_use]
    pub fn bytes(self) -> &'b [u8] {
        self.0
    }

    /// The answer's status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        let status = self.from(0).u16().and_then(|status| StatusCode::from_u16(status).ok());
        status.expect("it is sound")
    }

    /// How long the upstream took for its head, in milliseconds.
    #[must_use]
    pub fn took_ms(self) -> u32 {
        self.from(TOOK_AT).u32().expect("it is sound")
    }

    /// When the answer may be used.
    #[must_use]
    pub fn rules(self) -> Rules {
        Rules::unpack(&mut self.from(RULES_AT)).expect("it is sound")
    }

    /// By what names it can be purged.
    pub fn tags(self) -> impl ExactSizeIterator<Item = Tag> {
        let (tags, _) = self.tags_and_fields();
        tags.chunks_exact(size_of::<u128>())
            .map(|tag| Tag(u128::from_le_bytes(tag.try_into().expect("a chunk has its length"))))
    }

    /// Its fields.
    #[must_use]
    pub fn fields(self) -> Fields {
        Fields::unpack(self.tags_and_fields().1).expect("it is sound")
    }

    fn tags_and_fields(self) -> (&'b [u8], &'b [u8]) {
        let mut take = self.from(TAGS_AT);
        let tags = take.u16().and_then(|tags| take.bytes(usize::from(tags) * size_of::<u128>()));
        (tags.expect("it is sound"), take.0)
    }

    fn from(self, at: usize) -> Take<'b> {
        Take(&self.0[at..])
    }
}

/// Appends the names of varying fields. `None`: they are more than a record can have.
#[must_use]
pub fn write_vary(out: &mut Vec<u8>, vary: &Vary) -> Option<()> {
    let names = names(vary);
    out.put_u16_le(u16::try_from(names.len()).ok()?);
    out.put_slice(names.as_bytes());
    Some(())
}

/// Reads the names of varying fields.
#[must_use]
pub fn read_vary(take: &mut Take<'_>) -> Option<Vary> {
    let length = usize::from(take.u16()?);
    match take.bytes(length)? {
        [] => Some(Vary::default()),
        names => Vary::of(&Fields::from_iter([(VARY, HeaderValue::from_bytes(names).ok()?)])),
    }
}

/// The names of varying fields, as the field says them.
#[must_use]
pub fn names(vary: &Vary) -> String {
    vary.names().map(HeaderName::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidegate_model::cache::Wall;
    use tidegate_model::cache::freshness::Freshness;

    /// The fields that an answer varies with which says so.
    pub fn vary(names: &str) -> Vary {
        Vary::of(&Fields::from_iter([(VARY, HeaderValue::from_str(names).unwrap())])).unwrap()
    }

    /// What is known of an answer that varies with these fields.
    pub fn head(names: &str) -> Head {
        let freshness = Freshness { initial_age: 3, lifetime: 100, answered: Wall(1_000), heuristic: true };
        let rules = Rules {
            freshness,
            validate_always: false,
            never_stale: true,
            while_revalidate: 5,
            if_error: Some(0),
            immutable: true,
        };
        let fields = Fields::from_iter([
            (HeaderName::from_static("x-a"), HeaderValue::from_static("one")),
            (HeaderName::from_static("x-a"), HeaderValue::from_bytes(b"tw\xff").unwrap()),
        ]);
        Head {
            status: StatusCode::NOT_FOUND,
            fields,
            rules,
            tags: Box::new([Tag::named(b"a"), Tag::named(b"b")]),
            made: 1,
            took_ms: 9,
            vary: vary(names),
            variant: Vec::new(),
        }
    }

    fn written(head: &Head) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, head);
        out
    }

    /// Whether it reads as it was written, by whoever knows who wrote it and by others.
    fn check(head: &Head) {
        let written = written(head);
        for known in [Known::of(&written), Known::read(&written).unwrap()] {
            let Head { status, fields, rules, tags, took_ms, .. } = head;
            assert_eq!((known.status(), known.took_ms(), known.rules()), (*status, *took_ms, *rules));
            assert!(known.tags().eq(tags.iter().copied()));
            assert_eq!(known.fields(), *fields);
        }
    }

    proptest! {
        #[test]
        fn rules_come_back_as_they_were(numbers: [u32; 4], answered: u64, flags: [bool; 4], if_error: Option<u32>) {
            let [initial_age, lifetime, while_revalidate, took_ms] = numbers;
            let [heuristic, validate_always, never_stale, immutable] = flags;
            let freshness = Freshness { initial_age, lifetime, answered: Wall(answered), heuristic };
            let rules = Rules { freshness, validate_always, never_stale, while_revalidate, if_error, immutable };
            check(&Head { rules, took_ms, ..head("") });
        }

        /// What was read can be asked for all that there is.
        #[test]
        fn foreign_bytes_break_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..60), from in 0usize..200) {
            let mut out = written(&head(""));
            let from = from % out.len();
            out.splice(from.., bytes);
            if let Some(known) = Known::read(&out) {
                let _ = (known.status(), known.took_ms(), known.rules(), known.tags().count(), known.fields());
            }
        }
    }

    #[test]
    fn what_is_known_comes_back_as_it_was() {
        check(&head(""));
        check(&Head { tags: Box::default(), fields: Fields::default(), ..head("") });
    }

    #[test]
    fn the_names_of_varying_fields_come_back() {
        for names in ["", "accept", "accept,cookie"] {
            let mut out = Vec::new();
            write_vary(&mut out, &vary(names)).unwrap();
            let mut take = Take(&out);
            assert_eq!((read_vary(&mut take), take.0.len()), (Some(vary(names)), 0));
        }
    }
}
