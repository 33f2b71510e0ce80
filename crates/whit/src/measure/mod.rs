//! Honest numbers: what a run cost, what it gave, and against which baseline.
