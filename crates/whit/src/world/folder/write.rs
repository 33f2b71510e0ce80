//! Ordinary folders, written: pictures and what is true of them, clips, pairs, shapes and volumes. Every file
//! appears whole or not at all, and a run that was stopped goes on where it was.

use std::fs;
use std::io::Write;
use std::path::Path;

use image::RgbImage;
use serde_json::{Value, json};
use whit_kernels::parallel::pieces;

use super::FolderError;
use super::item::Item;
use super::sheet::sheet;
use crate::world::World;
use crate::world::degrade::DegradeError;

/// What a folder is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// Pictures with captions, classes, masks, depth, normals and questions.
    Scenes,
    /// Short videos with captions.
    Videos {
        /// Pictures in each.
        frames: usize,
    },
    /// Pictures in low and high resolution.
    Pairs {
        /// The side of one divided by that of the other.
        scale: usize,
    },
    /// Meshes, and points with their distance to the surface.
    Shapes,
    /// Volumes with labels.
    Volumes,
}

/// How pictures are stored; both keep every bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// PNG.
    #[default]
    Png,
    /// WebP without loss.
    WebP,
}

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Export {
    /// Where the samples come from.
    pub world: World,
    /// What is written of them.
    pub collection: Collection,
    /// How many.
    pub count: usize,
    /// How pictures are stored.
    pub format: Format,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Written {
    /// Samples in the folder.
    pub samples: usize,
    /// Files written now.
    pub files: usize,
    /// Files that were there from an earlier run.
    pub kept: usize,
    /// Bytes written now.
    pub bytes: u64,
}

/// Samples that are made before the next look at whether to go on.
const CHUNK: usize = 32;
/// The most pictures on the contact sheet.
const SHOWN: usize = 64;
/// The file that says what the others were made from.
const SETTINGS: &str = "world.json";

impl Export {
    /// Fills the folder. `proceed` is told how many samples are done, and says whether to go on.
    ///
    /// # Errors
    /// If the folder holds something else, a file cannot be written, or the run was stopped.
    pub fn write(
        &self,
        folder: &Path,
        mut proceed: impl FnMut(usize) -> bool,
    ) -> Result<Written, FolderError> {
        self.check()?;
        self.claim(folder)?;
        let mut written = Written::default();
        let (mut lines, mut shown) = (String::new(), Vec::new());
        let numbers: Vec<u64> = (0..self.count as u64).collect();
        for chunk in numbers.chunks(CHUNK) {
            let mut made: Vec<Option<Result<Sample, FolderError>>> = chunk.iter().map(|_| None).collect();
            pieces(&mut made, 1, |at, slot| slot[0] = Some(self.sample(folder, chunk[at])));
            for sample in made.into_iter().flatten() {
                let sample = sample?;
                written.add(&sample.written);
                lines.push_str(&sample.line.to_string());
                lines.push('\n');
                if shown.len() < SHOWN {
                    shown.push(sample.preview);
                }
            }
            if !proceed(written.samples) {
                return Err(FolderError::Stopped(folder.to_owned()));
            }
        }
        written.file(&folder.join("metadata.jsonl"), lines.as_bytes(), true)?;
        self.sheets(folder, &shown, &mut written)?;
        Ok(written)
    }

    fn check(&self) -> Result<(), FolderError> {
        let size = self.world.size;
        match self.collection {
            Collection::Pairs { scale } if scale == 0 || !size.is_multiple_of(scale) => {
                Err(DegradeError::Scale { size, scale }.into())
            }
            _ => Ok(()),
        }
    }

    /// Makes the folder, or checks that it holds the beginning of the same.
    fn claim(&self, folder: &Path) -> Result<(), FolderError> {
        let path = folder.join(SETTINGS);
        let settings = self.settings();
        match fs::read_to_string(&path) {
            Ok(text) => {
                let found: Option<Value> = serde_json::from_str(&text).ok();
                let same = found.is_some_and(|found| found == settings);
                return if same { Ok(()) } else { Err(FolderError::Other(folder.to_owned())) };
            }
            Err(reason) if reason.kind() == std::io::ErrorKind::NotFound => {}
            Err(reason) => return Err(FolderError::File { path, reason }),
        }
        let taken = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
        if taken {
            return Err(FolderError::Other(folder.to_owned()));
        }
        fs::create_dir_all(folder).map_err(FolderError::file(folder))?;
        let text = format!("{settings:#}\n");
        Written::default().file(&path, text.as_bytes(), true)
    }

    /// All that the files depend on; the count is not among them, so that more can be added.
    fn settings(&self) -> Value {
        let world = &self.world;
        json!({
            "collection": format!("{:?}", self.collection),
            "seed": world.seed,
            "level": world.level.number(),
            "style": format!("{:?}", world.style),
            "labels": format!("{:?}", world.labels),
            "size": world.size,
            "format": format!("{:?}", self.format),
            "classes": match self.collection {
                Collection::Shapes => crate::world::shape::Thing::ALL.iter().map(|t| t.name().to_owned()).collect::<Vec<_>>(),
                Collection::Volumes => Vec::new(),
                _ => world.classes(),
            },
        })
    }

    fn sample(&self, folder: &Path, index: u64) -> Result<Sample, FolderError> {
        let mut written = Written { samples: 1, ..Written::default() };
        let Item { files, line, preview } = Item::make(self, index)?;
        for (name, bytes) in files {
            written.file(&folder.join(name), &bytes, false)?;
        }
        Ok(Sample { written, line, preview })
    }

    fn sheets(&self, folder: &Path, shown: &[RgbImage], written: &mut Written) -> Result<(), FolderError> {
        let png = |picture: &RgbImage| super::item::encode(picture, Format::Png);
        written.file(&folder.join("sheet.png"), &png(&sheet(shown, 8))?, true)?;
        if self.collection == Collection::Scenes {
            let truths: Vec<RgbImage> = (0..self.count.min(8) as u64)
                .flat_map(|index| super::sheet::truth(&self.world.sample(index).render(self.world.size)))
                .collect();
            written.file(&folder.join("truth.png"), &png(&sheet(&truths, 8))?, true)?;
        }
        Ok(())
    }
}

struct Sample {
    written: Written,
    line: Value,
    preview: RgbImage,
}

impl Written {
    fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.files += other.files;
        self.kept += other.kept;
        self.bytes += other.bytes;
    }

    /// Writes a file under another name and then renames it. One that is there is kept, unless it is `fresh`.
    fn file(&mut self, path: &Path, bytes: &[u8], fresh: bool) -> Result<(), FolderError> {
        if !fresh && path.is_file() {
            self.kept += 1;
            return Ok(());
        }
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder).map_err(FolderError::file(folder))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".whit-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder).map_err(FolderError::file(folder))?;
        file.write_all(bytes).map_err(FolderError::file(path))?;
        file.persist(path).map_err(|error| FolderError::file(path)(error.error))?;
        self.files += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}
