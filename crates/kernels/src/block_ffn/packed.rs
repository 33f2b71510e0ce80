//! The packed block and its forward pass.

use super::{BlockFfnError, Sizes};
use crate::activation::Activation;
use crate::linear::panel::{PANEL, Ready, Start};
use crate::linear::{PackedLinear, WeightType};
use crate::parallel;

/// Rows that go through the block together: what lies between the two projections stays in the caches.
const ROWS: usize = 128;

/// Panels of sums, one a row, that stay in the second-level cache while the experts are added to them. Of each
/// expert so many panels are read in one run, and short runs fetch much that is not read.
const SUMS: usize = 512;

/// The experts of one block.
#[derive(Debug)]
pub struct Packed {
    sizes: Sizes,
    up: Vec<PackedLinear>,   // experts x [size, width]
    down: Vec<PackedLinear>, // experts x [width, size]
}

/// Which experts the tokens of a pass go through. It changes what is read, not the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All, as a dense block would.
    All,
    /// Those whose gate is not zero.
    Active,
    /// Those whose gate is not zero for the tokens that are marked, all for the others.
    Marked(Vec<bool>),
}

impl Reach {
    fn is_active(&self, row: usize) -> bool {
        match self {
            Self::All => false,
            Self::Active => true,
            Self::Marked(marks) => marks.get(row).copied().unwrap_or(false),
        }
    }
}

/// What a pass went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Experts that were read, summed over the groups of rows that shared a reading.
    pub experts: usize,
    /// Pairs of a token and an expert that were computed.
    pub pairs: usize,
}

/// An expert and the rows that go through it.
struct Visit {
    expert: usize,
    rows: Vec<usize>,
}

impl Packed {
    /// Packs `up` (`[experts * size, width]`) and `down` (`[width, experts * size]`), each expert in
    /// `kind`, or the next type that can hold its rows.
    ///
    /// # Errors
    /// If the weights do not have the sizes.
    pub fn pack(up: &[f32], down: &[f32], sizes: Sizes, kind: WeightType) -> Result<Self, BlockFfnError> {
        let wanted = sizes.weights().filter(|&count| count > 0).ok_or(BlockFfnError::Sizes(sizes))?;
        for (which, found) in [("up_proj", up.len()), ("down_proj", down.len())] {
            if found != wanted {
                return Err(BlockFfnError::Shape { which, sizes, wanted, found });
            }
        }
        let Sizes { experts, size, width } = sizes;
        let up = up.chunks_exact(size * width);
        let up = up.map(|up| PackedLinear::pack(up, size, width, kind.fitting(width)));
        let columns = |expert: usize| -> Vec<f32> {
            let rows = down.chunks_exact(experts * size);
            rows.flat_map(|row| &row[expert * size..][..size]).copied().collect()
        };
        let down =
            (0..experts).map(|expert| PackedLinear::pack(&columns(expert), width, size, kind.fitting(size)));
        Ok(Self { sizes, up: up.collect::<Result<_, _>>()?, down: down.collect::<Result<_, _>>()? })
    }

    /// The sizes.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.expert_bytes() * self.sizes.experts
    }

    /// The memory that the weights of one expert take, which is what a pass reads of it.
    pub fn expert_bytes(&self) -> usize {
        self.up[0].bytes() + self.down[0].bytes()
    }

    /// The block's output for `x` (`[rows, width]`) with `gates` (`[rows, experts]`), into `out`
    /// (`[rows, width]`).
    ///
    /// # Errors
    /// If a gate is not finite.
    ///
    /// # Panics
    /// If a slice has another length than the sizes say: a caller's bug.
    pub fn forward(
        &self,
        x: &[f32],
        gates: &[f32],
        reach: &Reach,
        out: &mut [f32],
    ) -> Result<Touched, BlockFfnError> {
        let Sizes { experts, width, .. } = self.sizes;
        let rows = x.len() / width;
        assert_eq!(x.len(), rows * width, "states of {width}");
        assert_eq!(gates.len(), rows * experts, "gates of {rows} tokens for {experts} experts");
        assert_eq!(out.len(), x.len(), "a state for each token");
        if let Some(at) = gates.iter().position(|gate| !gate.is_finite()) {
            return Err(BlockFfnError::Gate { row: at / experts, expert: at % experts, value: gates[at] });
        }
        let mut touched = Touched::default();
        for start in (0..rows).step_by(ROWS) {
            let part = start..rows.min(start + ROWS);
            let gates = &gates[part.start * experts..part.end * experts];
            let visits = self.visits(gates, |row| reach.is_active(start + row));
            touched.experts += visits.len();
            touched.pairs += visits.iter().map(|visit| visit.rows.len()).sum::<usize>();
            let part = part.start * width..part.end * width;
            self.pass(&x[part.clone()], gates, &visits, &mut out[part]);
        }
        Ok(touched)
    }

    /// The union of the experts of all rows, in order.
    fn visits(&self, gates: &[f32], is_active: impl Fn(usize) -> bool) -> Vec<Visit> {
        let experts = self.sizes.experts;
        let all: Vec<bool> = (0..gates.len() / experts).map(|row| !is_active(row)).collect();
        let rows = |expert| {
            let goes = |&row: &usize| all[row] || gates[row * experts + expert] != 0.0;
            (0..all.len()).filter(goes).collect()
        };
        let visits = (0..experts).map(|expert| Visit { expert, rows: rows(expert) });
        visits.filter(|visit| !visit.rows.is_empty()).collect()
    }

    fn pass(&self, x: &[f32], gates: &[f32], visits: &[Visit], out: &mut [f32]) {
        let rows = x.len() / self.sizes.width;
        let whole = self.up[0].ready(x, rows);
        let mut inner: Vec<Option<Ready>> = visits.iter().map(|_| None).collect();
        parallel::pieces(&mut inner, 1, |index, slot| {
            slot[0] = Some(self.rise(x, &whole, gates, &visits[index]));
        });
        let panels = self.down[0].panel_count();
        let size = (SUMS / rows.max(1)).clamp(1, panels.div_ceil(2 * parallel::threads()));
        let mut parts: Vec<Vec<f32>> = vec![Vec::new(); panels.div_ceil(size)];
        parallel::pieces(&mut parts, 1, |index, part| {
            let range = index * size..panels.min((index + 1) * size);
            part[0] = self.fall(range.start, range.len(), rows, visits, &inner);
        });
        self.gather(&parts, out);
    }

    /// `a_i SiLU(x U_i^T)` for the rows of one expert, ready for its down-projection.
    fn rise(&self, x: &[f32], whole: &Ready, gates: &[f32], visit: &Visit) -> Ready {
        let Sizes { experts, size, width } = self.sizes;
        let (up, count) = (&self.up[visit.expert], visit.rows.len());
        let few = count * width < x.len();
        let own = few.then(|| up.ready(&gathered(x, width, &visit.rows), count));
        let ready = own.as_ref().unwrap_or(whole);
        let mut inner = vec![0.0; count * size];
        let mut tile = vec![0.0; count * PANEL];
        for panel in 0..up.panel_count() {
            up.multiply_panels(panel, ready, &mut tile, Start::Zero);
            Activation::Silu.in_place(&mut tile);
            let columns = panel * PANEL..size.min((panel + 1) * PANEL);
            for ((tile, inner), row) in
                tile.chunks_exact(PANEL).zip(inner.chunks_exact_mut(size)).zip(&visit.rows)
            {
                let gate = gates[row * experts + visit.expert];
                inner[columns.clone()].iter_mut().zip(tile).for_each(|(inner, value)| *inner = gate * value);
            }
        }
        self.down[visit.expert].ready(&inner, count)
    }

    /// The sum over the experts of `count` panels from `first` on: `[count, rows, 32]`.
    fn fall(
        &self,
        first: usize,
        count: usize,
        rows: usize,
        visits: &[Visit],
        inner: &[Option<Ready>],
    ) -> Vec<f32> {
        let mut sums = vec![0.0; count * rows * PANEL];
        let mut own = Vec::new();
        for (index, (visit, ready)) in visits.iter().zip(inner.iter().flatten()).enumerate() {
            if let Some(next) = visits.get(index + 1) {
                self.down[next.expert].prefetch_panel(first);
            }
            let (down, few) = (&self.down[visit.expert], visit.rows.len());
            if few == rows {
                down.multiply_panels(first, ready, &mut sums, Start::There);
                continue;
            }
            own.resize(count * few * PANEL, 0.0);
            for (sums, own) in sums.chunks_exact(rows * PANEL).zip(own.chunks_exact_mut(few * PANEL)) {
                copy_rows(visit.rows.iter().copied(), 0.., sums, own);
            }
            down.multiply_panels(first, ready, &mut own, Start::There);
            for (sums, own) in sums.chunks_exact_mut(rows * PANEL).zip(own.chunks_exact(few * PANEL)) {
                copy_rows(0.., visit.rows.iter().copied(), own, sums);
            }
        }
        sums
    }

    /// Puts the parts side by side.
    fn gather(&self, parts: &[Vec<f32>], out: &mut [f32]) {
        let width = self.sizes.width;
        let rows = out.len() / width;
        let panels = parts.iter().flat_map(|part| part.chunks_exact(rows * PANEL));
        for (panel, sums) in panels.enumerate() {
            let columns = panel * PANEL..width.min((panel + 1) * PANEL);
            for (out, sums) in out.chunks_exact_mut(width).zip(sums.chunks_exact(PANEL)) {
                out[columns.clone()].copy_from_slice(&sums[..columns.len()]);
            }
        }
    }
}

/// Copies rows of a panel's results to others.
fn copy_rows(
    from: impl Iterator<Item = usize>,
    to: impl Iterator<Item = usize>,
    source: &[f32],
    target: &mut [f32],
) {
    let place = |row: usize| row * PANEL..(row + 1) * PANEL;
    from.zip(to).for_each(|(from, to)| target[place(to)].copy_from_slice(&source[place(from)]));
}

fn gathered(x: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|row| &x[row * width..][..width]).copied().collect()
}
