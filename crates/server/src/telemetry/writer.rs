//! The access log's writer: a thread of its own, so that a slow disk stalls nobody.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Chunks that may wait for the writer.
const WAITING_MAX: usize = 256;

/// The writer's handle.
pub struct LogWriter {
    chunks: SyncSender<Chunk>,
    state: Arc<State>,
}

struct Chunk {
    bytes: Vec<u8>,
    lines: u64,
}

#[derive(Default)]
struct State {
    reopen: AtomicBool,
    dropped: AtomicU64,
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
    /// Starts a writer to this file, or to standard output.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn start(path: Option<PathBuf>) -> Result<LogWriter, LogWriterError> {
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
        Ok(LogWriter { chunks, state })
    }

    /// Hands lines to the writer. They are dropped and counted if it cannot keep up.
    pub fn write(&self, bytes: Vec<u8>, lines: u64) {
        if self.chunks.try_send(Chunk { bytes, lines }).is_err() {
            self.state.dropped.fetch_add(lines, Relaxed);
        }
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
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_all(waiting: &Receiver<Chunk>, mut file: Option<File>, path: Option<&PathBuf>, state: &State) {
    while let Ok(chunk) = waiting.recv() {
        if let Some(path) = path.filter(|_| state.reopen.swap(false, Relaxed)) {
            match open(path) {
                Ok(opened) => file = Some(opened),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "cannot open the access log again")
                }
            }
        }
        let written = match &mut file {
            Some(file) => file.write_all(&chunk.bytes),
            None => io::stdout().lock().write_all(&chunk.bytes),
        };
        if let Err(error) = written {
            state.dropped.fetch_add(chunk.lines, Relaxed);
            tracing::error!(%error, lines = chunk.lines, "access log lines lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stalled_writer_cannot_take_is_counted() {
        let (chunks, _stalled) = sync_channel(1);
        let writer = LogWriter { chunks, state: Arc::default() };
        for _ in 0..3 {
            writer.write(b"line\nline\n".to_vec(), 2);
        }
        assert_eq!(writer.dropped(), 4);
    }
}
