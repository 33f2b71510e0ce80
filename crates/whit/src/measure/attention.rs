//! Measuring the attention of decode steps alone, at the size of a real model and on random numbers: its
//! time does not depend on what the numbers are, and no weights are needed.

use std::convert::Infallible;
use std::time::Instant;

use serde::Serialize;
use whit_kernels::attention::{Call, HeadView, Mask, Wanted, attend};
use whit_kernels::parallel;

use super::pairs::{self, Spread};
use super::text::Variant;
use crate::generate::reading;
use crate::methods::{AttnPolicy, Looking, ModelFacts};

/// What to measure.
#[derive(Clone, Debug)]
pub struct AttentionTask {
    /// The model's size: layers and heads.
    pub model: ModelFacts,
    /// Tokens in the cache.
    pub context: usize,
    /// Rounds to time, after one that is not counted.
    pub rounds: usize,
}

/// What was measured of one way to read the cache.
#[derive(Clone, Debug, Serialize)]
pub struct AttentionRecord {
    /// Its methods.
    pub methods: String,
    /// Tokens in the cache.
    pub context: usize,
    /// Seconds of the attention of all layers for one token.
    pub seconds: Spread,
    /// Those seconds as a share of reading everything, in the same round.
    pub share: Spread,
    /// What the method says it did.
    pub report: Option<String>,
}

/// The caches of this many layers are kept; the others read the same memory, each from another row on, so
/// that nothing they read is still in a processor's cache.
const KEPT: usize = 8;

/// How many rows apart layers begin in the same memory.
const SHIFT: usize = 1021;

impl AttentionTask {
    /// Measures reading everything, which comes first, and every variant, interleaved. `progress` is called
    /// after each step.
    pub fn measure(&self, variants: &[Variant], progress: &dyn Fn()) -> Vec<AttentionRecord> {
        let memory = Memory::new(self);
        let mut policies: Vec<Option<Box<dyn AttnPolicy>>> =
            variants.iter().map(|variant| variant.plan.begin().attention).collect();
        policies.insert(0, None);
        let mut step = |index: usize| {
            let start = Instant::now();
            self.step(&memory, policies[index].as_deref_mut());
            progress();
            Ok::<_, Infallible>(start.elapsed().as_secs_f64())
        };
        let times = pairs::interleave(variants.len() + 1, 1, &mut step)
            .and_then(|_| pairs::interleave(variants.len() + 1, self.rounds.max(1), &mut step));
        let times = times.unwrap_or_else(|never| match never {});
        let names = std::iter::once("everything").chain(variants.iter().map(|variant| variant.name.as_str()));
        let rows = names.zip(&times).zip(&policies);
        rows.map(|((name, seconds), policy)| AttentionRecord {
            methods: name.to_owned(),
            context: self.context,
            seconds: Spread::of(seconds),
            share: pairs::ratio(seconds, &times[0]),
            report: policy.as_ref().map(|policy| policy.report()),
        })
        .collect()
    }

    /// The attention of one token in all layers.
    fn step(&self, memory: &Memory, mut policy: Option<&mut (dyn AttnPolicy + 'static)>) {
        for layer in 0..self.model.layers {
            let kv = memory.layer(self, layer);
            let call = Call {
                queries: memory.queries(self, layer),
                query_count: 1,
                heads: self.model.heads,
                head_dim: self.model.head_dim,
                kv: &kv,
                scale: (self.model.head_dim as f32).sqrt().recip(),
                softcap: None,
                mask: Mask::Causal,
                window: None,
                key_bias: None,
                wanted: Wanted::default(),
            };
            let looking = Looking { layer, rows: self.context, new: 1 };
            std::hint::black_box(match &mut policy {
                Some(policy) => reading::read(*policy, &looking, call, None),
                None => attend(&call),
            });
        }
    }
}

/// Random keys and values `[layers, heads, rows, head_dim]`, and queries.
struct Memory {
    rows: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Memory {
    fn new(task: &AttentionTask) -> Self {
        let model = &task.model;
        let rows = task.context + model.layers.div_ceil(KEPT) * SHIFT;
        let size = model.layers.min(KEPT) * model.kv_heads * rows * model.head_dim;
        Self { rows, keys: random(size, 1), values: random(size, 2) }
    }

    fn layer(&self, task: &AttentionTask, layer: usize) -> Vec<HeadView<'_>> {
        let (heads, dim) = (task.model.kv_heads, task.model.head_dim);
        let view = |head: usize| {
            let start = ((layer % KEPT * heads + head) * self.rows + layer / KEPT * SHIFT) * dim;
            HeadView {
                keys: &self.keys[start..][..task.context * dim],
                values: &self.values[start..][..task.context * dim],
                stride: dim,
                value_stride: dim,
                len: task.context,
                rows: None,
            }
        };
        (0..heads).map(view).collect()
    }

    /// Any numbers will do; layers have different ones.
    fn queries(&self, task: &AttentionTask, layer: usize) -> &[f32] {
        let width = task.model.heads * task.model.head_dim;
        &self.values[layer % (self.values.len() / width) * width..][..width]
    }
}

/// Numbers between -1 and 1 that look random: a hash of their places (SplitMix64's finaliser).
fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut numbers = vec![0.0; count];
    parallel::pieces(&mut numbers, 1 << 16, |piece, numbers| {
        for (index, number) in numbers.iter_mut().enumerate() {
            let mut hash =
                ((seed << 40) + (piece << 16) as u64 + index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            *number = (hash >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        }
    });
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{Plan, Selection};

    #[test]
    fn everything_comes_first_and_a_sparse_method_says_what_it_read() {
        let task = AttentionTask { model: ModelFacts::example(), context: 300, rounds: 2 };
        let plan =
            Plan::new(&Selection::parse(&["tidaldecode:budget=30,start=1"]).unwrap(), &task.model).unwrap();
        let variants = [Variant { name: "tidaldecode".into(), plan }];
        let records = task.measure(&variants, &|| {});
        assert_eq!([&records[0].methods[..], &records[1].methods], ["everything", "tidaldecode"]);
        assert_eq!(records[0].share.median, 1.0);
        // Three of four layers are read whole, one at a tenth.
        assert!(records[1].report.as_ref().unwrap().starts_with("77.5 %"), "{:?}", records[1].report);
    }
}
