//! Maps of an image's patches: which of them share a token, which are gone, where the class token looked.

use crate::load::image::Picture;
use crate::methods::reducers::Shares;

/// The least width of a painted map, in pixels.
const WIDE: usize = 256;

/// What became of the patches of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Cells {
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// Patches that have gone into a token with others.
    pub groups: Vec<Group>,
    /// Patches that were dropped.
    pub dropped: Vec<usize>,
}

/// Patches that went into one token.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Their numbers, ascending.
    pub patches: Vec<usize>,
    /// The smallest share of one of them that the token has.
    pub share: f32,
    /// Red, green and blue.
    pub colour: [u8; 3],
}

impl Cells {
    /// The patches of an image of this grid, each in the token that has most of it.
    pub fn of(shares: &Shares, grid: [usize; 2]) -> Self {
        let strongest = shares.strongest();
        let mut groups: Vec<Option<Group>> = vec![None; shares.tokens];
        let mut dropped = Vec::new();
        for (patch, fate) in strongest.into_iter().enumerate() {
            let Some((token, share)) = fate else {
                dropped.push(patch);
                continue;
            };
            let new = || Group { patches: Vec::new(), share: 1.0, colour: colour(patch) };
            let group = groups[token].get_or_insert_with(new);
            group.patches.push(patch);
            group.share = group.share.min(share);
        }
        let groups = groups.into_iter().flatten().filter(|group| group.patches.len() > 1).collect();
        Self { grid, groups, dropped }
    }

    /// The group of each patch.
    fn owners(&self) -> Vec<Option<usize>> {
        let mut owners = vec![None; self.grid[0] * self.grid[1]];
        for (number, group) in self.groups.iter().enumerate() {
            group.patches.iter().for_each(|&patch| owners[patch] = Some(number));
        }
        owners
    }

    /// The sides of the patches of a group that border on others: column and row where one begins, and whether it
    /// goes down rather than to the right.
    pub fn outline(&self, group: &Group) -> Vec<(usize, usize, bool)> {
        let [rows, columns] = self.grid;
        let inside = |row: usize, column: usize| {
            row < rows && column < columns && group.patches.binary_search(&(row * columns + column)).is_ok()
        };
        let sides = |&patch: &usize| {
            let (row, column) = (patch / columns, patch % columns);
            let before = |at: usize| at.wrapping_sub(1);
            let sides = [
                (inside(before(row), column), (column, row, false)),
                (inside(row + 1, column), (column, row + 1, false)),
                (inside(row, before(column)), (column, row, true)),
                (inside(row, column + 1), (column + 1, row, true)),
            ];
            sides.into_iter().filter(|(inside, _)| !inside).map(|(_, side)| side).collect::<Vec<_>>()
        };
        group.patches.iter().flat_map(sides).collect()
    }

    /// The picture with groups tinted and outlined in a colour each, and what was dropped in pale grey.
    pub fn paint(&self, picture: &Picture) -> Picture {
        let owners = self.owners();
        let mut map = enlarged(picture);
        let sides = [map.height / self.grid[0].max(1), map.width / self.grid[1].max(1)];
        let dropped: Vec<bool> =
            (0..owners.len()).map(|patch| self.dropped.binary_search(&patch).is_ok()).collect();
        each(&mut map, self.grid, |patch, rgb| match owners[patch] {
            Some(group) => mix(rgb, self.groups[group].colour, 0.42),
            None if dropped[patch] => pale(rgb),
            None => rgb,
        });
        for group in &self.groups {
            for side in self.outline(group) {
                stroke(&mut map, side, sides, group.colour);
            }
        }
        map
    }
}

/// The picture in the light that each patch got, the brightest in full.
pub fn spotlight(picture: &Picture, values: &[f32], grid: [usize; 2]) -> Picture {
    let mut map = enlarged(picture);
    let shades = shades(values);
    each(&mut map, grid, |patch, rgb| mix(rgb, [0; 3], shades[patch]));
    map
}

/// How dark each patch is shown, from 0 for the one with most; by square roots, so that little is seen too.
pub fn shades(values: &[f32]) -> Vec<f32> {
    let most = values.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    values.iter().map(|value| 0.88 * (1.0 - (value / most).sqrt())).collect()
}

/// The whole patches of a picture: what is behind the last of them is not seen by the model.
pub fn cropped(picture: &Picture, [height, width]: [usize; 2]) -> Picture {
    let row = |row: usize| &picture.rgb[3 * row * picture.width..][..3 * width];
    Picture { width, height, rgb: (0..height).flat_map(row).copied().collect() }
}

/// The picture with each pixel as a square of several.
fn enlarged(picture: &Picture) -> Picture {
    let factor = WIDE.div_ceil(picture.width.max(1));
    let (width, height) = (factor * picture.width, factor * picture.height);
    let pixel = |at: usize| {
        let (row, column) = (at / width / factor, at % width / factor);
        let start = 3 * (row * picture.width + column);
        picture.rgb[start..start + 3].iter().copied()
    };
    Picture { width, height, rgb: (0..width * height).flat_map(pixel).collect() }
}

fn each(map: &mut Picture, [rows, columns]: [usize; 2], paint: impl Fn(usize, [u8; 3]) -> [u8; 3]) {
    let (width, high, wide) = (map.width, map.height / rows.max(1), map.width / columns.max(1));
    for (at, pixel) in map.rgb.chunks_exact_mut(3).enumerate() {
        let (row, column) = (at / width / high.max(1), at % width / wide.max(1));
        if row < rows && column < columns {
            pixel.copy_from_slice(&paint(row * columns + column, [pixel[0], pixel[1], pixel[2]]));
        }
    }
}

/// Draws one side of a patch, two pixels thick towards either side.
fn stroke(
    map: &mut Picture,
    (column, row, down): (usize, usize, bool),
    [high, wide]: [usize; 2],
    colour: [u8; 3],
) {
    let (x, y) = (column * wide, row * high);
    let around = |at: usize, most: usize| at.saturating_sub(1)..(at + 1).min(most);
    let (columns, rows) = match down {
        true => (around(x, map.width), y..(y + high).min(map.height)),
        false => (x..(x + wide).min(map.width), around(y, map.height)),
    };
    for row in rows {
        for column in columns.clone() {
            map.rgb[3 * (row * map.width + column)..][..3].copy_from_slice(&colour);
        }
    }
}

fn mix(rgb: [u8; 3], other: [u8; 3], share: f32) -> [u8; 3] {
    [0, 1, 2].map(|at| (f32::from(rgb[at]) * (1.0 - share) + f32::from(other[at]) * share).round() as u8)
}

/// A grey that lets one guess what was there.
fn pale(rgb: [u8; 3]) -> [u8; 3] {
    let grey = rgb.iter().map(|&value| u32::from(value)).sum::<u32>() / 3;
    mix([grey as u8; 3], [190; 3], 0.8)
}

/// A strong colour for a number; those of neighbouring numbers lie far apart.
fn colour(number: usize) -> [u8; 3] {
    // A step that is far from a whole turn beside, below and across, on grids of 8 to 32 columns.
    const STEP: f32 = 0.27;
    let hue = number as f32 * STEP % 1.0;
    [0.0, 2.0 / 3.0, 1.0 / 3.0].map(|shift| {
        let distance = ((hue + shift) % 1.0 * 6.0 - 3.0).abs() - 1.0;
        (40.0 + 200.0 * distance.clamp(0.0, 1.0)) as u8
    })
}
