//! The methods: published ways of doing the same work with less, each one file and one [`Spec`].
//!
//! A method is a value, never a patch: [`Selection`] says which ones are wanted with which knobs,
//! [`Plan::new`] checks them against each other and against the model and builds them, and
//! [`Plan::begin`] makes the state of one sequence. Dropping the value is switching it off, so
//! nothing of a method remains on the model.
//!
//! ```
//! use whit::methods::{ModelFacts, Plan, Selection};
//!
//! let wanted = Selection::parse(&["token-recycling:tree=25"])?;
//! let plan = Plan::new(&wanted, &ModelFacts::example())?;
//! println!("{plan}");
//! let stages = plan.begin(); // the state of one sequence
//! assert!(stages.draft.is_some());
//! # Ok::<(), whit::methods::MethodError>(())
//! ```

mod companions;
mod error;
pub mod eviction;
pub mod foresight;
pub mod gaze;
pub mod imitation;
pub mod importance;
mod knobs;
#[path = "list.rs"] // so that the `mod` lines inside are relative to this folder
mod list;
pub mod merge;
pub mod page;
mod plan;
pub mod reducers;
pub mod scores;
mod select;
mod spec;
mod stages;
pub mod successors;
pub mod table_file;
#[cfg(test)]
mod testing;
mod tide;
mod tree;
pub mod tuner;

pub use companions::{Companions, DraftModel, SideWeights, Vocabulary};
pub use error::MethodError;
pub use knobs::Knobs;
pub use list::*;
pub use merge::Moved;
pub use plan::{Part, Plan, clash};
pub use select::{Selection, find};
pub use spec::*;
pub use stages::*;
pub use tree::{Accepted, TokenTree, TreeError};
