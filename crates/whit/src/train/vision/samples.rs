//! Pictures without labels.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::train::TrainError;
use crate::train::rates::Examples;
use crate::world::folder::Folder;
use crate::world::{Pictures, Scenes, World};

/// Pictures without labels, to calibrate on.
#[expect(missing_debug_implementations, reason = "pictures come from anywhere")]
pub struct Samples {
    pictures: Box<dyn Pictures>,
    size: usize,
    batch: usize,
    colours: Colours,
}

/// Mean and deviation of each colour, taken off and divided by.
pub type Colours = ([f32; 3], [f32; 3]);

impl Samples {
    /// Pictures of a folder, or without one of the toy world, for a model of images of this height and width.
    ///
    /// # Errors
    /// If there are none, or the images are not square.
    pub fn open(
        folder: Option<&Path>,
        [height, width]: [usize; 2],
        batch: usize,
        colours: Colours,
    ) -> Result<Self, TrainError> {
        let setting = |error: &dyn std::fmt::Display| TrainError::Setting(error.to_string());
        if height != width {
            return Err(setting(&format!(
                "the model's images are {height} x {width}; only square ones are made here"
            )));
        }
        let pictures: Box<dyn Pictures> = match folder {
            Some(folder) => Box::new(Folder::open(folder).map_err(|error| setting(&error))?),
            None => {
                let world = World::new(1, 2, height).map_err(|error| setting(&error))?;
                Box::new(Scenes::new(world, 1 << 32..u64::MAX))
            }
        };
        Ok(Self { pictures, size: height, batch, colours })
    }

    /// The batch of a step.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn batch(&self, step: u64, device: &Device) -> Result<Examples, TrainError> {
        let mut random = ChaCha8Rng::seed_from_u64(step);
        let numbers: Vec<usize> =
            (0..self.batch).map(|_| random.random_range(0..self.pictures.len())).collect();
        let batch = self.pictures.batch(&numbers, self.size);
        let mut values = batch.map_err(|error| TrainError::Setting(error.to_string()))?.images;
        let (mean, deviation) = self.colours;
        for (plane, values) in values.chunks_exact_mut(self.size * self.size).enumerate() {
            let colour = plane % 3;
            values.iter_mut().for_each(|value| *value = (*value - mean[colour]) / deviation[colour]);
        }
        let shape = [numbers.len(), 3, self.size, self.size];
        Ok(Examples { pixels: Tensor::from_data(TensorData::new(values, shape), device), labels: None })
    }
}
