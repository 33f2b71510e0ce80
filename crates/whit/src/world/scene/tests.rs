//! Laws of truth: pictures, masks, depth, captions and questions all say the same of a scene.

use std::collections::HashMap;

use super::*;
use crate::world::{Pictures, Scenes};

fn worlds() -> impl Iterator<Item = World> {
    let styles = [Style::Flat, Style::Solid];
    (1..=5).flat_map(move |level| styles.map(|style| World::new(11, level, 64).unwrap().with_style(style)))
}

/// Fourteen scenes of each style and level.
fn scenes() -> impl Iterator<Item = Scene> {
    worlds().flat_map(|world| (0..14).map(move |index| world.sample(index)))
}

/// The scene with another paint for one object and nothing that could hide the change.
fn repainted(scene: &Scene, at: usize, paint: [f32; 3]) -> Scene {
    let mut scene = scene.clone();
    scene.noise = 0.0;
    scene.objects[at].texture = Texture::Plain;
    scene.objects[at].paint = paint;
    scene
}

#[test]
fn masks_match_renders() {
    for scene in scenes() {
        let truth = scene.render(48);
        for at in 0..scene.objects.len() {
            let [black, white] =
                [[0.0; 3], [1.0; 3]].map(|paint| repainted(&scene, at, paint).render(48).image);
            let mask = truth.mask(at);
            let moved: Vec<f32> = (0..48 * 48).map(|pixel| (white[pixel] - black[pixel]).abs()).collect();
            let mut strays = 0;
            for (pixel, &inside) in mask.iter().enumerate() {
                if near_an_edge(&mask, 48, pixel) {
                    continue;
                }
                let painted = moved[pixel] > if inside { 0.1 } else { 1e-4 };
                assert!(
                    painted || !inside,
                    "scene {} {at}: pixel {pixel} is not painted: {} {:?}",
                    scene.index,
                    moved[pixel],
                    scene.objects[at]
                );
                if painted && !inside {
                    let spot = scene.spot(&scene.objects[at]);
                    let middle = |at: usize| (at as f32 + 0.5) / 48.0;
                    let away = (middle(pixel % 48) - spot.x).hypot(middle(pixel / 48) - spot.y);
                    assert!(away < spot.reach + 0.03, "scene {} {at}: {pixel} is far away", scene.index);
                    strays += 1;
                }
            }
            // Tips that are thinner than a pixel touch pixels whose middle they miss.
            assert!(
                strays * 5 < truth.pixels(at) + 100,
                "scene {} {at}: {strays} pixels beside the mask are painted",
                scene.index
            );
        }
    }
}

/// Whether any pixel beside it, or the pixel itself, is on the other side of the mask's edge.
fn near_an_edge(mask: &[bool], size: usize, pixel: usize) -> bool {
    let (x, y) = (pixel % size, pixel / size);
    let beside = |at: usize| at.saturating_sub(1)..(at + 2).min(size);
    beside(y).any(|y| beside(x).any(|x| mask[y * size + x] != mask[pixel]))
}

#[test]
fn every_object_can_be_seen() {
    let mut hidden = 0;
    let mut all = 0;
    for scene in scenes() {
        let truth = scene.render(64);
        for (at, object) in scene.objects.iter().enumerate() {
            let alone = Scene { objects: vec![Object { on: None, ..object.clone() }], ..scene.clone() };
            let part = truth.pixels(at) as f32 / alone.render(64).pixels(0).max(1) as f32;
            assert!(
                part > 0.15,
                "{part} of object {at} of scene {} {}",
                scene.index,
                scene.phrase(Phrasing::Full)
            );
            hidden += usize::from(part < 0.98);
            all += 1;
        }
    }
    assert!(hidden * 30 > all, "only {hidden} of {all} are partly hidden");
}

#[test]
fn depth_orders_occlusion() {
    let mut met = 0;
    for scene in scenes() {
        let truth = scene.render(48);
        let alone: Vec<Rendered> = (0..scene.objects.len())
            .map(|at| {
                let object = Object { on: None, ..scene.objects[at].clone() };
                Scene { objects: vec![object], ..scene.clone() }.render(48)
            })
            .collect();
        for pixel in 0..48 * 48 {
            let there: Vec<usize> = (0..alone.len()).filter(|&at| alone[at].owner[pixel] == 1).collect();
            let nearest =
                there.iter().min_by(|&&a, &&b| alone[a].depth[pixel].total_cmp(&alone[b].depth[pixel]));
            if let Some(&nearest) = nearest {
                met += usize::from(there.len() > 1);
                // A pebble may stand before it.
                let owner = usize::from(truth.owner[pixel]);
                assert!(owner == nearest + 1 || owner == 0, "scene {} pixel {pixel}", scene.index);
                assert!(truth.depth[pixel] <= alone[nearest].depth[pixel] + 1e-4);
            }
        }
    }
    assert!(met > 200, "objects meet in {met} pixels");
}

#[test]
fn depth_and_normals_agree() {
    let world = World::new(5, 2, 64).unwrap().with_style(Style::Solid);
    for index in 0..12 {
        let (scene, size) = (world.sample(index), 96);
        let truth = scene.render(size);
        let point = |x: usize, y: usize| {
            let ray = scene.view.ray((x as f32 + 0.5) / size as f32, (y as f32 + 0.5) / size as f32);
            scene.view.eye + ray * truth.depth[y * size + x]
        };
        let (mut good, mut all) = (0, 0);
        for y in 1..size - 1 {
            for x in 1..size - 1 {
                let at = y * size + x;
                let same =
                    [at - 1, at + 1, at - size, at + size].iter().all(|&b| truth.owner[b] == truth.owner[at]);
                if !same {
                    continue;
                }
                let across = point(x + 1, y) - point(x - 1, y);
                let along = point(x, y + 1) - point(x, y - 1);
                let found = along.cross(across).unit();
                let plane = |channel: usize| truth.normals[channel * size * size + at];
                let view = &scene.view;
                let stored = view.right * plane(0) + view.up * plane(1) - view.forward * plane(2);
                assert!((stored.length() - 1.0).abs() < 1e-3);
                good += usize::from(found.dot(stored).abs() > 0.97);
                all += 1;
            }
        }
        assert!(good * 100 > all * 95, "{good} of {all} normals fit the depth");
    }
}

/// Reads a caption again: every object phrase as its words in order.
fn phrases(caption: &str) -> Vec<(Option<Size>, Texture, Colour, Kind)> {
    let words: Vec<&str> = caption.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let mut found = Vec::new();
    for pair in words.windows(2).enumerate() {
        let (at, &[colour, kind]) = (pair.0, <&[&str; 2]>::try_from(pair.1).unwrap());
        if let (Some(colour), Some(kind)) = (Colour::named(colour), Kind::named(kind)) {
            let before = |back: usize| at.checked_sub(back).map_or("", |at| words[at]);
            let texture = Texture::named(before(1)).filter(|&texture| texture != Texture::Plain);
            let size = Size::named(before(if texture.is_some() { 2 } else { 1 }));
            found.push((size, texture.unwrap_or(Texture::Plain), colour, kind));
        }
    }
    found
}

#[test]
fn captions_match_objects() {
    for scene in scenes() {
        let mut pairs: Vec<_> = scene.objects.iter().map(|o| (o.colour, o.kind)).collect();
        pairs.sort();
        for (phrasing, caption) in scene.captions() {
            let read = phrases(&caption);
            let mut said: Vec<_> = read.iter().map(|&(_, _, colour, kind)| (colour, kind)).collect();
            said.sort();
            match phrasing {
                Phrasing::Subject => assert_eq!(said, [(scene.objects[0].colour, scene.objects[0].kind)]),
                Phrasing::Counts => continue,
                _ => assert_eq!(said, pairs, "{caption}"),
            }
            if phrasing == Phrasing::Full {
                let full: Vec<_> =
                    scene.objects.iter().map(|o| (Some(o.size), o.texture, o.colour, o.kind)).collect();
                assert_eq!(read, full, "{caption}");
            }
        }
    }
}

#[test]
fn counts_in_captions_add_up() {
    for scene in scenes() {
        let caption = scene.phrase(Phrasing::Counts);
        let words: Vec<&str> = caption.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let mut told = 0;
        for pair in words.windows(2) {
            let kind = Kind::ALL.iter().find(|kind| kind.name() == pair[1] || kind.plural() == pair[1]);
            let count = (1..9).find(|&count| caption::number(count) == pair[0]);
            if let (Some(&kind), Some(count)) = (kind, count) {
                assert_eq!(scene.objects.iter().filter(|object| object.kind == kind).count(), count);
                told += count;
            }
        }
        assert_eq!(told, scene.objects.len(), "{caption}");
    }
}

#[test]
fn relations_match_the_pixels() {
    let mut told: HashMap<Relation, usize> = HashMap::new();
    for scene in scenes() {
        // Alone, so that nothing hides a part.
        let middles: Vec<(f32, f32, f32)> = (0..scene.objects.len())
            .map(|at| {
                let object = Object { on: None, ..scene.objects[at].clone() };
                let alone = Scene { objects: vec![object], clutter: Vec::new(), ..scene.clone() }.render(64);
                let pixels: Vec<usize> = (0..64 * 64).filter(|&pixel| alone.owner[pixel] == 1).collect();
                let mean = |of: &dyn Fn(usize) -> f32| {
                    pixels.iter().map(|&p| of(p)).sum::<f32>() / pixels.len() as f32
                };
                let (view, middle) = (&scene.view, |at: usize| (at as f32 + 0.5) / 64.0);
                let level = vec3(view.forward.x, 0.0, view.forward.z).unit();
                let along = |p: usize| (view.ray(middle(p % 64), middle(p / 64)) * alone.depth[p]).dot(level);
                (mean(&|p| (p % 64) as f32), mean(&|p| (p / 64) as f32), mean(&along))
            })
            .collect();
        for (a, relation, b) in scene.relations() {
            *told.entry(relation).or_default() += 1;
            let (first, second) = (middles[a], middles[b]);
            let fits = match relation {
                Relation::LeftOf => first.0 < second.0,
                Relation::RightOf => first.0 > second.0,
                Relation::Above => first.1 < second.1,
                Relation::Below => first.1 > second.1,
                Relation::InFrontOf => first.2 < second.2,
                Relation::Behind => first.2 > second.2,
                Relation::On => first.1 < second.1 && (first.0 - second.0).abs() < 6.0,
            };
            assert!(
                fits,
                "scene {} level of {} objects: {a} {relation} {b}",
                scene.index,
                scene.objects.len()
            );
            let back = relation.inverse().map(|inverse| scene.holds(b, inverse, a));
            assert!(back.is_none_or(|back| back == Some(true)));
        }
    }
    assert_eq!(told.len(), Relation::ALL.len(), "{told:?}");
}

#[test]
fn answers_are_right_and_balanced() {
    let (mut yes, mut all) = (HashMap::<Ask, i32>::new(), HashMap::<Ask, i32>::new());
    for level in 2..=5 {
        let world = World::new(2, level, 64).unwrap();
        for index in 0..400 {
            let scene = world.sample(index);
            for question in scene.questions() {
                assert!(!question.answer.contains(' '));
                if ["yes", "no"].contains(&question.answer.as_str()) {
                    *yes.entry(question.ask).or_default() += i32::from(question.answer == "yes");
                    *all.entry(question.ask).or_default() += 1;
                }
                check(&scene, &question);
            }
        }
    }
    for ask in [Ask::Exists, Ask::Relation, Ask::Larger, Ask::More] {
        let (yes, all) = (f64::from(yes[&ask]), f64::from(all[&ask]));
        let deviation = (yes - all / 2.0).abs() / (all / 4.0).sqrt();
        assert!(all > 150.0 && deviation < 4.0, "{ask}: {yes} of {all}");
    }
}

/// Answers a question anew from the objects, by its words alone.
fn check(scene: &Scene, question: &Question) {
    let text = question.text.trim_end_matches('?');
    let words: Vec<&str> = text.split(' ').collect();
    let named = |name: &str| -> Vec<&Object> {
        let words: Vec<&str> = name.split(' ').collect();
        let says = |object: &&Object| {
            words.iter().all(|word| {
                [
                    object.size.name(),
                    object.texture.name(),
                    object.colour.name(),
                    object.kind.name(),
                    "object",
                ]
                .contains(word)
            })
        };
        scene.objects.iter().filter(says).collect()
    };
    let one = |name: &str| match named(name)[..] {
        [object] => object,
        ref found => panic!("{} names {} objects in {text}", name, found.len()),
    };
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let count = |plural: &str| scene.objects.iter().filter(|object| object.kind.plural() == plural).count();
    let answer = match question.ask {
        Ask::Exists => yes_no(!named(&words[3..].join(" ")).is_empty()).to_owned(),
        Ask::Count => caption::number(count(words[2])),
        Ask::Colour => one(&words[4..].join(" ")).colour.name().to_owned(),
        Ask::Kind => one(&words[4..].join(" ")).kind.name().to_owned(),
        Ask::Texture => {
            let name = text.trim_start_matches("What pattern does the ").trim_end_matches(" have");
            one(name).texture.name().to_owned()
        }
        Ask::Relation => {
            let inner = text.trim_start_matches("Is the ");
            let (relation, first, second) = Relation::ALL
                .iter()
                .find_map(|relation| {
                    let (first, second) = inner.split_once(&format!(" {relation} the "))?;
                    Some((*relation, first, second))
                })
                .unwrap();
            let place = |object: &Object| scene.objects.iter().position(|other| other == object).unwrap();
            let holds = scene.holds(place(one(first)), relation, place(one(second)));
            yes_no(holds.unwrap()).to_owned()
        }
        Ask::Larger => {
            let (first, second) = text.trim_start_matches("Is the ").split_once(" larger than the ").unwrap();
            yes_no(one(first).radius > one(second).radius).to_owned()
        }
        Ask::More => yes_no(count(words[3]) > count(words[5])).to_owned(),
    };
    assert_eq!(question.answer, answer, "{text} of {}", scene.phrase(Phrasing::Full));
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    for world in worlds() {
        let bytes = |seed: u64| World { seed, ..world }.sample(3).render(32).bytes();
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }
}

#[test]
fn classes_are_balanced_and_the_subject_is_the_largest() {
    for labels in [Labels::Kind, Labels::KindAndColour, Labels::KindAndTexture] {
        let world = World::new(3, 4, 32).unwrap().with_labels(labels);
        let count = world.class_count();
        let mut seen = vec![0; count];
        for index in 0..2 * count as u64 {
            let scene = world.sample(index);
            seen[scene.class] += 1;
            let name = &world.classes()[scene.class];
            assert!(scene.phrase(Phrasing::Full).split(" and ").next().is_some());
            let subject = &scene.objects[0];
            assert!(name.ends_with(subject.kind.name()));
            assert!(name.starts_with(match labels {
                Labels::Kind => subject.kind.name(),
                Labels::KindAndColour => subject.colour.name(),
                Labels::KindAndTexture => subject.texture.name(),
            }));
            assert!(scene.objects[1..].iter().all(|object| object.size < subject.size));
        }
        assert!(seen.iter().all(|&seen| seen == 2), "{labels:?}");
    }
}

/// Statistics of a picture that see no shape: means and deviations of the channels, and how many pixels differ
/// from the corner's.
fn statistics(image: &[f32]) -> Vec<f32> {
    let pixels = image.len() / 3;
    let mut values: Vec<f32> = image
        .chunks(pixels)
        .flat_map(|plane| {
            let mean = plane.iter().sum::<f32>() / pixels as f32;
            let square =
                plane.iter().map(|value| (value - mean) * (value - mean)).sum::<f32>() / pixels as f32;
            [mean, square.sqrt()]
        })
        .collect();
    let other = image[..pixels].iter().filter(|&&value| (value - image[0]).abs() > 0.1).count();
    values.push(other as f32 / pixels as f32);
    values
}

/// Each statistic alone names the class of unseen pictures hardly better than chance: the nearest mean of the
/// classes' means.
#[test]
fn no_single_statistic_tells_the_class() {
    for world in worlds() {
        let classes = world.class_count();
        let (train, test) = (classes * 20, classes * 15);
        let scenes = Scenes::new(world, 0..(train + test) as u64);
        let numbers: Vec<usize> = (0..train + test).collect();
        let batch = scenes.batch(&numbers, 24).unwrap();
        let told: Vec<(usize, Vec<f32>)> = batch
            .labels
            .iter()
            .zip(batch.images.chunks(3 * 24 * 24))
            .map(|(label, image)| (label.unwrap(), statistics(image)))
            .collect();
        for statistic in 0..told[0].1.len() {
            let mean = |class: usize| {
                let of = told[..train].iter().filter(|(label, _)| *label == class);
                of.map(|(_, values)| values[statistic]).sum::<f32>() / 20.0
            };
            let means: Vec<f32> = (0..classes).map(mean).collect();
            let right = told[train..]
                .iter()
                .filter(|(label, values)| {
                    let away = |class: &usize| (means[*class] - values[statistic]).abs();
                    (0..classes).min_by(|a, b| away(a).total_cmp(&away(b))) == Some(*label)
                })
                .count();
            let share = right as f32 / test as f32;
            assert!(share < 2.2 / classes as f32, "{world:?}: statistic {statistic} names {share}");
        }
    }
}

#[test]
fn every_size_renders_and_bad_worlds_are_refused() {
    for size in [16, 17, 31, 100, 256] {
        for style in [Style::Flat, Style::Solid] {
            let world = World::new(1, 5, size).unwrap().with_style(style);
            let rendered = world.sample(0).render(size);
            assert_eq!((rendered.image.len(), rendered.owner.len()), (3 * size * size, size * size));
            assert!(rendered.image.iter().all(|value| (0.0..=1.0).contains(value)));
        }
    }
    assert_eq!(World::new(0, 0, 64), Err(WorldError::Level(0)));
    assert_eq!(World::new(0, 6, 64), Err(WorldError::Level(6)));
    assert_eq!(World::new(0, 1, 15), Err(WorldError::Size(15)));
    assert_eq!(World::new(0, 1, 257), Err(WorldError::Size(257)));
}

#[test]
fn a_large_picture_averaged_down_is_the_small_one() {
    for style in [Style::Flat, Style::Solid] {
        let scene = World::new(4, 3, 64).unwrap().with_style(style).sample(2);
        let (large, small) = (scene.render(128).image, scene.render(32).image);
        let mean = |at: usize| {
            let (channel, y, x) = (at / 1024, at / 32 % 32, at % 32);
            let place = |dy: usize, dx: usize| channel * 128 * 128 + (4 * y + dy) * 128 + 4 * x + dx;
            (0..16).map(|part| large[place(part / 4, part % 4)].powi(2)).sum::<f32>() / 16.0
        };
        let gap: f32 = (0..3 * 1024).map(|at| (mean(at).sqrt() - small[at]).abs()).sum::<f32>() / 3072.0;
        assert!(gap < 0.012, "{style:?}: {gap}");
    }
}

#[test]
fn motions_move_as_their_captions_say() {
    let mut seen: HashMap<Motion, usize> = HashMap::new();
    for style in [Style::Flat, Style::Solid] {
        let world = World::new(6, 3, 64).unwrap().with_style(style);
        for index in 0..40 {
            let clip = world.clip(index, 8);
            assert_eq!(clip, world.clip(index, 8));
            assert_eq!(clip.frame(0, 32), clip.scene.render(32));
            let (start, end) = (clip.at(0.0), clip.at(1.0));
            for (at, &motion) in clip.motions.iter().enumerate() {
                *seen.entry(motion).or_default() += 1;
                let (from, to) = (&start.objects[at], &end.objects[at]);
                let (before, after) = (start.spot(from), end.spot(to));
                let fits = match motion {
                    Motion::Still => from == to,
                    Motion::Left => after.x < before.x - 0.1,
                    Motion::Right => after.x > before.x + 0.1,
                    Motion::Up => after.y < before.y - 0.1,
                    Motion::Down => after.y > before.y + 0.1,
                    Motion::Away => end.distance(to) > start.distance(from) + 0.5,
                    Motion::Nearer => end.distance(to) < start.distance(from) - 0.5,
                    Motion::Spin => (to.turn - from.turn).abs() > 1.0 && to.centre == from.centre,
                    Motion::Grow => to.radius > 1.4 * from.radius,
                    Motion::Shrink => to.radius < 0.6 * from.radius,
                    Motion::Bounce => clip.at(0.25).objects[at].centre.y > from.centre.y + 0.5,
                };
                assert!(fits, "{motion} in clip {index}");
                assert!(clip.caption().contains(motion.name()));
            }
        }
    }
    assert_eq!(seen.len(), Motion::ALL.len(), "{seen:?}");
}
