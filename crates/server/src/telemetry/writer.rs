//! The access log's writer: a thread of its own, so that a slow disk stalls nobody.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Chunks that may wait for the writer, whatever their size.
const WAITING_MAX: usize = 4096;
/// Between two looks whether the writer takes the last chunk.
const PAUSE: Duration = Duration::from_millis(5);

/// The writer's handle.
pub struct LogWriter {
    chunks: SyncSender<Chunk>,
    state: Arc<State>,
    /// Bytes that may wait for the writer.
    buffer: usize,
}

enum Chunk {
    Lines {
        bytes: Vec<u8>,
        lines: u64,
    },
    /// All before it has been written when this is told.
    Mark(SyncSender<()>),
}

#[derive(Default)]
struct State {
    reopen: AtomicBool,
    dropped: AtomicU64,
    waiting: AtomicUsize,
}

/// The access log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the access log {}", path.display())]
pub struct LogWriterError {
    /// Its file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl LogWriter {
    /// Starts a writer to this file, or to standard output, for which at most `buffer` bytes wait.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn start(path: Option<PathBuf>, buffer: usize) -> Result<LogWriter, LogWriterError> {
        let file = match &path {
            Some(path) => Some(open(path).map_err(|source| LogWriterError { path: path.clone(), source })?),
            None => None,
        };
        let (chunks, waiting) = sync_channel(WAITING_MAX);
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let run = move || write_all(&waiting, file, path.as_ref(), &shared);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(run)
            .expect("a thread can be started");
        Ok(LogWriter { chunks, state, buffer })
    }

    /// Hands lines to the writer. They are dropped and counted if it cannot keep up.
    pub fn write(&self, bytes: Vec<u8>, lines: u64) {
        let length = bytes.len();
        // Cores may overshoot by a chunk each.
        let fits = self.state.waiting.fetch_add(length, Relaxed).saturating_add(length) <= self.buffer;
        if !fits || self.chunks.try_send(Chunk::Lines { bytes, lines }).is_err() {
            self.state.waiting.fetch_sub(length, Relaxed);
            self.state.dropped.fetch_add(lines, Relaxed);
        }
    }

    /// Waits until all that was handed over has been written, at most so long.
    pub fn finish(&self, most: Duration) {
        let (told, end) = sync_channel(1);
        let mut mark = Chunk::Mark(told);
        let mut left = most;
        while let Err(TrySendError::Full(back)) = self.chunks.try_send(mark) {
            let Some(rest) = left.checked_sub(PAUSE) else { return };
            (left, mark) = (rest, back);
            std::thread::sleep(PAUSE);
        }
        // Whether it was told or the time is over: there is nothing more to be done.
        let _ = end.recv_timeout(left);
    }

    /// Opens the file again before the next lines.
    pub fn reopen(&self) {
        self.state.reopen.store(true, Relaxed);
    }

    /// Lines dropped, ever.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Relaxed)
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    // A pipe that nobody reads yet must not hold up the start: opened for both directions, it does not.
    let is_pipe = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    OpenOptions::new().create(true).append(true).read(is_pipe).open(path)
}

fn write_all(waiting: &Receiver<Chunk>, mut file: Option<File>, path: Option<&PathBuf>, state: &State) {
    while let Ok(chunk) = waiting.recv() {
        let (bytes, lines) = match chunk {
            Chunk::Lines { bytes, lines } => (bytes, lines),
            Chunk::Mark(told) => {
                // Whoever asked may have stopped waiting.
                let _ = told.try_send(());
                continue;
            }
        };
        if let Some(path) = path.filter(|_| state.reopen.swap(false, Relaxed)) {
            match open(path) {
                Ok(opened) => file = Some(opened),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "cannot open the access log again")
                }
            }
        }
        let written = match &mut file {
            Some(file) => file.write_all(&bytes),
            None => io::stdout().lock().write_all(&bytes),
        };
        state.waiting.fetch_sub(bytes.len(), Relaxed);
        if let Err(error) = written {
            state.dropped.fetch_add(lines, Relaxed);
            tracing::error!(%error, lines, "access log lines lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stalled_writer_cannot_take_is_counted() {
        for (chunks_max, buffer) in [(1, 1000), (1000, 10)] {
            let (chunks, _stalled) = sync_channel(chunks_max);
            let writer = LogWriter { chunks, state: Arc::default(), buffer };
            for _ in 0..3 {
                writer.write(b"line\nline\n".to_vec(), 2);
            }
            assert_eq!(writer.dropped(), 4);
        }
    }

    #[test]
    fn all_that_was_handed_over_is_there_at_the_end() {
        let path = std::env::temp_dir().join(format!("tidegate-writer-{}", std::process::id()));
        let writer = LogWriter::start(Some(path.clone()), 1 << 20).unwrap();
        (0..100).for_each(|number| writer.write(format!("{number}\n").into_bytes(), 1));
        writer.finish(Duration::from_secs(10));
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        std::fs::remove_file(path).unwrap();
        assert_eq!((lines, writer.dropped()), (100, 0));
    }
}
