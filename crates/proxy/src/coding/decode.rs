//! The codings of requests, and of the answers that are compared, piece by piece: foreign bytes, so that whatever they are, no
//! more comes out at a time than there is room for, and no window is larger than [`window`].

use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use tidegate_model::coding::{Coding, Packing};
use zstd::stream::raw::{DParameter, Decoder as Zstd, InBuffer, Operation as _, OutBuffer};

/// Bytes that Zstandard may look back on, as a power of two: as many as clients of answers have to have (RFC 9659).
const ZSTD_WINDOW: u32 = 23;

/// Bytes that [`whole`] decodes at a time.
const ROOM_BYTES: usize = 16 << 10;

/// What a decoder may hold, in bytes.
#[must_use]
pub fn window(packing: Packing) -> u64 {
    match packing {
        Packing::Deflate | Packing::Coding(Coding::Gzip) => 64 << 10,
        // RFC 7932 section 9.1 knows no larger one.
        Packing::Coding(Coding::Brotli) => 16 << 20,
        Packing::Coding(Coding::Zstd) => 1 << ZSTD_WINDOW,
    }
}

/// A body's decoder.
pub struct Decoder {
    kind: Kind,
    state: State,
}

enum Kind {
    Gzip(Decompress),
    /// Its first byte tells whether it has a head.
    Deflate(Option<Decompress>),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
    Zstd(Zstd<'static>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing has come.
    Fresh,
    /// In the middle.
    Within,
    /// At an end. Some codings may begin again behind it.
    Ended,
}

/// What a decoder did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes that it took.
    pub taken: usize,
    /// Bytes that it wrote.
    pub written: usize,
}

/// The bytes are none of the coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// Why content is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecoded {
    /// It is longer than it may be.
    Longer,
    /// It is none of the coding, or not whole.
    Corrupt,
}

/// Content that is here whole, decoded; it may have so many bytes.
///
/// # Errors
/// [`Undecoded`].
pub fn whole(packing: Packing, mut coded: &[u8], bytes_max: u64) -> Result<Bytes, Undecoded> {
    let mut decoder = Decoder::new(packing).ok_or(Undecoded::Corrupt)?;
    let (mut out, mut room) = (Vec::new(), vec![0; ROOM_BYTES]);
    loop {
        let step = decoder.step(coded, &mut room).map_err(|Corrupt| Undecoded::Corrupt)?;
        coded = &coded[step.taken..];
        out.extend_from_slice(&room[..step.written]);
        if out.len() as u64 > bytes_max {
            return Err(Undecoded::Longer);
        }
        if coded.is_empty() && step.written < room.len() {
            return if decoder.is_whole() { Ok(out.into()) } else { Err(Undecoded::Corrupt) };
        }
        if step.taken == 0 && step.written == 0 {
            return Err(Undecoded::Corrupt);
        }
    }
}

impl Decoder {
    /// A decoder. `None`: the system has no memory for it.
    #[must_use]
    pub fn new(packing: Packing) -> Option<Decoder> {
        let kind = match packing {
            Packing::Coding(Coding::Gzip) => Kind::Gzip(Decompress::new_gzip(15)),
            Packing::Deflate => Kind::Deflate(None),
            Packing::Coding(Coding::Brotli) => {
                let alloc = StandardAlloc::default;
                Kind::Brotli(Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())))
            }
            Packing::Coding(Coding::Zstd) => {
                let mut decoder = Zstd::new().ok()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW)).ok()?;
                Kind::Zstd(decoder)
            }
        };
        Some(Decoder { kind, state: State::Fresh })
    }

    /// Whether what has come is whole.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.state == State::Ended
    }

    /// Decodes some of `input` into `room`. With a room that it fills it may have more to say.
    ///
    /// # Errors
    /// The bytes are none of the coding, or follow its end.
    pub fn step(&mut self, input: &[u8], room: &mut [u8]) -> Result<Step, Corrupt> {
        if self.state == State::Ended && !input.is_empty() {
            self.begin_again(input)?;
        }
        if self.state == State::Ended || self.state == State::Fresh && input.is_empty() {
            return Ok(Step { taken: 0, written: 0 });
        }
        self.state = State::Within;
        let (step, ended) = match &mut self.kind {
            Kind::Gzip(decoder) => inflate(decoder, input, room)?,
            Kind::Deflate(decoder) => {
                let has_head = input.first().is_some_and(|first| first & 0x0f == 8 && first >> 4 <= 7);
                inflate(decoder.get_or_insert_with(|| Decompress::new(has_head)), input, room)?
            }
            Kind::Brotli(state) => brotli(state, input, room)?,
            Kind::Zstd(decoder) => zstd(decoder, input, room)?,
        };
        if ended {
            self.state = State::Ended;
        }
        Ok(step)
    }

    /// Something stands behind an end: a further member of gzip (RFC 1952 section 2.2), or a further frame of zstd (RFC 8878
    /// section 3.1), which its decoder begins by itself.
    fn begin_again(&mut self, input: &[u8]) -> Result<(), Corrupt> {
        match &mut self.kind {
            Kind::Gzip(decoder) if input[0] == 0x1f => decoder.reset(true),
            Kind::Zstd(_) => {}
            Kind::Gzip(_) | Kind::Deflate(_) | Kind::Brotli(_) => return Err(Corrupt),
        }
        self.state = State::Within;
        Ok(())
    }
}

fn inflate(decoder: &mut Decompress, input: &[u8], room: &mut [u8]) -> Result<(Step, bool), Corrupt> {
    let (taken, written) = (decoder.total_in(), decoder.total_out());
    let status = decoder.decompress(input, room, FlushDecompress::None).map_err(|_| Corrupt)?;
    let step = Step {
        taken: (decoder.total_in() - taken) as usize,
        written: (decoder.total_out() - written) as usize,
    };
    Ok((step, status == Status::StreamEnd))
}

fn brotli(
    state: &mut BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    input: &[u8],
    room: &mut [u8],
) -> Result<(Step, bool), Corrupt> {
    let (mut left, mut taken, mut free, mut written) = (input.len(), 0, room.len(), 0);
    let result =
        BrotliDecompressStream(&mut left, &mut taken, input, &mut free, &mut written, room, &mut 0, state);
    let step = Step { taken, written };
    match result {
        BrotliResult::ResultSuccess => Ok((step, true)),
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok((step, false)),
        BrotliResult::ResultFailure => Err(Corrupt),
    }
}

fn zstd(decoder: &mut Zstd<'static>, input: &[u8], room: &mut [u8]) -> Result<(Step, bool), Corrupt> {
    let (mut input, mut room) = (InBuffer::around(input), OutBuffer::around(room));
    let left = decoder.run(&mut input, &mut room).map_err(|_| Corrupt)?;
    Ok((Step { taken: input.pos(), written: room.pos() }, left == 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encode::tests::coded;
    use super::*;

    const PACKINGS: [Packing; 4] = [
        Packing::Coding(Coding::Gzip),
        Packing::Deflate,
        Packing::Coding(Coding::Brotli),
        Packing::Coding(Coding::Zstd),
    ];

    fn packed(packing: Packing, content: &[u8]) -> Vec<u8> {
        match packing {
            Packing::Coding(coding) => coded(coding, content),
            Packing::Deflate => deflated(content, true),
        }
    }

    fn deflated(content: &[u8], head: bool) -> Vec<u8> {
        let mut encoder = flate2::Compress::new(flate2::Compression::fast(), head);
        let mut out = Vec::with_capacity(content.len() + 1024);
        encoder.compress_vec(content, &mut out, flate2::FlushCompress::Finish).unwrap();
        out
    }

    /// What comes out of bytes that come in pieces of `piece`, into a room of `room`; `None`: they are corrupt or not whole.
    fn unpacked(packing: Packing, bytes: &[u8], piece: usize, room: usize) -> Option<Vec<u8>> {
        let mut decoder = Decoder::new(packing).unwrap();
        let (mut out, mut room) = (Vec::new(), vec![0; room]);
        for mut piece in bytes.chunks(piece) {
            loop {
                let step = decoder.step(piece, &mut room).ok()?;
                out.extend_from_slice(&room[..step.written]);
                piece = &piece[step.taken..];
                if piece.is_empty() && step.written < room.len() {
                    break;
                }
                assert!(step.taken + step.written > 0, "it goes on");
            }
        }
        decoder.is_whole().then_some(out)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_was_coded_is_decoded_however_it_comes(
            content in proptest::collection::vec(0u8..4, 0..3000),
            piece in 1usize..50,
            room in 1usize..2000,
        ) {
            for packing in PACKINGS {
                let bytes = packed(packing, &content);
                prop_assert_eq!(unpacked(packing, &bytes, piece, room), Some(content.clone()), "{:?}", packing);
            }
        }

        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
            for packing in PACKINGS {
                let mut decoder = Decoder::new(packing).unwrap();
                let mut room = [0; 64];
                'all: for mut piece in bytes.chunks(piece) {
                    for _ in 0..1000 {
                        let Ok(step) = decoder.step(piece, &mut room) else { break 'all };
                        piece = &piece[step.taken..];
                        if step.taken + step.written == 0 {
                            break;
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_cut_is_not_whole_and_what_is_changed_is_corrupt() {
        let content = b"so be it, so be it, so be it".repeat(20);
        for packing in PACKINGS {
            let bytes = packed(packing, &content);
            for cut in 0..bytes.len() {
                assert_eq!(unpacked(packing, &bytes[..cut], 7, 64), None, "{packing:?} cut at {cut}");
            }
            assert_eq!(unpacked(packing, b"", 7, 64), None, "{packing:?}: nothing is not whole");
        }
        let mut gzip = packed(PACKINGS[0], &content);
        let last = gzip.len() - 5;
        gzip[last] ^= 1;
        assert_eq!(unpacked(PACKINGS[0], &gzip, 7, 64), None, "its sum is not that of its content");
    }

    #[test]
    fn some_codings_may_begin_again_behind_their_end_and_nothing_else_may_follow() {
        for packing in PACKINGS {
            let one = packed(packing, b"one");
            let twice = [one.clone(), packed(packing, b"two")].concat();
            let again = matches!(packing, Packing::Coding(Coding::Gzip | Coding::Zstd));
            let expected = again.then(|| b"onetwo".to_vec());
            assert_eq!(unpacked(packing, &twice, 3, 64), expected, "{packing:?}");
            assert_eq!(unpacked(packing, &[&one[..], b"garbage"].concat(), 3, 64), None, "{packing:?}");
        }
    }

    #[test]
    fn deflate_is_read_with_its_head_and_without() {
        let raw = deflated(b"so be it", false);
        assert_eq!(unpacked(Packing::Deflate, &raw, 3, 64).as_deref(), Some(&b"so be it"[..]));
    }

    #[test]
    fn what_is_here_whole_is_decoded_within_its_bound() {
        let text = vec![b'x'; 100_000];
        for packing in PACKINGS {
            let coded = packed(packing, &text);
            assert_eq!(whole(packing, &coded, 100_000).as_deref(), Ok(&text[..]), "{packing:?}");
            assert_eq!(whole(packing, &coded, 99_999), Err(Undecoded::Longer), "{packing:?}");
            let cut = whole(packing, &coded[..coded.len() - 1], 100_000);
            assert_eq!(cut, Err(Undecoded::Corrupt), "{packing:?}");
            assert_eq!(whole(packing, b"", 100_000), Err(Undecoded::Corrupt), "{packing:?}");
        }
        assert_eq!(whole(PACKINGS[0], b"nonsense", 100_000), Err(Undecoded::Corrupt));
    }

    #[test]
    fn no_window_is_larger_than_is_said() {
        // A frame of zstd whose window is 16 MiB, and one of Brotli that is "large" (not RFC 7932).
        let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 14 << 3, 0x01, 0x00, 0x00];
        assert_eq!(unpacked(PACKINGS[3], &zstd, 20, 64), None);
        assert_eq!(unpacked(PACKINGS[2], &[0x11, 30, 0x03], 20, 64), None);
    }
}
