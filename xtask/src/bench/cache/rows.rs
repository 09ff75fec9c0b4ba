//! What is measured.

use super::origin;
use super::peers::Room;
use crate::bench::requests::{self, Requests};

/// A row of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// As the command line names it.
    pub name: &'static str,
    pub title: &'static str,
    pub room: Room,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests for objects that are all kept, in turn.
    Hits { objects: usize, bytes: usize, conditional: bool },
    /// Many ask at once for what nobody has.
    Stampede { waiters: usize, bytes: usize },
    /// Many objects, of which a part can be kept.
    Mix { objects: usize, bytes: usize, requests: usize },
    /// What memory objects take beside their own bytes.
    Memory { objects: usize, bytes: usize },
}

const AMPLE: Room = Room { for_all: true, memory_mib: 512, objects: 100_000, disk_mib: None };

/// Objects of the mix: as many bytes as fill two blocks of a file system with their heads, so that who keeps files and
/// who does not has room for the same number.
const MIX_BYTES: usize = 7300;
const MIX_OBJECTS: usize = 100_000;

pub const ROWS: [Row; 7] = [
    Row {
        name: "hit-1k",
        title: "hit in memory, 1 KiB",
        room: AMPLE,
        kind: Kind::Hits { objects: 1000, bytes: 1024, conditional: false },
    },
    Row {
        name: "hit-100k",
        title: "hit in memory, 100 KiB",
        room: AMPLE,
        kind: Kind::Hits { objects: 100, bytes: 100 << 10, conditional: false },
    },
    Row {
        name: "hit-disk",
        title: "hit on disk, 32 KiB, in the page cache",
        // An eighth of the objects fit into memory, and they are asked for in turn.
        room: Room { for_all: true, memory_mib: 16, objects: 4000, disk_mib: Some(512) },
        kind: Kind::Hits { objects: 4000, bytes: 32 << 10, conditional: false },
    },
    Row {
        name: "not-modified",
        title: "304 to a client that has it",
        room: AMPLE,
        kind: Kind::Hits { objects: 1000, bytes: 1024, conditional: true },
    },
    Row {
        name: "stampede",
        title: "1,000 clients at once for what nobody has",
        room: AMPLE,
        kind: Kind::Stampede { waiters: 1000, bytes: 16 << 10 },
    },
    Row {
        name: "mix",
        title: "100,000 objects of 7.1 KiB by Zipf, room for a tenth",
        room: Room { for_all: false, memory_mib: 80, objects: MIX_OBJECTS / 10, disk_mib: None },
        kind: Kind::Mix { objects: MIX_OBJECTS, bytes: MIX_BYTES, requests: 60_000 },
    },
    Row {
        name: "memory",
        title: "50,000 objects of 1 KiB",
        room: AMPLE,
        kind: Kind::Memory { objects: 50_000, bytes: 1024 },
    },
];

/// What clients of a row of hits send, in turn.
pub fn requests(objects: usize, bytes: usize, conditional: bool) -> Requests {
    Requests::list((0..objects).map(|number| {
        let path = origin::path(bytes, number);
        let condition =
            if conditional { format!("If-None-Match: {}\r\n", origin::etag(&path)) } else { String::new() };
        requests::head("GET", &path, &condition)
    }))
}
