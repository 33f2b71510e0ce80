//! The `whit` command.

/// Large buffers are reused instead of page-faulted.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {}
