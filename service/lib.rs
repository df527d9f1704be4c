//! Retort: texts in; vectors, scores and answers out, over HTTP, in every dialect of clients.
//!
//! Imports go one way: `cli → api → fleet → engine → retort_models → retort_kernels`. `config`,
//! `provision` and `telemetry` know none of them.

pub mod api;
pub mod cli;
pub mod config;
pub mod connections;
pub mod devices;
pub mod engine;
pub mod error;
pub mod fleet;
pub mod keep_alive;
pub mod lifetime;
pub mod memory;
pub mod provision;
pub mod serve;
pub mod telemetry;
pub mod unix_time;
