//! Learned positions of patches, stretched to another number of them by bicubic interpolation, as PyTorch's
//! `interpolate` does it with `align_corners=False`.

use burn::tensor::{Device, Tensor, TensorData};

/// Stretches positions `[placed + patches, width]`, the last of which form a grid `from`, to the grid `to`.
pub(super) fn stretch(
    positions: Tensor<2>,
    placed: usize,
    from: [usize; 2],
    to: [usize; 2],
    antialias: bool,
) -> Tensor<2> {
    let [_, width] = positions.dims();
    let device = positions.device();
    let in_front = positions.clone().slice([0..placed, 0..width]);
    let patches = positions.slice([placed..placed + from[0] * from[1], 0..width]);
    let [rows, columns] = [0, 1].map(|side| weights(from[side], to[side], antialias, &device));
    let tall = rows.matmul(patches.reshape([from[0], from[1] * width]));
    let turned = tall.reshape([to[0], from[1], width]).swap_dims(0, 1).reshape([from[1], to[0] * width]);
    let whole = columns.matmul(turned).reshape([to[1], to[0], width]).swap_dims(0, 1);
    Tensor::cat(vec![in_front, whole.reshape([to[0] * to[1], width])], 0)
}

/// What each of `from` values contributes to each of `to`: `[to, from]`.
fn weights(from: usize, to: usize, antialias: bool, device: &Device) -> Tensor<2> {
    let scale = from as f32 / to as f32;
    let mut all = vec![0.0f32; to * from];
    for (index, row) in all.chunks_exact_mut(from).enumerate() {
        let centre = (index as f32 + 0.5) * scale;
        if antialias { smooth(row, centre, scale) } else { sharp(row, centre - 0.5) }
    }
    Tensor::from_data(TensorData::new(all, [to, from]), device)
}

/// Four neighbours; those beyond the border are the last before it.
fn sharp(row: &mut [f32], place: f32) {
    let last = row.len() as i64 - 1;
    let first = place.floor();
    for tap in -1..=2 {
        let at = (first as i64 + tap).clamp(0, last) as usize;
        row[at] += cubic(place - (first + tap as f32), -0.75);
    }
}

/// All neighbours that the filter reaches, which grows where values are shrunk; the weights add up to one.
fn smooth(row: &mut [f32], centre: f32, scale: f32) {
    let stretch = scale.max(1.0);
    let reach = 2.0 * stretch;
    let first = ((centre - reach + 0.5) as i64).max(0) as usize;
    let end = ((centre + reach + 0.5) as i64).clamp(0, row.len() as i64) as usize;
    for (at, weight) in row.iter_mut().enumerate().take(end).skip(first) {
        *weight = cubic((at as f32 - centre + 0.5) / stretch, -0.5);
    }
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|weight| *weight /= sum);
}

/// Keys' cubic convolution kernel.
fn cubic(x: f32, a: f32) -> f32 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((x - 5.0) * x + 8.0) * x * a - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use whit_kernels::op;

    use super::*;

    #[test]
    fn a_constant_stays_what_it_is() {
        let positions = Tensor::<2>::ones([1 + 6, 3], &Device::flex());
        for antialias in [false, true] {
            let stretched = stretch(positions.clone(), 1, [2, 3], [4, 2], antialias);
            assert_eq!(stretched.dims(), [9, 3]);
            assert!(op::host(stretched).data().iter().all(|value| (value - 1.0).abs() < 1e-6));
        }
    }

    #[test]
    fn the_same_grid_stays_what_it_is() {
        let values: Vec<f32> = (0..14).map(|value| value as f32).collect();
        let positions = Tensor::<1>::from_floats(&values[..], &Device::flex()).reshape([7, 2]);
        let same = op::host(stretch(positions, 1, [2, 3], [2, 3], false)).into_vec();
        assert!(same.iter().zip(&values).all(|(ours, theirs)| (ours - theirs).abs() < 1e-5));
    }
}
