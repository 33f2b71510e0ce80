//! Data that the project makes itself.
