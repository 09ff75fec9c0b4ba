//! `tidegate run`: serves until it is told to stop, and follows its configuration.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tidegate_wire::clock;
use tidegate_wire::task;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::acme;
use crate::audit::{Audit, Change};
use crate::canary;
use crate::cluster;
use crate::config::{Config, Level, LogFormat, LogSettings, Watch};
use crate::control::{self, TenantLines};
use crate::jwks;
use crate::maintenance;
use crate::oidc;
use crate::otlp;
use crate::protect;
use crate::pull;
use crate::redis;
use crate::schedules;
use crate::systemd;
use crate::upgrade::{self, Generation, Legacy, Met, Successor};
use crate::wiring::{Gate, Side};

/// How long a start waits for names to be resolved, before it says that it is ready.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// How long an end waits until the cache's answers on disk are sure to be there after the machine restarts.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How long an end waits for the last lines of the access log.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long an end waits until the collector has the last traces and metrics.
const LAST_TRACES: Duration = Duration::from_secs(3);
/// Reloads asked for by the control API that may wait for their outcome.
const ASKED_MAX: usize = 16;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// One upstream at this address, everything else as it is by default.
    To(String),
}

impl Source {
    fn load(&self) -> Result<Config, String> {
        match self {
            Source::File(path) => Config::load(path).map_err(|problems| problems.to_string()),
            // There is no file whose lines could be shown.
            Source::To(address) => Config::to(address).map_err(|problems| {
                let told =
                    problems.told().into_iter().map(|problem| format!("error: --to: {}", problem.message));
                told.collect::<Vec<_>>().join("\n")
            }),
        }
    }
}

/// A running process: the gate and what steers it.
pub struct Process {
    /// Where it stands among those that took over from each other.
    pub generation: Generation,
    /// Where its control API listens, for a process that takes over.
    pub control_sockets: Vec<(String, OwnedFd)>,
    /// The gate.
    pub gate: Arc<Gate>,
    /// The tenants that have metrics of their own.
    pub tenant_lines: Mutex<TenantLines>,
    /// Why the last reload was refused.
    pub reload_error: Mutex<Option<String>>,
    /// When the configuration in force was loaded.
    pub loaded_at: Mutex<SystemTime>,
    /// What was changed.
    pub audit: Arc<Audit>,
    /// What is sent to the collector.
    pub otlp: otlp::Handle,
    /// Whether it is stopping.
    pub draining: std::sync::atomic::AtomicBool,
    source: Source,
    reload: mpsc::Sender<Asked>,
}

/// A process that has just been started.
pub struct Started {
    /// It.
    pub process: Arc<Process>,
    /// Where its control API is, in words: `ADDRESS:PORT` or `unix:PATH`.
    pub controls: Vec<String>,
}

/// A reload that was asked for, and who waits for its outcome.
type Asked = Option<oneshot::Sender<Result<(), String>>>;

/// Runs until SIGTERM or SIGINT. 0: stopped as told, 1: told twice, without letting all finish; 2: the configuration
/// cannot be used.
#[must_use]
pub fn run(source: Source) -> ExitCode {
    let (legacy, met) = match upgrade::meet() {
        Ok(met) => met,
        Err(why) => {
            eprintln!("tidegate: {why}");
            return ExitCode::FAILURE;
        }
    };
    let config = match source.load() {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(2);
        }
    };
    log_to_stderr(&config.log);
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("the system has an event queue for the control runtime");
    let code = runtime.block_on(async move {
        let signals = match Signals::catch() {
            Ok(signals) => signals,
            Err(error) => {
                eprintln!("tidegate: signals cannot be received: {error}");
                return ExitCode::FAILURE;
            }
        };
        match take_over(config, source, legacy, met).await {
            Ok(Started { process, .. }) => until_stopped(process, signals).await,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(2)
            }
        }
    });
    // Whoever was told to stop at once waits for no thread that still drains.
    runtime.shutdown_background();
    code
}

/// Starts the gate and the control API, and prints a line for each listener. Must be called on the control runtime.
///
/// # Errors
/// What stands in the way, in words.
pub async fn start(config: Config, source: Source) -> Result<Started, String> {
    take_over(config, source, Legacy::default(), None).await
}

/// The same where there is a process before, or somebody has opened sockets.
async fn take_over(
    config: Config,
    source: Source,
    mut legacy: Legacy,
    met: Option<Met>,
) -> Result<Started, String> {
    protect::raise_files();
    // From here on, so that no change is missed while names are looked for.
    let watch = Watch::new(&config.sources);
    let places = config.places.clone();
    let audit = Audit::open(config.log.audit.as_deref()).map_err(|error| {
        let path = config.log.audit.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        format!("error: the audit log {path} cannot be opened: {error}")
    })?;
    let controls = control::bind(&config.control, &mut legacy.sockets);
    let (mut controls, gate) = match (controls, Gate::start(config, &mut legacy)) {
        (Ok(controls), Ok(gate)) => (controls, gate),
        (controls, gate) => {
            let wiring = gate.err().map(|error| error.failures()).unwrap_or_default();
            let failures = controls.err().unwrap_or_default().into_iter().chain(wiring);
            return Err(places.problems(failures.collect()).to_string());
        }
    };
    let (reload, asked) = mpsc::channel(ASKED_MAX);
    let (otlp, exporters) = otlp::Handle::new();
    let process = Arc::new(Process {
        generation: Generation::after(met.as_ref().map_or(0, Met::generation)),
        control_sockets: std::mem::take(&mut controls.copies),
        gate,
        tenant_lines: Mutex::default(),
        reload_error: Mutex::new(None),
        loaded_at: Mutex::new(clock::wall()),
        audit: Arc::new(audit),
        otlp,
        draining: std::sync::atomic::AtomicBool::new(false),
        source,
        reload,
    });
    let addresses = controls.addresses.clone();
    match met {
        None => {
            maintenance::look_first(&process.gate).await;
            process.gate.open();
            serve(controls, &process)?;
            look(&process).await;
        }
        Some(met) => {
            look(&process).await;
            replace(met, legacy, controls, &process).await?;
        }
    }
    jwks::drive(Arc::clone(&process.gate.standing.verifiers));
    oidc::drive(Arc::clone(&process.gate.standing.providers));
    redis::drive(Arc::clone(&process.gate.redis));
    cluster::drive(Arc::clone(&process.gate));
    pull::nodes::drive(Arc::clone(&process.gate));
    pull::clerk::drive(Arc::clone(&process.gate));
    maintenance::drive(&process.gate);
    schedules::drive(Arc::clone(&process.gate));
    acme::drive(Arc::clone(&process.gate.acme));
    canary::drive(Arc::clone(&process.gate));
    exporters.drive(&process);
    process.did("start", Some(env!("CARGO_PKG_VERSION").to_owned()), None).await;
    task::spawn(follow(Arc::clone(&process), watch, asked));
    say_where(&process, &addresses);
    systemd::notify("READY=1\nSTATUS=Serving");
    systemd::watch(&process);
    Ok(Started { process, controls: addresses })
}

fn serve(controls: control::Bound, process: &Arc<Process>) -> Result<(), String> {
    controls.serve(process).map_err(|error| format!("error: the control API cannot be served: {error}"))
}

/// Looks at the process, and for the upstreams, until those that are found by name are.
async fn look(process: &Process) {
    protect::watch(&process.gate);
    let upstreams = Arc::clone(&process.gate.standing.upstreams);
    task::spawn(async move { upstreams.drive().await });
    process.gate.standing.upstreams.looked_for(clock::now().after(FIRST_LOOK)).await;
}

/// Serves in the place of the process before.
async fn replace(
    met: Met,
    legacy: Legacy,
    controls: control::Bound,
    process: &Arc<Process>,
) -> Result<(), String> {
    let state = met.ready();
    let gone = |error| format!("error: nothing can be taken over of the process before: {error}");
    state.map_err(gone)?.apply(&process.gate);
    maintenance::look_first(&process.gate).await;
    process.gate.open();
    process.gate.reached().await;
    serve(controls, process)?;
    if let Err(error) = met.serving(process, legacy) {
        // Nobody else serves.
        tracing::warn!(%error, "the process before ended while this one took over");
    }
    Ok(())
}

/// A line for each listener and each address of the control API.
fn say_where(process: &Process, controls: &[String]) {
    let mut out = std::io::stdout().lock();
    for listening in process.gate.listening() {
        let scheme = match (listening.side, listening.settings.tls) {
            (Side::Nodes, _) => "cluster",
            (Side::Clients, true) => "https",
            (Side::Clients, false) => "http",
        };
        let _ = writeln!(out, "listening {scheme} {}", listening.address);
    }
    for address in controls {
        let _ = writeln!(out, "control http {address}");
    }
    let _ = out.flush();
}

/// The signals that steer the process. Caught before it says that it is ready: a signal that comes then counts.
pub struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn catch() -> std::io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Ends when one tells the process to stop.
    pub async fn stopped(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

async fn until_stopped(process: Arc<Process>, mut signals: Signals) -> ExitCode {
    let mut by_elder = false;
    loop {
        tokio::select! {
            _ = signals.term.recv() => break,
            _ = signals.int.recv() => break,
            () = process.generation.told_to_stop.notified() => {
                by_elder = true;
                break;
            }
            // As many as fit are waiting already: this one is theirs too.
            _ = signals.hup.recv() => drop(process.reload.try_send(None)),
            _ = signals.usr1.recv() => process.gate.telemetry.reopen(),
            _ = signals.usr2.recv() => {
                let process = Arc::clone(&process);
                // Why it was not done has been logged.
                task::spawn(async move { drop(upgrade::upgrade(&process).await) });
            }
            () = process.generation.handed_over.notified() => {
                if let Some(successor) = process.generation.successor() {
                    return leave(&process, &successor, &mut signals).await;
                }
            }
        }
    }
    // It came before anybody was told of another process: it was for the service.
    if let Some(successor) = process.generation.successor() {
        successor.stop_too();
    }
    let again = async {
        if by_elder {
            // What that one was told by may have been sent to this one as well.
            signals.stopped().await;
        }
        signals.stopped().await;
    };
    tokio::select! {
        () = stop(&process) => ExitCode::SUCCESS,
        () = again => {
            tracing::warn!("told to stop again: what is under way is cut");
            ExitCode::FAILURE
        }
    }
}

/// Leaves everything to the process that has taken over. Told to stop, it has the time that every process has then.
async fn leave(process: &Arc<Process>, successor: &Arc<Successor>, signals: &mut Signals) -> ExitCode {
    let most = process.gate.config().drain;
    let code = tokio::select! {
        () = upgrade::leave(process, successor) => ExitCode::SUCCESS,
        () = async {
            signals.stopped().await;
            tokio::select! {
                () = clock::sleep(most) => {}
                () = signals.stopped() => {}
            }
        } => {
            tracing::warn!("told to stop: what is under way is cut");
            ExitCode::FAILURE
        }
    };
    let gate = Arc::clone(&process.gate);
    // It fails only if writing panicked: then there is no log to wait for.
    let _ = tokio::task::spawn_blocking(move || gate.telemetry.finish(LAST_LINES)).await;
    code
}

/// Lets what is under way finish, within the configured time.
pub async fn stop(process: &Arc<Process>) {
    systemd::stopping();
    process.draining.store(true, std::sync::atomic::Ordering::Relaxed);
    process.did("stop", None, None).await;
    let most = process.gate.config().drain;
    tracing::info!(?most, "draining");
    let gate = Arc::clone(&process.gate);
    let ended = tokio::task::spawn_blocking(move || gate.drain(most)).await.unwrap_or(false);
    control::end_all_faults(&process.gate.standing.faults);
    if !ended {
        tracing::warn!("some exchanges did not end in time and were cut");
    }
    let gate = Arc::clone(&process.gate);
    let _ = tokio::task::spawn_blocking(move || {
        if let Some(store) = gate.standing.idempotency.store() {
            store.close();
        }
        gate.standing.cache.close(LAST_ANSWERS);
    })
    .await;
    process.otlp.finish(LAST_TRACES).await;
    // One that was just to take over is ended, or told to end: nobody else would.
    process.generation.settled().await;
    let gate = Arc::clone(&process.gate);
    // It fails only if writing panicked: then there is no log to wait for.
    let _ = tokio::task::spawn_blocking(move || gate.telemetry.finish(LAST_LINES)).await;
}

/// Reloads when it is asked for, and when a file has changed. One after the other: who asked is told of their own.
async fn follow(process: Arc<Process>, mut watch: Watch, mut asked: mpsc::Receiver<Asked>) {
    loop {
        let answer = tokio::select! {
            Some(answer) = asked.recv() => answer,
            () = watch.changed() => None,
        };
        process.generation.settled().await;
        // What is there now is about to be read: it is no change any more, however this ends.
        watch.begin();
        if process.generation.successor().is_some() {
            // It is the other process's now.
            continue;
        }
        systemd::reloading();
        let outcome = process.reload_now().await;
        systemd::notify("READY=1");
        watch.follow(&process.gate.config().sources);
        match answer {
            // Whoever asked may have gone.
            Some(answer) => drop(answer.send(outcome)),
            // A signal or a changed file: nobody else records it.
            None => process.did("reload", None, outcome.err().map(|_| "control.config")).await,
        }
    }
}

impl Process {
    /// Records what it did by itself.
    async fn did(&self, action: &str, after: Option<String>, code: Option<&str>) {
        let (who, code) = ("process".to_owned(), code.map(str::to_owned));
        let change = Change { who, action: action.to_owned(), after, code, ..Change::default() };
        let kept = self.audit.keep(change);
        // A disk that hangs keeps nobody from starting or stopping.
        if clock::timeout_at(clock::now().after(LAST_LINES), kept).await.is_err() {
            tracing::warn!(action, "the audit log is not written in time");
        }
    }

    /// Loads the configuration again. A bad one changes nothing.
    ///
    /// # Errors
    /// Why it was not reloaded.
    pub async fn reload(&self) -> Result<(), String> {
        let (answer, outcome) = oneshot::channel();
        let busy = || "too many reloads are waiting".to_owned();
        self.reload.try_send(Some(answer)).map_err(|_| busy())?;
        outcome.await.unwrap_or_else(|_| Err(busy()))
    }

    async fn reload_now(&self) -> Result<(), String> {
        let apply = |config: Config| {
            let places = config.places.clone();
            self.gate.apply(config).map_err(|error| places.problems(error.failures()).to_string())
        };
        let applied = self.source.load().and_then(apply);
        // Whoever is told of it, or sees it counted, must not meet the one before.
        if applied.is_ok() && !self.gate.reached().await {
            tracing::warn!("a core hangs: it has the configuration before still");
        }
        self.gate.counts.reloaded(applied.is_ok());
        match &applied {
            Ok(()) => {
                *self.loaded_at.lock() = clock::wall();
                *self.reload_error.lock() = None;
                tracing::info!("configuration reloaded");
            }
            Err(problems) => {
                tracing::error!(%problems, "configuration not reloaded: the one before stays in force");
                *self.reload_error.lock() = Some(problems.clone());
            }
        }
        applied
    }
}

fn log_to_stderr(settings: &LogSettings) {
    let level = match settings.level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
        Level::Trace => tracing::Level::TRACE,
    };
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level);
    // A second start in one process keeps the first one's log.
    let _ = match settings.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
}

/// An error and its causes, each after a colon.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
