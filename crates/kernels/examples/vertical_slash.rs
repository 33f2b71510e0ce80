//! Times causal attention over a whole prompt against the vertical-slash pattern, in turns, and prints
//! both and the ratio. Arguments: heads kv_heads prompt head_dim [band columns].

use std::time::Instant;

use whit_kernels::attention::{Call, HeadView, Mask, VerticalSlash, Wanted, attend, vertical_slash};

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).map_while(|text| text.parse().ok()).collect();
    let [heads, kv_heads, len, head_dim, ref pattern @ ..] = sizes[..] else {
        eprintln!("vertical_slash HEADS KV_HEADS PROMPT HEAD_DIM [BAND COLUMNS]");
        std::process::exit(2);
    };
    let [band, columns] = *pattern else { return time([heads, kv_heads, len, head_dim], [2048, 2048]) };
    time([heads, kv_heads, len, head_dim], [band, columns]);
}

fn time([heads, kv_heads, len, head_dim]: [usize; 4], [band, columns]: [usize; 2]) {
    let numbers = |count: usize| -> Vec<f32> {
        (0..count).map(|index| ((index * 7919) % 1013) as f32 / 506.0 - 1.0).collect()
    };
    let queries = numbers(len * heads * head_dim);
    let [keys, values] = [0; 2].map(|_| numbers(kv_heads * len * head_dim));
    let view = |head: usize| HeadView {
        keys: &keys[head * len * head_dim..],
        values: &values[head * len * head_dim..],
        stride: head_dim,
        value_stride: head_dim,
        len,
        rows: None,
    };
    let kv: Vec<_> = (0..kv_heads).map(view).collect();
    let call = Call {
        queries: &queries,
        query_count: len,
        heads,
        head_dim,
        kv: &kv,
        scale: (head_dim as f32).sqrt().recip(),
        softcap: None,
        mask: Mask::Causal,
        window: None,
        key_bias: None,
        wanted: Wanted::default(),
    };
    let chosen = (0..columns).map(|index| index * (len / columns).max(1)).filter(|&column| column < len);
    let pattern = VerticalSlash::new(band.max(1), vec![chosen.collect(); kv_heads]);
    let mut seconds = [[0.0; 3]; 2];
    for turn in 0..3 {
        seconds[0][turn] = timed(|| drop(attend(&call)));
        seconds[1][turn] = timed(|| drop(vertical_slash::attend(&call, &pattern)));
    }
    let [dense, sparse] = seconds.map(|mut turns| {
        turns.sort_by(f64::total_cmp);
        turns[1]
    });
    let pairs = pattern.pairs(0, len) as f64 / (len * (len + 1) / 2) as f64;
    println!(
        "{{\"dense\": {dense:.3}, \"sparse\": {sparse:.3}, \"ratio\": {:.3}, \"pairs\": {pairs:.3}}}",
        sparse / dense
    );
}

fn timed(run: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    run();
    begin.elapsed().as_secs_f64()
}
