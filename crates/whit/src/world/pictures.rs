//! Pictures to learn from, wherever they come from: a world, or a user's folder.

use std::ops::Range;

use whit_kernels::parallel::pieces;

use super::folder::FolderError;
use super::scene::{Scene, World};

/// A picture with what is known of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// `[3, size, size]`: red, green and blue from 0 to 1.
    pub image: Vec<f32>,
    /// Its class, if it has one.
    pub label: Option<usize>,
    /// Its caption, if it has one.
    pub caption: Option<String>,
    /// `[size, size]`: where that which the class is about is seen, if it is known.
    pub subject: Option<Vec<bool>>,
}

/// Several pictures of one size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// `[pictures, 3, size, size]`
    pub images: Vec<f32>,
    /// The class of each.
    pub labels: Vec<Option<usize>>,
    /// The caption of each.
    pub captions: Vec<Option<String>>,
    /// Where that which the class is about is seen in each.
    pub subjects: Vec<Option<Vec<bool>>>,
}

/// A numbered collection of pictures.
pub trait Pictures: Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the classes; empty if the pictures have none.
    fn classes(&self) -> Vec<String>;

    /// One picture, `size` pixels on a side.
    ///
    /// # Errors
    /// If there is no such picture, or its file cannot be read.
    fn picture(&self, number: usize, size: usize) -> Result<Picture, FolderError>;

    /// Several of them, made on all threads.
    ///
    /// # Errors
    /// The first that [`Self::picture`] gives.
    fn batch(&self, numbers: &[usize], size: usize) -> Result<Batch, FolderError> {
        let mut made: Vec<Option<Result<Picture, FolderError>>> = numbers.iter().map(|_| None).collect();
        pieces(&mut made, 1, |at, slot| slot[0] = Some(self.picture(numbers[at], size)));
        let mut batch = Batch::default();
        for picture in made.into_iter().flatten() {
            let picture = picture?;
            batch.images.extend(picture.image);
            batch.labels.push(picture.label);
            batch.captions.push(picture.caption);
            batch.subjects.push(picture.subject);
        }
        Ok(batch)
    }
}

/// Scenes of a world as a collection. Worlds do not end, so a part of one is chosen; parts that do not
/// overlap share no scene.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenes {
    world: World,
    numbers: Range<u64>,
}

impl Scenes {
    /// The scenes of these numbers.
    pub fn new(world: World, numbers: Range<u64>) -> Self {
        Self { world, numbers }
    }

    /// Scene `number` of this part, counted from its first.
    pub fn scene(&self, number: usize) -> Scene {
        self.world.sample(self.numbers.start.saturating_add(number as u64))
    }
}

impl Pictures for Scenes {
    fn len(&self) -> usize {
        usize::try_from(self.numbers.end.saturating_sub(self.numbers.start)).unwrap_or(usize::MAX)
    }

    fn classes(&self) -> Vec<String> {
        self.world.classes()
    }

    fn picture(&self, number: usize, size: usize) -> Result<Picture, FolderError> {
        let index = self.numbers.start.saturating_add(number as u64);
        if index >= self.numbers.end {
            return Err(FolderError::NoSuchPicture { number, count: self.len() });
        }
        let scene = self.scene(number);
        let rendered = scene.render(size);
        Ok(Picture {
            subject: Some(rendered.mask(0)),
            image: rendered.image,
            label: Some(scene.class),
            caption: Some(scene.caption()),
        })
    }
}
