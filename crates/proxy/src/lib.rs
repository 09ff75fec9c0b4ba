//! Exchanges: `lifecycle` is the product on one screen, one module per stage.

pub mod settings;
