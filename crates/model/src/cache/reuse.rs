//! Whether what is stored may answer a request (RFC 9111 section 4), fresh or stale (section 4.2.4, RFC 5861).

use bytes::BufMut as _;

use crate::cache::Wall;
use crate::cache::directives::{self, MaxStale, Scope, Told};
use crate::cache::freshness::Freshness;
use crate::numbers::Take;

/// What a stored response allows, as it is kept beside it: small, and read from its fields once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How old it is and may become.
    pub freshness: Freshness,
    /// It is never used without validation.
    pub validate_always: bool,
    /// It is never used stale, whatever happens.
    pub never_stale: bool,
    /// How long it may be used stale while it is validated.
    pub while_revalidate: u32,
    /// How long it may be used stale when validation fails. `None`: it says nothing.
    pub if_error: Option<u32>,
    /// It does not change while it is fresh: a client's wish to reload is no reason to ask (RFC 8246).
    pub immutable: bool,
}

impl Rules {
    /// What they take where they are kept.
    pub const BYTES: usize = 25;

    /// Appends them to what is kept, or told to another node.
    pub fn pack(&self, out: &mut Vec<u8>) {
        let Rules { freshness, validate_always, never_stale, while_revalidate, if_error, immutable } = *self;
        let Freshness { initial_age, lifetime, answered, heuristic } = freshness;
        out.put_u32_le(initial_age);
        out.put_u32_le(lifetime);
        out.put_u64_le(answered.0);
        out.put_u32_le(while_revalidate);
        out.put_u32_le(if_error.unwrap_or(0));
        let flags = [heuristic, validate_always, never_stale, immutable, if_error.is_some()];
        out.put_u8(flags.iter().rev().fold(0, |bits, &flag| bits << 1 | u8::from(flag)));
    }

    /// Reads what was packed. `None`: it is too short.
    #[must_use]
    pub fn unpack(take: &mut Take<'_>) -> Option<Rules> {
        let (initial_age, lifetime, answered) = (take.u32()?, take.u32()?, Wall(take.u64()?));
        let (while_revalidate, if_error) = (take.u32()?, take.u32()?);
        let bits = take.u8()?;
        let flag = |at: u8| bits >> at & 1 == 1;
        Some(Rules {
            freshness: Freshness { initial_age, lifetime, answered, heuristic: flag(0) },
            validate_always: flag(1),
            never_stale: flag(2),
            while_revalidate,
            if_error: flag(4).then_some(if_error),
            immutable: flag(3),
        })
    }

    /// The rules of a response.
    #[must_use]
    pub fn of(told: &directives::Response, freshness: Freshness) -> Rules {
        Rules {
            freshness,
            validate_always: told.no_cache == Scope::All,
            // s-maxage has what proxy-revalidate says in it (section 5.2.2.10).
            never_stale: told.must_revalidate || told.proxy_revalidate || told.s_maxage != Told::No,
            while_revalidate: told.stale_while_revalidate.or(0).unwrap_or(0),
            if_error: told.stale_if_error.or(0),
            immutable: told.immutable,
        }
    }
}

/// What a route allows where responses say nothing, and whether clients have a say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// A client's directives count. They are advice (section 5.2.1), and a client that reloads in a loop is a load.
    pub request_directives: bool,
    /// How long what says nothing may be used stale while it is validated.
    pub while_revalidate: u32,
    /// How long what says nothing may be used stale when the upstream fails.
    pub if_error: u32,
}

/// What to do with a request for which something is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Serve it.
    Serve,
    /// Serve it as it is, stale, and validate it meanwhile.
    ServeAndRefresh,
    /// Serve it stale: the client takes it so.
    ServeStale,
    /// Ask the upstream whether it is still good.
    Validate(Because),
    /// Refuse with 504: the client wants what is stored or nothing, and this may not be used (section 5.2.1.7).
    Refuse,
}

/// Why what is stored is not used as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Because {
    /// It is stale.
    Stale,
    /// It says that it is to be validated each time.
    Response,
    /// The client wants a newer one.
    Request,
}

/// Decides what to do with what is stored.
#[must_use]
pub fn decide(rules: &Rules, request: &directives::Request, now: Wall, terms: &Terms) -> Use {
    let use_ = without_refusal(rules, request, now, terms);
    match use_ {
        Use::Validate(_) if terms.request_directives && request.only_if_cached => Use::Refuse,
        other => other,
    }
}

fn without_refusal(rules: &Rules, request: &directives::Request, now: Wall, terms: &Terms) -> Use {
    if rules.validate_always {
        return Use::Validate(Because::Response);
    }
    let staleness = rules.freshness.stale_for(now);
    let asks = terms.request_directives;
    if asks && wants_newer(rules, request, now, staleness.is_none()) {
        return Use::Validate(Because::Request);
    }
    let Some(staleness) = staleness else { return Use::Serve };
    if rules.never_stale {
        return Use::Validate(Because::Stale);
    }
    let takes = match request.max_stale {
        _ if !asks => false,
        MaxStale::No => false,
        MaxStale::Seconds(seconds) => staleness <= seconds,
        MaxStale::Any => true,
    };
    if takes {
        Use::ServeStale
    } else if staleness < rules.while_revalidate.max(terms.while_revalidate) {
        Use::ServeAndRefresh
    } else {
        Use::Validate(Because::Stale)
    }
}

/// Whether the client says that this is too old for it (sections 5.2.1.1, 5.2.1.3, 5.2.1.4).
fn wants_newer(rules: &Rules, request: &directives::Request, now: Wall, fresh: bool) -> bool {
    let reload = request.no_cache || request.max_age == Told::Seconds(0);
    if reload && rules.immutable && fresh {
        return false;
    }
    let too_old = request.max_age.or(0).is_some_and(|most| rules.freshness.age(now) > most || most == 0);
    let too_short = request.min_fresh.or(u32::MAX).is_some_and(|least| rules.freshness.left(now) < least);
    request.no_cache || too_old || too_short
}

/// Whether what is stored may be served when the upstream has failed, or is not asked because it would (section 4.2.4;
/// RFC 5861 section 4).
#[must_use]
pub fn may_serve_on_error(rules: &Rules, request: &directives::Request, now: Wall, terms: &Terms) -> bool {
    let Some(staleness) = rules.freshness.stale_for(now) else { return !rules.validate_always };
    if rules.never_stale || rules.validate_always {
        return false;
    }
    let asked = if terms.request_directives { request.stale_if_error.or(0) } else { None };
    let allowed = rules.if_error.unwrap_or(terms.if_error).max(rules.while_revalidate);
    staleness < allowed.max(asked.unwrap_or(0))
}

/// Whether it is near enough to its end that [`refresh_early`] may say yes, whatever the chance.
#[must_use]
pub fn is_near_its_end(rules: &Rules, now: Wall, took_ms: u32) -> bool {
    // The logarithm of the least chance there is: 2^-53.
    const MOST: u64 = 37;
    u64::from(rules.freshness.left(now)) * 1_000 <= u64::from(took_ms) * MOST
}

/// Whether a fresh response that is much asked for should be validated now, before all its clients wait for it at once
/// (probabilistic early expiration, Vattani, Chierichetti, Lowenstein 2015): the closer to its end and the longer that its
/// upstream takes, the likelier. `chance` is a uniform word.
///
/// [`is_near_its_end`] tells beforehand, and for less, that it is not.
#[must_use]
pub fn refresh_early(rules: &Rules, now: Wall, took_ms: u32, chance: u64) -> bool {
    let left = rules.freshness.left(now);
    if left == 0 || rules.freshness.heuristic {
        return false;
    }
    // -ln of a uniform in (0, 1]: on average one service time ahead, seldom many.
    let uniform = ((chance >> 11) + 1) as f64 / (1u64 << 53) as f64;
    f64::from(took_ms) / 1e3 * -uniform.ln() >= f64::from(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;
    use http::HeaderValue;
    use http::header::CACHE_CONTROL;
    use proptest::prelude::*;

    const NOW: Wall = Wall(1_000_000);
    const ASKED: Terms = Terms { request_directives: true, while_revalidate: 0, if_error: 0 };

    fn map(control: &'static str) -> Fields {
        Fields::from_iter([(CACHE_CONTROL, HeaderValue::from_static(control))])
    }

    /// The rules of a response that lives for 100 seconds and is `age` old.
    fn rules(control: &'static str, age: u32) -> Rules {
        let told = directives::Response::of(&map(control), &[]);
        Rules::of(&told, Freshness { initial_age: age, lifetime: 100, answered: NOW, heuristic: false })
    }

    fn asks(control: &'static str) -> directives::Request {
        if control.is_empty() {
            directives::Request::default()
        } else {
            directives::Request::of(&map(control))
        }
    }

    fn check(control: &'static str, age: u32, request: &'static str, expected: Use) {
        let decided = decide(&rules(control, age), &asks(request), NOW, &ASKED);
        assert_eq!(decided, expected, "{control:?} {age} {request:?}");
    }

    #[test]
    fn section_4_what_is_fresh_is_served_and_what_is_stale_is_validated() {
        check("max-age=100", 0, "", Use::Serve);
        check("max-age=100", 99, "", Use::Serve);
        check("max-age=100", 100, "", Use::Validate(Because::Stale));
    }

    #[test]
    fn section_5_2_2_4_no_cache_is_validated_each_time_but_not_for_its_fields() {
        check("no-cache", 0, "", Use::Validate(Because::Response));
        check("no-cache", 0, "max-stale", Use::Validate(Because::Response));
        check("no-cache=\"x\"", 0, "", Use::Serve);
    }

    #[test]
    fn section_5_2_1_a_clients_wishes_count_where_the_route_lets_them() {
        check("max-age=100", 5, "no-cache", Use::Validate(Because::Request));
        check("max-age=100", 5, "max-age=5", Use::Serve);
        check("max-age=100", 6, "max-age=5", Use::Validate(Because::Request));
        check("max-age=100", 0, "max-age=0", Use::Validate(Because::Request));
        check("max-age=100", 0, "max-age=x", Use::Validate(Because::Request));
        check("max-age=100", 10, "min-fresh=90", Use::Serve);
        check("max-age=100", 11, "min-fresh=90", Use::Validate(Because::Request));
        let deaf = Terms { request_directives: false, ..ASKED };
        for request in ["no-cache", "max-age=0", "min-fresh=1000", "only-if-cached"] {
            assert_eq!(decide(&rules("max-age=100", 5), &asks(request), NOW, &deaf), Use::Serve);
        }
        assert_eq!(decide(&rules("", 105), &asks("max-stale"), NOW, &deaf), Use::Validate(Because::Stale));
    }

    #[test]
    fn section_5_2_1_2_a_client_may_take_it_stale() {
        check("max-age=100", 110, "max-stale", Use::ServeStale);
        check("max-age=100", 110, "max-stale=10", Use::ServeStale);
        check("max-age=100", 111, "max-stale=10", Use::Validate(Because::Stale));
        check("max-age=100", 100, "max-stale=soon", Use::Validate(Because::Stale));
    }

    #[test]
    fn section_5_2_1_7_only_if_cached_is_never_forwarded() {
        check("max-age=100", 1, "only-if-cached", Use::Serve);
        check("max-age=100", 100, "only-if-cached", Use::Refuse);
        check("no-cache", 0, "only-if-cached", Use::Refuse);
    }

    #[test]
    fn section_4_2_4_what_forbids_to_be_stale_is_never_served_so() {
        for control in ["must-revalidate", "proxy-revalidate", "s-maxage=100"] {
            check(control, 110, "max-stale", Use::Validate(Because::Stale));
            let told = rules(control, 110);
            assert!(!may_serve_on_error(
                &told,
                &asks("stale-if-error=900"),
                NOW,
                &Terms { if_error: 900, ..ASKED }
            ));
        }
        check("must-revalidate, stale-while-revalidate=60", 110, "", Use::Validate(Because::Stale));
    }

    #[test]
    fn rfc_5861_section_3_it_is_served_stale_while_it_is_validated() {
        check("stale-while-revalidate=10", 99, "", Use::Serve);
        check("stale-while-revalidate=10", 109, "", Use::ServeAndRefresh);
        check("stale-while-revalidate=10", 110, "", Use::Validate(Because::Stale));
        check("stale-while-revalidate=x", 100, "", Use::Validate(Because::Stale));
        let generous = Terms { while_revalidate: 30, ..ASKED };
        assert_eq!(decide(&rules("max-age=100", 129), &asks(""), NOW, &generous), Use::ServeAndRefresh);
    }

    #[test]
    fn rfc_5861_section_4_it_is_served_stale_when_the_upstream_fails() {
        let may = |control, age, request, if_error| {
            may_serve_on_error(&rules(control, age), &asks(request), NOW, &Terms { if_error, ..ASKED })
        };
        assert!(may("stale-if-error=10", 109, "", 0) && !may("stale-if-error=10", 110, "", 0));
        assert!(!may("", 101, "", 0) && may("", 101, "", 5));
        assert!(!may("stale-if-error=0", 101, "", 5), "what the response says counts");
        assert!(may("", 101, "stale-if-error=5", 0));
        assert!(!may("no-cache, stale-if-error=10", 101, "", 0) && !may("no-cache", 1, "", 9));
        assert!(may("", 50, "no-cache", 0), "fresh is good enough when there is nothing else");
    }

    #[test]
    fn rfc_8246_what_is_immutable_and_fresh_is_not_asked_for_again() {
        check("immutable", 5, "max-age=0", Use::Serve);
        check("immutable", 5, "no-cache", Use::Serve);
        check("immutable", 100, "max-age=0", Use::Validate(Because::Request));
        check("immutable", 6, "max-age=5", Use::Validate(Because::Request));
    }

    #[test]
    fn what_is_hot_is_refreshed_before_it_ends() {
        let early = |age, chance| refresh_early(&rules("", age), NOW, 500, chance);
        assert!(!early(0, u64::MAX) && !early(100, 0));
        assert!(!early(90, 1 << 63) && early(99, 1));
        let refreshed = (0..1000u64).filter(|n| early(99, n << 54)).count();
        assert!(is_near_its_end(&rules("", 82), NOW, 500) && !is_near_its_end(&rules("", 81), NOW, 500));
        assert!(!early(81, 0) && early(82, 0), "the least chance of all");
        assert!((100..170).contains(&refreshed), "e^-2 of them: {refreshed}");
    }

    proptest! {
        #[test]
        fn what_never_may_be_stale_never_is(age in 0u32..300, swr in 0u32..200, sie in 0u32..200, stale: bool) {
            let mut told = rules("must-revalidate", age);
            (told.while_revalidate, told.if_error) = (swr, Some(sie));
            let request = if stale { asks("max-stale, stale-if-error=500") } else { asks("") };
            let terms = Terms { request_directives: true, while_revalidate: swr, if_error: sie };
            let used = matches!(decide(&told, &request, NOW, &terms), Use::Serve | Use::ServeAndRefresh | Use::ServeStale);
            prop_assert_eq!(used, age < 100);
            prop_assert_eq!(may_serve_on_error(&told, &request, NOW, &terms), age < 100);
        }
    }
}
