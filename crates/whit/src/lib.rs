//! Whit: one engine for generative models in which doing less work is a switch.
//!
//! [`load`] opens model folders and files, [`models`] builds networks out of the shared blocks in
//! [`nn`], [`generate`] runs them, [`methods`] are the switches, [`train`] makes small models here,
//! [`squeeze`] shortens prompts, [`shrink`] changes weights for good, and [`measure`] says what was
//! gained and what was lost.

pub mod embed;
pub mod generate;
pub mod load;
pub mod measure;
pub mod methods;
pub mod models;
pub mod nn;
pub mod shrink;
pub mod squeeze;
pub mod train;
pub mod world;

pub use burn;
