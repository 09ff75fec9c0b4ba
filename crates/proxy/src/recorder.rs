//! Where receipts go.

use tidegate_model::receipt::Receipt;

/// Takes each receipt once, on the core of its exchange. Must not block.
pub trait Recorder {
    /// Takes a settled receipt.
    fn record(&self, receipt: Receipt);
}
