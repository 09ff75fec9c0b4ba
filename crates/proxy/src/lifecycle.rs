//! The life of an exchange, on one screen.
//!
//! ```text
//! admit -> route -> protect -> identify -> authorize -> limit -> [authorizer] -> fault -> decide -> forward, redirect or respond -> settle
//!                                                                   |- idempotency: once for each key -'
//!                                                                   '- defer: accepted now, made later: 202 -> settle
//! ```
//!
//! A straight function over stage modules: the stages are a closed set in a fixed order. What a stage found out is
//! handed on as evidence: a `Permitted` is made by `limit` alone and is the only way into `forward`, so that
//! "forwarded without being limited" does not compile. Every stage may end the exchange with a [`Refusal`].

use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;
use tidegate_model::message::{Request, Response};
use tidegate_model::refusal::Refusal;
use tidegate_upstream::Caller;
use tidegate_wire::body::Incoming;
use tidegate_wire::server::{Connection, Handler};

use crate::access::Who;
use crate::access::login::{self, OIDC_PATH};
use crate::authorize::Flights;
use crate::cache::shield::Hop;
use crate::cache::stage::{self, Onward};
use crate::cache::write::Write;
use crate::decide::{Decision, decide};
use crate::defer::{accept as defer, told};
use crate::entropy::Entropy;
use crate::exchange::Exchange;
use crate::fault::InItsPlace;
use crate::forward::{deadline_of, told_by};
use crate::idempotency::stage as idempotency;
use crate::limit::{Permitted, Policies};
use crate::protect::Guard;
use crate::recorder::Recorder;
use crate::respond::{Answer, No, Refused};
use crate::route::Routed;
use crate::settle::{Content, ExchangeBody};
use crate::site::{Pinned, Site};
use crate::{
    access, admit, authorize, certify, coding, consent, fault, forward, identify, incoming, limit,
    maintenance, respond, route, secure,
};

/// The proxy of one core.
pub struct Proxy {
    /// What the stages read; swapped by a reload.
    site: RefCell<Pinned>,
    /// The way to the upstreams.
    pub(crate) caller: Caller,
    /// Where receipts go.
    pub(crate) recorder: Rc<dyn Recorder>,
    /// Chance.
    pub(crate) entropy: Entropy,
    /// What the process can bear.
    pub(crate) guard: Rc<Guard>,
    /// What authorizers are being asked.
    pub(crate) flights: Flights,
    /// How limits are told.
    policies: Policies,
}

impl Proxy {
    /// A proxy with its first site.
    #[must_use]
    pub fn new(
        site: Arc<Site>,
        caller: Caller,
        recorder: Rc<dyn Recorder>,
        entropy: Entropy,
        guard: Rc<Guard>,
    ) -> Proxy {
        Proxy {
            site: RefCell::new(Rc::new(site)),
            caller,
            recorder,
            entropy,
            guard,
            flights: Flights::default(),
            policies: Policies::default(),
        }
    }

    /// Swaps the site. Exchanges under way keep the one they pinned.
    pub fn swap(&self, site: Arc<Site>) {
        *self.site.borrow_mut() = Rc::new(site);
    }

    /// Waits until nothing is under way any more whose client may have left.
    pub async fn finished(&self) {
        let idempotency = Arc::clone(&self.site.borrow().idempotency);
        idempotency.finished().await;
    }

    /// The site in force.
    pub(crate) fn site(&self) -> Pinned {
        Rc::clone(&self.site.borrow())
    }

    /// Answers one request, whatever happens. It is admitted at once: what waits for the answer has not to hold it as it came.
    fn exchange(
        self: &Rc<Self>,
        request: Request<Incoming>,
        connection: Rc<Connection>,
    ) -> impl Future<Output = Response<ExchangeBody>> + use<> {
        let (proxy, site) = (Rc::clone(self), self.site());
        let admitted = admit::admit(&proxy, &site, request, connection);
        async move {
            let exchange = match admitted {
                Ok(exchange) => exchange,
                Err(refused) => return refused.into_response(),
            };
            let Some(secure) = &site.settings.secure else { return proxy.answered(&site, exchange).await };
            if let Some(response) = Box::pin(secure::answer(&site, secure, &exchange)).await {
                return respond::before_routes(*exchange, response);
            }
            let hsts = secure::hsts(&site, secure, &exchange);
            let mut response = proxy.answered(&site, exchange).await;
            if let Some(hsts) = hsts {
                secure::tell(&mut response, hsts);
            }
            response
        }
    }

    /// What the stages come to.
    async fn answered(self: &Rc<Self>, site: &Pinned, mut exchange: Box<Exchange>) -> Response<ExchangeBody> {
        match self.answer(site, &mut exchange).await {
            Ok(answer) => respond::complete(exchange, answer),
            Err(no) => {
                let Exchange { form, open, dress, .. } = *exchange;
                let No { refusal, allow, page } = no;
                Refused { refusal, form, open, allow, dress, page }.into_response()
            }
        }
    }

    /// The stages in their order.
    async fn answer(self: &Rc<Self>, site: &Pinned, exchange: &mut Exchange) -> Result<Answer, No> {
        if exchange.seen.certificate || site.client_rules.is_some() {
            certify::certify(site, exchange)?;
        }
        if !site.logins.is_empty() && exchange.head.uri.path().starts_with(OIDC_PATH) {
            self.guard.request(Priority::Default, &self.entropy)?;
            return Box::pin(login::own(site, exchange)).await;
        }
        let routed = route::route(site, exchange)?;
        if let Some(access) = &routed.route.access
            && let Some(answer) = access::before(access, &routed, exchange)?
        {
            return Ok(answer);
        }
        self.guard.request(routed.route.settings.priority, &self.entropy)?;
        let vouched = match routed.route.access.as_deref().filter(|access| access.asks_who()) {
            None => None,
            Some(access) => match Box::pin(access::who(self, site, access, &routed, exchange)).await? {
                Who::Is(vouched) => vouched,
                Who::Sent(answer) => return Ok(*answer),
            },
        };
        if !site.logins.is_empty() {
            login::leave_cookies(exchange);
        }
        let owner = identify::owner(site, exchange).await?;
        let tenant = identify::identify(site, exchange, owner, vouched, &self.entropy)?;
        authorize::authorize(&routed.route.settings, exchange.client)?;
        maintenance::check(site, exchange, &routed, tenant.id())?;
        self.guard.tenant(&tenant, &self.entropy)?;
        let permitted = limit::limit(site, tenant, &routed, exchange, &self.entropy, &self.policies)?;
        if let Some(authorizer) = routed.route.access.as_ref().and_then(|access| access.authorizer.as_ref()) {
            let asked = authorize::ask(self, site, exchange, &routed, &permitted, authorizer);
            if let Some(response) = Box::pin(asked).await? {
                return Ok(respond::permitted(response, permitted));
            }
        }
        exchange.fault = fault::draw(site, exchange, &routed, &permitted, &self.entropy);
        let instead = match &exchange.fault {
            None => None,
            Some(struck) => Box::pin(fault::suffer(site, exchange, &routed, struck)).await,
        };
        let settings = &*routed.route.settings;
        if let Some(coding) = &settings.coding {
            exchange.bodies = Some(coding::begin(coding, exchange)?);
        }
        let (response, permitted) = match &settings.idempotency {
            _ if let Some(settings) = &settings.defer
                && defer::applies(settings, exchange) =>
            {
                let _use = site.idempotency.begin_use();
                let onward = defer::Onward { proxy: self, site, routed: &routed, settings };
                (Box::pin(defer::accept(onward, exchange, &permitted, instead)).await?, permitted)
            }
            None => {
                // In a box: a delivery that is accepted, and a connection between two requests, have no use for its room.
                let effect = Box::pin(self.effect(site, exchange, &routed, &permitted, instead));
                (effect.await?, permitted)
            }
            Some(settings) => {
                let _use = site.idempotency.begin_use();
                let onward = idempotency::Onward { proxy: self, site, routed: &routed, settings };
                Box::pin(idempotency::answer(onward, exchange, permitted, instead)).await?
            }
        };
        let response = match exchange.bodies {
            None => response,
            Some(_) => coding::answer(self, site, exchange, settings, &permitted, response),
        };
        Ok(respond::permitted(response, permitted))
    }

    /// What the request comes to: from the cache, or from whoever is decided on. What it changes is purged.
    pub(crate) async fn effect(
        self: &Rc<Self>,
        site: &Pinned,
        exchange: &mut Exchange,
        routed: &Routed<'_>,
        permitted: &Permitted,
        instead: InItsPlace,
    ) -> Result<Response<Content>, Refusal> {
        let written = Write::of(exchange, site);
        let mut response = match &routed.route.settings.cache {
            None => self.decided(site, exchange, routed, permitted, instead).await?,
            Some(settings) => {
                let hop = Hop::client();
                let onward = Onward { proxy: self, site, routed, permitted, settings, hop: &hop };
                match instead {
                    Some(instead) => Box::pin(stage::struck(onward, exchange, instead)).await?,
                    None => match stage::at_once(onward, exchange) {
                        Ok(response) => response,
                        Err(begun) => Box::pin(stage::answer(onward, exchange, begun)).await?,
                    },
                }
            }
        };
        if let Some(written) = written {
            let tenant = permitted.permit().tenant().id();
            written.done(tenant, response.status(), response.headers_mut());
            // What it changed is not served by the next process either.
            site.cache.purges_written().await;
        }
        Ok(response)
    }

    /// What answers where nothing is cached.
    async fn decided(
        &self,
        site: &Site,
        exchange: &mut Exchange,
        routed: &Routed<'_>,
        permitted: &Permitted,
        instead: InItsPlace,
    ) -> Result<Response<Content>, Refusal> {
        match (decide(self, exchange, routed, permitted)?, instead) {
            (Decision::Forward { first, rest }, instead) => {
                forward::forward(self, site, exchange, routed, permitted, (first, rest), instead).await
            }
            (_, Some(instead)) => *instead,
            (Decision::Incoming(settings), None) => {
                let _use = site.idempotency.begin_use();
                Box::pin(incoming::take(self, site, exchange, routed, permitted, settings)).await
            }
            (Decision::Redirect, None) => Ok(respond::redirect(routed, exchange)),
            (Decision::Deliveries(_), None) if consent::is_call(exchange) => {
                let _use = site.idempotency.begin_use();
                let by = deadline_of(site, exchange, &routed.route.settings);
                told_by(by, Box::pin(consent::answer(self, site, exchange))).await?
            }
            (Decision::Deliveries(settings), None) => {
                let _use = site.idempotency.begin_use();
                let by = deadline_of(site, exchange, &routed.route.settings);
                told_by(by, Box::pin(told::answer(self, site, exchange, permitted, settings))).await?
            }
            (Decision::Respond(fixed), None) => {
                Ok(respond::fixed(fixed, exchange.head.method == Method::HEAD))
            }
        }
    }
}

impl Handler for Proxy {
    type Body = ExchangeBody;

    fn handle(
        self: &Rc<Self>,
        request: Request<Incoming>,
        connection: &Rc<Connection>,
    ) -> impl Future<Output = Response<ExchangeBody>> + 'static {
        self.exchange(request, Rc::clone(connection))
    }

    fn turns_away(&self) -> Option<Refusal> {
        self.guard.connection(&self.entropy)
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        self.site.borrow().settings.trusted_proxies.contains(address.to_canonical())
    }

    fn refuse(&self, connection: &Connection, refusal: Refusal, fields: Option<&Fields>) -> Response<Bytes> {
        respond::refuse_bytes(self, connection, &refusal, fields)
    }
}
