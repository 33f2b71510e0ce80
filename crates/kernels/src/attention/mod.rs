//! One attention for every model.
