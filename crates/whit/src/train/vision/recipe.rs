//! What a recipe for a classifier of pictures says, and the pictures and the network that follow from it.

use std::path::Path;

use burn::tensor::Device;
use serde_json::Value;

use crate::models::{self, ModelError};
use crate::nn::vars::{Random, Source, Storage, Vars};
use crate::nn::vision::{Vision, VisionConfig};
use crate::nn::white::Initial;
use crate::train::TrainError;
use crate::train::run::Settings;
use crate::world::folder::{Folder, FolderError};
use crate::world::scene::WorldError;
use crate::world::{Picture, Pictures, Scenes, World};

/// A recipe for a classifier of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionRecipe {
    /// The architecture, as `config.json` says it; the classes are set from the pictures.
    pub config: Value,
    /// How hard the toy world's pictures are.
    pub level: u8,
    /// Pictures held out.
    pub held_out: usize,
    /// Pictures of a batch.
    pub batch: usize,
    /// The weight of a second loss: patches on the object that the class is about shall tell the class too,
    /// so that a small transformer sees early where to look ("token labeling"; Jiang et al., 2021, arXiv
    /// 2104.10858). 0 for none; left out where it is not known which patches these are.
    pub patch_share: f32,
    /// Every random choice follows from it.
    pub seed: u64,
    /// How long and how.
    pub settings: Settings,
}

impl VisionRecipe {
    /// Pixels on a side.
    pub fn size(&self) -> usize {
        self.config["image_size"].as_u64().map_or(0, |size| size as usize)
    }

    /// The pictures to learn from and those held out: of the toy world, or of a folder with a folder for each
    /// class, of which every tenth picture is held out.
    ///
    /// # Errors
    /// If there are none.
    pub fn pictures(&self, data: Option<&Path>) -> Result<[Box<dyn Pictures>; 2], TrainError> {
        if let Some(folder) = data {
            let open = || Folder::open(folder).map_err(|error| TrainError::Setting(error.to_string()));
            let part = |held_out| -> Result<Box<dyn Pictures>, TrainError> {
                Ok(Box::new(Part { folder: open()?, held_out }))
            };
            return Ok([part(false)?, part(true)?]);
        }
        let world = self.world().map_err(|error| TrainError::Setting(error.to_string()))?;
        let first = self.held_out as u64;
        Ok([Box::new(Scenes::new(world, first..u64::MAX)), Box::new(Scenes::new(world, 0..first))])
    }

    /// The toy world that its pictures are of; the first scenes are held out.
    ///
    /// # Errors
    /// If there is no such level or size.
    pub fn world(&self) -> Result<World, WorldError> {
        World::new(self.seed, self.level, self.size())
    }

    /// `config.json` of a model of these classes.
    pub fn config_json(&self, classes: &[String]) -> Value {
        let mut config = self.config.clone();
        let names = classes.iter().enumerate().map(|(id, name)| (id.to_string(), Value::from(name.as_str())));
        let ids = classes.iter().enumerate().map(|(id, name)| (name.clone(), Value::from(id)));
        config["id2label"] = Value::Object(names.collect());
        config["label2id"] = Value::Object(ids.collect());
        config
    }

    /// The network before training, on `device`.
    ///
    /// # Errors
    /// If the configuration cannot be.
    pub fn model(&self, classes: &[String], device: &Device) -> Result<Vision, TrainError> {
        let (storage, random) = (Storage::Dense(device.clone()), Random { seed: self.seed });
        let config = self.vision_config(classes)?;
        let source: &dyn Source = if config.block.white.is_some() { &Initial { random } } else { &random };
        Ok(Vision::new(config, &Vars::new(source, &storage)).map_err(ModelError::from)?)
    }

    pub(super) fn vision_config(&self, classes: &[String]) -> Result<VisionConfig, TrainError> {
        let config = self.config_json(classes);
        let known = models::vision::architecture(&config);
        let architecture =
            known.ok_or_else(|| TrainError::Setting("the recipe's model is no vision transformer".into()))?;
        Ok(architecture.config(&config).map_err(ModelError::from)?)
    }
}

/// The part of a folder that is learnt from, or the part that is held out.
struct Part {
    folder: Folder,
    held_out: bool,
}

impl Part {
    fn place(&self, number: usize) -> usize {
        if self.held_out { 10 * number } else { number + number / 9 + 1 }
    }
}

impl Pictures for Part {
    fn len(&self) -> usize {
        let held_out = self.folder.len().div_ceil(10);
        if self.held_out { held_out } else { self.folder.len() - held_out }
    }

    fn classes(&self) -> Vec<String> {
        self.folder.classes()
    }

    fn picture(&self, number: usize, size: usize) -> Result<Picture, FolderError> {
        self.folder.picture(self.place(number), size)
    }
}
