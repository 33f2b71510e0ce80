//! Attention's memory, counted where it is asked for: it grows with the length of the sequence and not with
//! its square, whatever is wanted besides the output. One test, since all threads share the count.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use whit_kernels::attention::{Attended, Call, HeadView, Mask, Wanted, attend};

/// The system's memory, with a count of what is in use and of the most that was.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator, and counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(IN_USE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static MEMORY: Counting = Counting;

const HEADS: usize = 4;
const HEAD_DIM: usize = 32;

/// Everything that methods of the cache ask for, of a causal prompt.
fn look(data: &[f32], tokens: usize) -> Attended {
    let view = HeadView {
        keys: data,
        values: data,
        stride: HEAD_DIM,
        value_stride: HEAD_DIM,
        len: tokens,
        rows: None,
    };
    attend(&Call {
        queries: data,
        query_count: tokens,
        heads: HEADS,
        head_dim: HEAD_DIM,
        kv: &[view, view],
        scale: 0.2,
        softcap: None,
        mask: Mask::Causal,
        window: None,
        key_bias: None,
        wanted: Wanted { log_sum_exp: true, column_sums: true, last_rows: 32, scores: 0 },
    })
}

/// The most bytes in use during a call, besides those before it.
fn extra(tokens: usize) -> usize {
    let data: Vec<f32> =
        (0..tokens * HEADS * HEAD_DIM).map(|at| (at * 7919 % 1013) as f32 / 506.0 - 1.0).collect();
    let before = IN_USE.load(Relaxed);
    MOST.store(before, Relaxed);
    let attended = look(&data, tokens);
    let most = MOST.load(Relaxed) - before;
    let total: f32 = attended.column_sums.iter().sum();
    assert!((total / (HEADS * tokens) as f32 - 1.0).abs() < 1e-3, "all attention is in the sums: {total}");
    most
}

#[test]
fn memory_grows_with_the_length_and_not_its_square() {
    // The threads keep some scratch from their first call on.
    extra(256);
    let [short, long] = [512, 2048].map(extra);
    assert!(long < 5 * short, "four times the length took {long} bytes after {short}");
    // One head's matrix of scores would be 16 MiB; the output alone is 1 MiB, and so are the last rows.
    assert!(long < 2048 * 2048 * size_of::<f32>() / 3, "{long} bytes");
    assert!(long > 2 << 20, "the count sees the output and the last rows: {long} bytes");
}
