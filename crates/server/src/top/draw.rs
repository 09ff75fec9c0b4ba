//! Draws the screen. Nothing is decided here but where things stand.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState};

use super::state::{Mode, State};
use super::view::{HEAD_LINES, TABLES};
use crate::status::cell;

/// What the keys do.
const HELP: [&str; 12] = [
    "1-6, Tab, <- ->   another table",
    "up, down, j, k    another row; PgUp, PgDn, Home, End",
    "s                 sort by the next column",
    "r                 the other way round",
    "/                 show only rows with these letters; Esc: all",
    "d                 drain the chosen endpoint (table 4)",
    "e                 use it again",
    "p                 pause the chosen tenant or queue (tables 1, 5)",
    "u                 let it go on",
    "?                 this help",
    "q, Ctrl-C         leave",
    "Changes need the scope `write`, or the unix socket.",
];

const BAD: Style = Style::new().fg(Color::Red);
const DIM: Style = Style::new().fg(Color::DarkGray);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let parts = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(HEAD_LINES as u16),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ]);
    let [title, head, tabs, body, foot] = parts.areas(frame.area());
    draw_title(frame, title, state);
    let lines = state.view.as_ref().map(|view| view.head.clone()).unwrap_or_default();
    let lines: Vec<Line<'_>> = lines
        .into_iter()
        .map(|line| Line::styled(line.text, if line.bad { BAD } else { Style::new() }))
        .collect();
    frame.render_widget(Paragraph::new(lines), head);
    draw_tabs(frame, tabs, state);
    draw_table(frame, body, state);
    draw_foot(frame, foot, state);
    if state.mode == Mode::Help {
        draw_help(frame);
    }
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let mut spans = vec![Span::styled(format!("tidegate {}", state.place), STRONG)];
    match (&state.away, &state.view) {
        (Some(why), Some(_)) => {
            spans.push(Span::styled(format!("  AWAY, what was seen last is shown: {why}"), BAD));
        }
        (Some(why), None) => spans.push(Span::styled(format!("  {why}"), BAD)),
        (None, None) => spans.push(Span::styled("  asking …", DIM)),
        (None, Some(_)) => {}
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn draw_tabs(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let mut spans = Vec::new();
    for (place, name) in TABLES.iter().enumerate() {
        let style = if place == state.table { CHOSEN } else { DIM };
        spans.push(Span::styled(format!(" {} {name} ", place + 1), style));
    }
    if !state.filter.is_empty() && state.mode != Mode::Filter {
        spans.push(Span::raw(format!("  /{}", state.filter)));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let Some(table) = state.current() else { return };
    let rows = state.shown();
    if rows.is_empty() {
        let why = if state.filter.is_empty() { "there are none" } else { "none has these letters" };
        frame.render_widget(Paragraph::new(Span::styled(why, DIM)), area);
        return;
    }
    let (sorted, largest_first) = state.sort[state.table];
    let heads: Vec<String> = table
        .columns
        .iter()
        .enumerate()
        .map(|(place, column)| match (place == sorted, largest_first) {
            (true, true) => format!("{}v", column.head),
            (true, false) => format!("{}^", column.head),
            (false, _) => column.head.to_owned(),
        })
        .collect();
    let width = |place: usize| {
        let widest =
            rows.iter().filter_map(|row| row.cells.get(place)).map(|cell| cell.text.chars().count()).max();
        u16::try_from(widest.unwrap_or(0).max(heads[place].chars().count())).unwrap_or(u16::MAX)
    };
    let (shown, gap) = fitting(&(0..heads.len()).map(width).collect::<Vec<_>>(), area.width);
    let widths: Vec<Constraint> = (0..shown).map(|place| Constraint::Length(width(place))).collect();
    let placed = |place: usize, text: String| {
        let line = Line::from(text);
        Cell::from(if table.columns[place].number { line.right_aligned() } else { line })
    };
    let body = rows.iter().map(|row| {
        let cells =
            row.cells.iter().take(shown).enumerate().map(|(place, cell)| placed(place, cell.text.clone()));
        Row::new(cells).style(if row.bad { BAD } else { Style::new() })
    });
    let header =
        Row::new(heads.iter().take(shown).enumerate().map(|(place, head)| placed(place, head.clone())))
            .style(STRONG);
    let drawn = Table::new(body, widths).header(header).column_spacing(gap).row_highlight_style(CHOSEN);
    let mut chosen = TableState::default().with_selected(Some(state.row));
    frame.render_stateful_widget(drawn, area, &mut chosen);
}

/// How many columns of these widths are shown whole, the first in any case, and how far apart: better fewer than cut ones.
fn fitting(widths: &[u16], room: u16) -> (usize, u16) {
    let takes = |count: usize, gap: u16| {
        let cells = widths.iter().take(count).fold(0_u16, |sum, width| sum.saturating_add(*width));
        cells.saturating_add(gap.saturating_mul(u16::try_from(count.saturating_sub(1)).unwrap_or(u16::MAX)))
    };
    if takes(widths.len(), 2) <= room {
        return (widths.len(), 2);
    }
    let count = (1..=widths.len()).rev().find(|count| takes(*count, 1) <= room);
    (count.unwrap_or(1), 1)
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let line = match (&state.mode, &state.said) {
        (Mode::Confirm(action), _) => {
            let asked = cell(&serde_json::Value::String(action.question()));
            // What answers it is seen, however long a name is.
            Line::styled(format!("y / n: {asked}"), STRONG)
        }
        (Mode::Filter, _) => Line::styled(format!("/{}_  Enter: keep, Esc: all", state.filter), STRONG),
        (_, Some((said, failed))) => {
            let said = cell(&serde_json::Value::String(said.clone()));
            Line::styled(said, if *failed { BAD } else { STRONG })
        }
        _ => Line::styled(
            "? help  Tab table  s sort  / find  d drain  e enable  p pause  u resume  q quit",
            DIM,
        ),
    };
    frame.render_widget(Paragraph::new(line), area);
}

fn draw_help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (area.width.min(68), area.height.min(HELP.len() as u16 + 2));
    let place =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let lines: Vec<Line<'_>> = HELP.iter().map(|line| Line::from(*line)).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), place);
}
