//! One page, whole in itself: no script, nothing fetched, light and dark as the reader has it, readable on paper.
//!
//! What always holds: whatever is put in is escaped; a policy in the page itself forbids scripts and everything from
//! elsewhere, so that a report can be passed on and opened without a thought.

use std::fmt::Write as _;

use super::escape;
use super::svg::{self, Plot};

/// What a report tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Its heading.
    pub title: String,
    /// In a sentence, what was tried.
    pub summary: String,
    /// How it ended.
    pub verdict: Option<Judgement>,
    /// When it passes, as it was stated before it began.
    pub rule: String,
    /// What happened and why.
    pub explanation: Vec<String>,
    /// Numbers, side by side.
    pub tables: Vec<Table>,
    /// What happened over time.
    pub plots: Vec<Plot>,
    /// Texts to look at: configurations. Name and content.
    pub texts: Vec<(String, String)>,
    /// How to do it again, and what it was done on.
    pub notes: Vec<String>,
}

/// How a drill ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// How it looks.
    pub tone: Tone,
    /// A word: passed, failed.
    pub word: String,
    /// Why.
    pub reason: String,
}

/// Good, bad or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// It passed.
    Good,
    /// It failed.
    Bad,
    /// Nothing could be said.
    Neither,
}

/// Numbers side by side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// Heads of its columns.
    pub columns: Vec<String>,
    /// Its rows: the first cell is the row's head.
    pub rows: Vec<Vec<String>>,
}

const STYLE: &str = include_str!("page.css");

/// Makes the page.
#[must_use]
pub fn page(page: &Page) -> String {
    let mut html = String::with_capacity(64 * 1024);
    let title = escape(&page.title);
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title} · Tidegate drill</title>\
         <style>{STYLE}</style></head><body><main>\
         <header><p class=\"kind\">Tidegate drill</p><h1>{title}</h1><p class=\"summary\">{}</p></header>",
        escape(&page.summary)
    );
    verdict(&mut html, page);
    paragraphs(&mut html, "What happened", "explanation", &page.explanation);
    for table in &page.tables {
        draw(&mut html, table);
    }
    if !page.plots.is_empty() {
        html.push_str("<section><h2>Over the run</h2><div class=\"plots\">");
        for (index, plot) in page.plots.iter().enumerate() {
            let caption = escape(&plot.title);
            let drawn = svg::draw(plot, &format!("plot{index}"));
            let _ = write!(html, "<figure><figcaption>{caption}</figcaption>{drawn}</figure>");
        }
        html.push_str("</div></section>");
    }
    texts(&mut html, page);
    paragraphs(&mut html, "How to do it again", "notes", &page.notes);
    html.push_str("</main></body></html>\n");
    html
}

fn verdict(html: &mut String, page: &Page) {
    if let Some(judgement) = &page.verdict {
        let (class, sign) = match judgement.tone {
            Tone::Good => ("good", "✓"),
            Tone::Bad => ("bad", "✗"),
            Tone::Neither => ("neither", "–"),
        };
        let _ = write!(
            html,
            "<section class=\"verdict {class}\" aria-label=\"Verdict\"><p class=\"word\"><span aria-hidden=\"true\">{sign}\
             </span> {}</p><p>{}</p></section>",
            escape(&judgement.word),
            escape(&judgement.reason)
        );
    }
    if !page.rule.is_empty() {
        let _ = write!(html, "<p class=\"rule\"><strong>Rule:</strong> {}</p>", escape(&page.rule));
    }
}

fn paragraphs(html: &mut String, heading: &str, class: &str, texts: &[String]) {
    if texts.is_empty() {
        return;
    }
    let _ = write!(html, "<section class=\"{class}\"><h2>{heading}</h2>");
    for text in texts {
        let _ = write!(html, "<p>{}</p>", prose(text));
    }
    html.push_str("</section>");
}

/// A sentence; what stands between backticks in it is code.
fn prose(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(place, part)| match place % 2 {
        0 => escape(part),
        _ => format!("<code>{}</code>", escape(part)),
    });
    parts.collect()
}

fn draw(html: &mut String, table: &Table) {
    let _ = write!(
        html,
        "<section><h2>{}</h2><div class=\"wide\" tabindex=\"0\"><table><caption class=\"hidden\">{}</caption><thead><tr>",
        escape(&table.caption),
        escape(&table.caption)
    );
    for column in &table.columns {
        let _ = write!(html, "<th scope=\"col\">{}</th>", escape(column));
    }
    html.push_str("</tr></thead><tbody>");
    for row in &table.rows {
        html.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            let _ = match index {
                0 => write!(html, "<th scope=\"row\">{}</th>", escape(cell)),
                _ => write!(html, "<td>{}</td>", escape(cell)),
            };
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div></section>");
}

fn texts(html: &mut String, page: &Page) {
    if page.texts.is_empty() {
        return;
    }
    html.push_str("<section><h2>Configurations</h2><div class=\"texts\">");
    for (name, text) in &page.texts {
        // Reached by the keyboard: it scrolls.
        let _ = write!(
            html,
            "<details open><summary>{}</summary><pre tabindex=\"0\"><code>{}</code></pre></details>",
            escape(name),
            escape(text.trim())
        );
    }
    html.push_str("</div></section>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::svg::{Line, Look, Shade};

    const EVIL: &str = "\"><script>alert('x')</script>&";

    fn evil() -> Page {
        let text = || EVIL.to_owned();
        let line = Line { name: text(), look: Look::Off, points: vec![(0.0, 1.0)] };
        let shades = vec![Shade { from: 0.0, to: 1.0, name: text() }];
        Page {
            title: text(),
            summary: text(),
            verdict: Some(Judgement { tone: Tone::Bad, word: text(), reason: text() }),
            rule: text(),
            explanation: vec![text()],
            tables: vec![Table { caption: text(), columns: vec![text()], rows: vec![vec![text(), text()]] }],
            plots: vec![Plot {
                title: text(),
                across: text(),
                up: text(),
                logarithmic: false,
                lines: vec![line],
                shades,
            }],
            texts: vec![(text(), text())],
            notes: vec![text()],
        }
    }

    #[test]
    fn nothing_that_is_put_in_becomes_markup() {
        let html = page(&evil());
        assert!(!html.contains("<script") && !html.contains("alert('x')"), "{html}");
        assert!(html.matches("&lt;script&gt;").count() >= 17, "{}", html.matches("&lt;script&gt;").count());
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let html = page(&evil());
        for outside in ["http://", "https://", "src=", "url(", "@import", "<link", "onload"] {
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn what_stands_between_backticks_is_code() {
        assert_eq!(prose("set `a<b` so"), "set <code>a&lt;b</code> so");
        assert_eq!(prose("a lone ` stays open"), "a lone <code> stays open</code>");
    }

    #[test]
    fn every_element_that_is_opened_is_closed() {
        let html = page(&evil());
        for name in
            ["main", "section", "table", "tr", "svg", "figure", "details", "pre", "p", "th", "td", "text"]
        {
            let opened =
                html.matches(&format!("<{name}>")).count() + html.matches(&format!("<{name} ")).count();
            assert_eq!(opened, html.matches(&format!("</{name}>")).count(), "{name}");
        }
    }
}
