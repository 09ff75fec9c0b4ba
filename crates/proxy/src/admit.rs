//! Admit: a request becomes an exchange: an id, a receipt, one form of its host and path, the client's real address.

use std::cell::RefMut;
use std::rc::Rc;
use std::sync::Arc;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use tidegate_model::address::client_address;
use tidegate_model::forwarded::Forwarding;
use tidegate_model::headers::Seen;
use tidegate_model::message::{Request, RequestHead};
use tidegate_model::problem::{Form, X_REQUEST_ID};
use tidegate_model::receipt::{Opening, RequestId, Target};
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::{host, path};
use tidegate_wire::body::Incoming;
use tidegate_wire::clock;
use tidegate_wire::server::Connection;

use crate::exchange::{Exchange, Open};
use crate::lifecycle::Proxy;
use crate::respond::{Refused, SERVER_TIMING_ASKED};
use crate::site::Site;
use crate::trace;

/// Opens an exchange. In a box: it is handed from stage to stage.
///
/// # Errors
/// The refusal of a request whose host or path has no one meaning, ready to be told.
pub fn admit(
    proxy: &Proxy,
    site: &Site,
    request: Request<Incoming>,
    connection: Rc<Connection>,
) -> Result<Box<Exchange>, Box<Refused>> {
    let started = clock::latest();
    let (mut head, body) = request.into_parts();
    let peer = connection.peer.ip();
    let trusted = site.settings.trusted_proxies.contains(peer);
    let seen = Seen::of(&head.headers);
    let client = match (trusted, seen.forwarded) {
        (true, true) => client_address(peer, &head.headers, &site.settings.trusted_proxies),
        (true, false) => peer.to_canonical(),
        (false, _) => peer,
    };
    let asked_id = (trusted && seen.request_id).then(|| head.headers.get(&X_REQUEST_ID));
    let id = asked_id.flatten().and_then(|value| RequestId::parse(value.to_str().ok()?));
    let id = id.unwrap_or_else(|| RequestId(proxy.entropy.id()));
    // As received: the exchange has it in its one form.
    let target = Target::from(&head.uri);
    let found = one_host(&mut head, &connection).and_then(|host| one_path(&mut head).map(|()| host));
    let opening = Opening {
        request_id: id,
        started,
        method: head.method.clone(),
        target,
        host: found.as_ref().ok(),
        version: head.version,
        client,
        listener: connection.listener,
        tls: connection.tls,
    };
    let open = Open::new(opening, &proxy.recorder);
    if let Some(tracing) = &site.settings.tracing {
        let fields = seen.trace.then_some(&head.headers);
        open.receipt_mut().trace = Some(Box::new(trace::begin(tracing, fields, trusted, &proxy.entropy)));
    }
    match found {
        Ok(host) => {
            let form = if seen.form { Form::of(&head.headers) } else { Form::default() };
            let timing = trusted && seen.foreign && head.headers.contains_key(SERVER_TIMING_ASKED);
            let body = Some(body);
            Ok(Box::new(Exchange {
                head,
                seen,
                body,
                connection,
                host,
                client,
                form,
                trusted,
                certified: None,
                timing,
                started,
                by: None,
                upgrade: None,
                upgraded: None,
                sticky: None,
                ahead: None,
                bodies: None,
                dress: None,
                fault: None,
                duplicate: None,
                arm: None,
                behind: false,
                open,
            }))
        }
        Err(refusal) => {
            let form = Form::of(&head.headers);
            Err(Box::new(Refused { refusal, form, open, allow: None, dress: None, page: None }))
        }
    }
}

/// The one host of a request, in its one form. It is in the headers afterwards, and nowhere else.
fn one_host(head: &mut RequestHead, connection: &Connection) -> Result<Arc<str>, Refusal> {
    let double = || Refusal::new(&refusal::REQUEST_HOST, "the request names two different hosts");
    let mut fields = head.headers.get_all(HOST);
    let field = fields.next();
    if fields.next().is_some() {
        return Err(double());
    }
    let authority = head.uri.authority().map(|authority| authority.as_str());
    let mut known = known(connection);
    if let (Some(field), None) = (field, authority)
        && let Some(host) = known.host(field.as_bytes())
    {
        return Ok(host);
    }
    let name = match (field, authority) {
        (Some(field), None) => {
            field.to_str().map_err(|_| Refusal::new(&refusal::REQUEST_HOST, "Host is not ASCII"))?
        }
        (None, Some(authority)) => authority,
        (Some(field), Some(authority)) if field.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
            authority
        }
        (Some(_), Some(_)) => return Err(double()),
        (None, None) => return Ok(Arc::from("")),
    };
    if let (Some(host), Some(_)) = (known.host(name.as_bytes()), field) {
        return Ok(host);
    }
    let host: Arc<str> = host::normalize(name)?.into();
    known.host = Some((name.into(), Arc::clone(&host)));
    drop(known);
    if field.is_none() {
        let value = HeaderValue::from_str(name)
            .map_err(|_| Refusal::new(&refusal::REQUEST_HOST, "the authority is no host"))?;
        head.headers.insert(HOST, value);
    }
    Ok(host)
}

/// Brings the path to its one form: what is routed is what is forwarded. The target is a path and query afterwards.
fn one_path(head: &mut RequestHead) -> Result<(), Refusal> {
    let normal = path::normalize(head.uri.path())?;
    let changed = match normal {
        std::borrow::Cow::Borrowed(_) if head.uri.authority().is_none() => return Ok(()),
        normal => match head.uri.query() {
            Some(query) => format!("{normal}?{query}"),
            None => normal.into_owned(),
        },
    };
    let target = PathAndQuery::from_maybe_shared(bytes::Bytes::from(changed))
        .map_err(|_| Refusal::new(&refusal::REQUEST_PATH, "the path is not one"))?;
    head.uri = Uri::from(target);
    Ok(())
}

/// What the proxy knows of a connection from the exchanges before: most of them are for one host.
pub struct Known {
    /// What upstreams are told of the client.
    pub forwarding: Forwarding,
    /// The last host as it was named, and in its one form.
    host: Option<(Box<str>, Arc<str>)>,
}

impl Known {
    fn host(&self, name: &[u8]) -> Option<Arc<str>> {
        let (last, host) = self.host.as_ref()?;
        (last.as_bytes() == name).then(|| Arc::clone(host))
    }
}

/// What is known of this connection.
pub fn known(connection: &Connection) -> RefMut<'_, Known> {
    let made = || Known { forwarding: Forwarding::new(connection.peer.ip(), connection.tls), host: None };
    RefMut::map(connection.attached.borrow_mut(), |slot| {
        slot.get_or_insert_with(|| Box::new(made()))
            .downcast_mut()
            .expect("one type is attached to connections")
    })
}
