//! The packed block and its forward pass.

use super::{BlockFfnError, Sizes};
use crate::activation::Activation;
use crate::linear::panel::{PANEL, Ready};
use crate::linear::{PackedLinear, WeightType};
use crate::parallel;

/// Rows that go through the block together: what lies between the two projections stays in the caches.
const ROWS: usize = 128;

/// Panels of sums that stay in the first-level cache while the experts are added to them.
const SUMS: usize = 128;

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
        let size = (SUMS / rows.max(1)).clamp(1, panels.div_ceil(4 * parallel::threads()));
        let mut parts: Vec<Vec<f32>> = vec![Vec::new(); panels.div_ceil(size)];
        parallel::pieces(&mut parts, 1, |index, part| {
            let range = index * size..panels.min((index + 1) * size);
            part[0] = self.fall(range.start, range.len(), rows, visits, &inner);
        });
        self.gather(&parts, size * PANEL, out);
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
            up.multiply_panel(panel, ready, &mut tile);
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

    /// The sum over the experts of `count` panels from `first` on: `[rows, count * 32]`.
    fn fall(
        &self,
        first: usize,
        count: usize,
        rows: usize,
        visits: &[Visit],
        inner: &[Option<Ready>],
    ) -> Vec<f32> {
        let mut sums = vec![0.0; rows * count * PANEL];
        let mut tile = vec![0.0; rows * PANEL];
        for (visit, ready) in visits.iter().zip(inner.iter().flatten()) {
            for panel in 0..count {
                self.down[visit.expert].multiply_panel(first + panel, ready, &mut tile);
                for (tile, row) in tile.chunks_exact(PANEL).zip(&visit.rows) {
                    let sums = &mut sums[(row * count + panel) * PANEL..][..PANEL];
                    sums.iter_mut().zip(tile).for_each(|(sum, value)| *sum += value);
                }
            }
        }
        sums
    }

    /// Puts the parts side by side; all but the last have `columns` columns.
    fn gather(&self, parts: &[Vec<f32>], columns: usize, out: &mut [f32]) {
        let width = self.sizes.width;
        let rows = out.len() / width;
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            for (part, out) in parts.iter().zip(out.chunks_mut(columns)) {
                out.copy_from_slice(&part[row * (part.len() / rows)..][..out.len()]);
            }
        }
    }
}

fn gathered(x: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|row| &x[row * width..][..width]).copied().collect()
}
