//! The surface of a shape as triangles, by marching tetrahedra: each cube of a grid is cut into six tetrahedra
//! around its diagonal, the same for all cubes, so that neighbours agree on every face. The surface has no
//! holes and no edge with more than two faces, whatever the shape, as long as it stays within the grid.

use std::collections::HashMap;
use std::fmt::Write;

use super::Shape;
use crate::world::scene::vector::{Vec3, vec3};

/// Triangles that close a volume; seen from outside their corners turn left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mesh {
    /// The corners.
    pub points: Vec<Vec3>,
    /// The outward normal at each of them.
    pub normals: Vec<Vec3>,
    /// Three corners each.
    pub faces: Vec<[u32; 3]>,
}

/// Half the side of the cube that is looked through.
const EXTENT: f32 = 1.05;

/// The corners of the six tetrahedra of a cube: bit 0 of a corner is x, bit 1 y, bit 2 z. Each follows one way
/// from corner 0 to corner 7 along the edges, so all six turn the same way or are listed to do so.
const TETRAHEDRA: [[usize; 4]; 6] =
    [[0, 1, 3, 7], [0, 3, 2, 7], [0, 2, 6, 7], [0, 6, 4, 7], [0, 4, 5, 7], [0, 5, 1, 7]];

impl Mesh {
    /// The surface of a shape within the unit ball, on a grid of `cells` cubes a side.
    pub fn of(shape: &Shape, cells: usize) -> Self {
        let grid = Grid::new(shape, cells.max(1));
        let mut march = March { grid, mesh: Self::default(), known: HashMap::new() };
        march.run();
        let mut mesh = march.mesh;
        mesh.normals = mesh.points.iter().map(|&point| shape.normal(point)).collect();
        mesh
    }

    /// Corners less edges plus faces: 2 for each closed piece, less 2 for each hole through one.
    pub fn euler(&self) -> i64 {
        let edges = self.faces.len() * 3 / 2;
        self.points.len() as i64 - edges as i64 + self.faces.len() as i64
    }

    /// The volume inside, by the divergence theorem.
    pub fn volume(&self) -> f32 {
        let corner = |at: u32| self.points[at as usize];
        self.faces.iter().map(|&[a, b, c]| corner(a).dot(corner(b).cross(corner(c))) / 6.0).sum()
    }

    /// As a Wavefront OBJ file.
    pub fn obj(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        for point in &self.points {
            let _ = writeln!(text, "v {:.6} {:.6} {:.6}", point.x, point.y, point.z);
        }
        for normal in &self.normals {
            let _ = writeln!(text, "vn {:.4} {:.4} {:.4}", normal.x, normal.y, normal.z);
        }
        for face in &self.faces {
            let [a, b, c] = face.map(|at| at + 1);
            let _ = writeln!(text, "f {a}//{a} {b}//{b} {c}//{c}");
        }
        text
    }

    /// As a binary PLY file.
    pub fn ply(&self) -> Vec<u8> {
        let axes = ["x", "y", "z", "nx", "ny", "nz"].map(|axis| format!("property float {axis}\n")).concat();
        let head = format!(
            "ply\nformat binary_little_endian 1.0\nelement vertex {}\n{axes}element face {}\n\
             property list uchar uint vertex_indices\nend_header\n",
            self.points.len(),
            self.faces.len()
        );
        let mut bytes = head.into_bytes();
        for (point, normal) in self.points.iter().zip(&self.normals) {
            bytes.extend(
                [point.array(), normal.array()].concat().iter().flat_map(|value| value.to_le_bytes()),
            );
        }
        for face in &self.faces {
            bytes.push(3);
            bytes.extend(face.iter().flat_map(|at| at.to_le_bytes()));
        }
        bytes
    }
}

/// The distance at the corners of the cubes.
struct Grid {
    cells: usize,
    step: f32,
    values: Vec<f32>,
}

impl Grid {
    fn new(shape: &Shape, cells: usize) -> Self {
        let mut grid = Self { cells, step: 2.0 * EXTENT / cells as f32, values: Vec::new() };
        let side = cells + 1;
        grid.values = (0..side * side * side).map(|at| shape.distance(grid.place(at))).collect();
        grid
    }

    fn place(&self, at: usize) -> Vec3 {
        let side = self.cells + 1;
        vec3((at % side) as f32, (at / side % side) as f32, (at / (side * side)) as f32) * self.step
            - vec3(EXTENT, EXTENT, EXTENT)
    }

    /// The corner of a cube, from the cube's first corner.
    fn corner(&self, first: usize, corner: usize) -> usize {
        let side = self.cells + 1;
        first + (corner & 1) + (corner >> 1 & 1) * side + (corner >> 2) * side * side
    }
}

struct March {
    grid: Grid,
    mesh: Mesh,
    /// The point on the edge between two corners of the grid.
    known: HashMap<(u32, u32), u32>,
}

impl March {
    fn run(&mut self) {
        let (cells, side) = (self.grid.cells, self.grid.cells + 1);
        for cube in 0..cells * cells * cells {
            let (x, y, z) = (cube % cells, cube / cells % cells, cube / (cells * cells));
            let first = x + y * side + z * side * side;
            let corners: [usize; 8] = std::array::from_fn(|corner| self.grid.corner(first, corner));
            let inside = corners.iter().filter(|&&corner| self.grid.values[corner] < 0.0).count();
            if inside > 0 && inside < 8 {
                TETRAHEDRA.iter().for_each(|four| self.cut(four.map(|corner| corners[corner])));
            }
        }
    }

    /// The one or two triangles between the corners inside and those outside.
    fn cut(&mut self, corners: [usize; 4]) {
        let (inside, outside): (Vec<usize>, Vec<usize>) =
            corners.iter().partition(|&&corner| self.grid.values[corner] < 0.0);
        // The order of the corners was changed: an odd change would turn the triangles over.
        let order = [inside.clone(), outside.clone()].concat();
        let place = |corner: &usize| corners.iter().position(|other| other == corner).unwrap_or_default();
        let places: Vec<usize> = order.iter().map(place).collect();
        let swaps = (0..4).flat_map(|b| (0..b).map(move |a| (a, b)));
        let odd = swaps.filter(|&(a, b)| places[a] > places[b]).count() % 2 == 1;
        let mut on = |a: usize, b: usize| self.point(order[a], order[b]);
        match inside.len() {
            1 => {
                let three = [on(0, 1), on(0, 2), on(0, 3)];
                self.face(three, odd);
            }
            2 => {
                let four = [on(0, 2), on(0, 3), on(1, 3), on(1, 2)];
                self.face([four[0], four[1], four[2]], odd);
                self.face([four[0], four[2], four[3]], odd);
            }
            3 => {
                let three = [on(0, 3), on(1, 3), on(2, 3)];
                self.face(three, odd);
            }
            _ => {}
        }
    }

    fn face(&mut self, [a, b, c]: [u32; 3], turned: bool) {
        self.mesh.faces.push(if turned { [a, c, b] } else { [a, b, c] });
    }

    /// The point between two corners at which the distance, taken as straight, is zero.
    fn point(&mut self, a: usize, b: usize) -> u32 {
        let (a, b) = (a.min(b), a.max(b));
        *self.known.entry((a as u32, b as u32)).or_insert_with(|| {
            let (from, to) = (self.grid.values[a], self.grid.values[b]);
            // Points stay apart from the corners, so that no triangle shrinks to a line.
            let part = (from / (from - to)).clamp(0.02, 0.98);
            let (start, end) = (self.grid.place(a), self.grid.place(b));
            self.mesh.points.push(start + (end - start) * part);
            self.mesh.points.len() as u32 - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::world::shape::{Model, Part, Thing};

    /// Every edge has exactly two faces, which pass it in opposite directions.
    fn assert_closed(mesh: &Mesh, name: &str) {
        let mut passed: HashMap<(u32, u32), usize> = HashMap::new();
        for &[a, b, c] in &mesh.faces {
            assert!(a != b && b != c && a != c);
            [(a, b), (b, c), (c, a)].into_iter().for_each(|edge| *passed.entry(edge).or_default() += 1);
        }
        for (&(a, b), &count) in &passed {
            assert_eq!((count, passed.get(&(b, a))), (1, Some(&1)), "{name}: edge {a} {b}");
        }
    }

    #[test]
    fn every_thing_gives_a_closed_mesh_with_its_number_of_holes() {
        for index in 0..30 {
            let model = Model::sample(4, index, 1);
            let mesh = Mesh::of(&model.shape, 40);
            assert_closed(&mesh, model.thing.name());
            let euler = match model.thing {
                Thing::Ring | Thing::Mug | Thing::Nut => 0,
                _ => 2,
            };
            assert_eq!(mesh.euler(), euler, "{model} {index}");
        }
    }

    #[test]
    fn a_ball_has_its_volume_and_faces_outwards() {
        let ball = Part::Ball { centre: Vec3::default(), radius: 0.7 };
        let mesh = Mesh::of(&Shape { parts: vec![ball], ..Shape::default() }, 40);
        let exact = 4.0 / 3.0 * std::f32::consts::PI * 0.7f32.powi(3);
        assert!((mesh.volume() / exact - 1.0).abs() < 0.01, "{} {exact}", mesh.volume());
    }

    #[test]
    fn the_sign_of_the_distance_matches_the_mesh() {
        for index in 0..10 {
            let model = Model::sample(8, index, 3);
            let mesh = Mesh::of(&model.shape, 32);
            for at in 0..200u32 {
                let axis = |prime: u32| (at * prime % 199) as f32 / 99.5 - 1.0;
                let point = vec3(axis(31), axis(57), axis(101));
                let away = model.shape.distance(point);
                if away.abs() > 0.08 {
                    assert_eq!(winding(&mesh, point) > 0.5, away < 0.0, "{model} at {point:?}: {away}");
                }
            }
        }
    }

    /// How often the mesh goes round a point, by the solid angles of its faces (Van Oosterom and Strackee).
    fn winding(mesh: &Mesh, point: Vec3) -> f32 {
        let angle = |&face: &[u32; 3]| {
            let [a, b, c] = face.map(|at| mesh.points[at as usize] - point);
            let (la, lb, lc) = (a.length(), b.length(), c.length());
            let under = la * lb * lc + a.dot(b) * lc + b.dot(c) * la + c.dot(a) * lb;
            2.0 * a.dot(b.cross(c)).atan2(under)
        };
        mesh.faces.iter().map(angle).sum::<f32>() / (4.0 * std::f32::consts::PI)
    }

    #[test]
    fn points_lie_on_the_surface_and_files_name_them_all() {
        let model = Model::sample(2, 3, 3);
        let mesh = Mesh::of(&model.shape, 24);
        assert!(mesh.points.iter().all(|&point| model.shape.distance(point).abs() < 0.09));
        let obj = mesh.obj();
        assert_eq!(obj.lines().filter(|line| line.starts_with("v ")).count(), mesh.points.len());
        assert_eq!(obj.lines().filter(|line| line.starts_with("f ")).count(), mesh.faces.len());
        let ply = mesh.ply();
        let head = ply.windows(11).position(|part| part == b"end_header\n").unwrap() + 11;
        assert_eq!(ply.len(), head + mesh.points.len() * 24 + mesh.faces.len() * 13);
    }
}
