//! Small volumes as a scanner sees them: a body with organs of different brightness, blurred, uneven and noisy,
//! and the true label of every voxel.

use std::fmt;

use rand::{Rng, RngExt};

use crate::world::scene::image::add_noise;
use crate::world::scene::random::{Purpose, noise_key, stream};
use crate::world::scene::vector::{Vec3, vec3};
use crate::world::scene::words;

words! {
    /// What a voxel belongs to.
    Tissue {
        /// Outside.
        Air = "air",
        /// The body around the organs.
        Body = "body",
        /// Two, left and right, dark.
        Lung = "lung",
        /// One large, bright.
        Liver = "liver",
        /// A column at the back, brightest.
        Spine = "spine",
        /// A small bright ball inside of an organ; not in every volume.
        Lesion = "lesion",
    }
}

/// A volume of voxels; `z` is the slowest axis and `x` the fastest.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Voxels on a side.
    pub size: usize,
    /// `[size, size, size]`: brightness from 0 to 1.
    pub values: Vec<f32>,
    /// `[size, size, size]`: the number of each voxel's [`Tissue`].
    pub labels: Vec<u8>,
}

/// An ellipsoid of one tissue.
#[derive(Clone, Copy, Debug)]
struct Organ {
    tissue: Tissue,
    centre: Vec3,
    half: Vec3,
}

impl Organ {
    fn holds(&self, point: Vec3) -> bool {
        let way = point - self.centre;
        let part = vec3(way.x / self.half.x, way.y / self.half.y, way.z / self.half.z);
        part.dot(part) < 1.0
    }
}

impl Volume {
    /// The volume of a number. Levels add a lesion in half of the volumes (from 2), an uneven field (from 3)
    /// and noise.
    pub fn sample(seed: u64, index: u64, level: u8, size: usize) -> Self {
        let mut random = stream(seed, index, Purpose::Volume);
        let organs = organs(level, &mut random);
        let slope = if level > 2 { 0.25 } else { 0.0 };
        let field = [(); 3].map(|()| slope * random.random_range(-1.0..1.0f32));
        let place = |at: usize| (at as f32 + 0.5) / size as f32 * 2.0 - 1.0;
        let point = |at: usize| vec3(place(at % size), place(at / size % size), place(at / (size * size)));
        let tissue = |at: usize| {
            let inside = organs.iter().rev().find(|organ| organ.holds(point(at)));
            inside.map_or(Tissue::Air, |organ| organ.tissue)
        };
        let tissues: Vec<Tissue> = (0..size * size * size).map(tissue).collect();
        let bright = |(at, tissue): (usize, &Tissue)| {
            let uneven = point(at).dot(field.into());
            brightness(*tissue) * (1.0 + uneven)
        };
        let mut values = soften(&tissues.iter().enumerate().map(bright).collect::<Vec<_>>(), size);
        add_noise(&mut values, noise_key(seed ^ 0x701, index), 0.01 + 0.02 * f32::from(level - 1));
        values.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
        Self { size, values, labels: tissues.iter().map(|&tissue| tissue as u8).collect() }
    }

    /// How many voxels belong to a tissue.
    pub fn count(&self, tissue: Tissue) -> usize {
        self.labels.iter().filter(|&&label| label == tissue as u8).count()
    }

    /// What there is to say of it.
    pub fn caption(&self) -> &'static str {
        if self.count(Tissue::Lesion) > 0 {
            "a scan of a body with a lesion"
        } else {
            "a scan of a healthy body"
        }
    }
}

fn brightness(tissue: Tissue) -> f32 {
    match tissue {
        Tissue::Air => 0.02,
        Tissue::Body => 0.42,
        Tissue::Lung => 0.15,
        Tissue::Liver => 0.6,
        Tissue::Spine => 0.9,
        Tissue::Lesion => 0.75,
    }
}

/// What is in a body, later ones over earlier ones.
fn organs(level: u8, random: &mut impl Rng) -> Vec<Organ> {
    let mut about = |value: f32| value * random.random_range(0.88..1.12);
    let mut organ = |tissue, centre: [f32; 3], half: [f32; 3]| Organ {
        tissue,
        centre: centre.map(&mut about).into(),
        half: half.map(&mut about).into(),
    };
    let mut organs = vec![
        organ(Tissue::Body, [0.0; 3], [0.8, 0.62, 0.86]),
        organ(Tissue::Spine, [0.0, 0.38, 0.0], [0.13, 0.13, 0.75]),
        organ(Tissue::Lung, [-0.38, -0.05, -0.3], [0.22, 0.3, 0.38]),
        organ(Tissue::Lung, [0.38, -0.05, -0.3], [0.22, 0.3, 0.38]),
        organ(Tissue::Liver, [-0.22, -0.05, 0.4], [0.36, 0.3, 0.24]),
    ];
    if level > 1 && random.random_bool(0.5) {
        let host = organs[random.random_range(2..5)];
        let shift = host.half.array().map(|half| half * random.random_range(-0.4..0.4));
        let radius = random.random_range(0.09..0.14);
        let half = vec3(radius, radius, radius);
        organs.push(Organ { tissue: Tissue::Lesion, centre: host.centre + shift.into(), half });
    }
    organs
}

/// Each voxel mixed with its neighbours by the weights 1, 2, 1 along every axis.
fn soften(values: &[f32], size: usize) -> Vec<f32> {
    let along = |values: Vec<f32>, step: usize| -> Vec<f32> {
        let value = |at: usize| {
            let place = at / step % size;
            let before = if place > 0 { values[at - step] } else { values[at] };
            let after = if place + 1 < size { values[at + step] } else { values[at] };
            0.25 * before + 0.5 * values[at] + 0.25 * after
        };
        (0..values.len()).map(value).collect()
    };
    [1, size, size * size].into_iter().fold(values.to_vec(), along)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_volume_has_its_organs_and_half_have_a_lesion() {
        let volumes: Vec<Volume> = (0..24).map(|index| Volume::sample(1, index, 4, 24)).collect();
        for volume in &volumes {
            for tissue in [Tissue::Air, Tissue::Body, Tissue::Lung, Tissue::Liver, Tissue::Spine] {
                assert!(volume.count(tissue) > 20, "{tissue}");
            }
        }
        let ill = volumes.iter().filter(|volume| volume.count(Tissue::Lesion) > 0).count();
        assert!((6..=18).contains(&ill), "{ill} of 24");
        assert_eq!(volumes[3], Volume::sample(1, 3, 4, 24));
    }

    #[test]
    fn tissues_are_as_bright_as_they_should_be() {
        let volume = Volume::sample(2, 0, 1, 32);
        let mean = |tissue: Tissue| {
            let voxels = volume.values.iter().zip(&volume.labels);
            let values: Vec<f32> =
                voxels.filter(|(_, label)| **label == tissue as u8).map(|(value, _)| *value).collect();
            values.iter().sum::<f32>() / values.len() as f32
        };
        for tissue in [Tissue::Air, Tissue::Body, Tissue::Lung, Tissue::Liver, Tissue::Spine] {
            assert!((mean(tissue) - brightness(tissue)).abs() < 0.2, "{tissue} {}", mean(tissue));
        }
    }
}
