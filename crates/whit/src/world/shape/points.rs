//! Points about a shape with their distance to it, and points on its surface: what networks of shapes learn from.

use rand::{Rng, RngExt};

use super::{Mesh, Shape};
use crate::world::scene::random::{Purpose, stream};
use crate::world::scene::vector::{Vec3, vec3};

/// What is known at points of space and of the surface.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Half of them anywhere in the cube from -1 to 1, half of them near the surface.
    pub points: Vec<Vec3>,
    /// The signed distance at each of them.
    pub distances: Vec<f32>,
    /// Points on the mesh, evenly by area.
    pub surface: Vec<Vec3>,
    /// The outward normal at each of those.
    pub normals: Vec<Vec3>,
}

/// How far points near the surface are moved off it, at most, along each axis.
const NEAR: f32 = 0.1;

/// `count` points of either sort; none if the mesh has no face.
pub fn sample(shape: &Shape, mesh: &Mesh, count: usize, seed: u64, index: u64) -> Known {
    let mut random = stream(seed ^ 0x9017, index, Purpose::Shape);
    let surface = scatter(mesh, count, &mut random);
    let mut cube = |half: f32| {
        let mut along = || random.random_range(-half..half);
        vec3(along(), along(), along())
    };
    let points: Vec<Vec3> = surface
        .iter()
        .enumerate()
        .map(|(at, &point)| if at % 2 == 0 { cube(1.0) } else { point + cube(NEAR) })
        .collect();
    let distances = points.iter().map(|&point| shape.distance(point)).collect();
    let normals = surface.iter().map(|&point| shape.normal(point)).collect();
    Known { points, distances, surface, normals }
}

/// Points on the faces, as many on each as its area asks for.
fn scatter(mesh: &Mesh, count: usize, random: &mut impl Rng) -> Vec<Vec3> {
    let corners = |face: &[u32; 3]| face.map(|at| mesh.points[at as usize]);
    let mut total = 0.0;
    let sums: Vec<f32> = mesh
        .faces
        .iter()
        .map(|face| {
            let [a, b, c] = corners(face);
            total += (b - a).cross(c - a).length();
            total
        })
        .collect();
    if total <= 0.0 {
        return Vec::new();
    }
    let mut point = || {
        let place = random.random_range(0.0..total);
        let at = sums.partition_point(|&sum| sum <= place).min(sums.len() - 1);
        let [a, b, c] = corners(&mesh.faces[at]);
        let (root, part) = (random.random::<f32>().sqrt(), random.random::<f32>());
        a * (1.0 - root) + b * (root * (1.0 - part)) + c * (root * part)
    };
    (0..count).map(|_| point()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::shape::Part;

    #[test]
    fn points_of_a_ball_are_where_they_should_be() {
        let ball = Part::Ball { centre: Vec3::default(), radius: 0.6 };
        let shape = Shape { parts: vec![ball], ..Shape::default() };
        let known = sample(&shape, &Mesh::of(&shape, 32), 1000, 3, 4);
        assert_eq!((known.points.len(), known.surface.len()), (1000, 1000));
        for (point, normal) in known.surface.iter().zip(&known.normals) {
            assert!((point.length() - 0.6).abs() < 0.01 && (point.unit() - *normal).length() < 0.02);
        }
        for (point, distance) in known.points.iter().zip(&known.distances) {
            assert!((point.length() - 0.6 - distance).abs() < 1e-5);
        }
        let upper = known.surface.iter().filter(|point| point.y > 0.0).count();
        assert!((440..560).contains(&upper), "{upper} of 1000 in the upper half");
    }

    #[test]
    fn no_faces_give_no_points() {
        assert_eq!(sample(&Shape::default(), &Mesh::default(), 10, 0, 0), Known::default());
    }
}
