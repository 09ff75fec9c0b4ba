//! The directory that files are served from, and how one is opened below it.
//!
//! No name leads out of it, whatever links lie on the disk: the kernel resolves names beneath the root (`openat2` with
//! `RESOLVE_BENEATH`, Linux 5.6), links that stay inside included. Where the system has no such call (an old kernel, a
//! sandbox that forbids it) each segment is opened by itself and no symbolic link is followed at all.
//!
//! What is not a regular file is never opened: a name is looked at first (`O_PATH`, which opens nothing), and what is then
//! opened must be that same file.
//!
//! With [`Reach::Cached`] nothing here waits for a disk: what the kernel has not in memory is said to be out of reach
//! (`RESOLVE_CACHED`, Linux 5.12; `RWF_NOWAIT`), for a thread that may wait to try again. Opening may wait all the same where
//! a network or another process stands behind a file system: only what lies on those that are known to be local, and on
//! the same one as the root, is within reach.

use std::io::IoSliceMut;
use std::path::Path;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, openat, openat2};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tidegate_model::files::name::Name;
use tidegate_model::files::stamp::{Moment, Stamp};

/// How often a name is looked up again when something was renamed on its way meanwhile.
const RACES_MAX: u32 = 16;

/// File systems that open a file without asking anybody (`linux/magic.h`): btrfs, erofs, ext2 to ext4, f2fs, overlay,
/// squashfs, tmpfs, XFS, ZFS.
const LOCAL: [u32; 9] = [
    0x9123_683e,
    0xe0f5_e1e2,
    0x0000_ef53,
    0xf2f5_2010,
    0x794c_7630,
    0x7371_7368,
    0x0102_1994,
    0x5846_5342,
    0x2fc1_2fc1,
];

/// How far a call may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// To what the kernel has in memory.
    Cached,
    /// To the disk.
    Disk,
}

/// What is under a name.
#[derive(Debug)]
pub(super) enum Found {
    /// A regular file, opened to be read.
    File(OwnedFd, Stamp),
    /// A directory.
    Folder,
    /// Nothing that may be served, for this reason.
    Nothing(&'static str),
    /// Something that this process may not read.
    Denied,
}

/// A directory that files are served from.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    /// Whether the kernel resolves names beneath it.
    beneath: bool,
    /// Whether opening what is in memory waits for nobody.
    local: bool,
}

impl Root {
    /// The directory of this path. It may wait for the disk.
    pub(super) fn open(path: &Path) -> Result<Root, Errno> {
        let fd = rustix::fs::open(path, LOOK | OFlags::DIRECTORY, Mode::empty())?;
        let beneath = match resolve(fd.as_fd(), b".", LOOK, Reach::Disk) {
            Ok(_) => true,
            Err(Errno::NOSYS | Errno::PERM) => false,
            Err(error) => return Err(error),
        };
        // Its lower half is the whole of it where it is wider.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let kind = fstatfs(&fd)?.f_type as u32;
        Ok(Root { fd, beneath, local: LOCAL.contains(&kind) })
    }

    /// Looks what is under a name. [`Errno::AGAIN`]: it is out of reach.
    pub(super) fn find(&self, name: &Name, reach: Reach) -> Result<Found, Errno> {
        for _ in 0..RACES_MAX {
            let found = match self.beneath {
                _ if reach == Reach::Cached && !(self.local && self.beneath) => return Err(Errno::AGAIN),
                true => self.find_beneath(name, reach),
                false => self.find_stepwise(name),
            };
            match found {
                Err(Errno::AGAIN) if reach == Reach::Disk => {}
                Ok(Some(found)) => return Ok(found),
                // Another file has taken its place between the look and the opening.
                Ok(None) => {}
                Err(error) => return told(error),
            }
        }
        Err(Errno::BUSY)
    }

    fn find_beneath(&self, name: &Name, reach: Reach) -> Result<Option<Found>, Errno> {
        let path = if name.bytes().is_empty() { b"." } else { name.bytes() };
        let seen = resolve(self.fd.as_fd(), path, LOOK, reach)?;
        read_if_regular(&seen, || resolve(self.fd.as_fd(), path, READ, reach))
    }

    fn find_stepwise(&self, name: &Name) -> Result<Option<Found>, Errno> {
        let mut folder = None::<OwnedFd>;
        let mut segments = name.bytes().split(|&byte| byte == b'/').filter(|one| !one.is_empty()).peekable();
        while let Some(segment) = segments.next() {
            let within = folder.as_ref().map_or(self.fd.as_fd(), OwnedFd::as_fd);
            let seen = openat(within, segment, LOOK | OFlags::NOFOLLOW, Mode::empty())?;
            if kind(&fstat(&seen)?) == FileType::Symlink {
                return Ok(Some(Found::Nothing("a symbolic link is on its way")));
            }
            if segments.peek().is_none() {
                let open = || openat(within, segment, READ | OFlags::NOFOLLOW, Mode::empty());
                return read_if_regular(&seen, open);
            }
            folder = Some(seen);
        }
        Ok(Some(Found::Folder))
    }
}

/// Opens nothing: it only holds the place.
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// To be read. What has come into the place of a regular file just now does not make us wait.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

fn resolve(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, reach: Reach) -> Result<OwnedFd, Errno> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match reach {
        Reach::Disk => openat2(root, path, flags, Mode::empty(), inside),
        Reach::Cached => {
            let here = inside | ResolveFlags::CACHED | ResolveFlags::NO_XDEV;
            match openat2(root, path, flags, Mode::empty(), here) {
                // Before Linux 5.12 nobody can ask so; and another file system may lie there.
                Err(Errno::INVAL | Errno::XDEV) => Err(Errno::AGAIN),
                result => result,
            }
        }
    }
}

/// Opens what was seen, if it is a regular file. `None`: it is another one by now.
fn read_if_regular(
    seen: &OwnedFd,
    open: impl FnOnce() -> Result<OwnedFd, Errno>,
) -> Result<Option<Found>, Errno> {
    let before = fstat(seen)?;
    match kind(&before) {
        FileType::RegularFile => {}
        FileType::Directory => return Ok(Some(Found::Folder)),
        _ => return Ok(Some(Found::Nothing("it is no regular file"))),
    }
    let file = open()?;
    let after = fstat(&file)?;
    let same = (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino);
    Ok(same.then(|| Found::File(file, stamp_of(&after))))
}

fn kind(stat: &rustix::fs::Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// What an error tells of a name; an error, where it tells something of us or of the disk.
fn told(error: Errno) -> Result<Found, Errno> {
    match error {
        Errno::NOENT | Errno::NOTDIR => Ok(Found::Nothing("there is no such file")),
        Errno::XDEV | Errno::LOOP => Ok(Found::Nothing("a link leads out of the root, or nowhere")),
        Errno::NAMETOOLONG | Errno::ILSEQ | Errno::INVAL => Ok(Found::Nothing("no file can have this name")),
        Errno::NXIO | Errno::NODEV => Ok(Found::Nothing("it is no regular file")),
        Errno::ACCESS | Errno::PERM => Ok(Found::Denied),
        error => Err(error),
    }
}

/// The state of an open file, now; and whether it has a name yet: what was replaced by renaming has none.
pub(super) fn stamp(file: impl AsFd) -> Result<(Stamp, bool), Errno> {
    fstat(file).map(|stat| (stamp_of(&stat), stat.st_nlink > 0))
}

// The widths of these fields differ between systems.
#[allow(clippy::unnecessary_cast, clippy::cast_lossless)]
fn stamp_of(stat: &rustix::fs::Stat) -> Stamp {
    Stamp {
        length: u64::try_from(stat.st_size).unwrap_or(0),
        modified: Moment { seconds: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
        changed: Moment { seconds: stat.st_ctime as i64, nanos: stat.st_ctime_nsec as u32 },
    }
}

/// Reads as many bytes as the file has from there on, at most those of the buffer. How many these were.
/// [`Errno::AGAIN`]: not all of them are within reach.
pub(super) fn read(file: impl AsFd, buffer: &mut [u8], at: u64, reach: Reach) -> Result<usize, Errno> {
    let flags = match reach {
        Reach::Cached => ReadWriteFlags::NOWAIT,
        Reach::Disk => ReadWriteFlags::empty(),
    };
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut [IoSliceMut::new(&mut buffer[filled..])];
        match preadv2(&file, rest, at + filled as u64, flags) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            // File systems that cannot tell beforehand whether they would wait.
            Err(Errno::OPNOTSUPP) if reach == Reach::Cached => return Err(Errno::AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    /// A directory beside which lies what nobody is to see.
    struct Scene(PathBuf);

    impl Scene {
        fn new(name: &str) -> Scene {
            let folder = std::env::temp_dir().join(format!("tidegate-root-{}-{name}", std::process::id()));
            std::fs::create_dir_all(folder.join("root/sub")).unwrap();
            std::fs::write(folder.join("secret"), "secret").unwrap();
            std::fs::write(folder.join("root/a.txt"), "hello").unwrap();
            std::fs::write(folder.join("root/sub/b.txt"), "below").unwrap();
            Scene(folder)
        }

        fn root(&self) -> PathBuf {
            self.0.join("root")
        }

        /// By both ways of opening: what each finds.
        fn check(&self, name: &str, beneath: &str, stepwise: &str) {
            for (way, expected) in [(true, beneath), (false, stepwise)] {
                let root = Root { beneath: way, ..Root::open(&self.root()).unwrap() };
                let name = Name::of(name, true).unwrap();
                let found = match root.find(&name, Reach::Disk).unwrap() {
                    Found::File(file, stamp) => {
                        let mut bytes = vec![0; 100];
                        let length = read(&file, &mut bytes, 0, Reach::Disk).unwrap();
                        assert_eq!(stamp.length, length as u64);
                        String::from_utf8_lossy(&bytes[..length]).into_owned()
                    }
                    Found::Folder => "folder".to_owned(),
                    Found::Nothing(_) => "nothing".to_owned(),
                    Found::Denied => "denied".to_owned(),
                };
                assert_eq!(found, expected, "{name:?}, beneath: {way}");
            }
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_and_directories_are_found_below_the_root() {
        let scene = Scene::new("found");
        scene.check("/a.txt", "hello", "hello");
        scene.check("/sub/b.txt", "below", "below");
        scene.check("/", "folder", "folder");
        scene.check("/sub", "folder", "folder");
        scene.check("/none", "nothing", "nothing");
        scene.check("/a.txt/x", "nothing", "nothing");
        scene.check(&format!("/{}", "x".repeat(300)), "nothing", "nothing");
    }

    #[test]
    fn links_that_stay_inside_are_followed_and_none_leads_out() {
        let scene = Scene::new("links");
        let root = scene.root();
        for (target, link) in [
            ("a.txt", "inside"),
            ("../root/a.txt", "round"),
            ("../secret", "out"),
            ("..", "up"),
            ("/etc", "absolute"),
            ("loop", "loop"),
            ("sub", "folder-link"),
            ("sub/../../secret", "winding"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        symlink(scene.0.join("secret"), root.join("absolute-secret")).unwrap();
        symlink("/proc/self/root/etc/passwd", root.join("magic")).unwrap();
        scene.check("/inside", "hello", "nothing");
        scene.check("/folder-link/b.txt", "below", "nothing");
        for out in [
            "/out",
            "/up",
            "/up/secret",
            "/absolute/passwd",
            "/loop",
            "/winding",
            "/absolute-secret",
            "/magic",
        ] {
            scene.check(out, "nothing", "nothing");
            let found = Root::open(&root).unwrap().find(&Name::of(out, true).unwrap(), Reach::Cached);
            assert!(matches!(found, Ok(Found::Nothing(_)) | Err(Errno::AGAIN)), "{out}: {found:?}");
        }
        // It comes back into the root, but only after having left it.
        scene.check("/round", "nothing", "nothing");
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let scene = Scene::new("special");
        rustix::fs::mknodat(rustix::fs::CWD, scene.root().join("pipe"), FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(scene.root().join("socket")).unwrap();
        // Opening it to be read would wait for somebody who writes, or make one who waits believe that we do.
        scene.check("/pipe", "nothing", "nothing");
        scene.check("/socket", "nothing", "nothing");
    }

    #[test]
    fn what_was_just_read_is_within_reach_of_memory() {
        let scene = Scene::new("reach");
        let root = Root::open(&scene.root()).unwrap();
        let name = Name::of("/sub/b.txt", false).unwrap();
        let mut bytes = [0; 10];
        let Found::File(file, _) = root.find(&name, Reach::Disk).unwrap() else { panic!("it is there") };
        assert_eq!(read(&file, &mut bytes, 0, Reach::Disk), Ok(5));
        assert_eq!(read(&file, &mut bytes, 3, Reach::Disk), Ok(2));
        // Either it is at hand, or that is said: nothing else.
        let remote = Root { local: false, ..Root::open(&scene.root()).unwrap() };
        assert_eq!(remote.find(&name, Reach::Cached).err(), Some(Errno::AGAIN));
        match root.find(&name, Reach::Cached) {
            Ok(Found::File(file, _)) => {
                assert!(matches!(read(&file, &mut bytes, 0, Reach::Cached), Ok(5) | Err(Errno::AGAIN)));
            }
            Err(error) => assert_eq!(error, Errno::AGAIN),
            Ok(other) => panic!("{other:?}"),
        }
    }
}
