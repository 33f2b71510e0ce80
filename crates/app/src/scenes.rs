//! Scenes of the toy world that `whit train toy-crate` keeps from training: for it and its kin to be shown and measured on.

use whit::embed::Classifier;
use whit::load::image::Picture;
use whit::train::recipes;
use whit::world::World;

use crate::error::AppError;

/// The world of the recipe `toy-crate`, and how many of its scenes are held out.
pub fn world() -> Result<(World, usize), AppError> {
    let recipe = recipes::find(recipes::CLASSIFIERS, "toy-crate").map(|recipe| (recipe.settings)());
    let recipe = recipe.ok_or_else(|| other("there is no recipe for pictures of the toy world"))?;
    Ok((recipe.world().map_err(AppError::from)?, recipe.held_out))
}

/// The scenes, as pictures with the classes of a model.
#[derive(Debug)]
pub struct Scenes {
    world: World,
    /// How many there are.
    pub count: usize,
    /// The model's class for each class of the world.
    classes: Vec<usize>,
}

impl Scenes {
    /// Those for a model, in its size.
    pub fn new(classifier: &Classifier) -> Result<Self, AppError> {
        let (world, count) = world()?;
        let world = World { size: classifier.images().model().config().image[0], ..world };
        let classes = world.classes().iter().map(|name| classifier.class(name)).collect::<Option<Vec<_>>>();
        let classes = classes.ok_or_else(|| other("the model's classes are not those of the toy world"))?;
        Ok(Self { world, count, classes })
    }

    /// One of them with its class.
    pub fn picture(&self, number: usize) -> (Picture, usize) {
        let (scene, size) = (self.world.sample(number as u64), self.world.size);
        let rgb = scene.render(size).bytes();
        (Picture { width: size, height: size, rgb }, self.classes[scene.class])
    }
}

fn other(message: &str) -> AppError {
    AppError::input(
        message,
        "give pictures of the model's own classes with --data, a folder of them for each class",
    )
}
