//! The shelf: from a path to an open file.
//!
//! One look decides all of it: the file itself, the index of a directory, a compressed sibling, the application's shell in
//! the place of what is missing, a page for what is missing. It is made in memory first; when something is not there, the
//! same look is made again by a thread that may wait.
//!
//! A few files are kept open for a second, so that what is asked for again and again is not looked for each time. One that
//! was written to or replaced meanwhile is not used: that is asked each time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use smallvec::SmallVec;
use tidegate_model::coding::Coding;
use tidegate_model::files::name::Name;
use tidegate_model::files::stamp::Stamp;
use tidegate_model::tick::Tick;
use tidegate_wire::files::{self, OfUpstream};

use super::kind::Kind;
use super::root::{Found, Reach, Root, read, stamp};
use super::{Busy, Unread, pool};
use crate::settings::FilesSettings;

/// A root is opened again after so long: a link to it may lead to another release by then.
const BELIEVED: Duration = Duration::from_secs(1);
/// A file of at most so many bytes is read at once.
pub(super) const WHOLE_MAX: u64 = 64 << 10;
/// Files that are kept open, for each core and upstream.
const KEPT_MAX: usize = 64;
/// How often what changed while it was read is read again.
const CHANGES_MAX: u32 = 3;

/// What a file is that answers for what is missing.
const FALLBACK: &str = "the fallback";

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
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub file: Arc<OwnedFd>,
    pub stamp: Stamp,
    pub kind: Kind,
    /// The coding of the sibling that this is.
    pub coding: Option<Coding>,
    /// Whether another client would have got another sibling.
    pub varies: bool,
    /// What it is, for who wants to know.
    pub what: &'static str,
    /// Whether who asks the same gets the same.
    pub may_be_kept: bool,
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
    /// By name and what the client takes.
    kept: HashMap<Key, Kept>,
}

type Key = SmallVec<[u8; 128]>;

/// A file that is kept open.
#[derive(Debug)]
struct Kept {
    open: Open,
    /// It takes a descriptor that a connection could have.
    _file: OfUpstream,
}

impl Ask {
    /// What tells it from what others ask, of the same files.
    fn key(&self) -> Option<Key> {
        let mut key = Key::from_slice(self.name.as_ref().ok()?.bytes());
        // No byte of a name is zero.
        key.extend([0, u8::from(self.name.as_ref().is_ok_and(Name::is_folder))]);
        key.extend(self.codings.iter().map(|coding| *coding as u8));
        Some(key)
    }
}

impl Shelf {
    /// The root, if it was opened lately, for these settings.
    fn root(&self, settings: &Arc<FilesSettings>, now: Tick) -> Option<Arc<Root>> {
        let held = self.root.borrow();
        let believed =
            held.as_ref().filter(|held| now < held.until && Arc::ptr_eq(&held.settings, settings))?;
        Some(Arc::clone(&believed.root))
    }

    /// What is kept open for this, if it is still what it was.
    fn kept(&self, ask: &Ask, key: &Key) -> Option<Result<Open, Unread>> {
        let mut held = self.root.borrow_mut();
        let kept = &mut held.as_mut()?.kept;
        let mut open = kept.get(key)?.open.clone();
        let read = if ask.content && open.stamp.length <= WHOLE_MAX {
            cut(&open.file, 0, open.stamp.length, None, Reach::Cached).map(Some)
        } else {
            Ok(None)
        };
        match (stamp(&open.file), read) {
            (Ok((now, true)), read) if now.is_content_of(&open.stamp) => Some(read.map(|content| {
                open.content = content;
                open
            })),
            _ => {
                kept.remove(key);
                None
            }
        }
    }

    /// Keeps a file open for who asks the same.
    fn keep(&self, key: Key, open: &Open) {
        let mut held = self.root.borrow_mut();
        let Some(believed) = held.as_mut() else { return };
        if believed.kept.len() < KEPT_MAX
            && !files::are_short()
            && let Some(file) = OfUpstream::take()
        {
            believed.kept.insert(key, Kept { open: Open { content: None, ..open.clone() }, _file: file });
        }
    }

    /// Closes what was kept for long enough.
    pub(crate) fn sweep(&self, now: Tick) {
        self.root.borrow_mut().take_if(|held| held.until <= now);
    }

    /// Looks.
    pub(super) async fn look(&self, ask: Ask, busy: &Busy, now: Tick) -> Result<Looked, Unread> {
        if let Some(root) = self.root(&ask.settings, now) {
            let key = ask.key();
            let kept = key.as_ref().and_then(|key| self.kept(&ask, key));
            let looked = match kept {
                Some(kept) => kept.map(Outcome::File),
                None => look(&root, &ask, Reach::Cached).inspect(|outcome| {
                    if let (Outcome::File(open), Some(key)) = (outcome, key)
                        && open.may_be_kept
                    {
                        self.keep(key, open);
                    }
                }),
            };
            match looked {
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
            *held = Some(Believed { settings, root, until: now.after(BELIEVED), kept: HashMap::new() });
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
        return open(root, ask, shell, (plain, stamp), FALLBACK, reach);
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
    // Whatever is missing leads to the fallback: it would be kept under all these names.
    let may_be_kept = what != FALLBACK;
    let file = Arc::new(file);
    let mut open = Open { file, stamp, kind, coding: None, varies, what, may_be_kept, content: None };
    if varies {
        for coding in &ask.codings {
            if let Found::File(sibling, stamp) = root.find(&name.beside(coding.suffix()), reach)?
                && stamp.is_made_of(&open.stamp)
            {
                open = Open { file: Arc::new(sibling), stamp, coding: Some(*coding), ..open };
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
        Some(still) if !stamp(file)?.0.is_content_of(still) => Err(Unread::Changed),
        _ => Ok(Bytes::from(buffer)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tidegate_wire::clock;

    use super::super::Counts;
    use super::*;

    /// A directory, and one core's shelf of it.
    struct Scene {
        folder: PathBuf,
        settings: Arc<FilesSettings>,
        shelf: Shelf,
        busy: Busy,
    }

    impl Scene {
        fn new(name: &str) -> Scene {
            let folder = std::env::temp_dir().join(format!("tidegate-shelf-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let settings = Arc::new(FilesSettings {
                root: folder.clone(),
                index: Some("index.html".to_owned()),
                fallback: Some(Name::of("/shell.html", false).unwrap()),
                not_found: None,
                precompressed: true,
                hidden: false,
            });
            let scene =
                Scene { folder, settings, shelf: Shelf::default(), busy: Arc::<Counts>::default().begin() };
            scene.write("shell.html", "shell");
            scene
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.folder.join(name), text).unwrap();
        }

        /// What is found by who takes these codings.
        async fn check(&self, path: &str, codings: &[Coding], now: Tick, expected: &str) {
            let name = Name::of(path, false).map_err(|error| error.detail());
            let (settings, codings) = (Arc::clone(&self.settings), SmallVec::from_slice(codings));
            let ask = Ask { settings, name, codings, content: true };
            let looked = self.shelf.look(ask, &self.busy, now).await.unwrap();
            let found = match &looked.outcome {
                Outcome::File(open) => String::from_utf8_lossy(open.content.as_ref().unwrap()).into_owned(),
                other => format!("{other:?}"),
            };
            assert!(found.starts_with(expected), "{path}: {found}");
        }

        fn kept(&self) -> usize {
            self.shelf.root.borrow().as_ref().map_or(0, |held| held.kept.len())
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[tokio::test]
    async fn what_is_kept_open_is_never_used_for_what_took_its_place() {
        let (scene, now) = (Scene::new("place"), clock::now());
        scene.write("a.css", "first");
        for _ in 0..3 {
            scene.check("/a.css", &[], now, "first").await;
        }
        scene.write("a.css", "written to");
        scene.check("/a.css", &[], now, "written to").await;
        scene.check("/a.css", &[], now, "written to").await;
        scene.write("b", "renamed");
        std::fs::rename(scene.folder.join("b"), scene.folder.join("a.css")).unwrap();
        scene.check("/a.css", &[], now, "renamed").await;
        std::fs::remove_file(scene.folder.join("a.css")).unwrap();
        scene.check("/a.css", &[], now, "Missing").await;
    }

    #[tokio::test]
    async fn who_takes_other_codings_asks_for_something_else() {
        let (scene, now) = (Scene::new("codings"), clock::now());
        scene.write("a.css", "plain");
        scene.write("a.css.br", "br");
        scene.write("a.css.gz", "gzip");
        for _ in 0..3 {
            scene.check("/a.css", &[], now, "plain").await;
            scene.check("/a.css", &[Coding::Brotli, Coding::Gzip], now, "br").await;
            scene.check("/a.css", &[Coding::Gzip, Coding::Brotli], now, "gzip").await;
            scene.check("/a.css/", &[], now, "Missing").await;
        }
    }

    #[tokio::test]
    async fn few_are_kept_and_not_for_long() {
        let (scene, now) = (Scene::new("few"), clock::now());
        for n in 0..2 * KEPT_MAX {
            scene.write(&format!("{n}.txt"), "x");
            scene.check(&format!("/{n}.txt"), &[], now, "x").await;
            scene.check(&format!("/page/{n}"), &[], now, "shell").await;
        }
        assert!(scene.kept() <= KEPT_MAX, "{}", scene.kept());
        scene.shelf.sweep(now);
        assert!(scene.shelf.root.borrow().is_some());
        scene.shelf.sweep(now.after(BELIEVED));
        assert!(scene.shelf.root.borrow().is_none());
        scene.check("/1.txt", &[], now.after(BELIEVED), "x").await;
    }
}
