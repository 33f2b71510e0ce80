//! Times what a policy of the cache adds to one layer of a prompt and saves in a decode step, at the sizes
//! of a 7B model with grouped heads, and counts the bytes. Arguments: METHOD[:KNOBS] TOKENS ROUNDS.

use std::error::Error;
use std::time::Instant;

use whit::generate::cache::HeadRows;
use whit::measure::pairs::{Spread, interleave, ratio};
use whit::methods::{KvPolicy, ModelFacts, Moment, Observed, Plan, Selection};
use whit_kernels::attention::{Attended, Call, HeadView, Mask, Wanted, attend};

const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const DIM: usize = 128;

/// One layer with its prompt.
struct Layer {
    plan: Plan,
    cache: Vec<HeadRows>,
    /// `[tokens, HEADS, DIM]`
    queries: Vec<f32>,
    tokens: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let method = arguments.first().map_or("ems", String::as_str);
    let (tokens, rounds) = (number(1, 8192)?, number(2, 3)?);
    let facts = ModelFacts {
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: DIM,
        layers: 32,
        context: tokens,
        ..ModelFacts::example()
    };
    let layer = Layer {
        plan: Plan::new(&Selection::parse(&[method])?, &facts)?,
        cache: noise(tokens),
        queries: values(1, tokens * HEADS * DIM).collect(),
        tokens,
    };
    let mut thin = layer.thinned()?;
    layer.prompt(rounds)?;
    layer.bytes(&thin);
    let fill = noise(32);
    for (head, more) in thin.iter_mut().zip(&fill) {
        (0..more.len()).for_each(|row| head.push(more.key(row), more.value(row), (tokens + row) as u32));
    }
    layer.decode(&thin, rounds)
}

impl Layer {
    fn prompt(&self, rounds: usize) -> Result<(), Box<dyn Error>> {
        let times = interleave(2, rounds, |variant| -> Result<f64, Box<dyn Error>> {
            if variant == 0 {
                return Ok(seconds(|| self.attend(&self.cache, self.tokens, Wanted::default())).1);
            }
            let start = Instant::now();
            self.thinned()?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        let [plain, whole] = [&times[0], &times[1]];
        println!("prompt of {} tokens, one layer: attention {:.3} s", self.tokens, Spread::of(plain).median);
        println!("  with scores, choice and merge: {:.3} s", Spread::of(whole).median);
        println!("  together {:.2} times the attention alone", ratio(whole, plain).median);
        Ok(())
    }

    fn bytes(&self, thin: &[HeadRows]) {
        let held: usize = thin.iter().map(HeadRows::bytes).sum();
        let full = self.tokens * KV_HEADS * (2 * DIM * 4 + 4);
        println!("cache of the layer: {held} of {full} bytes, {:.2} %", 100.0 * held as f64 / full as f64);
    }

    fn decode(&self, thin: &[HeadRows], rounds: usize) -> Result<(), Box<dyn Error>> {
        let watched = Wanted { last_rows: 1, ..Wanted::default() };
        let step = |cache: &[HeadRows], wanted| {
            let repeat = || (0..20).for_each(|_| drop(std::hint::black_box(self.attend(cache, 1, wanted))));
            Ok::<f64, Box<dyn Error>>(seconds(repeat).1 / 20.0)
        };
        let times = interleave(2, 5 * rounds, |variant| match variant {
            0 => step(&self.cache, Wanted::default()),
            _ => step(thin, watched),
        })?;
        let micros = |times: &[f64]| 1e6 * Spread::of(times).median;
        println!("a decode step, one layer: full {:.0} us", micros(&times[0]));
        println!("  thinned, {} rows, weights seen: {:.0} us", thin[0].len(), micros(&times[1]));
        println!("  {:.1} % of the full one", 100.0 * ratio(&times[1], &times[0]).median);
        Ok(())
    }

    /// The cache after the policy has seen the prompt.
    fn thinned(&self) -> Result<Vec<HeadRows>, Box<dyn Error>> {
        let mut policy: Box<dyn KvPolicy> = self.plan.begin().kv_policies.remove(0);
        let mut cache = self.cache.clone();
        let wants = policy.observe(0, Moment::Prompt);
        let wanted =
            Wanted { column_sums: wants.column_sums, last_rows: wants.last_rows, ..Wanted::default() };
        let attended = self.attend(&cache, self.tokens, wanted);
        let seen = Observed {
            layer: 0,
            moment: Moment::Prompt,
            heads: HEADS,
            prompt: self.tokens,
            rows: self.tokens,
            column_sums: &attended.column_sums,
            queries: attended.last_rows.len() / (HEADS * self.tokens),
            last_rows: &attended.last_rows,
        };
        policy.revise(&seen, &mut cache)?;
        Ok(cache)
    }

    fn attend(&self, cache: &[HeadRows], queries: usize, wanted: Wanted) -> Attended {
        let views: Vec<HeadView<'_>> = cache.iter().map(HeadRows::view).collect();
        attend(&Call {
            queries: &self.queries[..queries * HEADS * DIM],
            query_count: queries,
            heads: HEADS,
            head_dim: DIM,
            kv: &views,
            scale: (DIM as f32).sqrt().recip(),
            softcap: None,
            mask: Mask::Causal,
            window: None,
            key_bias: None,
            wanted,
        })
    }
}

/// Heads with so many rows of noise.
fn noise(rows: usize) -> Vec<HeadRows> {
    let head = |index: usize| {
        let mut head = HeadRows::with_capacity(DIM, rows);
        let all: Vec<f32> = values(index as u32 + 2, rows * 2 * DIM).collect();
        for (position, row) in all.chunks_exact(2 * DIM).enumerate() {
            head.push(&row[..DIM], &row[DIM..], position as u32);
        }
        head
    };
    (0..KV_HEADS).map(head).collect()
}

/// Numbers from -1 to 1.
fn values(seed: u32, count: usize) -> impl Iterator<Item = f32> {
    let step = |state: &mut u32, ()| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    std::iter::repeat_n((), count).scan(seed.wrapping_mul(2_654_435_761), step)
}

fn seconds<T>(run: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let result = std::hint::black_box(run());
    (result, start.elapsed().as_secs_f64())
}
