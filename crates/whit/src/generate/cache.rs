//! The keys and values of one sequence. Every head keeps rows of its own, each with the position of
//! the token it came from, so that methods may drop, merge or reorder them head by head; the position
//! of the next token is counted apart from how many rows are left.

use whit_kernels::attention::HeadView;

/// What the cache of a model looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers.
    pub layers: usize,
    /// Key and value heads a layer.
    pub kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
}

impl CacheShape {
    /// The bytes that one token adds.
    pub fn bytes_per_token(&self) -> usize {
        self.layers * self.kv_heads * (2 * self.head_dim * size_of::<f32>() + size_of::<u32>())
    }
}

/// The cache of one sequence. Cloning it forks the sequence.
#[derive(Clone, Debug)]
pub struct KvCache {
    shape: CacheShape,
    heads: Vec<HeadRows>, // [layers * kv_heads]
    position: usize,
}

/// The rows that one head of one layer keeps, oldest first.
#[derive(Clone, Debug, Default)]
pub struct HeadRows {
    dim: usize,
    keys: Vec<f32>,   // [rows, dim]
    values: Vec<f32>, // [rows, dim]; none where they are the keys
    tied: bool,
    positions: Vec<u32>,
}

impl KvCache {
    /// An empty cache with room for `capacity` tokens.
    pub fn new(shape: CacheShape, capacity: usize) -> Self {
        let head = || HeadRows::with_capacity(shape.head_dim, capacity);
        Self { shape, heads: (0..shape.layers * shape.kv_heads).map(|_| head()).collect(), position: 0 }
    }

    /// The shape that it was made with.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// The position of the next token: how many tokens the sequence has had, kept or not.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Counts `tokens` more tokens, whose rows every layer has pushed.
    pub fn advance(&mut self, tokens: usize) {
        self.position += tokens;
    }

    /// The heads of a layer.
    pub fn layer(&self, layer: usize) -> &[HeadRows] {
        &self.heads[layer * self.shape.kv_heads..(layer + 1) * self.shape.kv_heads]
    }

    /// The heads of a layer, to change.
    pub fn layer_mut(&mut self, layer: usize) -> &mut [HeadRows] {
        &mut self.heads[layer * self.shape.kv_heads..(layer + 1) * self.shape.kv_heads]
    }

    /// The bytes of the rows that are kept.
    pub fn bytes(&self) -> usize {
        self.heads.iter().map(HeadRows::bytes).sum()
    }

    /// Forgets all tokens from `position` on.
    pub fn truncate(&mut self, position: usize) {
        for head in &mut self.heads {
            let keep = head.positions.partition_point(|&row| (row as usize) < position);
            head.truncate(keep);
        }
        self.position = self.position.min(position);
    }

    /// Of the `count` rows pushed last, keeps those at the ascending indices `kept`: the accepted nodes
    /// of a token tree. The position then counts these and no others.
    pub fn keep_of_last(&mut self, count: usize, kept: &[usize]) {
        for head in &mut self.heads {
            let base = head.len() - count;
            for (to, &from) in kept.iter().enumerate() {
                head.copy_row(base + from, base + to);
            }
            head.truncate(base + kept.len());
        }
        self.position = self.position - count + kept.len();
    }
}

/// Leaves room for exactly `room` values more.
fn fit<T>(values: &mut Vec<T>, room: usize) {
    values.shrink_to(values.len() + room);
    values.reserve_exact(room);
}

impl HeadRows {
    /// No rows, with room for some.
    pub fn with_capacity(dim: usize, rows: usize) -> Self {
        Self {
            dim,
            keys: Vec::with_capacity(rows * dim),
            values: Vec::with_capacity(rows * dim),
            tied: false,
            positions: Vec::with_capacity(rows),
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// The position of each row's token.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The key of a row.
    pub fn key(&self, row: usize) -> &[f32] {
        &self.keys[row * self.dim..(row + 1) * self.dim]
    }

    /// The value of a row.
    pub fn value(&self, row: usize) -> &[f32] {
        let values = if self.tied { &self.keys } else { &self.values };
        &values[row * self.dim..(row + 1) * self.dim]
    }

    /// Whether its values are its keys, kept once.
    pub fn is_tied(&self) -> bool {
        self.tied
    }

    /// Keeps rows once, now and from now on, where every value is its key: what is pushed later must be so too.
    pub fn tie(&mut self) {
        if !self.tied && self.keys == self.values {
            (self.tied, self.values) = (true, Vec::new());
        }
    }

    /// Gives the values a place of their own again.
    fn untie(&mut self) {
        if self.tied {
            (self.tied, self.values) = (false, self.keys.clone());
        }
    }

    /// The key and the value of a row, to change; so they are two from then on.
    pub fn row_mut(&mut self, row: usize) -> (&mut [f32], &mut [f32]) {
        self.untie();
        let row = row * self.dim..(row + 1) * self.dim;
        (&mut self.keys[row.clone()], &mut self.values[row])
    }

    /// The width of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The rows as the attention kernel takes them.
    pub fn view(&self) -> HeadView<'_> {
        HeadView {
            keys: &self.keys,
            values: if self.tied { &self.keys } else { &self.values },
            stride: self.dim,
            value_stride: self.dim,
            len: self.len(),
            rows: None,
        }
    }

    /// Appends a row.
    pub fn push(&mut self, key: &[f32], value: &[f32], position: u32) {
        self.keys.extend_from_slice(key);
        if !self.tied {
            self.values.extend_from_slice(value);
        }
        self.positions.push(position);
    }

    /// Keeps the rows at the ascending indices `rows`, and gives the memory of the others back.
    pub fn gather(&mut self, rows: &[usize]) {
        self.gather_with_room(rows, 0);
    }

    /// [`HeadRows::gather`] that leaves memory for exactly `room` rows more.
    pub fn gather_with_room(&mut self, rows: &[usize], room: usize) {
        for (to, &from) in rows.iter().enumerate() {
            self.copy_row(from, to);
        }
        self.truncate(rows.len());
        fit(&mut self.keys, room * self.dim);
        if !self.tied {
            fit(&mut self.values, room * self.dim);
        }
        fit(&mut self.positions, room);
    }

    /// Drops the rows at the ascending indices `rows`.
    pub fn evict(&mut self, rows: &[usize]) {
        let mut drop = rows.iter().peekable();
        let keep: Vec<usize> =
            (0..self.len()).filter(|row| drop.next_if(|at| *at == row).is_none()).collect();
        self.gather(&keep);
    }

    /// Adds `weight` times row `from` to `1 - weight` times row `into`; both stay in place.
    pub fn merge(&mut self, from: usize, into: usize, weight: f32) {
        let values = (!self.tied).then_some(&mut self.values);
        for rows in [&mut self.keys].into_iter().chain(values) {
            for column in 0..self.dim {
                let added = rows[from * self.dim + column];
                let kept = &mut rows[into * self.dim + column];
                *kept = *kept * (1.0 - weight) + added * weight;
            }
        }
    }

    fn truncate(&mut self, rows: usize) {
        self.keys.truncate(rows * self.dim);
        self.values.truncate(rows * self.dim);
        self.positions.truncate(rows);
    }

    fn copy_row(&mut self, from: usize, to: usize) {
        let source = from * self.dim..(from + 1) * self.dim;
        self.keys.copy_within(source.clone(), to * self.dim);
        if !self.tied {
            self.values.copy_within(source, to * self.dim);
        }
        self.positions[to] = self.positions[from];
    }

    /// The bytes that it holds, room for more rows included.
    pub fn bytes(&self) -> usize {
        (self.keys.capacity() + self.values.capacity()) * size_of::<f32>()
            + self.positions.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(tokens: usize) -> KvCache {
        let mut cache = KvCache::new(CacheShape { layers: 2, kv_heads: 2, head_dim: 3 }, tokens);
        for token in 0..tokens {
            for head in &mut cache.heads {
                head.push(&[token as f32; 3], &[-(token as f32); 3], token as u32);
            }
        }
        cache.advance(tokens);
        cache
    }

    fn kept(cache: &KvCache) -> Vec<f32> {
        let head = &cache.layer(1)[1];
        (0..head.len()).map(|row| head.key(row)[2]).collect()
    }

    #[test]
    fn accepted_nodes_of_a_tree_move_together() {
        let mut cache = filled(8);
        cache.keep_of_last(5, &[0, 2, 4]);
        assert_eq!((kept(&cache), cache.position()), (vec![0.0, 1.0, 2.0, 3.0, 5.0, 7.0], 6));
    }

    #[test]
    fn heads_differ_in_length_and_eviction_frees_memory() {
        let mut cache = filled(64);
        let before = cache.bytes();
        cache.layer_mut(1)[1].evict(&(0..60).collect::<Vec<_>>());
        assert_eq!(kept(&cache), vec![60.0, 61.0, 62.0, 63.0]);
        assert_eq!((cache.layer(1)[0].len(), cache.position()), (64, 64));
        assert_eq!(before - cache.bytes(), 60 * (2 * 3 * 4 + 4));
    }

    #[test]
    fn truncation_goes_by_position_not_by_length() {
        let mut cache = filled(8);
        cache.layer_mut(1)[1].gather(&[1, 3, 6, 7]);
        cache.truncate(7);
        assert_eq!((kept(&cache), cache.layer(0)[0].len(), cache.position()), (vec![1.0, 3.0, 6.0], 7, 7));
    }

    #[test]
    fn merging_weighs_both_rows() {
        let mut cache = filled(3);
        let head = &mut cache.layer_mut(1)[1];
        head.merge(2, 0, 0.25);
        assert_eq!((head.key(0)[0], head.value(0)[0]), (0.5, -0.5));
    }

    #[test]
    fn a_tied_head_holds_its_rows_once_until_one_of_two_is_changed() {
        let mut head = HeadRows::with_capacity(2, 4);
        (0..3).for_each(|at| head.push(&[at as f32, 1.0], &[at as f32, 1.0], at));
        let twice = head.bytes();
        head.tie();
        assert_eq!((head.is_tied(), twice - head.bytes()), (true, 4 * 2 * 4));
        head.push(&[3.0, 1.0], &[3.0, 1.0], 3);
        head.merge(3, 0, 0.5);
        head.evict(&[1]);
        let values = |head: &HeadRows| (0..head.len()).map(|row| head.value(row)[0]).collect::<Vec<_>>();
        assert_eq!((values(&head), head.view().values), (vec![1.5, 2.0, 3.0], head.view().keys));
        head.row_mut(1).1[0] = 7.0;
        assert_eq!((values(&head), head.key(1)[0]), (vec![1.5, 7.0, 3.0], 2.0));
        head.tie();
        assert!(!head.is_tied(), "its values are no longer its keys");
    }

    #[test]
    fn a_fork_is_independent() {
        let cache = filled(4);
        let mut fork = cache.clone();
        fork.truncate(1);
        assert_eq!((kept(&cache).len(), kept(&fork).len()), (4, 1));
    }
}
