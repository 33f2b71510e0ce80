//! Solid scenes: one ray through the middle of each pixel finds what is seen there and its truth; pixels in
//! which an edge of any sort may lie get four more.

use std::ops::Range;

use super::flat::{self, behind};
use super::image::{Canvas, Rendered, span};
use super::pattern::{coverage, distance, linear, mix, second_tone};
use super::solid::{form, inside, normal, surface};
use super::{Kind, Object, Scene, Texture, Vec3, View, vec3};

/// The period of a ground's pattern is its scale times this.
const GROUND: f32 = 5.0;
/// Where a ground seen from far away has wholly taken its far colour.
const HAZE: f32 = 40.0;

impl Scene {
    /// The picture and its truth, `size` pixels on a side.
    pub fn render(&self, size: usize) -> Rendered {
        let mut canvas = Canvas::new(size);
        if self.is_flat() {
            flat::paint(self, &mut canvas)
        } else {
            Stage::new(self, size).paint(&mut canvas)
        }
        canvas.finish(self)
    }
}

/// A solid with all that stays the same from ray to ray, in its own axes and units.
#[derive(Debug)]
struct Thing {
    kind: Kind,
    texture: Texture,
    /// 0 for a pebble.
    owner: u8,
    first: [f32; 3],
    second: [f32; 3],
    centre: Vec3,
    inverse: f32,
    turn: (f32, f32),
    /// The radius of a ball around it.
    bound: f32,
    /// The eye and the camera's axes, as the thing sees them.
    eye: Vec3,
    forward: Vec3,
    right: Vec3,
    up: Vec3,
    light: Vec3,
    columns: Range<usize>,
    rows: Range<usize>,
}

struct Stage<'a> {
    scene: &'a Scene,
    things: Vec<Thing>,
    size: usize,
    axis: (f32, f32),
    /// Half way between the light and the viewer, for the highlight.
    glance: Vec3,
}

/// What a ray meets first.
#[derive(Clone, Copy, Debug)]
struct Hit {
    /// The number of a thing, or [`NOTHING`].
    thing: u8,
    depth: f32,
}

const NOTHING: u8 = u8::MAX;

/// What is seen along a ray.
#[derive(Clone, Copy, Debug)]
struct Seen {
    colour: [f32; 3],
    normal: Vec3,
    /// Differs where an edge of thing, face or shadow lies between two rays.
    key: u32,
}

impl Thing {
    fn new(scene: &Scene, solid: &Solid<'_>, size: usize) -> Self {
        let view = &scene.view;
        let (sine, cosine) = solid.turn.sin_cos();
        let (back, inverse) = ((-sine, cosine), 1.0 / solid.radius);
        let reach = form(solid.kind).reach;
        let spot = view.spot(solid.centre, solid.radius * reach);
        Self {
            kind: solid.kind,
            texture: solid.texture,
            owner: solid.owner,
            first: linear(*solid.paint),
            second: linear(second_tone(*solid.paint)),
            centre: solid.centre,
            inverse,
            turn: (sine, cosine),
            bound: solid.radius * reach,
            eye: (view.eye - solid.centre).turned(back) * inverse,
            forward: view.forward.turned(back) * inverse,
            right: view.right.turned(back) * inverse,
            up: view.up.turned(back) * inverse,
            light: scene.light.turned(back),
            columns: span(spot.x, spot.reach, size),
            rows: span(spot.y, spot.reach, size),
        }
    }

    /// A point of the world in the thing's axes and units.
    fn inward(&self, point: Vec3) -> Vec3 {
        let (sine, cosine) = self.turn;
        (point - self.centre).turned((-sine, cosine)) * self.inverse
    }

    fn meets(&self, x: f32, y: f32) -> Option<f32> {
        let way = self.forward + self.right * x + self.up * y;
        inside(self.kind, self.eye, way).map(|part| part.0).filter(|&depth| depth > 0.0)
    }

    /// Whether it keeps the light, from this direction, from a point outside of it.
    fn shades(&self, point: Vec3, light: Vec3) -> bool {
        let way = point - self.centre;
        let along = way.dot(light);
        let near = along < self.bound && way.dot(way) - along * along < self.bound * self.bound;
        near && inside(self.kind, self.inward(point), self.light).is_some_and(|part| part.0 > 0.0)
    }
}

/// What things are made of: objects and pebbles alike.
struct Solid<'a> {
    kind: Kind,
    texture: Texture,
    owner: u8,
    paint: &'a [f32; 3],
    centre: Vec3,
    radius: f32,
    turn: f32,
}

impl<'a> Stage<'a> {
    fn new(scene: &'a Scene, size: usize) -> Self {
        let objects = scene.objects.iter().enumerate().map(|(at, object)| {
            let &Object { kind, texture, centre, radius, turn, .. } = object;
            Thing::new(
                scene,
                &Solid { kind, texture, owner: at as u8 + 1, paint: &object.paint, centre, radius, turn },
                size,
            )
        });
        let pebbles = scene.clutter.iter().map(|pebble| {
            let (kind, texture) = (Kind::Sphere, Texture::Plain);
            let (paint, centre, radius) = (&[pebble.grey; 3], pebble.centre, pebble.radius);
            Thing::new(scene, &Solid { kind, texture, owner: 0, paint, centre, radius, turn: 0.0 }, size)
        });
        let things = objects.chain(pebbles).collect();
        let glance = (scene.light - scene.view.forward).unit();
        Self { scene, things, size, axis: scene.backdrop.turn.sin_cos(), glance }
    }

    /// The place of a pixel in the picture at depth 1.
    fn place(&self, column: f32, row: f32) -> (f32, f32) {
        let (step, half) = (2.0 / self.size as f32, self.scene.view.half);
        ((column * step - 1.0) * half, (1.0 - row * step) * half)
    }

    fn ground(&self, x: f32, y: f32) -> Hit {
        let view = &self.scene.view;
        let fall = view.forward.y + view.right.y * x + view.up.y * y;
        let depth = if fall < -1e-3 { (view.eye.y / -fall).min(1e3) } else { 1e3 };
        Hit { thing: NOTHING, depth }
    }

    fn paint(&self, canvas: &mut Canvas) {
        let hits = self.hits();
        let mut keys = vec![0; hits.len()];
        let view = &self.scene.view;
        for (at, &hit) in hits.iter().enumerate() {
            let (x, y) = self.middle(at);
            let seen = self.see(hit, x, y);
            keys[at] = seen.key;
            canvas.colour[at] = seen.colour;
            canvas.depth[at] = hit.depth;
            canvas.owner[at] = self.things.get(usize::from(hit.thing)).map_or(0, |thing| thing.owner);
            let normal = seen.normal;
            canvas.normal[at] = [normal.dot(view.right), normal.dot(view.up), -normal.dot(view.forward)];
        }
        self.smooth(&keys, canvas);
    }

    fn middle(&self, at: usize) -> (f32, f32) {
        self.place((at % self.size) as f32 + 0.5, (at / self.size) as f32 + 0.5)
    }

    /// What the ray through the middle of each pixel meets first.
    fn hits(&self) -> Vec<Hit> {
        let mut hits: Vec<Hit> = (0..self.size * self.size)
            .map(|at| {
                let (x, y) = self.middle(at);
                self.ground(x, y)
            })
            .collect();
        for (number, thing) in self.things.iter().enumerate() {
            for row in thing.rows.clone() {
                for column in thing.columns.clone() {
                    let (x, y) = self.place(column as f32 + 0.5, row as f32 + 0.5);
                    let hit = &mut hits[row * self.size + column];
                    if let Some(depth) = thing.meets(x, y).filter(|&depth| depth < hit.depth) {
                        *hit = Hit { thing: number as u8, depth };
                    }
                }
            }
        }
        hits
    }

    /// Gives each pixel with a different neighbour the mean of four more rays.
    fn smooth(&self, keys: &[u32], canvas: &mut Canvas) {
        let mut near = Vec::new();
        for at in edges(keys, self.size) {
            let (column, row) = (at % self.size, at / self.size);
            let touches = |thing: &Thing| thing.rows.contains(&row) && thing.columns.contains(&column);
            near.clear();
            near.extend((0..self.things.len()).filter(|&number| touches(&self.things[number])));
            let mut sum = [0.0; 3];
            for corner in 0..4 {
                let (dx, dy) = (0.25 + 0.5 * (corner % 2) as f32, 0.25 + 0.5 * (corner / 2) as f32);
                let (x, y) = self.place(column as f32 + dx, row as f32 + dy);
                let colour = self.see(self.hit(&near, x, y), x, y).colour;
                sum = std::array::from_fn(|channel| sum[channel] + 0.25 * colour[channel]);
            }
            canvas.colour[at] = sum;
        }
    }

    /// What a ray meets first among some of the things.
    fn hit(&self, near: &[usize], x: f32, y: f32) -> Hit {
        let mut hit = self.ground(x, y);
        for &number in near {
            if let Some(depth) = self.things[number].meets(x, y).filter(|&depth| depth < hit.depth) {
                hit = Hit { thing: number as u8, depth };
            }
        }
        hit
    }

    fn see(&self, hit: Hit, x: f32, y: f32) -> Seen {
        let view = &self.scene.view;
        let ray = view.forward + view.right * x + view.up * y;
        let point = view.eye + ray * hit.depth;
        let (normal, paint, mut key) = match self.things.get(usize::from(hit.thing)) {
            None => (vec3(0.0, 1.0, 0.0), self.floor(point, hit.depth), 0),
            Some(thing) => {
                // How much of the surface a pixel shows: more the farther and the more slanted it is.
                thing.paint(point, ray, 2.0 * view.half / self.size as f32 * hit.depth)
            }
        };
        key = (key << 9) | (u32::from(hit.thing) << 1);
        let facing = normal.dot(self.scene.light);
        let lit = facing > 0.0 && !self.shaded(hit.thing, point);
        let colour = self.light(paint, normal, if lit { facing } else { 0.0 }, hit.thing != NOTHING);
        Seen { colour, normal, key: key | u32::from(lit) }
    }

    fn floor(&self, point: Vec3, depth: f32) -> [f32; 3] {
        let backdrop = &self.scene.backdrop;
        if backdrop.pattern == Texture::Plain {
            let part = (depth / HAZE).min(1.0);
            return linear(mix(backdrop.near, backdrop.far, part));
        }
        // The pattern fades into its mean with the distance, where its edges would be finer than pixels.
        let place = [point.x * (1.0 / GROUND), point.z * (1.0 / GROUND)];
        let pixels = self.size as f32 * GROUND / (2.0 * View::HALF * depth) * 0.7;
        behind(backdrop, self.axis, place, pixels)
    }

    /// Whether any other thing keeps the light from a point of one.
    fn shaded(&self, thing: u8, point: Vec3) -> bool {
        self.things
            .iter()
            .enumerate()
            .any(|(at, other)| at != usize::from(thing) && other.shades(point, self.scene.light))
    }

    /// Light from everywhere, more from above; Lambert's law for the lamp, and a small highlight.
    fn light(&self, paint: [f32; 3], normal: Vec3, facing: f32, glossy: bool) -> [f32; 3] {
        let strength = 0.30 + 0.12 * normal.y + 0.72 * facing;
        let shine =
            if glossy && facing > 0.0 { normal.dot(self.glance).max(0.0).powi(32) * 0.22 } else { 0.0 };
        paint.map(|channel| channel * strength + shine)
    }
}

impl Thing {
    /// The normal, the colour and a key that tells faces apart, at a point of the surface where a pixel is
    /// `width` wide.
    fn paint(&self, point: Vec3, ray: Vec3, width: f32) -> (Vec3, [f32; 3], u32) {
        let local = self.inward(point);
        let upright = normal(self.kind, local);
        let face = match self.kind {
            Kind::Sphere | Kind::Torus => 0,
            Kind::Cone | Kind::Cylinder => u32::from(upright.y.abs() > 0.7),
            _ => {
                u32::from(upright.x > 0.5) + 2 * u32::from(upright.z > 0.5) + 4 * u32::from(upright.x < -0.5)
            }
        };
        let outward = upright.turned(self.turn);
        if self.texture == Texture::Plain {
            return (outward, self.first, face);
        }
        let (u, v) = surface(self.kind, local, upright);
        let slant = (-outward.dot(ray.unit())).max(0.3);
        let second = coverage(distance(self.texture, u, v) * slant / (width * self.inverse));
        (outward, mix(self.first, self.second, second), face)
    }
}

/// The pixels whose key differs from that of a neighbour.
fn edges(keys: &[u32], size: usize) -> Vec<usize> {
    let mut edge = vec![false; keys.len()];
    for at in 0..keys.len() {
        if at % size + 1 < size && keys[at] != keys[at + 1] {
            (edge[at], edge[at + 1]) = (true, true);
        }
        if at + size < keys.len() && keys[at] != keys[at + size] {
            (edge[at], edge[at + size]) = (true, true);
        }
    }
    (0..keys.len()).filter(|&at| edge[at]).collect()
}
