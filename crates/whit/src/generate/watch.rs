//! Where attention meets the policies of the cache: asks the kernel for what they want to see, shows it to
//! them, and waits with a decode step until it is known which of its tokens are accepted.

use whit_kernels::attention::{Attended, Wanted};

use super::cache::HeadRows;
use crate::methods::{KvPolicy, MethodError, Moment, Observation, Observed};
use crate::nn::attention::Site;

/// The policies of one sequence during one pass.
#[derive(Debug)]
pub struct Watch<'a> {
    /// Those who watch, in order.
    pub policies: &'a mut [Box<dyn KvPolicy>],
    /// What the pass does.
    pub moment: Moment,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the prompt that later passes will read.
    pub remaining: usize,
    /// Tokens of this pass.
    pub tokens: usize,
    /// Where a decode step waits for its acceptance.
    pub kept: &'a mut Vec<Kept>,
}

/// What was seen of a decode step in one layer.
#[derive(Clone, Debug)]
pub struct Kept {
    layer: usize,
    heads: usize,
    tokens: usize,
    /// `[heads, tokens or none, rows]`
    weights: Vec<f32>,
}

impl Watch<'_> {
    /// Whether somebody watches this pass.
    pub fn is_needed(&self) -> bool {
        self.policies.iter().any(|policy| self.moment != Moment::Step || policy.lasts())
    }

    /// What the kernel is to return besides the output.
    pub fn wanted(&self, site: &Site) -> Wanted {
        let asked = asked(self.policies, site.layer, self.moment);
        match self.moment {
            _ if site.window.is_some() => Wanted::default(),
            // Sums over the accepted tokens follow from the rows.
            Moment::Step if asked == Observation::default() => Wanted::default(),
            Moment::Step => Wanted { last_rows: self.tokens, ..Wanted::default() },
            Moment::Chunk | Moment::Prompt => Wanted {
                column_sums: asked.column_sums,
                last_rows: asked.last_rows.saturating_sub(self.remaining),
                ..Wanted::default()
            },
        }
    }

    /// Shows the policies a layer of the prompt, or keeps what was seen until [`Kept::accept`].
    ///
    /// # Errors
    /// If a policy fails.
    pub fn seen(
        &mut self,
        site: &Site,
        attended: Attended,
        cache: &mut [HeadRows],
    ) -> Result<(), MethodError> {
        let (layer, heads, rows) = (site.layer, site.heads, longest(cache));
        if site.window.is_some() {
            return Ok(());
        }
        if self.moment == Moment::Step {
            self.kept.push(Kept { layer, heads, tokens: self.tokens, weights: attended.last_rows });
            return Ok(());
        }
        let seen = Observed {
            layer,
            moment: self.moment,
            heads,
            prompt: self.prompt,
            rows,
            column_sums: &attended.column_sums,
            queries: attended.last_rows.len() / (heads * rows),
            last_rows: &attended.last_rows,
        };
        self.policies.iter_mut().try_for_each(|policy| policy.revise(&seen, cache))
    }
}

impl Kept {
    /// The layer it was seen in.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Shows the policies the tokens at the ascending indices `path`, whose rows alone are still in `cache`.
    ///
    /// # Errors
    /// If a policy fails.
    pub fn accept(
        self,
        policies: &mut [Box<dyn KvPolicy>],
        path: &[usize],
        prompt: usize,
        cache: &mut [HeadRows],
    ) -> Result<(), MethodError> {
        let rows = longest(cache);
        let last_rows = self.accepted(path, cache);
        let heads = self.heads;
        let queries = if last_rows.is_empty() { 0 } else { path.len() };
        let column_sums = sums(&last_rows, queries, rows);
        let seen = Observed {
            layer: self.layer,
            moment: Moment::Step,
            heads,
            prompt,
            rows,
            column_sums: &column_sums,
            queries,
            last_rows: &last_rows,
        };
        let mut lasting = policies.iter_mut().filter(|policy| policy.lasts());
        lasting.try_for_each(|policy| policy.revise(&seen, cache))
    }

    /// The weights of the accepted tokens on what is left: `[heads, path, rows]`.
    fn accepted(&self, path: &[usize], cache: &[HeadRows]) -> Vec<f32> {
        let before = self.weights.len() / (self.heads * self.tokens);
        let rows = longest(cache);
        let mut accepted = vec![0.0; if before == 0 { 0 } else { self.heads * path.len() * rows }];
        for (index, to) in accepted.chunks_exact_mut(rows.max(1)).enumerate() {
            let (head, token) = (index / path.len(), path[index % path.len()]);
            let from = &self.weights[(head * self.tokens + token) * before..][..before];
            let own = cache[head * cache.len() / self.heads].len();
            let older = own - path.len();
            to[..older].copy_from_slice(&from[..older]);
            to[older..own].iter_mut().zip(path).for_each(|(to, &node)| *to = from[older + node]);
        }
        accepted
    }
}

/// What all policies together ask for.
fn asked(policies: &[Box<dyn KvPolicy>], layer: usize, moment: Moment) -> Observation {
    let lasting = policies.iter().filter(|policy| moment != Moment::Step || policy.lasts());
    lasting.fold(Observation::default(), |all, policy| all.union(policy.observe(layer, moment)))
}

/// Sums over the queries: from `[heads, queries, rows]` to `[heads, rows]`.
fn sums(weights: &[f32], queries: usize, rows: usize) -> Vec<f32> {
    let mut sums = Vec::with_capacity(weights.len() / queries.max(1));
    for head in weights.chunks_exact((queries * rows).max(1)) {
        let mut sum = head[..rows].to_vec();
        for row in head[rows..].chunks_exact(rows) {
            sum.iter_mut().zip(row).for_each(|(sum, weight)| *sum += weight);
        }
        sums.append(&mut sum);
    }
    sums
}

fn longest(cache: &[HeadRows]) -> usize {
    cache.iter().map(HeadRows::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what it is shown in a step.
    #[derive(Debug, Default)]
    struct Notes {
        sums: Vec<f32>,
        rows: Vec<f32>,
    }

    impl KvPolicy for Notes {
        fn observe(&self, _: usize, _: Moment) -> Observation {
            Observation { column_sums: true, last_rows: 1 }
        }

        fn lasts(&self) -> bool {
            true
        }

        fn revise(&mut self, seen: &Observed<'_>, _: &mut [HeadRows]) -> Result<(), MethodError> {
            (self.sums, self.rows) = (seen.column_sums.to_vec(), seen.last_rows.to_vec());
            let value = seen.queries.to_string();
            Err(MethodError::Unfit { method: "notes", knob: "", value, reason: String::new() })
        }
    }

    fn head(rows: usize) -> HeadRows {
        let mut head = HeadRows::with_capacity(1, rows);
        (0..rows).for_each(|row| head.push(&[0.0], &[0.0], row as u32));
        head
    }

    /// Two heads of 3 and 2 rows saw a tree of 3 nodes; nodes 0 and 2 are accepted.
    #[test]
    fn only_accepted_nodes_are_shown_whatever_the_heads_lengths() {
        let weights = [
            [1.0, 2.0, 3.0, 4.0, 0.0, 0.0], // head 0, node 0: three older rows, then the nodes
            [9.0; 6],
            [5.0, 6.0, 7.0, 8.0, 0.0, 9.0],
            [1.0, 2.0, 3.0, 0.0, 0.0, 0.0], // head 1, node 0: two older rows
            [9.0; 6],
            [4.0, 5.0, 6.0, 0.0, 7.0, 0.0],
        ];
        let kept = Kept { layer: 0, heads: 2, tokens: 3, weights: weights.concat() };
        let mut cache = [head(5), head(4)];
        let rows = kept.accepted(&[0, 2], &cache);
        let expected = [
            [1.0, 2.0, 3.0, 4.0, 0.0],
            [5.0, 6.0, 7.0, 8.0, 9.0],
            [1.0, 2.0, 3.0, 0.0, 0.0],
            [4.0, 5.0, 6.0, 7.0, 0.0],
        ];
        assert_eq!(rows, expected.concat());
        let [a, b] = [[6.0, 8.0, 10.0, 12.0, 9.0], [5.0, 7.0, 9.0, 7.0, 0.0]];
        assert_eq!(sums(&rows, 2, 5), [a, b].concat());
        let mut policies: Vec<Box<dyn KvPolicy>> = vec![Box::<Notes>::default()];
        let failure = kept.accept(&mut policies, &[0, 2], 3, &mut cache).unwrap_err();
        assert!(failure.to_string().contains('2'), "{failure}");
    }
}
