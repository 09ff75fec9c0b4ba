//! Each form of answer by example, then properties of the escaping.

use super::*;
use crate::limit::Standing;
use crate::refusal::{self, KINDS};
use proptest::prelude::*;

const ID: RequestId = RequestId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);

fn form_of(lines: &[(&'static str, &str)]) -> Form {
    let mut headers = Fields::default();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_str(value).expect("a value"));
    }
    Form::of(&headers)
}

fn body(response: &Response<Bytes>) -> &str {
    std::str::from_utf8(response.body()).expect("text")
}

fn header<'a>(response: &'a Response<Bytes>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().expect("text"))
}

#[track_caller]
fn check(accept: &str, expected: Form) {
    assert_eq!(form_of(&[("accept", accept)]), expected, "{accept}");
}

#[test]
fn a_browser_gets_a_page_and_everybody_else_json() {
    check("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", Form::Html);
    check("text/html", Form::Html);
    check("TEXT/HTML;charset=utf-8;q=0.9, */*;q=0.9", Form::Html);
    check("*/*", Form::Json);
    check("", Form::Json);
    check("application/json, text/html", Form::Json);
    check("application/json;q=0.9, text/html", Form::Html);
    check("text/html;q=0.1, */*;q=0.8", Form::Json);
    check("text/html;q=0.5, application/*;q=0.6, */*;q=0.1", Form::Json);
    check("text/html;q=0", Form::Json);
    check("text/html;q=x", Form::Json);
    check("image/png", Form::Json);
    assert_eq!(form_of(&[]), Form::Json);
    assert_eq!(form_of(&[("accept", "application/json;q=0.1"), ("accept", "text/html")]), Form::Html);
}

#[test]
fn grpc_is_known_by_its_content_type() {
    for (content_type, expected) in [
        ("application/grpc", Form::Grpc("application/grpc")),
        ("Application/gRPC+proto", Form::Grpc("application/grpc")),
        ("application/grpc;x=1", Form::Grpc("application/grpc")),
        ("application/grpc-web+proto", Form::Grpc("application/grpc-web+proto")),
        ("application/grpc-web-text", Form::Grpc("application/grpc-web-text+proto")),
        ("application/grpcx", Form::Json),
        ("application/json", Form::Json),
    ] {
        assert_eq!(
            form_of(&[("content-type", content_type), ("accept", "text/plain")]),
            expected,
            "{content_type}"
        );
    }
}

#[test]
fn json_tells_all_that_a_client_may_act_on() {
    let mut refusal =
        Refusal::new(&refusal::LIMIT_RATE, "Too \"fast\".").retry_after(Duration::from_millis(1_001));
    let (window, reset) = (Duration::from_secs(1), Duration::from_millis(1));
    let standing = Standing { name: "per-second".into(), limit: 10, window, remaining: 0, reset };
    refusal.violated = Some(Box::new(standing));
    let response = respond(&refusal, Form::Json, ID);
    assert_eq!(response.status(), 429);
    assert_eq!(
        body(&response),
        concat!(
            r#"{"type":"urn:tidegate:refusal:limit.rate","title":"Rate limit exceeded","status":429,"#,
            r#""detail":"Too \"fast\".","instance":"urn:tidegate:request:0123456789abcdef0123456789abcdef","#,
            r#""code":"limit.rate","request_id":"0123456789abcdef0123456789abcdef","blame":"tenant","retry":"later","#,
            r#""retry_after":2,"violated-policies":["per-second"]}"#,
            "\n"
        )
    );
    assert_eq!(header(&response, "content-type"), "application/problem+json");
    assert_eq!(header(&response, "retry-after"), "2");
    assert_eq!(header(&response, "ratelimit-policy"), "\"per-second\";q=10;w=1");
    assert_eq!(header(&response, "ratelimit"), "\"per-second\";r=0;t=2", "not earlier than Retry-After");
    assert_eq!(header(&response, "x-request-id"), "0123456789abcdef0123456789abcdef");
    assert_eq!(
        header(&response, "proxy-status"),
        "tidegate; error=http_request_denied; details=\"limit.rate\""
    );
    assert_eq!(header(&response, "cache-control"), "no-store");
}

#[test]
fn a_page_escapes_every_text() {
    let refusal = Refusal::new(&refusal::ROUTE_NOT_FOUND, "<script>alert('1' & \"2\")</script>");
    let response = respond(&refusal, Form::Html, ID);
    assert_eq!(response.status(), 404);
    assert!(
        body(&response)
            .contains("<p>&lt;script&gt;alert(&#39;1&#39; &amp; &quot;2&quot;)&lt;/script&gt;</p>")
    );
    assert!(body(&response).contains("<title>404 No route matches</title>"));
    assert!(!body(&response).contains("{{"), "a place was not filled");
    assert!(header(&response, "content-security-policy").starts_with("default-src 'none'"));
    let busy = Refusal::new(&refusal::LIMIT_RATE, "").retry_after(Duration::from_millis(200));
    assert!(
        body(&respond(&busy, Form::Html, ID))
            .contains("<p>Rate limit exceeded</p>\n<p>Please try again in 1 second.</p>")
    );
}

#[test]
fn grpc_is_told_in_the_head_with_status_200() {
    let refusal =
        Refusal::new(&refusal::UPSTREAM_UNAVAILABLE, "100 % é").retry_after(Duration::from_millis(1_500));
    let response = respond(&refusal, Form::Grpc("application/grpc"), ID);
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), "application/grpc");
    assert_eq!(header(&response, "grpc-status"), "14");
    assert_eq!(header(&response, "grpc-message"), "upstream.unavailable: 100 %25 %C3%A9");
    assert_eq!(header(&response, "grpc-retry-pushback-ms"), "1500");
    assert!(response.body().is_empty());
}

#[test]
fn a_401_carries_a_challenge() {
    let challenge = |kind| {
        let response = respond(&Refusal::new(kind, ""), Form::Json, ID);
        header(&response, "www-authenticate").to_owned()
    };
    assert_eq!(challenge(&refusal::CREDENTIAL_MISSING), "Bearer");
    assert_eq!(challenge(&refusal::CREDENTIAL_EXPIRED), "Bearer error=\"invalid_token\"");
    assert_eq!(challenge(&refusal::LIMIT_RATE), "");
}

#[test]
fn every_refusal_can_be_told_in_every_form() {
    for kind in KINDS {
        for form in [Form::Json, Form::Html, Form::Grpc("application/grpc")] {
            let response = respond(&Refusal::new(kind, ""), form, ID);
            let expected = if matches!(form, Form::Grpc(_)) { 200 } else { kind.status };
            assert_eq!(response.status(), expected);
            // RFC 9209: the error type is a token; the rest is a quoted string.
            let error = header(&response, "proxy-status").strip_prefix("tidegate; error=").expect("an error");
            let token = error.split(';').next().expect("a token");
            assert!(token.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{token}");
        }
    }
}

#[test]
fn every_page_states_what_is_told_and_answers_what_is_asked() {
    for kind in KINDS {
        let told = format!("{}: status {}, gRPC {} (", kind.title, kind.status, kind.grpc);
        let sections = [
            "**What happened.** ",
            "**What the client should do.** ",
            "**What to look at.** ",
            "**How to mend it.** ",
        ];
        for part in [told.as_str()].iter().chain(&sections) {
            assert!(kind.page.contains(part), "docs/refusals/{}.md lacks {part:?}", kind.code);
        }
        let metric = format!("tidegate_refusals_total{{code=\"{}\"}}", kind.code);
        assert!(
            kind.page.replace('\n', " ").contains(&metric),
            "docs/refusals/{}.md lacks {metric}",
            kind.code
        );
    }
}

/// Reads a JSON string from its opening quote on; what is left after it.
fn read_string(json: &str) -> (String, &str) {
    let mut out = String::new();
    let mut rest = json.strip_prefix('"').expect("a string").chars();
    loop {
        match rest.next().expect("its end") {
            '"' => return (out, rest.as_str()),
            '\\' => match rest.next().expect("an escape") {
                'u' => {
                    let digits: String = rest.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&digits, 16).expect("digits");
                    out.push(char::from_u32(code).expect("a character"));
                }
                other => out.push(other),
            },
            control if (control as u32) < 0x20 => panic!("a control character stands unescaped"),
            other => out.push(other),
        }
    }
}

proptest! {
    #[test]
    fn any_detail_reads_back_as_it_was(text in "(\\PC|[\"\\\\\u{0}-\u{1f}<>&'%]){0,24}") {
        let refusal = Refusal::new(&refusal::REQUEST_MALFORMED, text.clone());
        let response = respond(&refusal, Form::Json, ID);
        let (_, after) = body(&response).split_once("\"detail\":").expect("a detail");
        let (read, rest) = read_string(after);
        prop_assert_eq!(if text.is_empty() { refusal.kind.title } else { &text }, read);
        prop_assert!(rest.starts_with(",\"instance\":"));

        let page = respond(&refusal, Form::Html, ID);
        let empty = respond(&Refusal::new(&refusal::REQUEST_MALFORMED, "x"), Form::Html, ID);
        prop_assert_eq!(body(&page).matches('<').count(), body(&empty).matches('<').count());

        let grpc = respond(&refusal, Form::Grpc("application/grpc"), ID);
        prop_assert!(header(&grpc, "grpc-message").bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    }

    #[test]
    fn survives_any_accept(accept in "[ -~]*") {
        let _ = form_of(&[("accept", &accept)]);
    }
}
