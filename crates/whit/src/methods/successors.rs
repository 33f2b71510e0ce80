//! Drafting from a table of likely successors: the table itself, and the shape of the tree that is
//! filled from it.

use whit_kernels::parallel;

use super::{MethodError, TokenTree};

/// For every token the tokens that the model last found likeliest to follow it, best first.
#[derive(Clone, Debug)]
pub struct Successors {
    rows: Vec<u32>, // [vocabulary, count]
    known: Vec<bool>,
    count: usize,
}

/// A saved table that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// It was made for another vocabulary or number of successors.
    #[error("the table holds {found} values, but {vocabulary} tokens with {count} successors need {wanted}")]
    Size {
        /// Values in the table.
        found: usize,
        /// Values that the model needs.
        wanted: usize,
        /// The model's vocabulary.
        vocabulary: usize,
        /// Successors of each token.
        count: usize,
    },
    /// A successor is no token of the vocabulary.
    #[error("the table names token {token}, but the vocabulary has {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// The model's vocabulary.
        vocabulary: usize,
    },
}

/// What stands in the rows of a saved table of tokens that were never seen.
const UNKNOWN: u32 = u32::MAX;

impl Successors {
    /// An empty table.
    pub fn new(vocabulary: usize, count: usize) -> Self {
        Self { rows: vec![0; vocabulary * count], known: vec![false; vocabulary], count }
    }

    /// The number of tokens.
    pub fn vocabulary(&self) -> usize {
        self.known.len()
    }

    /// The bytes of the rows.
    pub fn bytes(&self) -> usize {
        self.rows.len() * size_of::<u32>()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.known.fill(false);
    }

    /// The successors of a token, best first; none of a token that was not seen.
    pub fn of(&self, token: u32) -> &[u32] {
        let token = token as usize;
        match self.known.get(token) {
            Some(true) => &self.rows[token * self.count..(token + 1) * self.count],
            _ => &[],
        }
    }

    /// Renews the rows of `tokens` from their logits `[tokens, vocabulary]`, in order: of a token that
    /// occurs twice the last one counts.
    pub fn learn(&mut self, tokens: &[u32], logits: &[f32]) {
        let vocabulary = self.known.len();
        let mut best = vec![0; tokens.len() * self.count];
        parallel::pieces(&mut best, self.count, |index, row| {
            top(&logits[index * vocabulary..(index + 1) * vocabulary], row);
        });
        for (&token, row) in tokens.iter().zip(best.chunks_exact(self.count)) {
            let token = token as usize;
            self.rows[token * self.count..(token + 1) * self.count].copy_from_slice(row);
            self.known[token] = true;
        }
    }

    /// The table as values to save: rows in order, those of unseen tokens filled with `u32::MAX`.
    pub fn export(&self) -> Vec<u32> {
        let row = |token: usize| match self.known[token] {
            true => self.of(token as u32).to_vec(),
            false => vec![UNKNOWN; self.count],
        };
        (0..self.known.len()).flat_map(row).collect()
    }

    /// Takes over a saved table.
    ///
    /// # Errors
    /// If it was made for another vocabulary or another number of successors.
    pub fn import(&mut self, values: &[u32]) -> Result<(), TableError> {
        let vocabulary = self.known.len();
        if values.len() != self.rows.len() {
            let (found, wanted) = (values.len(), self.rows.len());
            return Err(TableError::Size { found, wanted, vocabulary, count: self.count });
        }
        let foreign = values.iter().find(|&&token| token != UNKNOWN && token as usize >= vocabulary);
        if let Some(&token) = foreign {
            return Err(TableError::Token { token, vocabulary });
        }
        for (known, row) in self.known.iter_mut().zip(values.chunks_exact(self.count)) {
            *known = !row.contains(&UNKNOWN);
        }
        self.rows = values.iter().map(|&token| if token == UNKNOWN { 0 } else { token }).collect();
        Ok(())
    }
}

/// Writes the indices of the largest values into `best`, largest first, the lower index first of equals.
pub fn top(values: &[f32], best: &mut [u32]) {
    const BLOCK: usize = 64;
    let mut kept: Vec<(f32, u32)> = Vec::with_capacity(best.len() + 1);
    let mut least = f32::NEG_INFINITY;
    for (block, values) in values.chunks(BLOCK).enumerate() {
        // Most blocks hold nothing new; a maximum is all that is computed of them.
        let highest =
            values.iter().fold(f32::NEG_INFINITY, |most, &value| if value > most { value } else { most });
        if kept.len() == best.len() && highest <= least {
            continue;
        }
        for (offset, &value) in values.iter().enumerate() {
            if kept.len() < best.len() || value > least {
                let place = kept.partition_point(|&(other, _)| other >= value);
                kept.insert(place, (value, (block * BLOCK + offset) as u32));
                kept.truncate(best.len());
                least = kept.last().map_or(least, |&(value, _)| value);
            }
        }
    }
    for (slot, (_, index)) in best.iter_mut().zip(kept) {
        *slot = index;
    }
}

/// The number of children of every node of the paper's tree ("2.2.2" in the authors' code), breadth
/// first: 80 nodes below the root, in 6 levels.
const PAPER: [&[u8]; 6] = [
    &[8],
    &[8, 4, 3, 2, 1, 1, 1, 1],
    &[8, 3, 2, 1, 1, 1, 1, 1, 2, 1, 0, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0],
    &[5, 2, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0],
    &[3, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0],
    &[2, 0, 0, 1, 0, 0, 0, 0],
];

/// How likely the model's choice is to be the successor of each rank, by which nodes are ranked when
/// a tree must be smaller than its template. Ours, and a guess: only their order matters.
const SHARES: [f64; 8] = [0.45, 0.15, 0.08, 0.055, 0.04, 0.032, 0.026, 0.022];

/// The shape of a tree: every node is a rank among its parent's successors. Smaller trees are made of
/// its likeliest nodes, so that each of them contains the next smaller one.
#[derive(Clone, Debug)]
pub struct Template {
    nodes: Vec<Node>, // breadth first, without the root
    depth: usize,
}

#[derive(Clone, Debug)]
struct Node {
    /// The parent's index; none for a child of the root.
    parent: Option<usize>,
    rank: usize,
    depth: usize,
    /// The size of the smallest tree that has the node.
    from: usize,
}

impl Template {
    /// The paper's tree, without ranks that a table of `successors` cannot fill.
    pub fn paper(successors: usize) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        let mut level: Vec<Option<usize>> = vec![None];
        for (index, counts) in PAPER.iter().enumerate() {
            let mut next = Vec::new();
            for (&parent, &count) in level.iter().zip(counts.iter()) {
                for rank in 0..usize::from(count) {
                    nodes.push(Node { parent, rank, depth: index + 1, from: 0 });
                    next.push(Some(nodes.len() - 1));
                }
            }
            level = next;
        }
        Self::ranked(nodes).limited(successors)
    }

    /// A tree given by the children of every node, breadth first from the root.
    ///
    /// # Errors
    /// If a node has more children than a table of `successors` can give, or a count is missing.
    pub fn new(children: &[usize], successors: usize) -> Result<Self, TemplateError> {
        let mut nodes: Vec<Node> = Vec::new();
        for (node, &count) in children.iter().enumerate() {
            if node > nodes.len() {
                return Err(TemplateError::Orphan { node });
            }
            if count > successors {
                return Err(TemplateError::Rank { node, children: count, successors });
            }
            let parent = node.checked_sub(1);
            let depth = parent.map_or(1, |parent| nodes[parent].depth + 1);
            nodes.extend((0..count).map(|rank| Node { parent, rank, depth, from: 0 }));
        }
        if children.len() != nodes.len() + 1 {
            return Err(TemplateError::Counts { found: children.len(), nodes: nodes.len() + 1 });
        }
        Ok(Self::ranked(nodes))
    }

    /// The number of nodes besides the root.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is only the root.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The number of levels below the root.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The level of every node, from 1 on, and its rank among its parent's successors.
    pub fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        self.nodes.iter().map(|node| (node.depth, node.rank))
    }

    /// The children of a node, or of the root, in the tree of `size` nodes, each with its rank.
    pub fn children(&self, parent: Option<usize>, size: usize) -> impl Iterator<Item = (usize, usize)> {
        let nodes = self.nodes.iter().enumerate();
        let own = nodes.filter(move |(_, node)| node.parent == parent && node.from <= size);
        own.map(|(index, node)| (index, node.rank))
    }

    /// The number of levels of the tree of `size` nodes.
    pub fn depth_of(&self, size: usize) -> usize {
        let nodes = self.nodes.iter().filter(|node| node.from <= size);
        nodes.map(|node| node.depth).max().unwrap_or(0)
    }

    /// The token of every node, following the table from `root`; none where it knows no successor.
    pub fn fill(&self, root: u32, table: &Successors) -> Vec<Option<u32>> {
        let mut tokens: Vec<Option<u32>> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let parent = node.parent.map_or(Some(root), |parent| tokens[parent]);
            tokens.push(parent.and_then(|parent| table.of(parent).get(node.rank).copied()));
        }
        tokens
    }

    /// The tree of at most `size` nodes and `depth` levels that holds these tokens.
    ///
    /// # Errors
    /// None that a template gives rise to; the type is the drafts' own.
    pub fn tree(
        &self,
        root: u32,
        tokens: &[Option<u32>],
        size: usize,
        depth: usize,
    ) -> Result<TokenTree, MethodError> {
        let mut places: Vec<Option<usize>> = Vec::with_capacity(self.nodes.len());
        let (mut ids, mut parents) = (vec![root], vec![None]);
        for (node, token) in self.nodes.iter().zip(tokens) {
            let parent = node.parent.map_or(Some(0), |parent| places[parent]);
            let place = match (parent, token) {
                (Some(parent), Some(token)) if node.from <= size && node.depth <= depth => {
                    ids.push(*token);
                    parents.push(Some(parent));
                    Some(ids.len() - 1)
                }
                _ => None,
            };
            places.push(place);
        }
        Ok(TokenTree::new(ids, parents)?)
    }

    /// How many nodes of the tree of `size` nodes agree with `text`, the tokens that followed the root.
    pub fn matched(&self, tokens: &[Option<u32>], size: usize, text: &[u32]) -> usize {
        let mut last = None;
        let mut matched = 0;
        for (index, node) in self.nodes.iter().enumerate() {
            let goes_on = node.parent == last && node.depth == matched + 1 && node.from <= size;
            if goes_on && tokens[index].is_some() && tokens[index] == text.get(matched).copied() {
                last = Some(index);
                matched += 1;
            }
        }
        matched
    }

    /// Works out from which size on each node is part of the tree.
    fn ranked(mut nodes: Vec<Node>) -> Self {
        let mut weights: Vec<f64> = Vec::with_capacity(nodes.len());
        for node in &nodes {
            let share = SHARES[node.rank.min(SHARES.len() - 1)];
            weights.push(node.parent.map_or(1.0, |parent| weights[parent]) * share);
        }
        let mut order: Vec<usize> = (0..nodes.len()).collect();
        order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
        for (place, index) in order.into_iter().enumerate() {
            nodes[index].from = place + 1;
        }
        let depth = nodes.iter().map(|node| node.depth).max().unwrap_or(0);
        Self { nodes, depth }
    }

    /// Drops the nodes whose rank, or whose ancestor's, the table cannot fill.
    fn limited(self, successors: usize) -> Self {
        let mut places: Vec<Option<usize>> = Vec::new();
        let mut kept: Vec<Node> = Vec::new();
        for node in self.nodes {
            let parent = node.parent.map(|parent| places[parent]);
            let place = (node.rank < successors && parent != Some(None)).then_some(kept.len());
            places.push(place);
            if place.is_some() {
                kept.push(Node { parent: parent.flatten(), ..node });
            }
        }
        Self::ranked(kept)
    }
}

/// Why child counts are no tree that a table can fill.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A node has children, but no parent gave it.
    #[error("node {node} of the tree has a number of children but no parent")]
    Orphan {
        /// The node.
        node: usize,
    },
    /// A node has more children than the table has successors.
    #[error("node {node} of the tree has {children} children, but the table keeps {successors} successors")]
    Rank {
        /// The node.
        node: usize,
        /// Its children.
        children: usize,
        /// What the table keeps.
        successors: usize,
    },
    /// There are not as many counts as nodes.
    #[error("the tree has {nodes} nodes, but {found} numbers of children are given")]
    Counts {
        /// The counts.
        found: usize,
        /// The nodes.
        nodes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Token `t` is followed by `t + 1`, `t + 2`, ... best first.
    fn counting(vocabulary: usize, known: u32) -> Successors {
        let mut table = Successors::new(vocabulary, 8);
        for token in 0..known {
            let logits: Vec<f32> = (0..vocabulary)
                .map(|other| match other as u32 {
                    other if other > token => -((other - token) as f32),
                    _ => -1e9,
                })
                .collect();
            table.learn(&[token], &logits);
        }
        table
    }

    #[test]
    fn the_papers_tree_has_its_levels_and_leaves() {
        let template = Template::paper(8);
        let level = |depth| template.nodes.iter().filter(|node| node.depth == depth).count();
        assert_eq!([1, 2, 3, 4, 5, 6].map(level), [8, 21, 25, 15, 8, 3]);
        let tree = template.tree(0, &template.fill(0, &counting(64, 64)), 80, 6).unwrap();
        assert_eq!((tree.len(), tree.paths().len()), (81, 40));
    }

    #[test]
    fn a_tree_is_filled_with_successors_of_successors() {
        let template = Template::new(&[2, 1, 0, 0], 8).unwrap();
        let tokens = template.fill(5, &counting(32, 32));
        let tree = template.tree(5, &tokens, 3, 6).unwrap();
        assert_eq!(
            (tree.tokens(), tree.parents()),
            (&[5, 6, 7, 7][..], &[None, Some(0), Some(0), Some(1)][..])
        );
    }

    #[test]
    fn smaller_trees_are_nested() {
        let template = Template::paper(8);
        let tokens = template.fill(0, &counting(64, 64));
        let paths = |size| {
            let tree = template.tree(0, &tokens, size, 6).unwrap();
            let path = |node| tree.path(node).iter().map(|&node| tree.tokens()[node]).collect::<Vec<_>>();
            (0..tree.len()).map(path).collect::<std::collections::BTreeSet<_>>()
        };
        for size in 0..80 {
            assert_eq!(paths(size).len(), size + 1);
            assert!(paths(size).is_subset(&paths(size + 1)), "{size}");
        }
    }

    #[test]
    fn unseen_tokens_are_not_expanded_and_depth_is_limited() {
        let template = Template::paper(8);
        let table = counting(64, 1);
        assert_eq!(template.tree(0, &template.fill(0, &table), 80, 6).unwrap().len(), 9);
        assert_eq!(template.tree(9, &template.fill(9, &table), 80, 6).unwrap().len(), 1);
        let full = template.fill(0, &counting(64, 64));
        assert_eq!(template.tree(0, &full, 80, 2).unwrap().len(), 1 + 8 + 21);
    }

    #[test]
    fn matches_follow_the_text_as_far_as_the_size_reaches() {
        let template = Template::paper(8);
        let tokens = template.fill(0, &counting(64, 64));
        assert_eq!(template.matched(&tokens, 80, &[1, 2, 3, 4, 5, 6]), 6);
        assert_eq!(template.matched(&tokens, 1, &[1, 2, 3, 4, 5, 6]), 1);
        assert_eq!(template.matched(&tokens, 0, &[1, 2, 3, 4, 5, 6]), 0);
        assert_eq!(template.matched(&tokens, 80, &[3, 4, 60, 1, 1, 1]), 2);
    }

    #[test]
    fn of_a_token_that_occurs_twice_the_last_counts() {
        let mut table = Successors::new(4, 2);
        table.learn(&[1, 1], &[9.0, 8.0, 0.0, 0.0, 0.0, 0.0, 8.0, 9.0]);
        assert_eq!((table.of(1), table.of(0)), (&[3, 2][..], &[][..]));
        assert_eq!(table.bytes(), 4 * 2 * 4);
    }

    #[test]
    fn the_best_are_found_in_order_with_ties_and_nan() {
        let mut values: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32).collect();
        values[3] = f32::NAN;
        let mut order: Vec<u32> = (0..1000).filter(|&i| i != 3).collect();
        order.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]));
        let mut best = [0; 8];
        top(&values[4..], &mut best);
        assert!(
            best.iter().zip(order.iter().filter(|&&i| i > 3)).all(|(found, wanted)| found + 4 == *wanted)
        );
        let mut best = [0; 3];
        top(&[1.0, 5.0, 5.0, 2.0], &mut best);
        assert_eq!(best, [1, 2, 3]);
    }

    #[test]
    fn a_saved_table_comes_back_and_a_foreign_one_is_refused() {
        let table = counting(32, 5);
        let mut other = Successors::new(32, 8);
        assert_eq!(other.import(&table.export()), Ok(()));
        assert!((0..32).all(|token| other.of(token) == table.of(token)));
        let mut small = Successors::new(16, 8);
        assert!(matches!(small.import(&table.export()), Err(TableError::Size { vocabulary: 16, .. })));
        assert_eq!(small.import(&[99; 128]), Err(TableError::Token { token: 99, vocabulary: 16 }));
    }

    #[test]
    fn shapes_that_are_no_tree_are_refused() {
        let error =
            |children: &[usize], successors| Template::new(children, successors).map(|_| ()).unwrap_err();
        assert_eq!(error(&[9], 8), TemplateError::Rank { node: 0, children: 9, successors: 8 });
        assert_eq!(error(&[1, 0, 0], 8), TemplateError::Orphan { node: 2 });
        assert_eq!(error(&[2, 0], 8), TemplateError::Counts { found: 2, nodes: 3 });
    }
}
