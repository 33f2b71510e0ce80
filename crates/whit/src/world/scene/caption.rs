//! What can be truthfully said of a scene, in several phrasings.

use std::fmt;

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::random::{Purpose, stream};
use super::{Kind, Object, Relation, Scene, Texture, words};

words! {
    /// How a caption is put.
    Phrasing {
        /// Colour and kind of the subject: "a red star".
        Subject = "subject",
        /// Colour and kind of every object.
        List = "list",
        /// Size, texture, colour and kind of every object.
        Full = "full",
        /// Every object and where it is.
        Places = "places",
        /// How two objects stand to each other; as [`Self::List`] where there is nothing to say.
        Relation = "relation",
        /// How many there are of each kind.
        Counts = "counts",
    }
}

/// What may come before; each fits any phrase.
const OPENINGS: [&str; 5] = ["", "a picture of ", "an image of ", "a scene with ", "this shows "];

impl Scene {
    /// A caption in any of the phrasings, by the scene's own chance; the subject alone is named only where
    /// there is nothing else.
    pub fn caption(&self) -> String {
        let mut random = stream(self.seed, self.index, Purpose::Caption);
        let from = usize::from(self.objects.len() > 1);
        let phrasing = Phrasing::ALL[from..].choose(&mut random).copied().unwrap_or(Phrasing::Full);
        let opening = OPENINGS.choose(&mut random).copied().unwrap_or_default();
        format!("{opening}{}", self.phrase(phrasing))
    }

    /// A caption in each of the phrasings, with openings by chance.
    pub fn captions(&self) -> Vec<(Phrasing, String)> {
        let mut random = stream(self.seed, self.index, Purpose::Caption);
        let mut said = |&phrasing: &Phrasing| {
            let opening = OPENINGS[random.random_range(0..OPENINGS.len())];
            (phrasing, format!("{opening}{}", self.phrase(phrasing)))
        };
        Phrasing::ALL.iter().map(&mut said).collect()
    }

    /// The caption in one phrasing, without an opening.
    pub fn phrase(&self, phrasing: Phrasing) -> String {
        let each = |say: &dyn Fn(&Object) -> String| join(self.objects.iter().map(say).collect());
        match phrasing {
            Phrasing::Subject => self.subject().map_or_else(|| "nothing".into(), brief),
            Phrasing::List => each(&brief),
            Phrasing::Full => each(&full),
            Phrasing::Places => each(&|object| format!("{} {}", brief(object), self.place(object))),
            Phrasing::Relation => self.related().unwrap_or_else(|| each(&brief)),
            Phrasing::Counts => self.counts(),
        }
    }

    /// Where an object's centre is, in words: thirds of the picture's width and height.
    pub fn place(&self, object: &Object) -> &'static str {
        let spot = self.spot(object);
        let third = |at: f32| usize::from(at > 0.37) + usize::from(at > 0.63);
        const PLACES: [[&str; 3]; 3] = [
            ["at the top left", "at the top", "at the top right"],
            ["on the left", "in the centre", "on the right"],
            ["at the bottom left", "at the bottom", "at the bottom right"],
        ];
        PLACES[third(spot.y)][third(spot.x)]
    }

    /// One true relation, and what else there is.
    fn related(&self) -> Option<String> {
        let mut random = stream(self.seed, self.index, Purpose::Caption);
        let told = self.relations();
        // Stacks are rare, so they are told where they are.
        let stacks: Vec<_> = told.iter().filter(|told| told.1 == Relation::On).collect();
        let &(a, relation, b) = stacks.choose(&mut random).copied().or_else(|| told.choose(&mut random))?;
        let pair = format!("{} {relation} {}", brief(&self.objects[a]), brief(&self.objects[b]));
        let others = self.objects.iter().enumerate().filter(|&(at, _)| at != a && at != b);
        Some(join(std::iter::once(pair).chain(others.map(|(_, object)| brief(object))).collect()))
    }

    fn counts(&self) -> String {
        let mut kinds: Vec<Kind> = Vec::new();
        for object in &self.objects {
            if !kinds.contains(&object.kind) {
                kinds.push(object.kind);
            }
        }
        let said = |&kind: &Kind| match self.count(kind) {
            1 => format!("one {kind}"),
            count => format!("{} {}", number(count), kind.plural()),
        };
        join(kinds.iter().map(said).collect())
    }

    /// How many objects are of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.objects.iter().filter(|object| object.kind == kind).count()
    }
}

/// A small number as a word.
pub(super) fn number(count: usize) -> String {
    const WORDS: [&str; 11] =
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    WORDS.get(count).map_or_else(|| count.to_string(), |word| (*word).to_owned())
}

/// Colour and kind with an article.
pub(super) fn brief(object: &Object) -> String {
    with_article(&format!("{} {}", object.colour, object.kind))
}

/// Size, texture, colour and kind with an article.
pub(super) fn full(object: &Object) -> String {
    with_article(&described(object))
}

/// Size, texture, colour and kind.
pub(super) fn described(object: &Object) -> String {
    match object.texture {
        Texture::Plain => format!("{} {} {}", object.size, object.colour, object.kind),
        texture => format!("{} {texture} {} {}", object.size, object.colour, object.kind),
    }
}

/// "a" or "an" and the words.
pub(crate) fn with_article(words: &str) -> String {
    let article = if words.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {words}")
}

/// "x, y and z".
pub(super) fn join(mut parts: Vec<String>) -> String {
    let Some(last) = parts.pop() else { return "nothing".into() };
    if parts.is_empty() { last } else { format!("{} and {last}", parts.join(", ")) }
}
