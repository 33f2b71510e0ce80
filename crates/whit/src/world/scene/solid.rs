//! Solid kinds: where a ray enters and leaves them, their normals, and the places on their surface. All in
//! the object's own axes and in units of its radius, with the surface of a ball of radius 1 (the torus a
//! little less), so that size does not tell the kind.

use std::f32::consts::{FRAC_1_PI, PI};

use super::pattern::PERIOD;
use super::{Kind, Vec3, vec3};

/// Half the side of the cube: 24 a^2 = 4 pi.
const CUBE: f32 = 0.723_6;
/// Radius and half the height of the cylinder: 6 pi c^2 = 4 pi.
const CYLINDER: f32 = 0.816_5;
/// Radius and half the height of the cone: (1 + sqrt 5) pi c^2 = 4 pi.
const CONE: f32 = 1.111_8;
/// Half the side of the pyramid's base and half its height.
const PYRAMID: f32 = 0.985;
/// Radius of the torus, and of its tube.
const TORUS: (f32, f32) = (0.82, 0.34);
/// How near a surface a point is taken to lie on it.
const SKIN: f32 = 2e-3;

/// What placing and culling need to know of a solid kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// The farthest point from the centre.
    pub reach: f32,
    /// The height of the centre above the ground.
    pub floor: f32,
    /// The radius of a circle on the ground that holds it.
    pub footprint: f32,
    /// The radius of the largest circle on its flat top; 0 if it has none.
    pub top: f32,
}

/// The measures of a solid kind.
pub(super) fn form(kind: Kind) -> Form {
    let (reach, floor, footprint, top) = match kind {
        Kind::Cube => (CUBE * 3f32.sqrt(), CUBE, CUBE * 2f32.sqrt(), CUBE),
        Kind::Cylinder => (CYLINDER * 2f32.sqrt(), CYLINDER, CYLINDER, CYLINDER),
        Kind::Cone => (CONE * 2f32.sqrt(), CONE, CONE, 0.0),
        Kind::Pyramid => (PYRAMID * 3f32.sqrt(), PYRAMID, PYRAMID * 2f32.sqrt(), 0.0),
        Kind::Torus => (TORUS.0 + TORUS.1, TORUS.1, TORUS.0 + TORUS.1, 0.0),
        _ => (1.0, 1.0, 1.0, 0.0),
    };
    Form { reach, floor, footprint, top }
}

/// Where the line `from + t * way` is inside of a solid: from which `t` to which. For the torus only the
/// first such part.
pub(super) fn inside(kind: Kind, from: Vec3, way: Vec3) -> Option<(f32, f32)> {
    match kind {
        Kind::Cube => cube(from, way),
        Kind::Cylinder => cylinder(from, way),
        Kind::Cone => cone(from, way),
        Kind::Pyramid => pyramid(from, way),
        Kind::Torus => torus(from, way),
        _ => sphere(from, way, 1.0),
    }
}

fn part(enter: f32, leave: f32) -> Option<(f32, f32)> {
    (enter < leave).then_some((enter, leave))
}

/// Where |from + t * way| < half along one axis.
fn slab(from: f32, way: f32, half: f32) -> (f32, f32) {
    let inverse = 1.0 / if way.abs() < 1e-9 { 1e-9 } else { way };
    let (a, b) = ((-half - from) * inverse, (half - from) * inverse);
    (a.min(b), a.max(b))
}

fn sphere(from: Vec3, way: Vec3, radius: f32) -> Option<(f32, f32)> {
    let (a, b) = (way.dot(way), from.dot(way));
    let under = b * b - a * (from.dot(from) - radius * radius);
    if under <= 0.0 {
        return None;
    }
    let root = under.sqrt();
    Some(((-b - root) / a, (root - b) / a))
}

fn cube(from: Vec3, way: Vec3) -> Option<(f32, f32)> {
    let (x, y) = (slab(from.x, way.x, CUBE), slab(from.y, way.y, CUBE));
    let z = slab(from.z, way.z, CUBE);
    part(x.0.max(y.0).max(z.0), x.1.min(y.1).min(z.1))
}

fn cylinder(from: Vec3, way: Vec3) -> Option<(f32, f32)> {
    let round = sphere(vec3(from.x, 0.0, from.z), vec3(way.x, 0.0, way.z), CYLINDER)?;
    let flat = slab(from.y, way.y, CYLINDER);
    part(round.0.max(flat.0), round.1.min(flat.1))
}

/// x^2 + z^2 < ((c - y) / 2)^2 between base and apex.
fn cone(from: Vec3, way: Vec3) -> Option<(f32, f32)> {
    let (gap, slope) = ((CONE - from.y) / 2.0, -way.y / 2.0);
    let a = way.x * way.x + way.z * way.z - slope * slope;
    let b = from.x * way.x + from.z * way.z - gap * slope;
    let c = from.x * from.x + from.z * from.z - gap * gap;
    let under = b * b - a * c;
    let flat = slab(from.y, way.y, CONE);
    if under <= 0.0 {
        return if a < 0.0 { part(flat.0, flat.1) } else { None };
    }
    let root = under.sqrt();
    let (first, last) = ((-b - root) / a, (root - b) / a);
    if a > 0.0 {
        return part(first.max(flat.0), last.min(flat.1));
    }
    // Steeper than the cone: inside before the smaller root and after the larger one; the slab knows which.
    part(flat.0, flat.1.min(last)).or_else(|| part(flat.0.max(first), flat.1))
}

/// The outward normals of the pyramid's sides: its half width is (c - y) / 2 at the height y.
const SIDES: [(f32, f32); 4] = [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)];

fn pyramid(from: Vec3, way: Vec3) -> Option<(f32, f32)> {
    let (mut enter, mut leave) = slab(from.y, way.y, PYRAMID);
    for (x, z) in SIDES {
        // x + y / 2 < c / 2, and so on round.
        let speed = x * way.x + z * way.z + way.y / 2.0;
        let gap = (PYRAMID - from.y) / 2.0 - x * from.x - z * from.z;
        let at = gap / if speed.abs() < 1e-9 { 1e-9 } else { speed };
        if speed < 0.0 { enter = enter.max(at) } else { leave = leave.min(at) }
    }
    part(enter, leave)
}

/// Steps along the ray by the distance to the torus.
fn torus(from: Vec3, way: Vec3) -> Option<(f32, f32)> {
    let flat = slab(from.y, way.y, TORUS.1);
    let round = sphere(from, way, TORUS.0 + TORUS.1)?;
    let (mut t, end) = (flat.0.max(round.0), flat.1.min(round.1));
    let step = 1.0 / way.length();
    for _ in 0..48 {
        if t >= end {
            return None;
        }
        let point = from + way * t;
        let ring = (point.x * point.x + point.z * point.z).sqrt() - TORUS.0;
        let away = (ring * ring + point.y * point.y).sqrt() - TORUS.1;
        if away < SKIN / 4.0 {
            return Some((t, end));
        }
        t += away * step;
    }
    None
}

/// The outward normal at a point of the surface.
pub(super) fn normal(kind: Kind, point: Vec3) -> Vec3 {
    match kind {
        Kind::Cube => cube_normal(point),
        Kind::Cylinder if point.y.abs() > CYLINDER - SKIN => vec3(0.0, point.y.signum(), 0.0),
        Kind::Cylinder => vec3(point.x, 0.0, point.z).unit(),
        Kind::Cone | Kind::Pyramid if point.y < SKIN - form(kind).floor => vec3(0.0, -1.0, 0.0),
        Kind::Cone => {
            let round = vec3(point.x, 0.0, point.z).unit();
            (round + vec3(0.0, 0.5, 0.0)).unit()
        }
        Kind::Pyramid => {
            let side = if point.x.abs() > point.z.abs() { (point.x, 0.0) } else { (0.0, point.z) };
            vec3(side.0.signum() * f32::from(side.0 != 0.0), 0.5, side.1.signum() * f32::from(side.1 != 0.0))
                .unit()
        }
        Kind::Torus => {
            let ring = vec3(point.x, 0.0, point.z).unit() * TORUS.0;
            (point - ring).unit()
        }
        _ => point.unit(),
    }
}

fn cube_normal(point: Vec3) -> Vec3 {
    let size = point.abs();
    if size.x > size.y && size.x > size.z {
        vec3(point.x.signum(), 0.0, 0.0)
    } else if size.y > size.z {
        vec3(0.0, point.y.signum(), 0.0)
    } else {
        vec3(0.0, 0.0, point.z.signum())
    }
}

/// Where a point of the surface is for the pattern painted on it.
pub(super) fn surface(kind: Kind, point: Vec3, normal: Vec3) -> (f32, f32) {
    let round = |periods: f32| point.z.atan2(point.x) * (FRAC_1_PI / 2.0 * PERIOD * periods);
    match kind {
        Kind::Cube | Kind::Pyramid if normal.x.abs() > 0.7 => (point.z, point.y),
        Kind::Cube | Kind::Pyramid if normal.z.abs() > 0.7 => (point.x, point.y),
        Kind::Cube | Kind::Pyramid => (point.x, point.z),
        Kind::Cylinder if normal.y.abs() > 0.7 => (point.x, point.z),
        Kind::Torus => {
            let ring = (point.x * point.x + point.z * point.z).sqrt() - TORUS.0;
            // Bands across the tube.
            (point.y.atan2(ring) * (PERIOD * 4.0 / (2.0 * PI)), round(10.0))
        }
        Kind::Sphere => (round(8.0), point.y),
        _ => (round(8.0), point.y),
    }
}
