//! Attention at the shapes that models meet: prefill, one token on a long cache, the verification of
//! a speculated tree, and a training step.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use whit_kernels::attention::select::top_rows;
use whit_kernels::attention::{
    BitMatrix, Call, HeadView, Mask, Options, VerticalSlash, Wanted, attend, attention, vertical_slash,
};

/// Heads, kv heads and their width.
const HEADS: [usize; 3] = [32, 8, 64];

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 7919) % 1013) as f32 / 506.0 - 1.0).collect()
}

fn slices(
    criterion: &mut Criterion,
    name: &str,
    [query_count, len]: [usize; 2],
    mask: Mask<'_>,
    wanted: Wanted,
) {
    let [heads, kv_heads, head_dim] = HEADS;
    let queries = numbers(query_count * heads * head_dim);
    let (keys, values) = (numbers(kv_heads * len * head_dim), numbers(kv_heads * len * head_dim));
    let view = |head: usize| HeadView {
        keys: &keys[head * len * head_dim..],
        values: &values[head * len * head_dim..],
        stride: head_dim,
        value_stride: head_dim,
        len,
        rows: None,
    };
    let kv: Vec<_> = (0..kv_heads).map(view).collect();
    let scale = (head_dim as f32).sqrt().recip();
    let call = Call {
        queries: &queries,
        query_count,
        heads,
        head_dim,
        kv: &kv,
        scale,
        softcap: None,
        mask,
        window: None,
        key_bias: None,
        wanted,
    };
    criterion.bench_function(name, |bencher| bencher.iter(|| attend(black_box(&call))));
}

fn inference(criterion: &mut Criterion) {
    let nothing = Wanted::default();
    slices(criterion, "prefill 1024 causal", [1024, 1024], Mask::Causal, nothing);
    slices(criterion, "prefill 1024 full", [1024, 1024], Mask::Full, nothing);
    let sums = Wanted { log_sum_exp: true, column_sums: true, last_rows: 32, scores: 0 };
    slices(criterion, "prefill 1024 causal with column sums", [1024, 1024], Mask::Causal, sums);
    slices(criterion, "one token on 8192", [1, 8192], Mask::Causal, nothing);
    // Every node's parent is half its number: a binary tree.
    let ancestors = |mut node: usize, of: usize| {
        while node > of {
            node = (node - 1) / 2;
        }
        node == of
    };
    let tree = BitMatrix::from_fn(63, 63, ancestors);
    slices(criterion, "tree of 63 on 8192", [63, 8192], Mask::Tree(&tree), nothing);
}

fn training(criterion: &mut Criterion) {
    let device = Device::flex().autodiff();
    let [heads, kv_heads, head_dim] = HEADS;
    let random =
        |heads| Tensor::<4>::random([1, heads, 512, head_dim], Distribution::Normal(0.0, 1.0), &device);
    let q = random(heads).require_grad();
    let [k, v] = [0; 2].map(|_| random(kv_heads).require_grad());
    let options = Options { causal: true, ..Options::default() };
    criterion.bench_function("forward and backward 512 causal", |bencher| {
        bencher.iter(|| attention(q.clone(), k.clone(), v.clone(), &options).sum().backward())
    });
}

fn sparse(criterion: &mut Criterion) {
    let [heads, kv_heads, head_dim] = HEADS;
    let len = 4096;
    let queries = numbers(len * heads * head_dim);
    let keys = numbers(kv_heads * len * head_dim);
    let view = |head: usize| HeadView {
        keys: &keys[head * len * head_dim..],
        values: &keys[head * len * head_dim..],
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
    let columns = vec![(0..len / 2).step_by(4).collect(); kv_heads];
    let pattern = VerticalSlash::new(512, columns);
    let mut group = criterion.benchmark_group("prefill 4096");
    group.sample_size(10);
    group.bench_function("causal", |bencher| bencher.iter(|| attend(black_box(&call))));
    group.bench_function("band of 512 and 512 columns", |bencher| {
        bencher.iter(|| vertical_slash::attend(black_box(&call), &pattern))
    });
    group.finish();
}

/// One token that reads every 64th of 32768 rows, and how its rows are chosen.
fn chosen(criterion: &mut Criterion) {
    let [heads, kv_heads, head_dim] = HEADS;
    let len = 32_768;
    let queries = numbers(heads * head_dim);
    let keys = numbers(kv_heads * len * head_dim);
    let lists: Vec<Vec<u32>> =
        (0..heads as u32).map(|head| (head..len as u32).step_by(64).collect()).collect();
    // As many views as lists: one for each kv head, or one for each query head.
    let views = |count: usize| -> Vec<HeadView<'_>> {
        let view = |index: usize| HeadView {
            keys: &keys[index * kv_heads / count * len * head_dim..],
            values: &keys[index * kv_heads / count * len * head_dim..],
            stride: head_dim,
            value_stride: head_dim,
            len: lists[index].len(),
            rows: Some(&lists[index]),
        };
        (0..count).map(view).collect()
    };
    let mut group = criterion.benchmark_group("one token on 512 of 32768 rows");
    for (name, count) in [("of each kv head", kv_heads), ("of each query head", heads)] {
        let kv = views(count);
        let call = Call {
            queries: &queries,
            query_count: 1,
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
        group.bench_function(name, |bencher| bencher.iter(|| attend(black_box(&call))));
    }
    let scores = numbers(heads * len);
    let rows: Vec<&[f32]> = scores.chunks_exact(len).collect();
    group.bench_function("choosing them for each query head", |bencher| {
        bencher.iter(|| top_rows(black_box(&rows), 512))
    });
    group.finish();
}

criterion_group!(benches, inference, sparse, chosen, training);
criterion_main!(benches);
