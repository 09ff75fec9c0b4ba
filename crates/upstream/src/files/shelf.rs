//! The shelf: from a path to an open file.
//!
//! One look decides all of it: the file itself, the index of a directory, a compressed sibling, the application's shell in
//! the place of what is missing, a page for what is missing. It is made in memory first; when something is not there, the
//! same look is made again by a thread that may wait.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use smallvec::SmallVec;
use tidegate_model::files::coding::Coding;
use tidegate_model::files::name::Name;
use tidegate_model::files::stamp::Stamp;
use tidegate_model::tick::Tick;

use super::kind::Kind;
use super::root::{Found, Reach, Root, read, stamp};
use super::{Busy, Unread, pool};
use crate::settings::FilesSettings;

/// A root is opened again after so long: a link to it may lead to another release by then.
const BELIEVED: Duration = Duration::from_secs(1);
/// A file of at most so many bytes is read at once.
pub(super) const WHOLE_MAX: u64 = 64 << 10;
/// How often what changed while it was read is read again.
const CHANGES_MAX: u32 = 3;

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub settings: Arc<FilesSettings>,
    /// The name, or why the path names nothing.
    pub name: Result<Name, &'static str>,
    /// What the client takes, the best first.
    pub codings: SmallVec<[Coding; 3]>,
    /// Whether the content of a small file is wanted at once.
    pub content: bool,
}

/// What a look came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A file.
    File(Open),
    /// A directory with an index, asked for without its slash.
    Slash,
    /// Nothing that is served, for this reason; and the page that says so, if there is one.
    Missing(&'static str, Option<Open>),
    /// Something that this process may not read.
    Denied,
}

/// What a look came to, and how.
#[derive(Debug)]
pub(super) struct Looked {
    pub outcome: Outcome,
    /// Where it was found: `memory`, `disk`.
    pub from: &'static str,
    /// Whether the root was opened anew.
    pub anew: bool,
}

/// An open file.
#[derive(Debug)]
pub(super) struct Open {
    pub file: OwnedFd,
    pub stamp: Stamp,
    pub kind: Kind,
    /// The coding of the sibling that this is.
    pub coding: Option<Coding>,
    /// Whether another client would have got another sibling.
    pub varies: bool,
    /// What it is, for who wants to know.
    pub what: &'static str,
    /// All of it, if it was read at once.
    pub content: Option<Bytes>,
}

/// What one core keeps of an upstream of files.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    root: RefCell<Option<Believed>>,
}

#[derive(Debug)]
struct Believed {
    settings: Arc<FilesSettings>,
    root: Arc<Root>,
    until: Tick,
}

impl Shelf {
    /// The root, if it was opened lately, for these settings.
    fn root(&self, settings: &Arc<FilesSettings>, now: Tick) -> Option<Arc<Root>> {
        let held = self.root.borrow();
        let believed =
            held.as_ref().filter(|held| now < held.until && Arc::ptr_eq(&held.settings, settings))?;
        Some(Arc::clone(&believed.root))
    }

    /// Looks.
    pub(super) async fn look(&self, ask: Ask, busy: &Busy, now: Tick) -> Result<Looked, Unread> {
        if let Some(root) = self.root(&ask.settings, now) {
            match look(&root, &ask, Reach::Cached) {
                Err(Unread::System(Errno::AGAIN)) => {}
                // Once more, where there is time for it.
                Err(Unread::Changed) => {}
                result => return result.map(|outcome| Looked { outcome, from: "memory", anew: false }),
            }
        }
        busy.waits();
        let (settings, root) = (Arc::clone(&ask.settings), self.root(&ask.settings, now));
        let (root, outcome) = pool::run(move || {
            let root = match root {
                Some(root) => root,
                None => Arc::new(Root::open(&ask.settings.root).map_err(Unread::Root)?),
            };
            let outcome = settled(&root, &ask);
            Ok::<_, Unread>((root, outcome))
        })?
        .await??;
        let mut held = self.root.borrow_mut();
        let anew = held.as_ref().is_none_or(|held| !Arc::ptr_eq(&held.root, &root));
        if anew {
            *held = Some(Believed { settings, root, until: now.after(BELIEVED) });
        }
        outcome.map(|outcome| Looked { outcome, from: "disk", anew })
    }
}

/// Looks on the disk, again if what is looked at changes meanwhile.
fn settled(root: &Root, ask: &Ask) -> Result<Outcome, Unread> {
    let mut outcome = Err(Unread::Changed);
    for _ in 0..CHANGES_MAX {
        outcome = look(root, ask, Reach::Disk);
        if !matches!(outcome, Err(Unread::Changed)) {
            break;
        }
    }
    outcome
}

/// Looks, as far as this.
fn look(root: &Root, ask: &Ask, reach: Reach) -> Result<Outcome, Unread> {
    let index = ask.settings.index.as_deref();
    let name = match &ask.name {
        Ok(name) => name,
        Err(why) => return missing(root, ask, why, reach),
    };
    let found = if !name.is_folder() {
        root.find(name, reach)?
    } else if let Some(index) = index {
        let file = name.file(index);
        match root.find(&file, reach)? {
            Found::File(plain, stamp) => return open(root, ask, &file, (plain, stamp), "the index", reach),
            Found::Folder => Found::Nothing("the index is a directory"),
            other => other,
        }
    } else {
        Found::Nothing("a directory, and no index is served")
    };
    let why = match found {
        Found::File(plain, stamp) => return open(root, ask, name, (plain, stamp), "the file", reach),
        Found::Folder => {
            let index = index.map(|index| root.find(&name.file(index), reach)).transpose()?;
            if matches!(index, Some(Found::File(..))) {
                return Ok(Outcome::Slash);
            }
            "a directory without an index"
        }
        Found::Denied => return Ok(Outcome::Denied),
        Found::Nothing(why) => why,
    };
    // A page asks for its parts by name: a page in the place of one would only be misunderstood.
    if let Some(shell) = &ask.settings.fallback
        && !Kind::of(name.extension()).is_asset()
        && let Found::File(plain, stamp) = root.find(shell, reach)?
    {
        return open(root, ask, shell, (plain, stamp), "the fallback", reach);
    }
    missing(root, ask, why, reach)
}

/// What says that something is missing.
fn missing(root: &Root, ask: &Ask, why: &'static str, reach: Reach) -> Result<Outcome, Unread> {
    let Some(page) = &ask.settings.not_found else { return Ok(Outcome::Missing(why, None)) };
    let ask = Ask { content: true, codings: SmallVec::new(), ..ask.clone() };
    let page = match root.find(page, reach)? {
        Found::File(file, stamp) => match open(root, &ask, page, (file, stamp), "the page", reach)? {
            Outcome::File(open) => Some(open),
            _ => None,
        },
        _ => None,
    };
    Ok(Outcome::Missing(why, page))
}

/// The file that was found, or its best sibling.
fn open(
    root: &Root,
    ask: &Ask,
    name: &Name,
    (file, stamp): (OwnedFd, Stamp),
    what: &'static str,
    reach: Reach,
) -> Result<Outcome, Unread> {
    let kind = Kind::of(name.extension());
    let varies = ask.settings.precompressed && kind.is_compressible();
    let mut open = Open { file, stamp, kind, coding: None, varies, what, content: None };
    if varies {
        for coding in &ask.codings {
            if let Found::File(sibling, stamp) = root.find(&name.beside(coding.suffix()), reach)?
                && stamp.is_made_of(&open.stamp)
            {
                open = Open { file: sibling, stamp, coding: Some(*coding), ..open };
                break;
            }
        }
    }
    if ask.content && open.stamp.length <= WHOLE_MAX {
        open.content = Some(cut(&open.file, 0, open.stamp.length, Some(&open.stamp), reach)?);
    }
    Ok(Outcome::File(open))
}

/// Reads so many bytes from there on: all, or it fails. With a stamp: the file is still what it was.
pub(super) fn cut(
    file: &OwnedFd,
    at: u64,
    length: u64,
    still: Option<&Stamp>,
    reach: Reach,
) -> Result<Bytes, Unread> {
    let mut buffer = vec![0; usize::try_from(length).map_err(|_| Errno::INVAL)?];
    if read(file, &mut buffer, at, reach)? < buffer.len() {
        return Err(Unread::Changed);
    }
    match still {
        Some(still) if !stamp(file)?.is_content_of(still) => Err(Unread::Changed),
        _ => Ok(Bytes::from(buffer)),
    }
}
