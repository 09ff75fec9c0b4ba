//! Deliveries as people and their tools ask for them: listings, counts, changes by filter.

use tidegate_model::delivery::{Id, Ms, Seq};

use super::tables::Needs;
use super::{
    Changed, Control, Depth, Edit, Edited, Filter, Glance, Line, Page, Room, Total, edit, list, look,
};
use crate::store::{Store, Unavailable};

impl Store {
    /// Deliveries that are meant, the newest first, from behind this one on: a page of at most
    /// [`PAGE_MAX`](super::PAGE_MAX). One that looked at many that are not meant may have fewer, or none, and go on.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn list(&self, filter: Filter, after: Option<Seq>, most: usize) -> Result<Page, Unavailable> {
        self.plain(Needs::looks(), move |ledger| list::list(ledger, &filter, after, most).map(Ok)).await
    }

    /// How far a delivery has come: what may be asked again and again, however much it holds.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn glance(&self, tenant: Option<&str>, id: Id) -> Result<Option<Glance>, Unavailable> {
        let tenant = tenant.map(Box::<str>::from);
        self.plain(Needs::looks_for(id), move |ledger| look::glance(ledger, tenant.as_deref(), id).map(Ok))
            .await
    }

    /// How many there are of lines, in the order of their names, behind this one: of a queue, a tenant, both or all.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn depths(
        &self,
        queue: Option<&str>,
        tenant: Option<&str>,
        after: Option<Line>,
        most: usize,
    ) -> Result<Vec<Depth>, Unavailable> {
        let (queue, tenant) = (queue.map(Box::<str>::from), tenant.map(Box::<str>::from));
        self.plain(Needs::looks(), move |ledger| {
            list::depths(ledger, queue.as_deref(), tenant.as_deref(), after.as_ref(), most).map(Ok)
        })
        .await
    }

    /// How many there are of each queue. It costs as much as there are lines.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn totals(&self) -> Result<Vec<Total>, Unavailable> {
        self.plain(Needs::looks(), |ledger| list::totals(ledger).map(Ok)).await
    }

    /// Changes deliveries that are meant, the newest first, from behind this one on: at most so many. Whoever goes on until
    /// there is nothing to go on from has changed all that there were when it began.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn change_many(
        &self,
        filter: Filter,
        control: Control,
        after: Option<Seq>,
        most: usize,
        now: Ms,
    ) -> Result<Changed, Unavailable> {
        let needs = match &filter.tenant {
            Some(tenant) => Needs::writes_in(self.shard_of(tenant)),
            None => Needs::writes_everywhere(),
        };
        self.plain(needs, move |ledger| list::change(ledger, &filter, control, after, most, now).map(Ok))
            .await
    }

    /// Changes the request of a delivery that has not begun or is dead: where `edits` is told, only if it has been changed so
    /// often.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn edit(
        &self,
        tenant: Option<&str>,
        id: Id,
        edits: Option<u64>,
        edit: Edit,
        room: Room,
    ) -> Result<Edited, Unavailable> {
        let tenant = tenant.map(Box::<str>::from);
        self.plain(Needs::writes_of(id), move |ledger| {
            edit::edit(ledger, tenant.as_deref(), id, edits, &edit, room).map(Ok)
        })
        .await
    }
}
