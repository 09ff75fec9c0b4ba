//! What all metrics say at one moment, and the texts that Prometheus reads it in: its own format (version 0.0.4), and OpenMetrics
//! 1.0, which tells exemplars too. What is exported by OTLP is made of the same.

use std::fmt::{Display, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::exposition::Metric;

/// What all metrics say, in the making.
#[derive(Debug, Default)]
pub struct Exposition(Vec<Family>);

/// A metric and its samples.
#[derive(Debug)]
pub struct Family {
    /// Which.
    pub metric: Metric,
    /// What it says.
    pub samples: Vec<Sample>,
}

/// What a metric says under these labels.
#[derive(Debug)]
pub struct Sample {
    /// The labels, in their order.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: Value,
}

/// A value.
#[derive(Debug)]
pub enum Value {
    /// A number, as it is written.
    Number(String),
    /// How often there was what.
    Histogram(Histogram),
}

/// How often there was what.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds.
    pub bounds: Vec<f64>,
    /// How often, by bound; the last: more than all of them.
    pub counts: Vec<u64>,
    /// The sum of all.
    pub sum: f64,
    /// An example for each, where there is one; empty: there is none.
    pub exemplars: Vec<Option<Exemplar>>,
}

/// One of those that were counted, whose trace is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// Its trace.
    pub trace: u128,
    /// Its span.
    pub span: u64,
    /// How much it was.
    pub value: f64,
    /// When.
    pub at: SystemTime,
}

/// How the text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// Prometheus' own.
    Prometheus,
    /// OpenMetrics.
    OpenMetrics,
}

impl TextFormat {
    /// The form that somebody who says so in `Accept` likes better. Prometheus' own, where that is all one.
    #[must_use]
    pub fn of(accept: &str) -> TextFormat {
        let weight = |kind: &str| {
            let found = accept.split(',').map(str::trim).filter_map(|one| {
                let mut parts = one.split(';').map(str::trim);
                (parts.next()? == kind).then(|| {
                    let weight = parts.find_map(|part| part.strip_prefix("q="));
                    weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0))
                })
            });
            found.fold(None, |most: Option<f32>, one| Some(most.map_or(one, |most| most.max(one))))
        };
        let open = weight("application/openmetrics-text").unwrap_or(0.0);
        match open > 0.0 && open >= weight("text/plain").unwrap_or(0.0) {
            true => TextFormat::OpenMetrics,
            false => TextFormat::Prometheus,
        }
    }

    /// The content's type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            TextFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            TextFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Exposition {
    /// Begins a metric's family. Its samples follow.
    pub fn family(&mut self, metric: &Metric) {
        self.0.push(Family { metric: *metric, samples: Vec::new() });
    }

    /// A sample of the family that was begun last, which is the metric of this name.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.add(name, labels, Value::Number(value.to_string()));
    }

    /// A histogram of the family that was begun last, which is this metric.
    pub fn histogram(&mut self, metric: &Metric, labels: &[(&str, &str)], histogram: Histogram) {
        assert_eq!(histogram.counts.len(), histogram.bounds.len() + 1, "the last has no bound");
        self.add(metric.name, labels, Value::Histogram(histogram));
    }

    fn add(&mut self, name: &str, labels: &[(&str, &str)], value: Value) {
        let family = self.0.last_mut().expect("a family is begun before its samples");
        assert_eq!(family.metric.name, name, "a sample stands in its own family");
        let labels = labels.iter().map(|(label, text)| ((*label).to_owned(), (*text).to_owned()));
        family.samples.push(Sample { labels: labels.collect(), value });
    }

    /// All there is.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.0
    }

    /// The text.
    #[must_use]
    pub fn text(&self, format: TextFormat) -> String {
        let mut out = Text { out: String::new(), format };
        for family in &self.0 {
            out.family(family);
        }
        if format == TextFormat::OpenMetrics {
            out.out.push_str("# EOF\n");
        }
        out.out
    }
}

struct Text {
    out: String,
    format: TextFormat,
}

/// Writing into a string cannot fail.
impl Text {
    fn family(&mut self, family: &Family) {
        let Metric { name, kind, help, .. } = family.metric;
        let (name, help) = match self.format {
            // A counter's family is named without the ending of its samples.
            TextFormat::OpenMetrics => {
                (name.strip_suffix("_total").unwrap_or(name), help.replace('"', "\\\""))
            }
            TextFormat::Prometheus => (name, help.to_owned()),
        };
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for sample in &family.samples {
            match &sample.value {
                Value::Number(number) => self.line(family.metric.name, "", &sample.labels, None, number),
                Value::Histogram(histogram) => self.histogram(family.metric.name, &sample.labels, histogram),
            }
        }
    }

    fn histogram(&mut self, name: &str, labels: &[(String, String)], histogram: &Histogram) {
        let mut sum = 0;
        for (place, count) in histogram.counts.iter().enumerate() {
            sum += count;
            let le = match histogram.bounds.get(place) {
                None => "+Inf".to_owned(),
                // OpenMetrics writes whole numbers with a point.
                Some(bound) if self.format == TextFormat::OpenMetrics => format!("{bound:?}"),
                Some(bound) => bound.to_string(),
            };
            self.line(name, "_bucket", labels, Some(&le), sum);
            if self.format == TextFormat::OpenMetrics
                && let Some(Some(exemplar)) = histogram.exemplars.get(place)
            {
                self.out.pop();
                let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                let Exemplar { trace, span, value, .. } = exemplar;
                let at = at.as_secs_f64();
                let labels = format!("trace_id=\"{trace:032x}\",span_id=\"{span:016x}\"");
                let _ = writeln!(self.out, " # {{{labels}}} {value} {at:.3}");
            }
        }
        self.line(name, "_sum", labels, None, histogram.sum);
        self.line(name, "_count", labels, None, sum);
    }

    fn line(
        &mut self,
        name: &str,
        part: &str,
        labels: &[(String, String)],
        le: Option<&str>,
        value: impl Display,
    ) {
        let _ = write!(self.out, "{name}{part}");
        let bound = le.map(|le| ("le", le));
        let all = labels.iter().map(|(label, text)| (label.as_str(), text.as_str())).chain(bound);
        let mut open = '{';
        for (label, text) in all {
            let _ = write!(self.out, "{open}{label}=\"");
            for character in text.chars() {
                match character {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    character => self.out.push(character),
                }
            }
            self.out.push('"');
            open = ',';
        }
        if open == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTER: Metric =
        Metric { name: "m_total", kind: "counter", labels: &["a"], help: "Says \"x\" and `y`." };
    const TIMES: Metric = Metric { name: "t_seconds", kind: "histogram", labels: &[], help: "T." };

    fn check(format: TextFormat, expected: &str) {
        let mut all = Exposition::default();
        all.family(&COUNTER);
        all.sample(COUNTER.name, &[("a", "x\"} 1\nm 2\\"), ("b", "y")], 3);
        all.family(&TIMES);
        let at = UNIX_EPOCH + Duration::from_millis(1_500);
        let exemplar = Exemplar { trace: 1, span: 2, value: 0.75, at };
        let (bounds, counts, exemplars) = (vec![0.5, 1.0], vec![1, 2, 0], vec![None, Some(exemplar), None]);
        all.histogram(&TIMES, &[], Histogram { bounds, counts, sum: 2.5, exemplars });
        assert_eq!(all.text(format), expected);
    }

    #[test]
    fn foreign_text_cannot_break_out_of_a_label() {
        check(
            TextFormat::Prometheus,
            "# HELP m_total Says \"x\" and `y`.\n# TYPE m_total counter\nm_total{a=\"x\\\"} 1\\nm 2\\\\\",b=\"y\"} 3\n\
             # HELP t_seconds T.\n# TYPE t_seconds histogram\nt_seconds_bucket{le=\"0.5\"} 1\nt_seconds_bucket{le=\"1\"} 3\n\
             t_seconds_bucket{le=\"+Inf\"} 3\nt_seconds_sum 2.5\nt_seconds_count 3\n",
        );
    }

    #[test]
    fn open_metrics_tells_exemplars_and_its_end() {
        check(
            TextFormat::OpenMetrics,
            "# HELP m Says \\\"x\\\" and `y`.\n# TYPE m counter\nm_total{a=\"x\\\"} 1\\nm 2\\\\\",b=\"y\"} 3\n\
             # HELP t_seconds T.\n# TYPE t_seconds histogram\nt_seconds_bucket{le=\"0.5\"} 1\n\
             t_seconds_bucket{le=\"1.0\"} 3 # {trace_id=\"00000000000000000000000000000001\",span_id=\"0000000000000002\"} 0.75 1.500\n\
             t_seconds_bucket{le=\"+Inf\"} 3\nt_seconds_sum 2.5\nt_seconds_count 3\n# EOF\n",
        );
    }

    #[test]
    fn the_form_is_the_one_that_is_asked_for() {
        let of_prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
        for (accept, expected) in [
            ("", TextFormat::Prometheus),
            ("*/*", TextFormat::Prometheus),
            ("text/plain", TextFormat::Prometheus),
            ("application/openmetrics-text", TextFormat::OpenMetrics),
            (of_prometheus, TextFormat::OpenMetrics),
            ("application/openmetrics-text;q=0.3, text/plain;q=0.5", TextFormat::Prometheus),
            ("application/openmetrics-text;q=0", TextFormat::Prometheus),
            ("application/openmetrics-text;q=x", TextFormat::Prometheus),
        ] {
            assert_eq!(TextFormat::of(accept), expected, "{accept}");
        }
    }
}
