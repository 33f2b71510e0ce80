//! Weights with zeros anywhere: a bit for each weight says whether it is there, and the values of
//! those that are follow each other.
//!
//! A panel of 32 outputs has two masks of 16 bits for each input, and one stream of values: those of
//! the first mask's bits, then of the second's, input after input. AVX-512 spreads the next values
//! over the set lanes with one instruction; elsewhere it is a loop over bits, which does not pay.

use std::marker::PhantomData;

use crate::linear::lanes::Lanes;
use crate::linear::panels::{LANES, SLICES, WIDTH};
use crate::linear::tile::{Body, Call, prefetch, store};
use crate::parallel;

/// A number as a stream holds it.
pub(super) trait Value: Copy + Default + Send + Sync + 'static {
    /// Rounds to it.
    fn from_f32(value: f32) -> Self;
    /// Its value.
    fn to_f32(self) -> f32;
    /// The next values of the stream in the lanes of the set bits, zero elsewhere.
    ///
    /// # Safety
    /// 16 values lie at `from`, and the processor has the level of `L`.
    unsafe fn spread<L: Lanes>(mask: u16, from: *const Self) -> L::Floats;
}

impl Value for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn spread<L: Lanes>(mask: u16, from: *const Self) -> L::Floats {
        // SAFETY: as the caller promises.
        unsafe { L::spread(mask, from) }
    }
}

/// The upper half of an `f32`.
impl Value for u16 {
    fn from_f32(value: f32) -> Self {
        half::bf16::from_f32(value).to_bits()
    }

    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }

    #[inline(always)]
    unsafe fn spread<L: Lanes>(mask: u16, from: *const Self) -> L::Floats {
        // SAFETY: as the caller promises.
        unsafe { L::spread_bf16(mask, from) }
    }
}

/// 32 outputs.
#[derive(Clone, Debug, Default)]
pub(super) struct Panel<V> {
    pub masks: Vec<[u16; SLICES]>, // [inputs]
    /// The values, and 16 more, which are read but not used.
    pub values: Vec<V>,
}

/// Packs rows.
pub(super) fn pack<V: Value>(weight: &[f32], outputs: usize, inputs: usize) -> Vec<Panel<V>> {
    let mut panels = vec![Panel::default(); outputs.div_ceil(WIDTH)];
    parallel::pieces(&mut panels, 1, |index, panel| {
        let first = index * WIDTH;
        let count = WIDTH.min(outputs - first);
        panel[0] = Panel::pack(&weight[first * inputs..][..count * inputs], inputs);
    });
    panels
}

impl<V: Value> Panel<V> {
    fn pack(rows: &[f32], inputs: usize) -> Self {
        let mut panel = Self { masks: vec![[0; SLICES]; inputs], values: Vec::new() };
        for input in 0..inputs {
            for (output, row) in rows.chunks_exact(inputs).enumerate() {
                if row[input] != 0.0 {
                    panel.masks[input][output / LANES] |= 1 << (output % LANES);
                    panel.values.push(V::from_f32(row[input]));
                }
            }
        }
        panel.values.extend([V::default(); LANES]);
        panel.values.shrink_to_fit();
        panel
    }

    /// The memory that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.masks[..]) + size_of_val(&self.values[..])
    }

    /// The weights of one of the outputs.
    pub fn row(&self, output: usize, out: &mut [f32]) {
        let mut next = 0;
        for (out, masks) in out.iter_mut().zip(&self.masks) {
            let bits = u32::from(masks[0]) | u32::from(masks[1]) << LANES;
            let before = (bits & ((1 << output) - 1)).count_ones() as usize;
            *out = if bits >> output & 1 == 1 { self.values[next + before].to_f32() } else { 0.0 };
            next += bits.count_ones() as usize;
        }
    }
}

/// The multiplication; [`Call::panel`] points to the masks, [`Call::values`] to the values, and there
/// are as many groups as inputs.
#[derive(Debug)]
pub(super) struct Bits<V>(PhantomData<V>);

impl<V: Value> Body for Bits<V> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const R: usize>(call: &Call) {
        // SAFETY: as the caller promises; the values of a panel end with 16 that are not used.
        unsafe {
            let mut totals = [[L::zero(); SLICES]; R];
            let mut values = call.values.cast::<V>();
            let masks = call.panel.cast::<[u16; SLICES]>();
            for input in 0..call.groups {
                let masks = *masks.add(input);
                prefetch::<L>(values.cast(), 64);
                let first = V::spread::<L>(masks[0], values);
                values = values.add(masks[0].count_ones() as usize);
                let second = V::spread::<L>(masks[1], values);
                values = values.add(masks[1].count_ones() as usize);
                for (row, totals) in totals.iter_mut().enumerate() {
                    let x = L::splat(call.x.add(row * call.x_stride + input));
                    totals[0] = L::plus(totals[0], first, x);
                    totals[1] = L::plus(totals[1], second, x);
                }
            }
            store::<L, R>(call, &totals);
        }
    }
}
