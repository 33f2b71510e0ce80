//! The cross-entropy of logits against target ids.
