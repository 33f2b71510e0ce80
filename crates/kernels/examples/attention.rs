//! Times attention at one shape and prints a JSON line; `bench/peers/attention.py` runs it between
//! PyTorch's timings. Arguments: heads kv_heads queries keys head_dim causal|full [forward|backward].

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use whit_kernels::attention::{Call, HeadView, Mask, Options, Wanted, attend, attention};

struct Shape {
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    head_dim: usize,
    causal: bool,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let sizes: Vec<usize> = arguments.iter().map_while(|text| text.parse().ok()).collect();
    let [heads, kv_heads, queries, keys, head_dim] = sizes[..] else {
        eprintln!("attention HEADS KV_HEADS QUERIES KEYS HEAD_DIM causal|full [forward|backward]");
        std::process::exit(2);
    };
    let causal = arguments.iter().any(|word| word == "causal");
    let shape = Shape { heads, kv_heads, queries, keys, head_dim, causal };
    let backward = arguments.iter().any(|word| word == "backward");
    let seconds = if backward { time_backward(&shape) } else { time_forward(&shape) };
    println!("{{\"ours\": {seconds:e}}}");
}

/// The shortest of the runs of about half a second.
fn shortest(mut run: impl FnMut() -> f64) -> f64 {
    run();
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    let mut count = 0;
    while count < 3 || begin.elapsed().as_secs_f64() < 0.5 {
        best = best.min(run());
        count += 1;
    }
    best
}

fn time_forward(shape: &Shape) -> f64 {
    let values =
        |count: usize| (0..count).map(|i| ((i * 7919) % 1013) as f32 / 506.0 - 1.0).collect::<Vec<_>>();
    let queries = values(shape.queries * shape.heads * shape.head_dim);
    let size = shape.keys * shape.head_dim;
    let [keys, cache] = [0; 2].map(|_| values(shape.kv_heads * size));
    let view = |head: usize| HeadView {
        keys: &keys[head * size..][..size],
        values: &cache[head * size..][..size],
        stride: shape.head_dim,
        value_stride: shape.head_dim,
        len: shape.keys,
        rows: None,
    };
    let kv: Vec<_> = (0..shape.kv_heads).map(view).collect();
    let call = Call {
        queries: &queries,
        query_count: shape.queries,
        heads: shape.heads,
        head_dim: shape.head_dim,
        kv: &kv,
        scale: (shape.head_dim as f32).sqrt().recip(),
        softcap: None,
        mask: if shape.causal { Mask::Causal } else { Mask::Full },
        window: None,
        key_bias: None,
        wanted: Wanted::default(),
    };
    shortest(|| {
        let begin = Instant::now();
        std::hint::black_box(attend(&call));
        begin.elapsed().as_secs_f64()
    })
}

fn time_backward(shape: &Shape) -> f64 {
    let device = Device::flex().autodiff();
    let random = |heads, length| {
        let shape = [1, heads, length, shape.head_dim];
        Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device).require_grad()
    };
    let q = random(shape.heads, shape.queries);
    let [k, v] = [0; 2].map(|_| random(shape.kv_heads, shape.keys));
    let options = Options { causal: shape.causal, ..Options::default() };
    shortest(|| {
        let output = attention(q.clone(), k.clone(), v.clone(), &options).sum();
        let begin = Instant::now();
        std::hint::black_box(output.backward());
        begin.elapsed().as_secs_f64()
    })
}
