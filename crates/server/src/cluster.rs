//! Purges to the other nodes, where no Redis has a log of them. Each node is told over a connection of its own, by the control
//! runtime, as long as it takes.

use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::{HeaderValue, Method, StatusCode, Uri};
use tidegate_model::cache::orders::Order;
use tidegate_model::cluster::ask::{ORDERS_MAX, Said};
use tidegate_model::message::Request;
use tidegate_model::retry::backoff;
use tidegate_proxy::cache::shield::PATH;
use tidegate_proxy::cache::shield::orders::Letters;
use tidegate_wire::body::Body;
use tidegate_wire::client::{self, Sender};
use tidegate_wire::{clock, task};

use crate::wiring::Gate;

/// The pauses between two tries to tell a node.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long a node may take to do what it is told.
const DONE_WITHIN: Duration = Duration::from_secs(5);

/// Tells the other nodes from now on, whatever the configuration makes of them. Must be called on the control runtime.
pub fn drive(gate: Arc<Gate>) {
    task::spawn(async move {
        loop {
            let orders = &gate.standing.cache.peering.orders;
            for letters in orders.uncarried() {
                task::spawn(carry(Arc::clone(&gate), letters));
            }
            orders.changed.notified().await;
        }
    });
}

/// Carries what one node is to be told, until it is none of the cluster's any more.
async fn carry(gate: Arc<Gate>, letters: Arc<Letters>) {
    let (mut connection, mut tries) = (None, 0);
    while !letters.is_gone() {
        let orders = letters.take(ORDERS_MAX);
        if orders.is_empty() {
            letters.changed.notified().await;
            continue;
        }
        let said = Said::Purge(orders.iter().map(|(_, order)| *order).collect::<Vec<Order>>());
        connection = tell(&gate, &letters.node, &said, connection.take()).await;
        if connection.is_some() {
            letters.told(&orders);
            gate.standing.cache.peering.orders.note(orders.len(), 0);
            tries = 0;
        } else {
            tries = (tries + 1).min(16);
            let chance = getrandom::u64().unwrap_or_default();
            clock::sleep(backoff(RETRY, RETRY_MAX, tries, chance)).await;
        }
    }
}

/// Tells a node. The connection, if it has done what it was told; else it is to be told again: what is purged twice is purged.
async fn tell(gate: &Gate, node: &str, said: &Said, connection: Option<Sender>) -> Option<Sender> {
    let site = gate.site();
    let homes = site.homes.as_ref()?;
    let upstream = homes.peer(node)?;
    let by = clock::now().after(DONE_WITHIN);
    let open = connection.and_then(|mut sender| (!sender.is_closed()).then_some(sender));
    let sender = match open {
        Some(sender) => sender,
        None => clock::timeout_at(by, client::connect(&upstream.any_target()?)).await.ok()?.ok()?,
    };
    let (sealed, _) = gate.standing.cache.peering.seal(homes.secret(), node, said);
    let mut request = Request::new(Body::full(sealed));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(PATH);
    request.headers_mut().extend(HeaderValue::from_str(node).ok().map(|node| (HOST, node)));
    let response = sender.send(&mut request, by).await.ok()?;
    let (head, mut body) = response.into_parts();
    if head.status != StatusCode::OK {
        return None;
    }
    body.take_whole()?;
    body.into_sender()
}
