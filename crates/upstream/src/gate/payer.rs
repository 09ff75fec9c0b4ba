//! Who pays for a slot that was had while nobody waited.
//!
//! A slot outlives the call that took it, and so must the names. Tenants and routes are served by all cores: to count each
//! slot in their own counts would have the cores contend for these. So a core has a count of its own for those that it
//! served last: a payer is found by where its names stand, and costs no atomic.
//!
//! Always holds: at most [`PAYERS`] are remembered. A tenant that is remembered is not kept in the table by it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tidegate_model::balance::mix;
use tidegate_model::gate::fair::Who;
use tidegate_model::tenant::Tenant;

/// The most that a core remembers of one upstream: a power of two.
const PAYERS: usize = 256;

/// A tenant on a route.
#[derive(Debug)]
pub(super) struct Payer {
    tenant: Arc<Tenant>,
    route: Arc<str>,
}

impl Payer {
    pub(super) fn who(&self) -> Who<'_> {
        who(&self.tenant, &self.route)
    }

    fn is(&self, tenant: &Arc<Tenant>, route: &Arc<str>) -> bool {
        Arc::ptr_eq(&self.tenant, tenant) && Arc::ptr_eq(&self.route, route)
    }
}

/// On whose behalf, as the list asks for it: who found no room in the table of tenants shares its weight, too.
pub(super) fn who<'a>(tenant: &'a Tenant, route: &'a Arc<str>) -> Who<'a> {
    Who { tenant: tenant.payer(), route, weight: tenant.with_plan(|plan| plan.weight) }
}

/// The payers that a core served last.
#[derive(Debug, Default)]
pub(super) struct Payers(RefCell<Vec<Option<Rc<Payer>>>>);

impl Payers {
    /// This tenant on this route.
    pub(super) fn find(&self, tenant: &Arc<Tenant>, route: &Arc<str>) -> Rc<Payer> {
        let mut payers = self.0.borrow_mut();
        if payers.is_empty() {
            payers.resize(PAYERS, None);
        }
        let at = mix(Arc::as_ptr(tenant).addr() as u64 ^ (route.as_ptr().addr() as u64).rotate_left(32));
        let remembered = &mut payers[at as usize % PAYERS];
        match remembered {
            Some(payer) if payer.is(tenant, route) => Rc::clone(payer),
            _ => {
                let payer = Rc::new(Payer { tenant: Arc::clone(tenant), route: Arc::clone(route) });
                Rc::clone(remembered.insert(payer))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::tests::plan;
    use tidegate_model::tenant::Tenants;
    use tidegate_model::tick::Tick;

    #[test]
    fn counts_no_reference_that_cores_share_and_remembers_no_more_than_it_may() {
        let (all, payers) = (Tenants::new(10 * PAYERS), Payers::default());
        let route: Arc<str> = "r".into();
        let tenant = all.find_or_add("a", &plan(1), Tick(1));
        let first = payers.find(&tenant, &route);
        let counts = (Arc::strong_count(&tenant), Arc::strong_count(&route));
        let held: Vec<_> = (0..100).map(|_| payers.find(&tenant, &route)).collect();
        assert!(held.iter().all(|payer| Rc::ptr_eq(payer, &first)));
        assert_eq!((Arc::strong_count(&tenant), Arc::strong_count(&route)), counts);
        let other: Arc<str> = "r".into();
        assert!(
            Arc::ptr_eq(&payers.find(&tenant, &other).route, &other),
            "the same name is not the same route"
        );
        for number in 0..4 * PAYERS {
            let tenant = all.find_or_add(&format!("t{number}"), &plan(1), Tick(1));
            assert_eq!(payers.find(&tenant, &route).who().tenant, tenant.id());
        }
        assert_eq!(payers.0.borrow().len(), PAYERS);
    }
}
