//! One request after the other to the collector, and when it is made again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse as Answer;
use prost::Message as _;
use tidegate_model::fields::Value;
use tidegate_model::retry::{backoff, retry_after};
use tidegate_upstream::dial::{DialSettings, Dialer, Message};
use tidegate_upstream::settings::BreakerSettings;
use tidegate_wire::clock;
use tidegate_wire::settings::ClientTlsSettings;
use tokio::sync::{mpsc, oneshot};

use super::reach;
use crate::config::OtlpSettings;

/// The first pause before the same is sent again; each is twice as long as the one before, up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// For how long the same is sent again.
const AGAIN: Duration = Duration::from_secs(60);
/// Bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Bytes of what a collector says that are repeated in a log.
const WHY_BYTES_MAX: usize = 300;
/// Failures in a row after which the way would be left alone: how often it is tried is decided here.
const NEVER: u32 = u32::MAX;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The collector has it, but for so many.
    Taken {
        /// It did not want these.
        rejected: u64,
        /// Why, or what else it says.
        why: String,
    },
    /// It is not wanted, and would not be a second time.
    Never(String),
    /// It may be sent again.
    Later {
        /// Not before.
        pause: Option<Duration>,
        /// Why it was not taken.
        why: String,
    },
}

/// Brings requests of one signal.
pub struct Courier {
    path: &'static str,
    line: Arc<str>,
    /// The way there, and the settings that it was made for.
    way: Option<(OtlpSettings, Dialer)>,
}

impl Courier {
    /// For the signal whose requests go there.
    pub fn new(path: &'static str) -> Courier {
        Courier { path, line: Arc::from(path), way: None }
    }

    /// Sends a request again and again for as long as that makes sense; `heard` hears what became of it each time. Once somebody has
    /// asked for the end, which is `last` then, it is sent once more and no oftener.
    pub async fn send(
        &mut self,
        settings: &OtlpSettings,
        bytes: Bytes,
        asked: &mut mpsc::Receiver<oneshot::Sender<()>>,
        last: &mut Option<oneshot::Sender<()>>,
        heard: impl Fn(&Sent),
    ) -> Sent {
        let until = clock::now().after(AGAIN);
        let mut number = 1;
        loop {
            let sent = self.send_once(settings, bytes.clone()).await;
            heard(&sent);
            let Sent::Later { pause: told, .. } = &sent else { return sent };
            let chance = getrandom::u64().unwrap_or_default();
            let wait = told.unwrap_or_else(|| PAUSE / 2 + backoff(PAUSE, PAUSE_MAX, number, chance));
            let at = clock::now().after(wait);
            if last.is_some() || at > until {
                return sent;
            }
            tokio::select! {
                end = asked.recv() => *last = end,
                () = clock::sleep_until(at) => {}
            }
            number += 1;
        }
    }

    /// Sends a request once.
    pub async fn send_once(&mut self, settings: &OtlpSettings, bytes: Bytes) -> Sent {
        let (place, mut fields) = (&settings.place, settings.fields.clone());
        let mut place = place.clone();
        place.path.push_str(self.path);
        fields.insert(&CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        fields.insert(
            &USER_AGENT,
            HeaderValue::from_static(concat!("OTel-OTLP-Exporter-Tidegate/", env!("CARGO_PKG_VERSION"))),
        );
        let line = Arc::clone(&self.line);
        let dialer = match self.way(settings) {
            Ok(dialer) => dialer,
            Err(why) => return Sent::Later { pause: None, why },
        };
        let message = Message { method: Method::POST, fields: &fields, body: &bytes };
        let answered = Box::pin(dialer.send(&line, &place, None, &message, |_| true)).await;
        dialer.sweep();
        match answered {
            Ok(answer) => {
                let told = answer.fields.get(&RETRY_AFTER);
                let told = told.and_then(|value: Value<'_>| {
                    value.to_str().ok().and_then(|text| retry_after(text, clock::wall()))
                });
                judge(answer.status, told, &answer.body)
            }
            Err(error) => Sent::Later { pause: None, why: error.to_string() },
        }
    }

    /// The way to the collector as it is configured now.
    fn way(&mut self, settings: &OtlpSettings) -> Result<&Dialer, String> {
        let kept = self.way.take().filter(|(made_for, _)| made_for == settings);
        let way = match kept {
            Some(way) => way,
            None => {
                let dialer = Dialer::new(DialSettings {
                    reach: reach(),
                    resolver: None,
                    tls: ClientTlsSettings { ca: settings.ca.clone(), ..ClientTlsSettings::default() },
                    connect_timeout: settings.timeout,
                    timeout: settings.timeout,
                    answer_bytes_max: ANSWER_BYTES_MAX,
                    calls_max: 1,
                    breaker: BreakerSettings { consecutive: NEVER, cooldown: Duration::ZERO },
                });
                (settings.clone(), dialer.map_err(|error| crate::run::chain(&error))?)
            }
        };
        Ok(&self.way.insert(way).1)
    }
}

/// What an answer means (OTLP/HTTP: 429, 502, 503 and 504 may be asked again, and nothing else).
fn judge(status: u16, pause: Option<Duration>, body: &[u8]) -> Sent {
    match status {
        // Both signals have the same answer: field 1 with a count and a message.
        200..300 => match Answer::decode(body) {
            Ok(Answer { partial_success: Some(partial) }) => Sent::Taken {
                rejected: u64::try_from(partial.rejected_data_points).unwrap_or(0),
                why: said(&partial.error_message),
            },
            // Some collectors say nothing, or say it in JSON.
            Ok(_) | Err(_) => Sent::Taken { rejected: 0, why: String::new() },
        },
        429 | 502..=504 => Sent::Later {
            pause: pause.map(|pause| pause.min(AGAIN)),
            why: format!("it answered with {status}"),
        },
        _ => Sent::Never(format!("it answered with {status}: {}", said(&String::from_utf8_lossy(body)))),
    }
}

/// What the collector says, as far as a line of a log can hold it.
fn said(text: &str) -> String {
    let text: String = text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
    text[..text.floor_char_boundary(WHY_BYTES_MAX)].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceResponse,
    };

    use super::*;

    #[test]
    fn an_answer_says_whether_the_same_may_be_sent_again() {
        let second = Duration::from_secs(1);
        let good = |rejected, why: &str| Sent::Taken { rejected, why: why.to_owned() };
        assert_eq!(judge(200, None, b""), good(0, ""));
        assert_eq!(judge(200, None, b"{\"json\": 1}"), good(0, ""));
        for status in [429, 502, 503, 504] {
            assert!(
                matches!(judge(status, Some(second), b""), Sent::Later { pause: Some(pause), .. } if pause == second)
            );
        }
        let long = Some(Duration::from_secs(86_400));
        assert!(matches!(judge(429, long, b""), Sent::Later { pause: Some(AGAIN), .. }));
        for status in [400, 401, 404, 500] {
            assert!(matches!(judge(status, None, b"no\n"), Sent::Never(why) if why.ends_with(": no")));
        }
    }

    #[test]
    fn what_it_rejects_is_told_for_both_signals() {
        let error_message = "too old\n".to_owned();
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message };
        let bytes = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        assert_eq!(judge(200, None, &bytes), Sent::Taken { rejected: 3, why: "too old".to_owned() });
    }
}
