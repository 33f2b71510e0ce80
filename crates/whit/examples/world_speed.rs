//! Times the toy world: scenes a second at one size, on all threads. Arguments: SIZE COUNT ROUNDS.

use std::error::Error;
use std::time::Instant;

use whit::measure::pairs::{Spread, interleave};
use whit::world::scene::Style;
use whit::world::{Pictures, Scenes, World};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (size, count, rounds) = (number(0, 64)?, number(1, 1000)?, number(2, 5)?);
    println!("{size} x {size} pixels on {} threads, scenes a second:", whit_kernels::parallel::threads());
    for style in [Style::Flat, Style::Solid] {
        for level in 1..=5 {
            let world = World::new(0, level, size)?.with_style(style);
            let scenes = Scenes::new(world, 0..count as u64);
            let numbers: Vec<usize> = (0..count).collect();
            let times = interleave(1, rounds, |_| -> Result<f64, Box<dyn Error>> {
                let start = Instant::now();
                for part in numbers.chunks(64) {
                    std::hint::black_box(scenes.batch(part, size)?);
                }
                Ok(start.elapsed().as_secs_f64())
            })?;
            let spread = Spread::of(&times[0]);
            println!("{style:?} level {level}: {:.0}", count as f64 / spread.median);
        }
    }
    Ok(())
}
