//! From a request to its result: the plan, and the loops that carry it out.
