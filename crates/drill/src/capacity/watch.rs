//! What is looked at while a load is held: lines are there only as long as the load is.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tidegate_wire::clock;
use tidegate_wire::task;

use super::seen::{Reading, Service, Usage};
use super::suspect::GateSaid;
use crate::metrics::Metrics;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// The control API has to answer in this time, or it is as if it were not there.
const PATIENCE: Duration = Duration::from_millis(500);
/// What was seen beside a load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saw {
    /// What was used.
    pub usage: Usage,
    /// What the gate before the service said, if there is one and it was asked.
    pub gate: Option<GateSaid>,
}

/// Looks at a service, and at the gate before it, until it is dropped.
pub(super) struct Watch {
    shared: Rc<Shared>,
}

struct Shared {
    service: Service,
    control: Option<SocketAddr>,
    began: RefCell<Option<Reading>>,
    backlog: Cell<u64>,
    gate: RefCell<Option<GateSaid>>,
    saw: RefCell<Saw>,
}

impl Watch {
    /// Begins to look.
    pub fn start(service: Service, control: Option<SocketAddr>) -> Watch {
        let shared = Rc::new(Shared {
            service,
            control,
            began: RefCell::default(),
            backlog: Cell::new(0),
            gate: RefCell::default(),
            saw: RefCell::default(),
        });
        task::spawn(look(Rc::downgrade(&shared)));
        Watch { shared }
    }

    /// What counts begins.
    pub fn begin(&self) {
        self.shared.backlog.set(0);
        self.shared.gate.replace(None);
        self.shared.began.replace(Some(self.shared.service.read()));
    }

    /// What counts is over.
    pub fn end(&self) {
        let mut usage = match self.shared.began.borrow().as_ref() {
            Some(began) => self.shared.service.since(began),
            None => Usage::default(),
        };
        usage.backlog = usage.backlog.max(self.shared.backlog.get());
        self.shared.saw.replace(Saw { usage, gate: self.shared.gate.borrow().clone() });
    }

    /// What was seen in the time that counted.
    pub fn saw(&self) -> Saw {
        self.shared.saw.borrow().clone()
    }
}

async fn look(shared: Weak<Shared>) {
    loop {
        clock::sleep(LOOK).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.backlog.set(shared.backlog.get().max(shared.service.backlog()));
        let Some(control) = shared.control else { continue };
        if let Some(said) = Metrics::ask(control, PATIENCE).await.as_ref().map(said) {
            let mut gate = shared.gate.borrow_mut();
            let before = gate.as_ref().map_or(0.0, |gate| gate.waiting);
            *gate = Some(GateSaid { waiting: said.waiting.max(before), ..said });
        }
    }
}

/// What metrics say of the gate that most wait at.
fn said(metrics: &Metrics) -> GateSaid {
    let most = metrics.samples("tidegate_upstream_waiting").max_by(|one, other| one.1.total_cmp(&other.1));
    let Some((upstream, waiting)) = most else { return GateSaid::default() };
    let slots = metrics.samples("tidegate_upstream_slots").find(|(labels, _)| *labels == upstream);
    let used = metrics.samples("tidegate_upstream_slots_used").find(|(labels, _)| *labels == upstream);
    GateSaid { waiting, limit: slots.or(used).map(|(_, slots)| slots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_gates_the_one_counts_that_most_wait_at() {
        let text = "# HELP x\ntidegate_upstream_waiting{upstream=\"a\"} 2\ntidegate_upstream_waiting{upstream=\"b\"} 7\n\
            tidegate_upstream_slots{upstream=\"a\"} 4\ntidegate_upstream_slots{upstream=\"b\"} 8\n";
        assert_eq!(said(&Metrics::from(text)), GateSaid { waiting: 7.0, limit: Some(8.0) });
        assert_eq!(said(&Metrics::from("tidegate_up 1\n")), GateSaid::default());
    }
}
