//! Whit: one engine for generative models in which doing less work is a switch.
