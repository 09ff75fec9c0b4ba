//! Admit: a request becomes an exchange: an id, a receipt, one form of its host and path, the client's real address.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Uri};
use tidegate_model::address::client_address;
use tidegate_model::problem::{Form, X_REQUEST_ID};
use tidegate_model::receipt::{Receipt, RequestId, Target};
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::{host, path};
use tidegate_wire::body::Incoming;
use tidegate_wire::clock;
use tidegate_wire::server::Connection;

use crate::exchange::{Exchange, Open};
use crate::lifecycle::Proxy;
use crate::respond::{Refused, SERVER_TIMING_ASKED};
use crate::site::Site;

/// Opens an exchange.
///
/// # Errors
/// The refusal of a request whose host or path has no one meaning, ready to be told.
pub fn admit(
    proxy: &Proxy,
    site: &Site,
    request: Request<Incoming>,
    connection: Rc<Connection>,
) -> Result<Exchange, Box<Refused>> {
    let started = clock::latest();
    let (mut head, body) = request.into_parts();
    let peer = connection.peer.ip();
    let trusted = site.settings.trusted_proxies.contains(peer);
    let client =
        if trusted { client_address(peer, &head.headers, &site.settings.trusted_proxies) } else { peer };
    let asked_id = head.headers.get(&X_REQUEST_ID).filter(|_| trusted);
    let id = asked_id.and_then(|value| RequestId::parse(value.to_str().ok()?));
    let id = id.unwrap_or_else(|| RequestId(proxy.entropy.id()));
    let mut receipt = Receipt::open(id, started, client, connection.listener);
    receipt.method = head.method.clone();
    receipt.target = Target::from(&head.uri);
    receipt.version = head.version;
    receipt.tls = connection.tls;
    let open = Open::new(receipt, Rc::clone(&proxy.recorder));
    let found = one_host(&mut head).and_then(|host| one_path(&mut head).map(|()| host));
    match found {
        Ok(host) => {
            open.receipt_mut().host = Arc::clone(&host);
            let form = Form::of(&head.headers);
            let timing = trusted && head.headers.contains_key(SERVER_TIMING_ASKED);
            let body = Some(body);
            Ok(Exchange {
                head,
                body,
                connection,
                host,
                client,
                form,
                trusted,
                timing,
                started,
                upgrade: None,
                upgraded: None,
                fault: None,
                open,
            })
        }
        Err(refusal) => Err(Box::new(Refused { refusal, form: Form::of(&head.headers), open, allow: None })),
    }
}

/// The one host of a request, in its one form. It is in the headers afterwards, and nowhere else.
fn one_host(head: &mut http::request::Parts) -> Result<Arc<str>, Refusal> {
    let double = || Refusal::new(&refusal::REQUEST_HOST, "the request names two different hosts");
    let mut hosts = head.headers.get_all(HOST).iter();
    let field = hosts.next();
    if hosts.next().is_some() {
        return Err(double());
    }
    let authority = head.uri.authority().map(|authority| authority.as_str());
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
    let host: Arc<str> = host::normalize(name)?.into();
    if field.is_none() {
        let value = HeaderValue::from_str(name)
            .map_err(|_| Refusal::new(&refusal::REQUEST_HOST, "the authority is no host"))?;
        head.headers.insert(HOST, value);
    }
    Ok(host)
}

/// Brings the path to its one form: what is routed is what is forwarded. The target is a path and query afterwards.
fn one_path(head: &mut http::request::Parts) -> Result<(), Refusal> {
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

/// What the proxy remembers of a connection between its exchanges.
pub fn attached<T: Any>(connection: &Connection, make: impl FnOnce() -> T) -> std::cell::RefMut<'_, T> {
    std::cell::RefMut::map(connection.attached.borrow_mut(), |slot| {
        slot.get_or_insert_with(|| Box::new(make()))
            .downcast_mut()
            .expect("one type is attached to connections")
    })
}
