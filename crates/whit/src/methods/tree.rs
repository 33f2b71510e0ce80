//! A tree of drafted tokens: what a draft proposes, one forward pass verifies and one walk accepts.

use std::iter::successors;

/// Tokens with their parents in breadth-first order; node 0 is the root, the last token that is
/// already known to be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenTree {
    tokens: Vec<u32>,
    /// The parent of every node but the root, whose entry is `None`.
    parents: Vec<Option<usize>>,
    /// The distance from the root.
    depths: Vec<usize>,
}

/// Why tokens and parents are no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// There is not even a root.
    #[error("it has no nodes")]
    Empty,
    /// There are not as many parents as tokens.
    #[error("{tokens} tokens, but {parents} parents")]
    Lengths {
        /// The number of tokens.
        tokens: usize,
        /// The number of parents.
        parents: usize,
    },
    /// Node 0 has a parent.
    #[error("node 0 is the root and cannot have a parent")]
    RootedElsewhere,
    /// A node without a parent that is not the root.
    #[error("node {node} has no parent")]
    MissingParent {
        /// The node.
        node: usize,
    },
    /// A parent that does not come before its child.
    #[error("node {node} names {parent} as its parent, which does not come before it")]
    LateParent {
        /// The node.
        node: usize,
        /// The parent as given.
        parent: usize,
    },
    /// A node that comes after one of a deeper level.
    #[error("node {node} of level {depth} comes after level {before}: levels must be sorted")]
    UnsortedLevels {
        /// The node.
        node: usize,
        /// Its level.
        depth: usize,
        /// The level of the node before it.
        before: usize,
    },
}

/// Which part of a tree was right, and how the text goes on after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The accepted nodes from the root on; never empty.
    pub path: Vec<usize>,
    /// The token that follows the last accepted node: right, but not yet in the cache.
    pub next: u32,
}

impl TokenTree {
    /// Makes a tree of `tokens`, each with the index of its parent.
    ///
    /// # Errors
    /// If node 0 is not the only root, a parent does not come before its children, or the levels
    /// are not sorted.
    pub fn new(tokens: Vec<u32>, parents: Vec<Option<usize>>) -> Result<Self, TreeError> {
        if tokens.len() != parents.len() {
            return Err(TreeError::Lengths { tokens: tokens.len(), parents: parents.len() });
        }
        let depths = check(&parents)?;
        Ok(Self { tokens, parents, depths })
    }

    /// The tree of the root alone: plain decoding.
    pub fn root(token: u32) -> Self {
        Self { tokens: vec![token], parents: vec![None], depths: vec![0] }
    }

    /// A chain: each token follows the one before it.
    ///
    /// # Errors
    /// If `tokens` is empty.
    pub fn chain(tokens: Vec<u32>) -> Result<Self, TreeError> {
        let parents = (0..tokens.len()).map(|node| node.checked_sub(1)).collect();
        Self::new(tokens, parents)
    }

    /// The tokens; the root's first.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The parents; `None` for the root.
    pub fn parents(&self) -> &[Option<usize>] {
        &self.parents
    }

    /// The distance of every node from the root: what is added to the root's position.
    pub fn depths(&self) -> &[usize] {
        &self.depths
    }

    /// The number of nodes, the root among them.
    #[expect(clippy::len_without_is_empty, reason = "a tree always has its root")]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The nodes whose parent is `node`, best first if the draft put them so.
    pub fn children(&self, node: usize) -> impl Iterator<Item = usize> {
        (node + 1..self.len()).filter(move |&child| self.parents[child] == Some(node))
    }

    /// The nodes from `node` up to the root, both included.
    pub fn ancestors(&self, node: usize) -> impl Iterator<Item = usize> {
        successors(Some(node), |&node| self.parents[node])
    }

    /// The nodes from the root down to `node`, both included.
    pub fn path(&self, node: usize) -> Vec<usize> {
        let mut path: Vec<usize> = self.ancestors(node).collect();
        path.reverse();
        path
    }

    /// The path to every leaf, in the order of the leaves.
    pub fn paths(&self) -> Vec<Vec<usize>> {
        let leaves = (0..self.len()).filter(|&node| self.children(node).next().is_none());
        leaves.map(|leaf| self.path(leaf)).collect()
    }

    /// The tree mask as bits: in row `i`, bit `j` is set if node `i` sees node `j`, which is itself or
    /// an ancestor. Each row takes `len().div_ceil(64)` words.
    pub fn mask(&self) -> Vec<u64> {
        let words = self.len().div_ceil(64);
        let mut bits = vec![0; self.len() * words];
        for node in 0..self.len() {
            for seen in self.ancestors(node) {
                bits[node * words + seen / 64] |= 1 << (seen % 64);
            }
        }
        bits
    }

    /// The exact walk, the rule of every lossless method: at each node `choose` gives the token that
    /// the target model takes there (the greedy one, or a sample); as long as a child holds it, the
    /// child is accepted. `choose` is called once for each accepted node, from the root on.
    ///
    /// # Errors
    /// Those of `choose`.
    pub fn walk<E>(&self, mut choose: impl FnMut(usize) -> Result<u32, E>) -> Result<Accepted, E> {
        let mut path = vec![0];
        let mut node = 0;
        loop {
            let next = choose(node)?;
            let Some(child) = self.children(node).find(|&child| self.tokens[child] == next) else {
                return Ok(Accepted { path, next });
            };
            path.push(child);
            node = child;
        }
    }
}

/// The depths, if the parents form a tree in breadth-first order.
fn check(parents: &[Option<usize>]) -> Result<Vec<usize>, TreeError> {
    match parents.first() {
        None => return Err(TreeError::Empty),
        Some(Some(_)) => return Err(TreeError::RootedElsewhere),
        Some(None) => {}
    }
    let mut depths = vec![0];
    for (node, parent) in parents.iter().enumerate().skip(1) {
        let parent = parent.ok_or(TreeError::MissingParent { node })?;
        let depth = 1 + *depths.get(parent).ok_or(TreeError::LateParent { node, parent })?;
        let before = depths[node - 1];
        if depth < before {
            return Err(TreeError::UnsortedLevels { node, depth, before });
        }
        depths.push(depth);
    }
    Ok(depths)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ```text
    /// 7 ─┬─ 1 ─── 4
    ///    ├─ 2 ─┬─ 5 ─── 8
    ///    │     └─ 6
    ///    └─ 3
    /// ```
    fn example() -> TokenTree {
        let parents = [None, Some(0), Some(0), Some(0), Some(1), Some(2), Some(2), Some(5)];
        TokenTree::new(vec![7, 1, 2, 3, 4, 5, 6, 8], parents.to_vec()).unwrap()
    }

    #[test]
    fn a_tree_worked_by_hand() {
        let tree = example();
        assert_eq!(tree.depths(), [0, 1, 1, 1, 2, 2, 2, 3]);
        assert_eq!(tree.children(2).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(tree.paths(), [vec![0, 3], vec![0, 1, 4], vec![0, 2, 6], vec![0, 2, 5, 7]]);
        assert_eq!(tree.mask(), [0b1, 0b11, 0b101, 0b1001, 0b10011, 0b100101, 0b1000101, 0b10100101]);
    }

    #[test]
    fn masks_span_words() {
        let chain = TokenTree::chain((0..130).collect()).unwrap();
        let mask = chain.mask();
        assert_eq!(mask.len(), 130 * 3);
        assert_eq!(mask[129 * 3..], [u64::MAX, u64::MAX, 0b11]);
    }

    #[test]
    fn the_walk_accepts_the_longest_agreeing_path() {
        let tree = example();
        let target = |tokens: &'static [u32]| {
            let mut left = tokens.iter().copied();
            move |_| left.next().ok_or("the walk went on too far")
        };
        assert_eq!(tree.walk(target(&[2, 5, 8, 9])), Ok(Accepted { path: vec![0, 2, 5, 7], next: 9 }));
        assert_eq!(tree.walk(target(&[2, 4])), Ok(Accepted { path: vec![0, 2], next: 4 }));
        assert_eq!(tree.walk(target(&[9])), Ok(Accepted { path: vec![0], next: 9 }));
        assert_eq!(TokenTree::root(7).walk(target(&[1])), Ok(Accepted { path: vec![0], next: 1 }));
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let error =
            |parents: &[Option<usize>]| TokenTree::new(vec![0; parents.len()], parents.to_vec()).unwrap_err();
        assert_eq!(error(&[]), TreeError::Empty);
        assert_eq!(error(&[Some(0)]), TreeError::RootedElsewhere);
        assert_eq!(error(&[None, None]), TreeError::MissingParent { node: 1 });
        assert_eq!(error(&[None, Some(1)]), TreeError::LateParent { node: 1, parent: 1 });
        assert_eq!(error(&[None, Some(9)]), TreeError::LateParent { node: 1, parent: 9 });
        let unsorted = [None, Some(0), Some(1), Some(0)];
        assert_eq!(error(&unsorted), TreeError::UnsortedLevels { node: 3, depth: 1, before: 2 });
        let lengths = TokenTree::new(vec![1, 2], vec![None]).unwrap_err();
        assert_eq!(lengths, TreeError::Lengths { tokens: 2, parents: 1 });
    }
}
