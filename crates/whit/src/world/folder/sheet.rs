//! Contact sheets: many pictures on one, to be looked at.

use image::{Rgb, RgbImage};

use crate::world::scene::Rendered;

/// The colours of masks, in turn.
const MARKS: [[u8; 3]; 9] = [
    [24, 24, 28],
    [230, 60, 60],
    [60, 150, 240],
    [250, 200, 50],
    [80, 200, 100],
    [190, 90, 220],
    [250, 140, 40],
    [60, 210, 210],
    [250, 130, 180],
];

/// The paper.
const PAPER: Rgb<u8> = Rgb([250, 250, 250]);
/// Pixels between pictures.
const GAP: u32 = 4;
/// The least pixels on a side of a picture on the sheet; smaller ones are shown enlarged.
const LEAST: u32 = 96;

/// Pictures in rows of `columns`; small ones are enlarged by a whole number.
pub fn sheet(pictures: &[RgbImage], columns: usize) -> RgbImage {
    let most = |side: fn(&RgbImage) -> u32| pictures.iter().map(side).max().unwrap_or(1);
    let (width, height) = (most(RgbImage::width), most(RgbImage::height));
    let factor = LEAST.div_ceil(width.max(height)).max(1);
    let (right, down) = (width * factor + GAP, height * factor + GAP);
    let (columns, rows) = (columns.max(1) as u32, pictures.len().div_ceil(columns.max(1)) as u32);
    let mut sheet = RgbImage::from_pixel(columns * right + GAP, rows * down + GAP, PAPER);
    for (at, picture) in pictures.iter().enumerate() {
        let (left, top) = (at as u32 % columns * right + GAP, at as u32 / columns * down + GAP);
        for y in 0..picture.height() * factor {
            for x in 0..picture.width() * factor {
                sheet.put_pixel(left + x, top + y, *picture.get_pixel(x / factor, y / factor));
            }
        }
    }
    sheet
}

/// Bytes `[side, side, 3]` as a picture; black if they are too few.
pub fn picture(bytes: Vec<u8>, side: usize) -> RgbImage {
    RgbImage::from_raw(side as u32, side as u32, bytes)
        .unwrap_or_else(|| RgbImage::new(side as u32, side as u32))
}

/// A picture and its truth: the picture, who is seen, how far, and which way surfaces face.
pub fn truth(rendered: &Rendered) -> [RgbImage; 4] {
    let side = rendered.size;
    let marks: Vec<u8> = rendered.owner.iter().flat_map(|&owner| mark(owner)).collect();
    let far = rendered.depth.iter().fold(0.0f32, |far, &depth| far.max(depth.min(40.0)));
    let near = rendered.depth.iter().fold(far, |near, &depth| near.min(depth));
    let shade = |depth: &f32| 255 - ((depth.min(far) - near) / (far - near).max(1e-6) * 235.0) as u8;
    let depth: Vec<u8> = rendered.depth.iter().flat_map(|depth| [shade(depth); 3]).collect();
    [
        picture(rendered.bytes(), side),
        picture(marks, side),
        picture(depth, side),
        picture(normal_bytes(rendered), side),
    ]
}

/// The colour of a mask: dark for what is no object.
pub fn mark(owner: u8) -> [u8; 3] {
    if owner == 0 { MARKS[0] } else { MARKS[1 + (usize::from(owner) - 1) % (MARKS.len() - 1)] }
}

/// Normals as colours, `[size, size, 3]`: -1 is 0 and 1 is 255.
pub fn normal_bytes(rendered: &Rendered) -> Vec<u8> {
    let halves: Vec<f32> = rendered.normals.iter().map(|value| value * 0.5 + 0.5).collect();
    crate::world::scene::image::interleaved(&halves)
}
