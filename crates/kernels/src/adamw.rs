//! One AdamW step on a parameter, in place.
