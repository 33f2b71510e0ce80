//! The methods: one file each, described once by its SPEC.
