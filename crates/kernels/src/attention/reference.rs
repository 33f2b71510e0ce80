//! The plain version: one query at a time, all keys at once, in `f64`. What the fast paths are tested against.

use super::{Attended, Call, HeadView, Mask};

/// Computes what [`super::attend`] does, slowly.
pub fn attend(call: &Call<'_>) -> Attended {
    let (keys, last) = (call.keys(), call.last_rows());
    let sized = |wanted, size| vec![0.0; if wanted { size } else { 0 }];
    let mut result = Attended {
        output: vec![0.0; call.queries.len()],
        log_sum_exp: sized(call.wanted.log_sum_exp, call.heads * call.query_count),
        column_sums: sized(call.wanted.column_sums, call.heads * keys),
        last_rows: vec![0.0; call.heads * last * keys],
        scores: vec![f32::NEG_INFINITY; call.heads * call.scored() * keys],
    };
    for head in 0..call.heads {
        let mut sums = vec![0.0; keys];
        for query in 0..call.query_count {
            let scores = scores(call, head, query);
            let (probabilities, log_sum_exp) = softmax(&scores);
            if query < call.scored() {
                copy(&scores, &mut result.scores[(head * call.scored() + query) * keys..]);
            }
            sums.iter_mut().zip(&probabilities).for_each(|(sum, p)| *sum += p);
            let place = (query * call.heads + head) * call.head_dim;
            weigh(call, head, &probabilities, &mut result.output[place..][..call.head_dim]);
            if call.wanted.log_sum_exp {
                result.log_sum_exp[head * call.query_count + query] = log_sum_exp as f32;
            }
            if query + last >= call.query_count {
                let place = (head * last + query + last - call.query_count) * keys;
                copy(&probabilities, &mut result.last_rows[place..]);
            }
        }
        if call.wanted.column_sums {
            copy(&sums, &mut result.column_sums[head * keys..]);
        }
    }
    result
}

/// The scores of one query; `-inf` where it does not see the key.
fn scores(call: &Call<'_>, head: usize, query: usize) -> Vec<f64> {
    let kv_head = head / call.group();
    let view = &call.kv[kv_head];
    let vector = &call.queries[(query * call.heads + head) * call.head_dim..][..call.head_dim];
    let score = |key: usize| {
        if !sees(call, view, query, key) {
            return f64::NEG_INFINITY;
        }
        let pairs = vector.iter().zip(&view.keys[view.row(key) * view.stride..]);
        let plain = f64::from(call.scale) * pairs.map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
        let capped = call.softcap.map_or(plain, |cap| f64::from(cap) * (plain / f64::from(cap)).tanh());
        capped + call.bias_of(kv_head).map_or(0.0, |bias| f64::from(bias[key]))
    };
    (0..view.len).map(score).collect()
}

/// The probabilities, and the logarithm of the sum of exponentials.
fn softmax(scores: &[f64]) -> (Vec<f64>, f64) {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shift = if top == f64::NEG_INFINITY { 0.0 } else { top };
    let sum: f64 = scores.iter().map(|score| (score - shift).exp()).sum();
    let scale = if sum == 0.0 { 0.0 } else { 1.0 / sum };
    (scores.iter().map(|score| (score - shift).exp() * scale).collect(), shift + sum.ln())
}

/// Whether `query` may look at `key`, from the words of [`Mask`].
fn sees(call: &Call<'_>, view: &HeadView<'_>, query: usize, key: usize) -> bool {
    // Position of the first query; negative where there are more queries than keys.
    let first = view.len as isize - call.query_count as isize;
    let key_at = key as isize;
    let (allowed, query_at, key_at) = match call.mask {
        Mask::Full => (true, first + query as isize, key_at),
        Mask::Causal => (key_at <= first + query as isize, first + query as isize, key_at),
        Mask::Allowed(bits) => (key < bits.columns() && bits.get(query, key), first + query as isize, key_at),
        Mask::Tree(bits) => {
            let depth = |node: usize| first + bits.count(node) as isize - 1;
            match usize::try_from(key_at - first) {
                Ok(node) => (bits.get(query, node), depth(query), depth(node)),
                Err(_) => (true, depth(query), key_at),
            }
        }
    };
    allowed && call.window.is_none_or(|window| query_at - key_at < window as isize)
}

/// The sum of the values, each times its probability; values of probability zero do not count.
fn weigh(call: &Call<'_>, head: usize, probabilities: &[f64], output: &mut [f32]) {
    let view = &call.kv[head / call.group()];
    for (channel, output) in output.iter_mut().enumerate() {
        let value = |key: usize| f64::from(view.values[view.row(key) * view.value_stride + channel]);
        let terms = probabilities.iter().enumerate().filter(|&(_, &p)| p != 0.0);
        *output = terms.map(|(key, p)| p * value(key)).sum::<f64>() as f32;
    }
}

fn copy(from: &[f64], to: &mut [f32]) {
    from.iter().zip(to).for_each(|(&from, to)| *to = from as f32);
}
