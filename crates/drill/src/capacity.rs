//! How much a service can take, where to run it, and what gives out first.
//!
//! A ramp of open-loop load ([`probe`]) is driven against the user's own service until it no longer keeps up ([`ramp`]);
//! the Universal Scalability Law is fitted to what was measured ([`usl`]); what this machine shows of the service
//! meanwhile ([`seen`]) tells what saturated first ([`suspect`]).
//!
//! What always holds: a service that is not on this machine is not touched unless its owner says so; rates, requests under
//! way, loads and time have named maxima; a service that breaks is let go at once. What the law says past what was
//! measured is called a prediction wherever it is shown.
//!
//! What it does not do: requests with a body, mixes of requests, several services. For those there are load generators;
//! this answers one question.

pub mod probe;
pub mod ramp;
pub mod seen;
pub mod suspect;
mod told;
pub mod usl;
mod watch;

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Uri};
use tidegate_model::message::Request;
use tidegate_wire::client::Target;
use tidegate_wire::client_tls::ClientTls;
use tidegate_wire::clock;
use tidegate_wire::settings::{ClientTlsSettings, Protocol};
use tokio::runtime::{Builder, LocalOptions};

use probe::Probe;
use ramp::{Found, Ramp, Step};
use seen::Service;
use suspect::Suspect;
use usl::{Fit, Point};
use watch::Watch;

pub use watch::Saw;

/// The highest rate that may be asked for, in requests per second.
pub const RATE_MAX: f64 = 50_000.0;
/// The ramp's first rate, in requests per second.
const RATE_FIRST: f64 = 20.0;
/// The longest that a measurement may be asked to take.
pub const TIME_MAX: Duration = Duration::from_secs(600);

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// The service, with the path to ask for.
    pub url: String,
    /// Header fields to send, `Name: value`.
    pub headers: Vec<String>,
    /// Requests per second at most.
    pub rate_max: f64,
    /// How long each load is held.
    pub step: Duration,
    /// How long all of it may take.
    pub time: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether the user says that a service elsewhere is theirs.
    pub own_host: bool,
    /// PEM file of the authorities to trust; else the system's.
    pub ca: Option<PathBuf>,
    /// The control API of a Tidegate before the service, to see its gate.
    pub control: Option<SocketAddr>,
    /// What chance begins with.
    pub seed: u64,
}

/// Why nothing is measured.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The URL is none, or not one that this can ask.
    #[error("--url: {0}")]
    Url(String),
    /// A field that is none.
    #[error("--header: `{0}` is not `Name: value`")]
    Header(String),
    /// A figure beyond its bounds.
    #[error("{0}")]
    Bounds(String),
    /// The service is elsewhere.
    #[error(
        "{0} is not on this machine. Load on somebody else's host is an attack: say --i-own-this-host if it is yours"
    )]
    Elsewhere(SocketAddr),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] tidegate_wire::client_tls::ClientTlsError),
    /// The runtime cannot start.
    #[error("no event queue: {0}")]
    Runtime(#[from] std::io::Error),
    /// This side could not even make the first load in time.
    #[error("this machine was too busy to ask in time: nothing can be said")]
    Busy,
    /// It does not answer at all.
    #[error("the service at {0} keeps up with no load: {1}")]
    Dead(SocketAddr, String),
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Whom.
    pub url: String,
    /// Where.
    pub address: SocketAddr,
    /// Each load, and what was used under it, in the order of the ramp.
    pub steps: Vec<(Step, Saw)>,
    /// What they say.
    pub found: Found,
    /// The law, where it could be fitted.
    pub fit: Option<Fit>,
    /// What saturated first.
    pub suspect: Suspect,
    /// Whether the time was over before the ramp was.
    pub out_of_time: bool,
    /// The processes that listen there, as far as they are known.
    pub processes: usize,
}

/// Measures. `tell` is called with a line after each load.
///
/// # Errors
/// [`Refused`]: what is wrong with what was asked for, or a service that does not answer.
pub fn measure(options: &Options, tell: &mut dyn FnMut(&str)) -> Result<Measured, Refused> {
    let (probe, address) = prepare(options)?;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(climb(options, &Rc::new(probe), address, tell))
}

/// Makes the request and finds the service; nothing is sent yet.
fn prepare(options: &Options) -> Result<(Probe, SocketAddr), Refused> {
    let bounds = [
        (options.rate_max >= 1.0 && options.rate_max <= RATE_MAX, "--rate-max is between 1 and 50000"),
        (options.step >= Duration::from_millis(200), "--step is at least 200ms"),
        (options.time <= TIME_MAX && options.step < options.time, "--time is more than --step, at most 10m"),
        (!options.timeout.is_zero() && options.timeout <= TIME_MAX, "--timeout is more than 0, at most 10m"),
    ];
    if let Some((_, why)) = bounds.iter().find(|(holds, _)| !holds) {
        return Err(Refused::Bounds((*why).to_owned()));
    }
    let bad = |why: &str| Refused::Url(format!("`{}` {why}", options.url));
    let url: Uri = options.url.parse().map_err(|_| bad("is no URL"))?;
    let authority = url.authority().ok_or_else(|| bad("names no host"))?;
    let is_tls = match url.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(bad("is neither http:// nor https://")),
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let found =
        (host, port).to_socket_addrs().map_err(|error| bad(&format!("cannot be resolved: {error}")))?;
    let address = found.into_iter().next().ok_or_else(|| bad("has no address"))?;
    if !address.ip().is_loopback() && !options.own_host {
        return Err(Refused::Elsewhere(address));
    }
    let tls = if is_tls {
        let settings = ClientTlsSettings { ca: options.ca.clone(), ..ClientTlsSettings::default() };
        let name = host.parse::<std::net::IpAddr>().is_err().then_some(host);
        Some(Arc::new(ClientTls::new(&settings, name)?))
    } else {
        None
    };
    let request = request(options, &url, authority.as_str())?;
    let target = Target { address, protocol: Protocol::Http1, tls };
    Ok((Probe { target, request, timeout: options.timeout, time: options.step }, address))
}

fn request(options: &Options, url: &Uri, authority: &str) -> Result<Request<()>, Refused> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(());
    *request.uri_mut() = path.parse().map_err(|_| Refused::Url(format!("`{path}` is no path")))?;
    let host = HeaderValue::from_str(authority).map_err(|_| Refused::Url("the host is none".to_owned()))?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("tidegate-drill"));
    for field in &options.headers {
        let parsed = field.split_once(':').and_then(|(name, value)| {
            let name = name.trim().parse::<HeaderName>().ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) = parsed.ok_or_else(|| Refused::Header(field.clone()))?;
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

async fn climb(
    options: &Options,
    probe: &Rc<Probe>,
    address: SocketAddr,
    tell: &mut dyn FnMut(&str),
) -> Result<Measured, Refused> {
    let service = if address.ip().is_loopback() { Service::at(address.port()) } else { Service::default() };
    let processes = service.processes().len();
    let watch = Watch::start(service, options.control);
    let ramp = Ramp { first: RATE_FIRST, most: options.rate_max };
    let end = clock::now().after(options.time);
    let (mut steps, mut all) = (Vec::<Step>::new(), Vec::new());
    let mut out_of_time = false;
    tell(&told::head());
    while let Some(rate) = ramp.next(&steps) {
        if clock::now().after(options.step) > end {
            out_of_time = true;
            break;
        }
        let seed = options.seed.wrapping_add(steps.len() as u64);
        let step = probe.hold(rate, seed, &watch).await;
        let saw = watch.saw();
        let strain = step.strain(steps.first().unwrap_or(&step));
        tell(&told::line(&step, &saw.usage, strain));
        steps.push(step.clone());
        all.push((step, saw));
    }
    let Some(found) = ramp::read(&steps) else {
        // What was refused or broken was so, however late it was asked.
        let is_late = steps
            .first()
            .is_some_and(|first| first.late > suspect::LATE && first.failed + first.refused < 0.5);
        return Err(if is_late { Refused::Busy } else { Refused::Dead(address, told::dead(steps.first())) });
    };
    let strained = found.broke.as_ref().and_then(|(broke, _)| all.iter().find(|(step, _)| step == broke));
    let saw = strained.map(|(_, saw)| saw.clone()).unwrap_or_default();
    let suspect = suspect::judge(&found, &steps[0], &saw.usage, saw.gate.as_ref());
    let points: Vec<Point> =
        steps.iter().map(|step| Point { concurrency: step.concurrency, throughput: step.good }).collect();
    let (url, fit) = (options.url.clone(), usl::fit(&points));
    Ok(Measured { url, address, fit, processes, steps: all, found, suspect, out_of_time })
}
