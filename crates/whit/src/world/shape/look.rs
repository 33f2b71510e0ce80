//! A picture of a shape, by steps along each ray as long as the distance allows.

use super::Shape;
use crate::world::scene::vector::{Vec3, vec3};

/// The paint, in linear light.
const PAINT: [f32; 3] = [0.16, 0.36, 0.62];
/// The paper, in linear light.
const PAPER: f32 = 0.86;
/// Rays to a pixel along each side.
const RAYS: usize = 2;

/// `[3, size, size]`: the shape from above, lit from the left.
pub fn preview(shape: &Shape, size: usize) -> Vec<f32> {
    let mut image = vec![0.0; 3 * size * size];
    let step = 1.0 / (size * RAYS) as f32;
    for at in 0..size * size {
        let mut sum = [0.0; 3];
        for ray in 0..RAYS * RAYS {
            let x = ((at % size * RAYS + ray % RAYS) as f32 + 0.5) * step;
            let y = ((at / size * RAYS + ray / RAYS) as f32 + 0.5) * step;
            let colour = look(shape, 2.0 * x - 1.0, 1.0 - 2.0 * y);
            sum = std::array::from_fn(|channel| sum[channel] + colour[channel]);
        }
        for (channel, light) in sum.iter().enumerate() {
            image[channel * size * size + at] = (light / (RAYS * RAYS) as f32).sqrt().min(1.0);
        }
    }
    image
}

fn look(shape: &Shape, x: f32, y: f32) -> [f32; 3] {
    let eye = vec3(1.6, 1.7, -2.6);
    let forward = (-eye).unit();
    let right = vec3(0.0, 1.0, 0.0).cross(forward).unit();
    let way = (forward + (right * x + forward.cross(right) * y) * 0.33).unit();
    let Some(point) = march(shape, eye, way, 6.0) else { return [PAPER - 0.12 * (1.0 - y) / 2.0; 3] };
    let (normal, light) = (shape.normal(point), vec3(-0.25, 0.85, -0.6).unit());
    let clear = march(shape, point + normal * 0.02, light, 2.0).is_none();
    let facing = if clear { normal.dot(light).max(0.0) } else { 0.0 };
    let shine = if clear { normal.dot((light - way).unit()).max(0.0).powi(40) * 0.3 } else { 0.0 };
    PAINT.map(|channel| channel * (0.32 + 0.12 * normal.y + 0.85 * facing) + shine)
}

/// The first point of the shape along a ray.
fn march(shape: &Shape, from: Vec3, way: Vec3, far: f32) -> Option<Vec3> {
    let mut gone = 0.0;
    for _ in 0..96 {
        let point = from + way * gone;
        let away = shape.distance(point);
        if away < 1e-3 {
            return Some(point);
        }
        gone += away;
        if gone > far {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::shape::Part;

    #[test]
    fn a_ball_is_seen_in_the_middle_and_paper_in_the_corner() {
        let ball = Part::Ball { centre: Vec3::default(), radius: 0.6 };
        let image = preview(&Shape { parts: vec![ball], ..Shape::default() }, 32);
        let at = |channel: usize, x: usize, y: usize| image[channel * 1024 + y * 32 + x];
        assert!(at(2, 16, 16) > at(0, 16, 16) + 0.1, "the ball is blue");
        assert_eq!(at(0, 1, 1), at(2, 1, 1), "the paper is grey");
    }
}
