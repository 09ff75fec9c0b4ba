//! Fuzz targets, one for each parser of foreign bytes. See `fuzz/README.md`.

pub mod targets;
