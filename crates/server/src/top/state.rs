//! What the screen is about: which table, which row, in which order, what is asked for. Keys change it; nothing here draws or asks.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use super::sample::Sample;
use super::view::{Row, TABLES, Table, Target, View};
use crate::status::{cell, encoded};

/// The most characters of a filter.
const FILTER_MAX: usize = 64;

/// The screen.
#[derive(Debug, Default)]
pub struct State {
    /// Where it is asked.
    pub place: String,
    /// What is shown; `None`: nothing was seen yet.
    pub view: Option<View>,
    last: Option<Sample>,
    /// Why nothing is seen any more.
    pub away: Option<String>,
    /// The table that is shown.
    pub table: usize,
    /// The row that is chosen, among those that are shown.
    pub row: usize,
    /// The column that each table is sorted by, and whether the largest comes first.
    pub sort: [(usize, bool); TABLES.len()],
    /// Only rows with this in a cell are shown.
    pub filter: String,
    /// What the keys are for just now.
    pub mode: Mode,
    /// What became of what was done last, and whether it failed.
    pub said: Option<(String, bool)>,
}

/// What the keys are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// To look around.
    #[default]
    Look,
    /// To type a filter.
    Filter,
    /// To say yes or no.
    Confirm(Action),
    /// To leave the help.
    Help,
}

/// A change that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// What becomes of an endpoint.
    Endpoint {
        /// Its upstream.
        upstream: String,
        /// Its address.
        address: String,
        /// `draining` or `enabled`.
        state: &'static str,
    },
    /// Whether deliveries of a tenant are begun.
    Tenant {
        /// Who.
        id: String,
        /// Whether they are not.
        pause: bool,
    },
    /// Whether deliveries of a queue are begun.
    Queue {
        /// Which.
        name: String,
        /// Whether they are not.
        pause: bool,
    },
}

/// What a key brings about outside of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is left.
    Quit,
    /// Something is changed.
    Do(Action),
}

impl Action {
    /// What is asked, in words.
    #[must_use]
    pub fn question(&self) -> String {
        match self {
            Action::Endpoint { upstream, address, state: "draining" } => {
                format!("drain {address} of {upstream}, so that it gets nothing new?")
            }
            Action::Endpoint { upstream, address, .. } => format!("use {address} of {upstream} again?"),
            Action::Tenant { id, pause: true } => {
                format!("pause tenant {id}, so that none of its deliveries is begun?")
            }
            Action::Tenant { id, .. } => format!("let deliveries of tenant {id} go on?"),
            Action::Queue { name, pause: true } => {
                format!("pause queue {name}, so that nothing of it is begun?")
            }
            Action::Queue { name, .. } => format!("let queue {name} go on?"),
        }
    }

    /// What was done, in words.
    #[must_use]
    pub fn done(&self) -> String {
        let verb = |pause: &bool| if *pause { "is paused" } else { "goes on" };
        match self {
            Action::Endpoint { upstream, address, state } => format!("{address} of {upstream} is {state}"),
            Action::Tenant { id, pause } => format!("tenant {id} {}", verb(pause)),
            Action::Queue { name, pause } => format!("queue {name} {}", verb(pause)),
        }
    }

    /// The request of the control API: path and body.
    #[must_use]
    pub fn request(&self) -> (String, String) {
        let verb = |pause: &bool| if *pause { "pause" } else { "resume" };
        match self {
            Action::Endpoint { upstream, address, state } => {
                let path = format!("/upstreams/{}/endpoints/{address}", encoded(upstream));
                (path, json!({"state": state}).to_string())
            }
            Action::Tenant { id, pause } => {
                (format!("/tenants/{}/{}", encoded(id), verb(pause)), String::new())
            }
            Action::Queue { name, pause } => {
                (format!("/queues/{}/{}", encoded(name), verb(pause)), String::new())
            }
        }
    }
}

impl State {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(place: String) -> State {
        // The busiest come first: by the first number of each table, but for endpoints and queues, which keep their order.
        let sort = [(2, true), (1, true), (0, false), (1, false), (0, false), (1, true)];
        State { place, sort, ..State::default() }
    }

    /// Takes in what was seen.
    pub fn seen(&mut self, sample: Sample) {
        self.view = Some(View::of(self.last.as_ref(), &sample));
        self.last = Some(sample);
        self.away = None;
        self.row = self.row.min(self.shown().len().saturating_sub(1));
    }

    /// Nothing is seen any more.
    pub fn away(&mut self, why: &str) {
        // A server's own words among it: what a terminal would obey is shown.
        self.away = Some(cell(&json!(why.lines().next().unwrap_or_default())));
        // The next one may be another process: its counters have nothing to do with these.
        self.last = None;
    }

    /// Says what became of something.
    pub fn say(&mut self, what: String, failed: bool) {
        self.said = Some((what.lines().next().unwrap_or_default().to_owned(), failed));
    }

    /// The table that is shown.
    #[must_use]
    pub fn current(&self) -> Option<&Table> {
        self.view.as_ref()?.tables.get(self.table)
    }

    /// The rows that are shown, in their order.
    #[must_use]
    pub fn shown(&self) -> Vec<&Row> {
        let Some(table) = self.current() else { return Vec::new() };
        let wanted = self.filter.to_lowercase();
        let is_meant = |row: &&Row| row.cells.iter().any(|cell| cell.text.to_lowercase().contains(&wanted));
        let mut rows: Vec<&Row> = table.rows.iter().filter(is_meant).collect();
        let (column, largest_first) = self.sort[self.table];
        rows.sort_by(|one, other| {
            let (Some(one), Some(other)) = (one.cells.get(column), other.cells.get(column)) else {
                return std::cmp::Ordering::Equal;
            };
            let order = match (one.number, other.number) {
                (Some(one), Some(other)) => one.total_cmp(&other),
                // Unknown is less than any number.
                (one_, other_) => {
                    one_.is_some().cmp(&other_.is_some()).then_with(|| one.text.cmp(&other.text))
                }
            };
            if largest_first { order.reverse() } else { order }
        });
        rows
    }

    /// What a key does.
    pub fn key(&mut self, key: KeyEvent) -> Option<Effect> {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Some(Effect::Quit);
        }
        match std::mem::take(&mut self.mode) {
            Mode::Look => self.look(key.code),
            Mode::Help => None,
            Mode::Filter => {
                self.type_filter(key.code);
                None
            }
            Mode::Confirm(action) => match key.code {
                KeyCode::Char('y' | 'Y') => Some(Effect::Do(action)),
                _ => {
                    self.say("nothing was changed".to_owned(), false);
                    None
                }
            },
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        self.row = 0;
        match code {
            KeyCode::Enter => return,
            KeyCode::Esc => return self.filter.clear(),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(character) if self.filter.chars().count() < FILTER_MAX => {
                self.filter.push(character)
            }
            _ => {}
        }
        self.mode = Mode::Filter;
    }

    fn look(&mut self, code: KeyCode) -> Option<Effect> {
        self.said = None;
        let last = self.shown().len().saturating_sub(1);
        match code {
            KeyCode::Char('q') => return Some(Effect::Quit),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => {
                self.turn_to((self.table + 1) % TABLES.len())
            }
            KeyCode::BackTab | KeyCode::Left => self.turn_to((self.table + TABLES.len() - 1) % TABLES.len()),
            KeyCode::Char(digit @ '1'..='6') => self.turn_to(digit as usize - '1' as usize),
            KeyCode::Down | KeyCode::Char('j') => self.row = (self.row + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => self.row = self.row.saturating_sub(1),
            KeyCode::PageDown => self.row = (self.row + 10).min(last),
            KeyCode::PageUp => self.row = self.row.saturating_sub(10),
            KeyCode::Home | KeyCode::Char('g') => self.row = 0,
            KeyCode::End | KeyCode::Char('G') => self.row = last,
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('r') => self.sort[self.table].1 = !self.sort[self.table].1,
            KeyCode::Char(wish @ ('d' | 'e' | 'p' | 'u')) => self.wish(wish),
            _ => {}
        }
        None
    }

    fn turn_to(&mut self, table: usize) {
        (self.table, self.row) = (table, 0);
    }

    fn sort_by_next(&mut self) {
        let Some(columns) = self.current().map(|table| table.columns.clone()) else { return };
        let next = (self.sort[self.table].0 + 1) % columns.len().max(1);
        let number = columns.get(next).is_some_and(|column| column.number);
        self.sort[self.table] = (next, number);
    }

    fn wish(&mut self, wish: char) {
        let target = self.shown().get(self.row).map(|row| row.target.clone()).unwrap_or_default();
        let action = match (wish, target) {
            ('d' | 'e', Target::Endpoint { upstream, address }) => {
                let state = if wish == 'd' { "draining" } else { "enabled" };
                Action::Endpoint { upstream, address, state }
            }
            ('p' | 'u', Target::Tenant(id)) => Action::Tenant { id, pause: wish == 'p' },
            ('p' | 'u', Target::Queue(name)) => Action::Queue { name, pause: wish == 'p' },
            ('d' | 'e', _) => {
                return self.say("an endpoint is drained: choose one in table 4".to_owned(), true);
            }
            _ => {
                return self
                    .say("a tenant or a queue is paused: choose one in table 1 or 5".to_owned(), true);
            }
        };
        self.mode = Mode::Confirm(action);
    }
}
