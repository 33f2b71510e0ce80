//! Loops over slices: element by element ([`Map`]) and with running values ([`Sweep`]).

use std::ops::Range;

use super::lanes::Pair;
use super::{Program, Vector, run};
use crate::parallel;

/// Values that one thread works through before another may help: less is not worth the hand-over.
const GRAIN: usize = 16 * 1024;

/// A function of each element: `N` inputs, `M` outputs.
pub(crate) trait Map<const N: usize, const M: usize>: Copy + Sync {
    /// The function on vectors; must be `#[inline(always)]`.
    fn call<V: Vector>(self, inputs: [V; N]) -> [V; M];
}

/// Applies a map to whole slices, over all threads, into new vectors.
pub(crate) fn collect<const N: usize, const M: usize>(
    map: impl Map<N, M>,
    inputs: [&[f32]; N],
) -> [Vec<f32>; M] {
    let length = inputs[0].len();
    let mut outputs = [const { Vec::new() }; M];
    for output in &mut outputs {
        *output = Vec::with_capacity(length);
    }
    assert!(inputs.iter().all(|input| input.len() == length), "inputs differ in length");
    let pointers = outputs.each_mut().map(|output| output.as_mut_ptr());
    // SAFETY: the inputs have `length` values, the outputs room for as many, and nothing overlaps;
    // `apply` fills them all before the lengths are set.
    unsafe {
        apply(map, length, inputs.map(<[f32]>::as_ptr), pointers);
        outputs.iter_mut().for_each(|output| output.set_len(length));
    }
    outputs
}

/// Applies a map to whole slices, over all threads.
pub(crate) fn fill<const N: usize, const M: usize>(
    map: impl Map<N, M>,
    inputs: [&[f32]; N],
    outputs: [&mut [f32]; M],
) {
    let length = inputs[0].len();
    assert!(inputs.iter().all(|input| input.len() == length), "inputs differ in length");
    assert!(outputs.iter().all(|output| output.len() == length), "outputs differ in length");
    // SAFETY: all slices have `length` values, and the outputs are borrowed alone.
    unsafe { apply(map, length, inputs.map(<[f32]>::as_ptr), outputs.map(<[f32]>::as_mut_ptr)) }
}

/// Applies a map to `length` elements, over all threads.
///
/// # Safety
/// Inputs must be readable and outputs writable for `length` values. An output may be one of the
/// inputs, but must not overlap one otherwise, nor another output.
pub(crate) unsafe fn apply<const N: usize, const M: usize>(
    map: impl Map<N, M>,
    length: usize,
    inputs: [*const f32; N],
    outputs: [*mut f32; M],
) {
    let inputs = inputs.map(|input| parallel::Shared(input.cast_mut()));
    let outputs = outputs.map(parallel::Shared);
    parallel::ranges(length, GRAIN, |range| {
        run(Loop { map, inputs: &inputs, outputs: &outputs, range });
    });
}

struct Loop<'a, F, const N: usize, const M: usize> {
    map: F,
    inputs: &'a [parallel::Shared<f32>; N],
    outputs: &'a [parallel::Shared<f32>; M],
    range: Range<usize>,
}

impl<F: Map<N, M>, const N: usize, const M: usize> Program for Loop<'_, F, N, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let start = self.range.start;
        let inputs = self.inputs.each_ref().map(|input| input.at(start).cast_const());
        let outputs = self.outputs.each_ref().map(|output| output.at(start));
        // SAFETY: the caller of `apply` vouches for the pointers; ranges are disjoint.
        unsafe {
            sweep_raw::<V, _, N, M, 0>(Each(self.map), inputs, outputs, self.range.len(), [0.0; N], [])
        };
    }
}

/// One pass over `N` equally long inputs that writes `M` outputs and carries `K` running values.
pub(crate) trait Sweep<const N: usize, const M: usize, const K: usize>: Copy {
    /// The step; must be `#[inline(always)]`. Each lane carries its own state.
    fn step<V: Vector>(self, inputs: [V; N], state: &mut [V; K]) -> [V; M];

    /// Joins the states of two lanes.
    fn join<V: Vector>(self, a: V, b: V) -> V {
        a + b
    }
}

/// A map as a sweep without state.
#[derive(Clone, Copy)]
pub(crate) struct Each<F>(pub(crate) F);

impl<F: Map<N, M>, const N: usize, const M: usize> Sweep<N, M, 0> for Each<F> {
    #[inline(always)]
    fn step<V: Vector>(self, inputs: [V; N], _: &mut [V; 0]) -> [V; M] {
        self.0.call(inputs)
    }
}

/// Sweeps over a row that is only read; `fill` stands in for the inputs behind its end.
#[inline(always)]
pub(crate) fn fold<V: Vector, const N: usize, const K: usize>(
    sweep: impl Sweep<N, 0, K>,
    inputs: [&[f32]; N],
    fill: [f32; N],
    start: [f32; K],
) -> [V; K] {
    let length = inputs[0].len();
    assert!(inputs.iter().all(|input| input.len() == length), "inputs differ in length");
    // SAFETY: every input has `length` values; there is no output.
    unsafe { sweep_raw(sweep, inputs.map(<[f32]>::as_ptr), [], length, fill, start) }
}

/// Sweeps over `length` elements; `fill` stands in for the inputs behind the end. `start` must be
/// neutral: several states begin with it.
///
/// # Safety
/// Inputs must be readable and outputs writable for `length` values. An output may be one of the
/// inputs, but must not overlap one otherwise, nor another output.
#[inline(always)]
pub(crate) unsafe fn sweep_raw<
    V: Vector,
    S: Sweep<N, M, K>,
    const N: usize,
    const M: usize,
    const K: usize,
>(
    sweep: S,
    inputs: [*const f32; N],
    outputs: [*mut f32; M],
    length: usize,
    fill: [f32; N],
    start: [f32; K],
) -> [V; K] {
    let mut at = 0;
    // SAFETY: steps end at `length`, for which the caller vouches.
    let wide = unsafe { steps::<Stride<V>, S, N, M, K>(sweep, &inputs, &outputs, &mut at, length, start) };
    // SAFETY: as above.
    let mut state = unsafe { steps::<V, S, N, M, K>(sweep, &inputs, &outputs, &mut at, length, start) };
    if at < length {
        // SAFETY: as above.
        unsafe { last_step(sweep, &inputs, &outputs, at..length, fill, &mut state) };
    }
    for index in 0..K {
        let wide = wide[index].halve(|a, b| sweep.join(a, b)).halve(|a, b| sweep.join(a, b));
        state[index] = sweep.join(state[index], wide);
    }
    state
}

/// What a step of a sweep works on: several vectors, whose independent chains of operations overlap.
type Stride<V> = Pair<Pair<V>>;

/// Steps of whole vectors from `at` on, which it leaves behind the last.
///
/// # Safety
/// Inputs must be readable and outputs writable for `length` values.
#[inline(always)]
unsafe fn steps<V: Vector, S: Sweep<N, M, K>, const N: usize, const M: usize, const K: usize>(
    sweep: S,
    inputs: &[*const f32; N],
    outputs: &[*mut f32; M],
    at: &mut usize,
    length: usize,
    start: [f32; K],
) -> [V; K] {
    let mut state = start.map(V::splat);
    let mut values = [V::splat(0.0); N];
    while *at + V::LANES <= length {
        for index in 0..N {
            // SAFETY: the vector ends at `length` at most.
            values[index] = unsafe { V::load(inputs[index].add(*at)) };
        }
        let results = sweep.step(values, &mut state);
        for index in 0..M {
            // SAFETY: likewise.
            unsafe { results[index].store(outputs[index].add(*at)) };
        }
        *at += V::LANES;
    }
    state
}

/// The step of the values in `range`, fewer than a vector.
///
/// # Safety
/// Inputs must be readable and outputs writable in `range`.
#[inline(always)]
unsafe fn last_step<V: Vector, S: Sweep<N, M, K>, const N: usize, const M: usize, const K: usize>(
    sweep: S,
    inputs: &[*const f32; N],
    outputs: &[*mut f32; M],
    range: Range<usize>,
    fill: [f32; N],
    state: &mut [V; K],
) {
    let mut values = [V::splat(0.0); N];
    for index in 0..N {
        // SAFETY: the caller vouches for the range.
        let rest = unsafe { std::slice::from_raw_parts(inputs[index].add(range.start), range.len()) };
        values[index] = V::load_part(rest, fill[index]);
    }
    let results = sweep.step(values, state);
    for index in 0..M {
        // SAFETY: likewise.
        unsafe { results[index].store_part(outputs[index].add(range.start), range.len()) };
    }
}

/// Calls `task` on ranges of the rows `0..count`, each of `width` values, over all threads.
pub(crate) fn rows(count: usize, width: usize, task: impl Fn(Range<usize>) + Sync) {
    parallel::ranges(count, GRAIN.div_ceil(width.max(1)), task);
}

/// A new vector of `length` values that `task` writes through the pointer it is given.
///
/// # Safety
/// `task` must write them all.
pub(crate) unsafe fn filled(length: usize, task: impl FnOnce(*mut f32)) -> Vec<f32> {
    let mut values = Vec::with_capacity(length);
    task(values.as_mut_ptr());
    // SAFETY: the capacity is `length`, and the caller vouches for the values.
    unsafe { values.set_len(length) };
    values
}

/// `scale x + shift`.
#[derive(Clone, Copy)]
pub(crate) struct Affine {
    pub(crate) scale: f32,
    pub(crate) shift: f32,
}

impl Map<1, 1> for Affine {
    #[inline(always)]
    fn call<V: Vector>(self, [x]: [V; 1]) -> [V; 1] {
        [x.mul_add(V::splat(self.scale), V::splat(self.shift))]
    }
}

/// The sum of a row.
#[derive(Clone, Copy)]
pub(crate) struct Sum;

impl Sweep<1, 0, 1> for Sum {
    #[inline(always)]
    fn step<V: Vector>(self, [x]: [V; 1], [sum]: &mut [V; 1]) -> [V; 0] {
        *sum = *sum + x;
        []
    }
}

/// The scalar product of two rows.
#[derive(Clone, Copy)]
pub(crate) struct Dot;

impl Sweep<2, 0, 1> for Dot {
    #[inline(always)]
    fn step<V: Vector>(self, [a, b]: [V; 2], [sum]: &mut [V; 1]) -> [V; 0] {
        *sum = a.mul_add(b, *sum);
        []
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;
    use crate::testing::noise;
    use crate::vector::run_at;

    struct Total<'a>(&'a [f32]);

    impl Program for Total<'_> {
        type Output = (f32, f32);

        #[inline(always)]
        fn run<V: Vector>(self) -> (f32, f32) {
            let [sum] = fold::<V, 1, 1>(Sum, [self.0], [0.0], [0.0]);
            let [dot] = fold::<V, 2, 1>(Dot, [self.0, self.0], [0.0; 2], [0.0]);
            (sum.sum(), dot.sum())
        }
    }

    #[test]
    fn folds_count_every_value_once() {
        for length in [0, 1, 7, 8, 15, 16, 17, 63, 64, 65, 129, 1000] {
            let x: Vec<f32> = (0..length).map(|i| (i % 5) as f32).collect();
            let wanted = (x.iter().sum(), x.iter().map(|x| x * x).sum());
            for level in [Level::Plain, Level::Avx2, Level::Avx512] {
                assert_eq!(run_at(level, Total(&x)), wanted, "{length} values");
            }
        }
    }

    #[test]
    fn maps_of_any_length_and_thread_share_give_the_same() {
        let x = noise(100_001, 1, 3.0);
        let map = Affine { scale: 1.7, shift: 0.3 };
        let [whole] = collect(map, [&x[..]]);
        for start in [0, 1, 5, 40_000] {
            for length in [0, 1, 33, 60_001] {
                let [part] = collect(map, [&x[start..start + length]]);
                assert_eq!(part, whole[start..start + length]);
            }
        }
    }
}
