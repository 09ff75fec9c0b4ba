//! The texts of a configuration that mean something: addresses, networks, hosts, paths, headers, and where
//! something is found. They are read by the types that the rest of Tidegate works with.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use http::{HeaderName, HeaderValue, Method, Uri};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tidegate_model::address::Network;
use tidegate_model::route::{HostPattern, PathPattern};
use tidegate_model::tenant;
use tidegate_proxy::settings::{CertificateName, CertificatePart};
use tidegate_store::PostgresUrl;
use tidegate_upstream::settings::HashOn;

use super::scalar::{self, Format, scalar};
use super::settings::ControlAddress;

scalar!(
    /// An address to listen on, or of an endpoint.
    Address(SocketAddr), "socket-address", "127.0.0.1:3000", "an address with a port", parse_address, ToString::to_string
);
scalar!(
    /// An address of the control API.
    ControlListen(ControlAddress), "control-address", "127.0.0.1:8090", "an address with a port, or unix:PATH",
    parse_control, show_control
);
scalar!(
    /// A network in CIDR form.
    Net(Network), "network", "10.0.0.0/8", "a network", parse_network, ToString::to_string
);
scalar!(
    /// A host to match.
    Host(HostPattern), "host-pattern", "api.example.com", "a host", parse_host, ToString::to_string
);
scalar!(
    /// A path to match.
    Path(PathPattern), "path-pattern", "/v1/", "a path to match", parse_path, ToString::to_string
);
scalar!(
    /// A path to forward to or to check.
    PlainPath(String), "url-path", "/healthz", "the path of a URL", parse_plain_path, Clone::clone
);
scalar!(
    /// The name of a header.
    Header(HeaderName), "header-name", "x-api-key", "a header's name", parse_header, ToString::to_string
);
scalar!(
    /// The value of a header.
    HeaderText(HeaderValue), "header-value", "no-store", "a header's value", parse_header_value, show_header_value
);
scalar!(
    /// A method.
    Verb(Method), "method", "GET", "a method", parse_method, ToString::to_string
);
scalar!(
    /// A name and a port, resolved by DNS.
    DnsName((String, u16)), "dns-name", "app.internal:3000", "a host name with a port", parse_dns, show_dns
);
scalar!(
    /// A name of a plan, upstream, route, …
    Name(String), "name", "app", "a name", parse_name, Clone::clone
);
scalar!(
    /// What is hashed.
    Hashed(HashOn), "hash-on", "cookie:session", "what to hash", parse_hash_on, show_hash_on
);
scalar!(
    /// Where an API key is looked for.
    KeyPlace(Option<HeaderName>), "api-key-place", "bearer", "where an API key stands", parse_key_place, show_key_place
);
scalar!(
    /// A host with the tenant in it, as what stands before and after.
    TenantHost((String, String)), "tenant-host", "{tenant}.example.com", "a host with {tenant} in it",
    parse_tenant_host, show_tenant_host
);
scalar!(
    /// Where a tenant stands in a client's certificate.
    CertificatePlace(CertificateName), "certificate-place", "subject:CN", "a part of a certificate",
    parse_certificate_place, show_certificate_place
);
scalar!(
    /// A file. One that is not absolute is looked for beside the configuration file that names it.
    File(PathBuf), "path", "cert.pem", "the path of a file", parse_file, show_file
);
scalar!(
    /// A JSON Web Key Set: a URL or a file.
    Jwks(JwksAt), "url-or-path", "https://id.example.com/jwks.json", "a URL or a path", parse_jwks, show_jwks
);
scalar!(
    /// Where the access log goes.
    LogTarget(String), "log-target", "stdout", "\"stdout\", \"off\" or a path", parse_log_target, Clone::clone
);

scalar!(
    /// Where the store is.
    StoreUrl(StoreAt), "store-url", "sqlite:tidegate-data", "where the store is", parse_store_url, show_store_url
);

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAt {
    /// In this directory.
    Directory(PathBuf),
    /// In this PostgreSQL.
    Postgres(PostgresUrl),
}

/// Where a JSON Web Key Set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksAt {
    /// At this URL.
    Url(Uri),
    /// In this file.
    File(PathBuf),
}

/// A row in the table of formats.
pub struct Row {
    /// The name in the schema.
    pub name: &'static str,
    /// A value of it.
    pub example: &'static str,
    /// What it is called in a sentence.
    pub told: &'static str,
    /// Whether a text has it.
    pub check: fn(&str) -> Result<(), String>,
}

const fn row<F: Format>() -> Row {
    Row { name: F::NAME, example: F::EXAMPLE, told: F::TOLD, check: F::check }
}

/// Every format there is.
pub static FORMATS: [Row; 27] = [
    row::<scalar::Time>(),
    row::<scalar::Size>(),
    row::<scalar::PerTime>(),
    row::<scalar::Percent>(),
    row::<scalar::Portion>(),
    row::<scalar::Moment>(),
    row::<scalar::Statuses>(),
    row::<scalar::Hash>(),
    row::<Address>(),
    row::<ControlListen>(),
    row::<Net>(),
    row::<Host>(),
    row::<Path>(),
    row::<PlainPath>(),
    row::<Header>(),
    row::<HeaderText>(),
    row::<Verb>(),
    row::<DnsName>(),
    row::<Name>(),
    row::<Hashed>(),
    row::<KeyPlace>(),
    row::<TenantHost>(),
    row::<CertificatePlace>(),
    row::<File>(),
    row::<Jwks>(),
    row::<LogTarget>(),
    row::<StoreUrl>(),
];

/// A sentence for a client made part of a sentence for an operator: without capital and full stop.
fn part(sentence: &str) -> String {
    let mut letters = sentence.trim_end_matches('.').chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let wrong = || {
        let Some((host, port)) = text.rsplit_once(':') else {
            return format!("`{text}` has no port");
        };
        if port.parse::<u16>().is_err() {
            return format!("`{port}` is no port: it is a number from 0 to 65535");
        }
        match host {
            "" | "*" => format!("write \"0.0.0.0:{port}\" for all IPv4 addresses, \"[::]:{port}\" for IPv6"),
            "localhost" => format!("`localhost` is a name: write \"127.0.0.1:{port}\" or \"[::1]:{port}\""),
            host if host.parse::<IpAddr>().is_ok() => format!("write \"[{host}]:{port}\""),
            _ => format!("`{host}` is no IP address"),
        }
    };
    text.parse().map_err(|_| wrong())
}

fn parse_control(text: &str) -> Result<ControlAddress, String> {
    match text.strip_prefix("unix:") {
        Some("") => Err("`unix:` lacks its path".to_owned()),
        Some(path) => Ok(ControlAddress::Unix(PathBuf::from(path))),
        None => parse_address(text).map(ControlAddress::Tcp),
    }
}

fn show_control(address: &ControlAddress) -> String {
    match address {
        ControlAddress::Tcp(address) => address.to_string(),
        ControlAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn parse_network(text: &str) -> Result<Network, String> {
    text.parse().map_err(|error: tidegate_model::address::NetworkError| error.to_string())
}

fn parse_host(text: &str) -> Result<HostPattern, String> {
    HostPattern::parse(text).map_err(|error| match error {
        tidegate_model::host::HostError::Port => "a host is matched without its port".to_owned(),
        error => part(error.detail()),
    })
}

fn parse_path(text: &str) -> Result<PathPattern, String> {
    PathPattern::parse(text).map_err(|error| part(error.detail()))
}

fn parse_plain_path(text: &str) -> Result<String, String> {
    let path = text.split('?').next().unwrap_or(text);
    tidegate_model::path::normalize(path).map_err(|error| part(error.detail()))?;
    text.parse::<Uri>().map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn parse_header(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is no name of a header"))
}

fn parse_header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "a header's value is printable ASCII".to_owned())
}

fn show_header_value(value: &HeaderValue) -> String {
    value.to_str().unwrap_or_default().to_owned()
}

fn parse_method(text: &str) -> Result<Method, String> {
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(format!("methods are upper case: write \"{}\"", text.to_ascii_uppercase()));
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is no method"))
}

pub(super) fn parse_dns(text: &str) -> Result<(String, u16), String> {
    let (host, port) =
        text.rsplit_once(':').ok_or_else(|| format!("`{text}` has no port: write \"{text}:80\""))?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("`{port}` is no port"))?;
    if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err(format!("`{host}` is an address: write endpoints = [\"{text}\"]"));
    }
    parse_dns_host(host).map(|host| (host, port))
}

/// A name to ask DNS for. `_` is allowed beside what a host name may hold: service records have it.
fn parse_dns_host(host: &str) -> Result<String, String> {
    match tidegate_model::host::normalize(host) {
        Ok(name) => Ok(name.into_owned()),
        Err(error) => Err(format!("`{host}` is no host name: {}", part(error.detail()))),
    }
}

fn show_dns((host, port): &(String, u16)) -> String {
    format!("{host}:{port}")
}

/// Reads a name: letters, digits and `-_.`, at most 64.
///
/// # Errors
/// One sentence.
pub fn parse_name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 64;
    if fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Ok(text.to_owned());
    }
    Err("a name is 1 to 64 letters, digits, `-`, `_` or `.`".to_owned())
}

/// Reads a tenant's id.
///
/// # Errors
/// One sentence.
pub fn parse_tenant_id(text: &str) -> Result<String, String> {
    if !tenant::is_id(text) {
        return Err(format!(
            "a tenant's id is 1 to {} printable ASCII characters without spaces",
            tenant::ID_BYTES_MAX
        ));
    }
    if tenant::is_reserved(text) {
        return Err(format!("`{text}` is kept for Tidegate's own use"));
    }
    Ok(text.to_owned())
}

fn parse_hash_on(text: &str) -> Result<HashOn, String> {
    match text.split_once(':') {
        None if text == "tenant" => Ok(HashOn::Tenant),
        None if text == "client-ip" => Ok(HashOn::ClientAddress),
        Some(("header", name)) => parse_header(name).map(HashOn::Header),
        // A cookie's name is a token, as a header's is.
        Some(("cookie", name)) if parse_header(name).is_ok() => Ok(HashOn::Cookie(name.to_owned())),
        Some(("cookie", name)) => Err(format!("`{name}` is no name of a cookie")),
        _ => Err("hash_on is \"tenant\", \"client-ip\", \"header:NAME\" or \"cookie:NAME\"".to_owned()),
    }
}

fn show_hash_on(on: &HashOn) -> String {
    match on {
        HashOn::Tenant => "tenant".to_owned(),
        HashOn::ClientAddress => "client-ip".to_owned(),
        HashOn::Header(name) => format!("header:{name}"),
        HashOn::Cookie(name) => format!("cookie:{name}"),
    }
}

fn parse_key_place(text: &str) -> Result<Option<HeaderName>, String> {
    match text.strip_prefix("header:") {
        Some(name) => parse_header(name).map(Some),
        None if text == "bearer" => Ok(None),
        None => Err("an API key stands in \"bearer\" or \"header:NAME\"".to_owned()),
    }
}

fn show_key_place(place: &Option<HeaderName>) -> String {
    place.as_ref().map_or_else(|| "bearer".to_owned(), |name| format!("header:{name}"))
}

fn parse_tenant_host(text: &str) -> Result<(String, String), String> {
    let wrong = || "write the tenant's place as in \"{tenant}.example.com\"".to_owned();
    let (prefix, suffix) = text.split_once("{tenant}").ok_or_else(wrong)?;
    if !suffix.starts_with('.') || suffix.len() < 2 || suffix.contains(['{', '}', ':', '*']) {
        return Err(wrong());
    }
    // With a letter for the tenant, it must be a host name.
    let name = parse_dns_host(&format!("{prefix}t{suffix}"))?;
    let prefix = prefix.to_ascii_lowercase();
    let suffix = name[prefix.len() + 1..].to_owned();
    Ok((prefix, suffix))
}

fn show_tenant_host((prefix, suffix): &(String, String)) -> String {
    format!("{prefix}{{tenant}}{suffix}")
}

/// The parts of a certificate, as they are called.
const CERTIFICATE_PARTS: [(&str, CertificatePart); 5] = [
    ("subject:CN", CertificatePart::CommonName),
    ("san:dns", CertificatePart::Dns),
    ("san:uri", CertificatePart::Uri),
    ("san:email", CertificatePart::Email),
    ("fingerprint", CertificatePart::Fingerprint),
];

fn parse_certificate_place(text: &str) -> Result<CertificateName, String> {
    let wrong = || {
        let parts = CERTIFICATE_PARTS.map(|(name, _)| format!("\"{name}\"")).join(", ");
        format!(
            "write one of {parts}, or a part with its pattern: \"san:dns:{{tenant}}.clients.example.com\""
        )
    };
    let found = CERTIFICATE_PARTS.iter().find_map(|(name, part)| Some((*part, text.strip_prefix(name)?)));
    let (part, rest) = found.ok_or_else(wrong)?;
    let (prefix, suffix) = match rest.strip_prefix(':') {
        None if rest.is_empty() => ("", ""),
        Some(pattern) if part != CertificatePart::Fingerprint => pattern
            .split_once("{tenant}")
            .filter(|(_, after)| !after.contains("{tenant}"))
            .ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    Ok(CertificateName { part, prefix: prefix.to_owned(), suffix: suffix.to_owned() })
}

fn show_certificate_place(name: &CertificateName) -> String {
    let called =
        CERTIFICATE_PARTS.iter().find(|(_, part)| *part == name.part).map_or("", |(called, _)| called);
    match (&name.prefix[..], &name.suffix[..]) {
        ("", "") => called.to_owned(),
        (prefix, suffix) => format!("{called}:{prefix}{{tenant}}{suffix}"),
    }
}

fn parse_file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        Err("a path is not empty".to_owned())
    } else {
        Ok(PathBuf::from(text))
    }
}

fn show_file(path: &std::path::Path) -> String {
    path.display().to_string()
}

/// Whether the text is a URL, and not a path.
#[must_use]
pub fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

fn parse_jwks(text: &str) -> Result<JwksAt, String> {
    if !is_url(text) {
        return match text.split_once("://") {
            Some((scheme, _)) => Err(format!("`{scheme}` is not fetched from: write http:// or https://")),
            None => parse_file(text).map(JwksAt::File),
        };
    }
    let url: Uri = text.parse().map_err(|error| format!("not a URL: {error}"))?;
    match url.authority() {
        None => Err("the URL names no host".to_owned()),
        Some(authority) if authority.as_str().contains('@') => Err("a URL here has no user in it".to_owned()),
        Some(_) => Ok(JwksAt::Url(url)),
    }
}

fn show_jwks(at: &JwksAt) -> String {
    match at {
        JwksAt::Url(url) => url.to_string(),
        JwksAt::File(path) => path.display().to_string(),
    }
}

fn parse_log_target(text: &str) -> Result<String, String> {
    parse_file(text).map(|_| text.to_owned())
}

/// Where a store of this URL is.
///
/// # Errors
/// What is wrong with it, in words and without any secret.
pub fn parse_store_url(text: &str) -> Result<StoreAt, String> {
    match text.split_once(':') {
        Some(("sqlite", directory)) => parse_file(directory).map(StoreAt::Directory),
        Some(("postgres" | "postgresql", _)) => PostgresUrl::parse(text).map(StoreAt::Postgres),
        _ => Err("write \"sqlite:DIRECTORY\", or \"postgres://USER@HOST/DATABASE\"".to_owned()),
    }
}

fn show_store_url(at: &StoreAt) -> String {
    match at {
        StoreAt::Directory(directory) => format!("sqlite:{}", directory.display()),
        // Its user goes with the secret; without any it would be none.
        StoreAt::Postgres(url) => url.shown().replacen("://", "://hidden@", 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check<F: Format>(text: &str, told: &str) {
        assert_eq!(F::check(text), Err(told.to_owned()), "{text}");
    }

    #[test]
    fn examples_have_their_own_format() {
        for row in &FORMATS {
            assert_eq!((row.check)(row.example), Ok(()), "{}", row.name);
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_remedy() {
        check::<Address>(":80", "write \"0.0.0.0:80\" for all IPv4 addresses, \"[::]:80\" for IPv6");
        check::<Address>("localhost:80", "`localhost` is a name: write \"127.0.0.1:80\" or \"[::1]:80\"");
        check::<Address>("::1:80", "write \"[::1]:80\"");
        check::<Address>("10.0.0.1", "`10.0.0.1` has no port");
        check::<Net>("10.0.0.1/8", "`10.0.0.1/8` has bits set beyond its prefix: did you mean `10.0.0.0/8`?");
        check::<Host>("a.example:80", "a host is matched without its port");
        check::<Path>("v1", "the path must begin with a slash");
        check::<Verb>("get", "methods are upper case: write \"GET\"");
        check::<StoreUrl>("data", "write \"sqlite:DIRECTORY\", or \"postgres://USER@HOST/DATABASE\"");
        check::<StoreUrl>("sqlite:", "a path is not empty");
        check::<DnsName>("app", "`app` has no port: write \"app:80\"");
        check::<DnsName>("10.0.0.1:80", "`10.0.0.1` is an address: write endpoints = [\"10.0.0.1:80\"]");
        assert_eq!(
            parse_tenant_id("ip:1.2.3.4"),
            Err("`ip:1.2.3.4` is kept for Tidegate's own use".to_owned())
        );
        check::<TenantHost>("{tenant}", "write the tenant's place as in \"{tenant}.example.com\"");
        check::<Jwks>("https://me:pw@host/", "a URL here has no user in it");
        assert_eq!(
            parse_tenant_host("App-{tenant}.Example.com."),
            Ok(("app-".into(), ".example.com".into()))
        );
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_format(text in "\\PC{0,24}|[a-z0-9:./{}%*@\\[\\]-]{0,24}|\\{tenant\\}\\PC{0,9}") {
            for row in &FORMATS {
                let _ = (row.check)(&text);
            }
        }
    }
}
