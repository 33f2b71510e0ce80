//! Questions about a scene, with exact answers. Of every yes-or-no question both answers can be had from every
//! scene, and a coin decides which, so the words of a question never give the answer away.

use std::fmt;

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::caption::{described, number, with_article};
use super::random::{Purpose, stream};
use super::{Colour, Kind, Object, Relation, Scene, Size, Texture, words};

words! {
    /// What a question is about.
    Ask {
        /// Whether there is such an object.
        Exists = "exists",
        /// How many there are.
        Count = "count",
        /// The colour of an object.
        Colour = "colour",
        /// What kind an object is.
        Kind = "kind",
        /// How an object is painted.
        Texture = "texture",
        /// Whether one object stands so to another.
        Relation = "relation",
        /// Whether one object is larger than another.
        Larger = "larger",
        /// Whether there are more of one kind than of another.
        More = "more",
    }
}

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What it is about.
    pub ask: Ask,
    /// The question.
    pub text: String,
    /// The answer: one word.
    pub answer: String,
}

impl Scene {
    /// One question of each sort that can be asked, in any order.
    pub fn questions(&self) -> Vec<Question> {
        let mut random = stream(self.seed, self.index, Purpose::Questions);
        let mut asked: Vec<Question> =
            Ask::ALL.iter().filter_map(|&ask| self.question(ask, &mut random)).collect();
        asked.shuffle(&mut random);
        asked
    }

    fn question(&self, ask: Ask, random: &mut ChaCha8Rng) -> Option<Question> {
        let (text, answer) = match ask {
            Ask::Exists => self.exists(random)?,
            Ask::Count => self.how_many(random)?,
            Ask::Colour => {
                let (object, name) = self.unique(random, |object| object.kind.name().into())?;
                (format!("What colour is the {name}?"), object.colour.name().into())
            }
            Ask::Kind => {
                let (object, name) = self.unique(random, |object| format!("{} object", object.colour))?;
                (format!("What shape is the {name}?"), object.kind.name().into())
            }
            Ask::Texture => {
                let (object, name) =
                    self.unique(random, |object| format!("{} {}", object.colour, object.kind))?;
                (format!("What pattern does the {name} have?"), object.texture.name().into())
            }
            Ask::Relation => self.relation(random)?,
            Ask::Larger => self.larger(random)?,
            Ask::More => self.more(random)?,
        };
        Some(Question { ask, text, answer })
    }

    /// An object that only one has such a name.
    fn unique(&self, random: &mut ChaCha8Rng, name: impl Fn(&Object) -> String) -> Option<(&Object, String)> {
        let names: Vec<String> = self.objects.iter().map(name).collect();
        let single = |at: &usize| names.iter().filter(|&name| *name == names[*at]).count() == 1;
        let found: Vec<usize> = (0..names.len()).filter(single).collect();
        let &at = found.choose(random)?;
        Some((&self.objects[at], names[at].clone()))
    }

    /// The shortest of an object's names that no other has.
    pub fn name(&self, at: usize) -> Option<String> {
        let ways: [fn(&Object) -> String; 3] = [
            |object| object.kind.name().into(),
            |object| format!("{} {}", object.colour, object.kind),
            described,
        ];
        let object = self.objects.get(at)?;
        // A name without a texture fits textured objects too.
        let silent = object.texture == Texture::Plain;
        let seen = |other: &Object| {
            let texture = if silent { Texture::Plain } else { other.texture };
            Object { texture, ..other.clone() }
        };
        let alone = |way: &&fn(&Object) -> String| {
            self.objects.iter().filter(|other| way(&seen(other)) == way(object)).count() == 1
        };
        ways.iter().find(alone).map(|way| way(object))
    }

    /// "No" asks for the kind of one object in a colour that no such object has, if it can in the colour of
    /// another, so that seeing either alone does not help.
    fn exists(&self, random: &mut ChaCha8Rng) -> Option<(String, String)> {
        let object = self.objects.choose(random)?;
        let yes = random.random_bool(0.5);
        let colour = if yes { object.colour } else { self.missing_colour(object.kind, random)? };
        let thing = with_article(&format!("{colour} {}", object.kind));
        Some((format!("Is there {thing}?"), yes_or_no(yes)))
    }

    fn missing_colour(&self, kind: Kind, random: &mut ChaCha8Rng) -> Option<Colour> {
        let missing = |colour: &Colour| {
            !self.objects.iter().any(|object| object.kind == kind && object.colour == *colour)
        };
        let seen: Vec<Colour> =
            self.objects.iter().map(|object| object.colour).filter(|colour| missing(colour)).collect();
        let every: Vec<Colour> = Colour::ALL.iter().copied().filter(|colour| missing(colour)).collect();
        seen.choose(random).or_else(|| every.choose(random)).copied()
    }

    /// One in four asks for a kind that is not there.
    fn how_many(&self, random: &mut ChaCha8Rng) -> Option<(String, String)> {
        let kinds = if self.is_flat() { Kind::FLAT } else { Kind::SOLID };
        let there = self.objects.choose(random)?.kind;
        let kind = if random.random_bool(0.25) { *kinds.choose(random)? } else { there };
        Some((format!("How many {} are there?", kind.plural()), number(self.count(kind))))
    }

    fn relation(&self, random: &mut ChaCha8Rng) -> Option<(String, String)> {
        let told = self.relations();
        let clear = |&&(a, relation, b): &&(usize, Relation, usize)| {
            relation.inverse().is_some() && self.name(a).is_some() && self.name(b).is_some()
        };
        let clear: Vec<_> = told.iter().filter(clear).collect();
        let &&(a, relation, b) = clear.choose(random)?;
        let yes = random.random_bool(0.5);
        let asked = if yes { relation } else { relation.inverse()? };
        let (first, second) = (self.name(a)?, self.name(b)?);
        Some((format!("Is the {first} {asked} the {second}?"), yes_or_no(yes)))
    }

    fn larger(&self, random: &mut ChaCha8Rng) -> Option<(String, String)> {
        let named: Vec<(Size, String)> = self
            .objects
            .iter()
            .enumerate()
            .filter_map(|(at, object)| {
                // The name must not tell the size.
                Some((object.size, self.name(at).filter(|name| !name.contains(object.size.name()))?))
            })
            .collect();
        let pairs: Vec<_> = named
            .iter()
            .flat_map(|a| named.iter().map(move |b| (a, b)))
            .filter(|((a, _), (b, _))| a > b)
            .collect();
        let &((_, large), (_, small)) = pairs.choose(random)?;
        let yes = random.random_bool(0.5);
        let (first, second) = if yes { (large, small) } else { (small, large) };
        Some((format!("Is the {first} larger than the {second}?"), yes_or_no(yes)))
    }

    fn more(&self, random: &mut ChaCha8Rng) -> Option<(String, String)> {
        let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|&kind| self.count(kind) > 0).collect();
        let pairs: Vec<(Kind, Kind)> = kinds
            .iter()
            .flat_map(|&a| kinds.iter().map(move |&b| (a, b)))
            .filter(|&(a, b)| self.count(a) > self.count(b))
            .collect();
        let &(many, few) = pairs.choose(random)?;
        let yes = random.random_bool(0.5);
        let (first, second) = if yes { (many, few) } else { (few, many) };
        Some((format!("Are there more {} than {}?", first.plural(), second.plural()), yes_or_no(yes)))
    }
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}
