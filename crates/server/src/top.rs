//! `tidegate top`: a running Tidegate, live in a terminal: what tenants, routes, endpoints and queues do now, what is refused, what
//! is short; and the few changes that are made by hand.
//!
//! ```text
//! asking thread:  /status, /metrics, /queues each second -> Sample ---.
//! keys thread:    what is typed -----------------------------------> State --(pure)--> drawn; Effect -> asking thread
//! ```
//!
//! What is shown is made of two samples by pure functions (`view.rs`), how the keys change it too (`state.rs`). A control API that is
//! away is said so, with what was seen last, and asked again. The terminal is given back whatever ends it: a key, a signal, a panic.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tidegate_wire::clock;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use crate::run::Signals;
use crate::status::{Remote, ask, in_columns};

mod draw;
mod sample;
mod state;
#[cfg(test)]
mod tests;
mod view;

use sample::Sample;
use state::{Action, Effect, State};
use view::View;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is typed and not yet read, what was seen and not yet drawn, what is wanted and not yet done.
const WAITING_MAX: usize = 16;

/// Which Tidegate.
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    remote: Remote,
    /// Two looks, a second apart, as plain tables: for pipes and for terminals that can do nothing
    #[arg(long)]
    once: bool,
}

/// What the asking thread tells.
enum Told {
    Seen(Box<Sample>),
    Away(String),
    Done(String),
    Failed(String),
}

/// Shows it until told to stop.
///
/// # Errors
/// The terminal cannot be used, or nobody reads.
pub fn top(args: TopArgs) -> io::Result<ExitCode> {
    if args.once {
        return once(&args.remote);
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        eprintln!("tidegate: this is no terminal; `tidegate top --once` prints tables");
        return Ok(ExitCode::FAILURE);
    }
    // It also gives the terminal back when there is a panic.
    let mut terminal = ratatui::try_init()?;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let shown = match &runtime {
        Ok(runtime) => runtime.block_on(show(&mut terminal, args.remote)),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    ratatui::try_restore()?;
    if let Ok(runtime) = runtime {
        // Whoever waits for a key waits for ever.
        runtime.shutdown_background();
    }
    shown.map(|()| ExitCode::SUCCESS)
}

fn once(remote: &Remote) -> io::Result<ExitCode> {
    let look = || Sample::ask(remote, PATIENCE);
    let seen = look().and_then(|first| {
        std::thread::sleep(LOOK);
        look().map(|second| View::of(Some(&first), &second))
    });
    let view = match seen {
        Ok(view) => view,
        Err(why) => {
            eprintln!("{why}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut out = io::stdout().lock();
    for line in view.head.iter().filter(|line| !line.text.is_empty()) {
        writeln!(out, "{}", line.text)?;
    }
    for table in view.tables.iter().filter(|table| !table.rows.is_empty()) {
        let heads = table.columns.iter().map(|column| column.head.to_owned()).collect::<Vec<_>>();
        let rows = table.rows.iter().map(|row| row.cells.iter().map(|cell| cell.text.clone()).collect());
        write!(out, "\n{}", in_columns(&std::iter::once(heads).chain(rows).collect::<Vec<Vec<String>>>()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(terminal: &mut DefaultTerminal, remote: Remote) -> io::Result<()> {
    let mut signals = Signals::catch()?;
    let mut hung_up = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    let (tell, mut told) = mpsc::channel(WAITING_MAX);
    let (order, orders) = std::sync::mpsc::sync_channel(WAITING_MAX);
    let (type_, mut typed) = mpsc::channel(WAITING_MAX);
    let place = remote.control().to_owned();
    std::thread::Builder::new().name("ask".to_owned()).spawn(move || look(&remote, &orders, &tell))?;
    std::thread::Builder::new().name("keys".to_owned()).spawn(move || read_keys(&type_))?;
    let mut state = State::new(place);
    loop {
        terminal.draw(|frame| draw::draw(frame, &mut state))?;
        let effect = tokio::select! {
            () = signals.stopped() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
            event = typed.recv() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => state.key(key),
                // Anything else, such as a new size, is a reason to draw.
                Some(Ok(_)) => None,
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            told = told.recv() => {
                match told {
                    Some(Told::Seen(sample)) => state.seen(*sample),
                    Some(Told::Away(why)) => state.away(&why),
                    Some(Told::Done(what)) => state.say(what, false),
                    Some(Told::Failed(why)) => state.say(why, true),
                    None => return Ok(()),
                }
                None
            }
        };
        if effect == Some(Effect::Quit) {
            return Ok(());
        }
        if let Some(Effect::Do(action)) = effect
            && order.try_send(action).is_err()
        {
            state.say("too much is wanted at once: try again".to_owned(), true);
        }
    }
}

/// Looks each second, and does at once what is wanted, until nobody listens.
fn look(remote: &Remote, orders: &std::sync::mpsc::Receiver<Action>, tell: &mpsc::Sender<Told>) {
    loop {
        let began = clock::now();
        let told = match Sample::ask(remote, PATIENCE) {
            Ok(sample) => Told::Seen(Box::new(sample)),
            Err(why) => Told::Away(why),
        };
        if tell.blocking_send(told).is_err() {
            return;
        }
        let rest = LOOK.saturating_sub(clock::now().since(began));
        match orders.recv_timeout(rest) {
            Ok(action) => {
                let (path, body) = action.request();
                let told = match ask(remote, "POST", &path, &body) {
                    Ok(_) => Told::Done(action.done()),
                    Err(why) => Told::Failed(why),
                };
                if tell.blocking_send(told).is_err() {
                    return;
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn read_keys(typed: &mpsc::Sender<io::Result<Event>>) {
    loop {
        let event = event::read();
        let ended = event.is_err();
        if typed.blocking_send(event).is_err() || ended {
            return;
        }
    }
}
