//! A reduction of tokens as what it is: a sparse matrix with one row for each token that is left.

/// What one source gives to one target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// The token before.
    pub source: u32,
    /// The token after.
    pub target: u32,
    /// The source's weight in the mean that the target becomes; only its share of the target's weights counts.
    pub weight: f32,
    /// How much of the source's size goes over to the target.
    pub mass: f32,
}

impl Part {
    /// A source that goes into a target with this weight, and with all its size.
    pub fn whole(source: usize, target: usize, weight: f32) -> Self {
        Self { source: source as u32, target: target as u32, weight, mass: 1.0 }
    }
}

/// Why parts are no reduction.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A part that names a token which is not there.
    #[error("part {part} goes from token {source_token} of {sources} to {target} of {targets}")]
    Outside {
        /// Its number.
        part: usize,
        /// Where it comes from.
        source_token: u32,
        /// How many there are.
        sources: usize,
        /// Where it goes.
        target: u32,
        /// How many there are.
        targets: usize,
    },
    /// A weight or mass that is negative or not a number.
    #[error("part {part} has weight {weight} and mass {mass}; both must be 0 or more")]
    Weight {
        /// Its number.
        part: usize,
        /// Its weight.
        weight: f32,
        /// Its mass.
        mass: f32,
    },
    /// A target that nothing goes into.
    #[error("nothing goes into target {target}")]
    Empty {
        /// Which one.
        target: usize,
    },
}

/// The tokens of one image before and after: target `i` is the mean of its sources by weight, and its size the sum
/// of the masses that it got. A source without a part is dropped. Rows of the matrix sum to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenMap {
    sources: usize,
    /// Ordered by target; the weights of a target sum to 1.
    parts: Vec<Part>,
    /// Where the parts of each target begin, and the end.
    starts: Vec<u32>,
}

impl TokenMap {
    /// The reduction that consists of these parts, in any order.
    ///
    /// # Errors
    /// If a part names a token that is not there, has no proper weight, or a target gets nothing.
    pub fn new(sources: usize, targets: usize, mut parts: Vec<Part>) -> Result<Self, MapError> {
        check(sources, targets, &parts)?;
        parts.sort_by_key(|part| part.target); // stable: sources stay in the order given
        let mut starts = vec![0u32; targets + 1];
        parts.iter().for_each(|part| starts[part.target as usize + 1] += 1);
        (0..targets).for_each(|target| starts[target + 1] += starts[target]);
        let mut map = Self { sources, parts, starts };
        (0..targets).try_for_each(|target| map.normalise(target))?;
        Ok(map)
    }

    /// Keeps the tokens `kept`, in that order, and drops the others.
    ///
    /// # Errors
    /// If one of them is not there.
    pub fn keeping(sources: usize, kept: &[usize]) -> Result<Self, MapError> {
        let parts = kept.iter().enumerate().map(|(target, &source)| Part::whole(source, target, 1.0));
        Self::new(sources, kept.len(), parts.collect())
    }

    fn normalise(&mut self, target: usize) -> Result<(), MapError> {
        let range = self.range(target);
        let parts = &mut self.parts[range];
        if parts.is_empty() {
            return Err(MapError::Empty { target });
        }
        let sum: f32 = parts.iter().map(|part| part.weight).sum();
        let equal = 1.0 / parts.len() as f32;
        // Sources of no weight at all count the same.
        parts.iter_mut().for_each(|part| part.weight = if sum > 0.0 { part.weight / sum } else { equal });
        Ok(())
    }

    fn range(&self, target: usize) -> std::ops::Range<usize> {
        self.starts[target] as usize..self.starts[target + 1] as usize
    }

    /// Tokens before.
    pub fn sources(&self) -> usize {
        self.sources
    }

    /// Tokens after.
    pub fn targets(&self) -> usize {
        self.starts.len() - 1
    }

    /// All parts, ordered by target, their weights as shares of the target.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The parts that go into one target.
    pub fn into_target(&self, target: usize) -> &[Part] {
        &self.parts[self.range(target)]
    }

    /// The sources that go nowhere, in ascending order.
    pub fn dropped(&self) -> Vec<usize> {
        let mut alive = vec![false; self.sources];
        self.parts.iter().for_each(|part| alive[part.source as usize] = true);
        (0..self.sources).filter(|&source| !alive[source]).collect()
    }

    /// The targets that more than one source went into.
    pub fn merged(&self) -> Vec<usize> {
        (0..self.targets()).filter(|&target| self.range(target).len() > 1).collect()
    }

    /// The matrix W. `[targets, sources]`
    pub fn matrix(&self) -> Vec<f32> {
        let mut matrix = vec![0.0; self.targets() * self.sources];
        for part in &self.parts {
            matrix[part.target as usize * self.sources + part.source as usize] += part.weight;
        }
        matrix
    }

    /// W x: `[sources, width]` to `[targets, width]`.
    pub fn apply(&self, x: &[f32], width: usize) -> Vec<f32> {
        let mut y = vec![0.0; self.targets() * width];
        for (target, row) in y.chunks_exact_mut(width.max(1)).enumerate() {
            for part in self.into_target(target) {
                add(row, &x[part.source as usize * width..][..width], part.weight);
            }
        }
        y
    }

    /// The sizes of the targets, given those of the sources.
    pub fn sizes(&self, sizes: &[f32]) -> Vec<f32> {
        let size = |target| {
            self.into_target(target).iter().map(|part| part.mass * sizes[part.source as usize]).sum()
        };
        (0..self.targets()).map(size).collect()
    }

    /// The way back: each source becomes the mean of the targets that it went into, by the mass that it gave them;
    /// a dropped one keeps what it has in `x`. `y` is `[targets, width]`, `x` `[sources, width]`.
    pub fn undo(&self, y: &[f32], x: &mut [f32], width: usize) {
        let shares = self.shares();
        shares.iter().for_each(|&(source, ..)| x[source * width..][..width].fill(0.0));
        for (source, target, share) in shares {
            add(&mut x[source * width..][..width], &y[target * width..][..width], share);
        }
    }

    /// Source, target and share of every part, ordered by target: which share of its source's mass it has. The shares
    /// of a source sum to 1; one that gave no mass at all is shared equally.
    pub fn shares(&self) -> Vec<(usize, usize, f32)> {
        let mut given = vec![(0.0f32, 0.0f32); self.sources];
        for part in &self.parts {
            let sums = &mut given[part.source as usize];
            *sums = (sums.0 + part.mass, sums.1 + 1.0);
        }
        let share = |part: &Part| {
            let (mass, count) = given[part.source as usize];
            let share = if mass > 0.0 { part.mass / mass } else { 1.0 / count };
            (part.source as usize, part.target as usize, share)
        };
        self.parts.iter().map(share).collect()
    }
}

fn check(sources: usize, targets: usize, parts: &[Part]) -> Result<(), MapError> {
    for (number, part) in parts.iter().enumerate() {
        let Part { source, target, weight, mass } = *part;
        if source as usize >= sources || target as usize >= targets {
            return Err(MapError::Outside { part: number, source_token: source, sources, target, targets });
        }
        let proper = |value: f32| value >= 0.0 && value.is_finite();
        if !(proper(weight) && proper(mass)) {
            return Err(MapError::Weight { part: number, weight, mass });
        }
    }
    Ok(())
}

fn add(row: &mut [f32], x: &[f32], weight: f32) {
    row.iter_mut().zip(x).for_each(|(sum, value)| *sum += weight * value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(source: u32, target: u32, weight: f32, mass: f32) -> Part {
        Part { source, target, weight, mass }
    }

    /// Four tokens of two values: 0 stays, 1 and 3 become their mean by 1 : 3, 2 is dropped.
    fn example() -> TokenMap {
        let parts = vec![part(1, 1, 2.0, 1.0), part(3, 1, 6.0, 1.0), part(0, 0, 5.0, 1.0)];
        TokenMap::new(4, 2, parts).unwrap()
    }

    #[test]
    fn targets_are_means_and_sizes_are_sums() {
        let x = [1.0, 2.0, 10.0, 20.0, 7.0, 7.0, 30.0, 40.0];
        assert_eq!(example().apply(&x, 2), [1.0, 2.0, 25.0, 35.0]);
        assert_eq!(example().sizes(&[1.0, 2.0, 4.0, 8.0]), [1.0, 10.0]);
        assert_eq!(example().matrix(), [1.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.0, 0.75]);
        assert_eq!((example().dropped(), example().merged()), (vec![2], vec![1]));
    }

    #[test]
    fn the_way_back_copies_what_was_merged_and_leaves_what_was_dropped() {
        let mut x = [9.0f32; 8];
        example().undo(&[1.0, 2.0, 25.0, 35.0], &mut x, 2);
        assert_eq!(x, [1.0, 2.0, 25.0, 35.0, 9.0, 9.0, 25.0, 35.0]);
    }

    /// A source that went into two targets by 1 : 3 comes back as their mean by 1 : 3.
    #[test]
    fn the_way_back_mixes_by_mass() {
        let parts = vec![part(0, 0, 1.0, 0.25), part(0, 1, 1.0, 0.75), part(1, 1, 1.0, 1.0)];
        let map = TokenMap::new(2, 2, parts).unwrap();
        let mut x = [0.0; 2];
        map.undo(&[4.0, 8.0], &mut x, 1);
        assert_eq!(x, [7.0, 8.0]);
        assert_eq!(map.sizes(&[4.0, 1.0]), [1.0, 4.0]);
    }

    #[test]
    fn parts_that_are_no_reduction_are_refused() {
        let outside = TokenMap::new(2, 1, vec![part(2, 0, 1.0, 1.0)]);
        assert!(matches!(outside, Err(MapError::Outside { part: 0, .. })));
        let negative = TokenMap::new(2, 1, vec![part(0, 0, -1.0, 1.0)]);
        assert!(matches!(negative, Err(MapError::Weight { part: 0, .. })));
        let empty = TokenMap::new(2, 2, vec![part(0, 0, 1.0, 1.0)]);
        assert_eq!(empty, Err(MapError::Empty { target: 1 }));
        assert_eq!(TokenMap::new(2, 1, vec![part(0, 0, 0.0, 1.0)]).unwrap().parts()[0].weight, 1.0);
    }
}
