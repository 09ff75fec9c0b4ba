//! Configuration: from what was typed to what it means.

#[cfg(test)]
mod documented;
mod later;
mod load;
mod places;
mod problem;
mod raw;
mod reference;
mod resolve;
mod scalar;
mod schema;
pub mod settings;
mod shape;
mod suggest;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod watch;

#[cfg(test)]
pub use documented::{is_documented, wrong_keys};
pub use load::shown_hash;
pub use places::{Failure, Places, Spot};
pub use problem::{Problems, Told};
pub use reference::generated;
pub use resolve::domain;
pub use scalar::{parse_duration, parse_size, show_duration};
pub use settings::{
    AccessLog, Config, ControlAddress, ControlSettings, ControlToken, Level, LogFormat, LogSettings,
    OtlpSettings, ProtectSettings, RedisSettings, RedisUrl, ScheduleSettings, Scope, Sources,
    UpgradeSettings,
};
pub use suggest::nearest;
pub use text::parse_name;
pub use watch::Watch;
