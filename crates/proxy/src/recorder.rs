//! Where receipts go.

use std::cell::RefCell;

use tidegate_model::receipt::Receipt;

/// Takes each receipt once, on the core of its exchange. Must not block.
pub trait Recorder {
    /// Takes a settled receipt, in the cell where it was written.
    fn record(&self, receipt: Box<RefCell<Receipt>>);

    /// A receipt that nobody needs any more, to be opened again.
    fn spare(&self) -> Option<Box<RefCell<Receipt>>> {
        None
    }
}
