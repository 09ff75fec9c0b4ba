//! Bodies of requests to the control API: read whole, bounded in bytes and in time, and never taken for another than was meant.
//!
//! A body that breaks off, or is too long, is no empty body: what is asked for without one is often something larger, such as
//! that a whole queue is paused instead of a tenant in it.

use std::error::Error as _;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use tidegate_wire::clock;

use super::deliveries::{Refused, refused};

/// Bytes of most bodies.
pub const BYTES_MAX: usize = 64 * 1024;
/// How long a body is waited for: a client that has vanished holds nobody up.
const WITHIN: Duration = Duration::from_secs(60);

/// A body, of so many bytes at most.
pub async fn read(body: Body, most: usize) -> Result<Bytes, Refused> {
    let by = clock::now().after(WITHIN);
    match clock::timeout_at(by, axum::body::to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.source().is_some_and(|cause| cause.is::<LengthLimitError>()) => {
            let detail = format!("the body has more than {most} bytes");
            refused(StatusCode::PAYLOAD_TOO_LARGE, "control.too-large", &detail)
        }
        Ok(Err(_)) => refused(StatusCode::BAD_REQUEST, "control.body", "the body broke off"),
        Err(_) => refused(StatusCode::REQUEST_TIMEOUT, "control.body", "the body did not come whole in time"),
    }
}

/// A body of JSON. What is wrong with it is told under this code.
pub async fn json<T: DeserializeOwned>(body: Body, most: usize, code: &str) -> Result<T, Refused> {
    of_json(&read(body, most).await?, code)
}

/// The same, where a request without a body says nothing.
pub async fn json_or_nothing<T: DeserializeOwned + Default>(
    body: Body,
    most: usize,
    code: &str,
) -> Result<T, Refused> {
    let bytes = read(body, most).await?;
    if bytes.trim_ascii().is_empty() { Ok(T::default()) } else { of_json(&bytes, code) }
}

fn of_json<T: DeserializeOwned>(bytes: &[u8], code: &str) -> Result<T, Refused> {
    serde_json::from_slice(bytes).or_else(|error| refused(StatusCode::BAD_REQUEST, code, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::stream;
    use serde_json::Value;

    use super::*;

    /// What is asked for by these pieces; or the status that they are refused with.
    async fn check(pieces: Vec<io::Result<&'static str>>, expected: Result<Value, u16>) {
        let body = Body::from_stream(stream::iter(pieces));
        let found = json_or_nothing::<Value>(body, 10, "control.body").await;
        assert_eq!(found.map_err(|refused| refused.status().as_u16()), expected);
    }

    #[tokio::test(flavor = "local")]
    async fn what_breaks_off_or_is_too_long_is_not_taken_for_nothing() {
        check(Vec::new(), Ok(Value::Null)).await;
        check(vec![Ok(" \n")], Ok(Value::Null)).await;
        check(vec![Ok("[1,"), Ok("2]")], Ok(serde_json::json!([1, 2]))).await;
        let broken = io::Error::from(io::ErrorKind::ConnectionReset);
        check(vec![Err(broken)], Err(400)).await;
        check(vec![Ok("[1,2,3,4,5,6]")], Err(413)).await;
        check(vec![Ok("[1")], Err(400)).await;
    }
}
