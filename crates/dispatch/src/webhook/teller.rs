//! The engine's way to destinations: whoever makes attempts of webhooks, made anew where there are other webhooks.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tidegate_model::delivery::Request;
use tidegate_store::deliveries::Ready;

use super::{Made, Sender, Webhooks};

/// Where the webhooks of a process are, once they are configured.
pub type Slot = ArcSwapOption<Webhooks>;

/// Makes attempts of webhooks, on one thread.
pub(crate) struct Teller {
    webhooks: Arc<Slot>,
    sender: RefCell<Option<Rc<Sender>>>,
}

impl Teller {
    pub(crate) fn new(webhooks: Arc<Slot>) -> Teller {
        Teller { webhooks, sender: RefCell::default() }
    }

    /// Makes the attempt that was begun; `None`: no webhooks are configured.
    pub(crate) async fn make(&self, delivery: &Ready, request: &Request, chance: u64) -> Option<Made> {
        let sender = self.sender()?;
        Some(sender.attempt(&delivery.line.tenant, &request.body, delivery.attempts + 1, chance).await)
    }

    /// Closes connections that were idle for too long.
    pub(crate) fn sweep(&self) {
        if let Some(sender) = &*self.sender.borrow() {
            sender.sweep();
        }
    }

    fn sender(&self) -> Option<Rc<Sender>> {
        let webhooks = self.webhooks.load_full()?;
        let mut held = self.sender.borrow_mut();
        if let Some(sender) = held.as_ref().filter(|sender| sender.is_of(&webhooks)) {
            return Some(Rc::clone(sender));
        }
        let sender = Rc::new(Sender::new(webhooks));
        *held = Some(Rc::clone(&sender));
        Some(sender)
    }
}
