//! A plot as SVG, to stand inside a page: axes with units, a legend, what was shaded and why.
//!
//! Colours are classes that the page gives a meaning in light and dark; lines differ by their dashes too, so that nobody has
//! to see colours. What always holds: every text is escaped, every number is finite, and the size is bounded by
//! `POINTS_MAX`.

use std::fmt::Write as _;

use super::escape;

/// Points of one line that are drawn; of more, every n-th.
const POINTS_MAX: usize = 2_000;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
/// Room for the axis on the left, the legend above, the axis below.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 40.0;

/// A plot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plot {
    /// What is shown.
    pub title: String,
    /// What the horizontal axis counts, with its unit.
    pub across: String,
    /// What the vertical axis counts, with its unit.
    pub up: String,
    /// Whether the vertical axis is logarithmic.
    pub logarithmic: bool,
    /// The lines.
    pub lines: Vec<Line>,
    /// Times (or whatever is across) that something was the matter.
    pub shades: Vec<Shade>,
}

/// A line of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// As the legend calls it.
    pub name: String,
    /// How it looks.
    pub look: Look,
    /// What it joins. A point that is not finite is a gap.
    pub points: Vec<(f64, f64)>,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The protected side.
    On,
    /// The unprotected side.
    Off,
    /// What both sides share: the load offered.
    Offered,
    /// Points that were measured, not joined.
    Measured,
    /// A model, within what was measured.
    Model,
    /// A model, past what was measured.
    Prediction,
}

/// A span in which something was the matter.
#[derive(Clone, Debug, PartialEq)]
pub struct Shade {
    /// Where it begins.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// What was the matter.
    pub name: String,
}

impl Look {
    fn class(self) -> &'static str {
        match self {
            Look::On => "on",
            Look::Off => "off",
            Look::Offered => "offered",
            Look::Measured => "measured",
            Look::Model => "model",
            Look::Prediction => "prediction",
        }
    }
}

/// An axis: which values lie where.
struct Axis {
    from: f64,
    to: f64,
    begin: f64,
    end: f64,
    logarithmic: bool,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.begin + share.clamp(0.0, 1.0) * (self.end - self.begin)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic { decades(self.from, self.to) } else { steps(self.from, self.to) }
    }
}

/// Draws it. `id` is unique on the page.
#[must_use]
pub fn draw(plot: &Plot, id: &str) -> String {
    let (across, up) = axes(plot);
    let mut svg = String::with_capacity(16 * 1024);
    let (id, title) = (escape(id), escape(&plot.title));
    let _ = write!(
        svg,
        r#"<svg class="plot" role="img" aria-labelledby="{id}-t {id}-d" viewBox="0 0 {WIDTH} {HEIGHT}"><title id="{id}-t">{title}</title><desc id="{id}-d">{}</desc>"#,
        escape(&described(plot))
    );
    shades(&mut svg, plot, &across);
    grid(&mut svg, plot, &across, &up);
    for line in &plot.lines {
        match line.look {
            Look::Measured => dots(&mut svg, line, &across, &up),
            _ => path(&mut svg, line, &across, &up),
        }
    }
    legend(&mut svg, plot);
    svg.push_str("</svg>");
    svg
}

fn axes(plot: &Plot) -> (Axis, Axis) {
    let points = || plot.lines.iter().flat_map(|line| &line.points).filter(is_drawn);
    let (mut left, mut right) = span(points().map(|point| point.0));
    for shade in plot.shades.iter().filter(|shade| is_known(shade.from) && is_known(shade.to)) {
        (left, right) = (left.min(shade.from), right.max(shade.to));
    }
    if right <= left {
        right = left + 1.0;
    }
    let across = Axis { from: left, to: right, begin: LEFT, end: WIDTH - RIGHT, logarithmic: false };
    let values = points().map(|point| point.1).filter(|value| !plot.logarithmic || *value > 0.0);
    let (low, high) = span(values);
    let (from, to) = if plot.logarithmic {
        let from = 10f64.powf(low.max(1e-12).log10().floor());
        (from, (high * 1.1).max(from * 10.0))
    } else {
        (low.min(0.0), if high > 0.0 { high * 1.08 } else { 1.0 })
    };
    (across, Axis { from, to, begin: HEIGHT - BOTTOM, end: TOP, logarithmic: plot.logarithmic })
}

fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low.is_finite() { (low, high) } else { (0.0, 1.0) }
}

fn is_drawn(point: &&(f64, f64)) -> bool {
    is_known(point.0) && is_known(point.1)
}

/// Whether it is a number that anybody can have measured.
fn is_known(value: f64) -> bool {
    /// Neither nanoseconds nor bytes of a drill come near.
    const MOST: f64 = 1e15;
    value.abs() <= MOST
}

/// Round values between two: 1, 2 or 5 times a power of ten apart.
fn steps(from: f64, to: f64) -> Vec<f64> {
    /// About so many.
    const WANTED: f64 = 5.0;
    let rough = (to - from) / WANTED;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let Some(step) = step.filter(|step| step.is_finite() && *step > 0.0) else { return vec![from] };
    let (first, last) = ((from / step).ceil() as i64, (to / step * (1.0 + 1e-12)).floor() as i64);
    (first..=last).take(32).map(|number| number as f64 * step).collect()
}

/// Powers of ten between two, and within few of them, twice and five times them too.
fn decades(from: f64, to: f64) -> Vec<f64> {
    let (first, last) = (from.log10().floor() as i32, to.log10().ceil() as i32);
    let factors: &[f64] = if last - first <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let all = (first..=last)
        .take(32)
        .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
    all.filter(|value| *value >= from * 0.999 && *value <= to).collect()
}

fn shades(svg: &mut String, plot: &Plot, across: &Axis) {
    for shade in plot.shades.iter().filter(|shade| is_known(shade.from) && is_known(shade.to)) {
        let (begin, end) = (across.place(shade.from), across.place(shade.to));
        let (width, height) = ((end - begin).max(1.0), HEIGHT - TOP - BOTTOM);
        let _ = write!(
            svg,
            r#"<rect class="shade" x="{begin:.1}" y="{TOP}" width="{width:.1}" height="{height}"/><text class="small" x="{:.1}" y="{:.1}">{}</text>"#,
            begin + 4.0,
            TOP + 12.0,
            escape(&shade.name)
        );
    }
}

fn grid(svg: &mut String, plot: &Plot, across: &Axis, up: &Axis) {
    let (floor, end) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for value in up.ticks() {
        let y = up.place(value);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{end}" y1="{y:.1}" y2="{y:.1}"/><text class="tick" text-anchor="end" x="{:.1}" y="{:.1}">{}</text>"#,
            LEFT - 6.0,
            y + 4.0,
            number(value)
        );
    }
    for value in across.ticks() {
        let x = across.place(value);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{floor}" y2="{:.1}"/><text class="tick" text-anchor="middle" x="{x:.1}" y="{:.1}">{}</text>"#,
            floor + 4.0,
            floor + 17.0,
            number(value)
        );
    }
    let middle = (TOP + floor) / 2.0;
    let _ = write!(
        svg,
        r#"<line class="axis" x1="{LEFT}" x2="{end}" y1="{floor}" y2="{floor}"/><text class="name" text-anchor="middle" x="{:.1}" y="{:.1}">{}</text><text class="name" text-anchor="middle" transform="translate(13 {middle:.1}) rotate(-90)">{}</text>"#,
        f64::midpoint(LEFT, end),
        HEIGHT - 5.0,
        escape(&plot.across),
        escape(&plot.up)
    );
}

fn path(svg: &mut String, line: &Line, across: &Axis, up: &Axis) {
    let _ = write!(svg, r#"<path class="line {}" d=""#, line.look.class());
    let mut pen_is_down = false;
    for point in thinned(&line.points) {
        if !is_drawn(&point) || (up.logarithmic && point.1 <= 0.0) {
            pen_is_down = false;
            continue;
        }
        let command = if pen_is_down { 'L' } else { 'M' };
        let _ = write!(svg, "{command}{:.1} {:.1}", across.place(point.0), up.place(point.1));
        pen_is_down = true;
    }
    svg.push_str("\"/>");
}

fn dots(svg: &mut String, line: &Line, across: &Axis, up: &Axis) {
    for point in thinned(&line.points).filter(is_drawn) {
        let (x, y) = (across.place(point.0), up.place(point.1));
        let _ = write!(svg, r#"<circle class="{}" cx="{x:.1}" cy="{y:.1}" r="3.5"/>"#, line.look.class());
    }
}

fn thinned(points: &[(f64, f64)]) -> impl Iterator<Item = &(f64, f64)> {
    points.iter().step_by(points.len().div_ceil(POINTS_MAX).max(1))
}

fn legend(svg: &mut String, plot: &Plot) {
    /// A letter's width at the legend's size, about.
    const LETTER: f64 = 6.9;
    let mut x = LEFT;
    for line in plot.lines.iter().filter(|line| !line.name.is_empty()) {
        let class = line.look.class();
        let _ = match line.look {
            Look::Measured => {
                write!(svg, r#"<circle class="{class}" cx="{:.1}" cy="15" r="3.5"/>"#, x + 11.0)
            }
            _ => write!(svg, r#"<path class="line {class}" d="M{x:.1} 15h22"/>"#),
        };
        let _ = write!(svg, r#"<text class="name" x="{:.1}" y="19">{}</text>"#, x + 28.0, escape(&line.name));
        x += 46.0 + LETTER * line.name.chars().count() as f64;
    }
}

/// What a reader who does not see it is told: each line's least, most and last.
fn described(plot: &Plot) -> String {
    let mut text = format!("{} over {}.", plot.up, plot.across);
    for line in &plot.lines {
        let values = || line.points.iter().filter(is_drawn).map(|point| point.1);
        let Some(last) = values().next_back() else { continue };
        let (least, most) = span(values());
        let _ = write!(
            text,
            " {}: from {} to {}, at the end {}.",
            line.name,
            number(least),
            number(most),
            number(last)
        );
    }
    for shade in &plot.shades {
        let _ = write!(text, " {}: {} to {}.", shade.name, number(shade.from), number(shade.to));
    }
    text
}

/// A number as a reader wants it: three digits or so, thousands apart.
#[must_use]
pub fn number(value: f64) -> String {
    if !is_known(value) {
        return "–".to_owned();
    }
    let size = value.abs();
    let text = match size {
        _ if size >= 100.0 || size == size.trunc() => format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.1}"),
        _ if size >= 0.01 => format!("{value:.2}"),
        _ if size == 0.0 => "0".to_owned(),
        _ => format!("{value:.1e}"),
    };
    let text = if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    let digits = text.trim_start_matches('-').len();
    if digits <= 4 || text.contains(['.', 'e']) {
        return text;
    }
    let first = text.len() % 3;
    let groups: Vec<_> = [&text[..first]]
        .into_iter()
        .chain(text.as_bytes()[first..].chunks(3).filter_map(|group| std::str::from_utf8(group).ok()))
        .filter(|group| !group.is_empty())
        .collect();
    groups.join("\u{202f}").replace("-\u{202f}", "-")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plot(points: Vec<(f64, f64)>, logarithmic: bool) -> Plot {
        let line = Line { name: "with <it>".to_owned(), look: Look::On, points };
        Plot { title: "a & b".to_owned(), logarithmic, lines: vec![line], ..Plot::default() }
    }

    #[test]
    fn numbers_are_written_for_readers() {
        for (value, text) in [
            (0.0, "0"),
            (0.05, "0.05"),
            (1.5, "1.5"),
            (12.34, "12.3"),
            (123.4, "123"),
            (2000.0, "2000"),
            (12345.0, "12\u{202f}345"),
            (-123_456.0, "-123\u{202f}456"),
            (1_234_567.0, "1\u{202f}234\u{202f}567"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(value), text, "{value}");
        }
    }

    #[test]
    fn ticks_are_round_and_lie_within() {
        assert_eq!(steps(0.0, 30.0), [0.0, 10.0, 20.0, 30.0]);
        assert_eq!(steps(0.0, 1080.0), [0.0, 500.0, 1000.0]);
        assert_eq!(decades(1.0, 110.0), [1.0, 10.0, 100.0]);
        assert_eq!(decades(10.0, 90.0), [10.0, 20.0, 50.0]);
    }

    #[test]
    fn a_gap_lifts_the_pen_and_texts_are_escaped() {
        let svg = draw(&plot(vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)], false), "p");
        let path = svg.split("<path class=\"line on\" d=\"").nth(1).unwrap();
        assert_eq!(path.split('"').next().unwrap().matches('M').count(), 2);
        assert!(svg.contains("a &amp; b") && svg.contains("with &lt;it&gt;") && !svg.contains("<it>"));
    }

    proptest! {
        #[test]
        fn whatever_is_plotted_stays_within_the_frame(
            points in proptest::collection::vec((any::<f64>(), any::<f64>()), 0..50),
            logarithmic: bool,
        ) {
            let svg = draw(&plot(points, logarithmic), "p");
            prop_assert!(!svg.contains("NaN") && !svg.contains("inf"), "{}", svg);
            prop_assert!(svg.len() < 64 * 1024);
        }
    }
}
