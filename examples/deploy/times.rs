//! How long training graph and program take.

use std::time::{Duration, Instant};

use qnn::data::Normalize;
use qnn::deploy::{Program, Session};
use qnn::experiment::say;
use qnn::layers::Ctx;
use qnn::prelude::*;

use crate::AnyError;
use crate::args::Args;

/// Times of the training graph and of the program, and of the program's stages.
pub(crate) fn times(
    args: &Args,
    model: &dyn Layer,
    program: &Program,
    dataset: &Dataset,
    normalize: &Normalize,
) -> Result<(), AnyError> {
    let mut session = Session::new(program)?;
    let image: usize = program.input_shape().iter().product();
    let [h, w, c] = program.input_shape();
    let tables = normalize.tables(c)?;
    say("\nimages  graph ms  packed ms  speed-up  images/s  packed ms from bytes");
    for count in [1, args.batch.min(dataset.test.len())] {
        let bytes = &dataset.test.as_bytes()[..count * image];
        let number = |(i, &byte): (usize, &u8)| tables[i % tables.len()][usize::from(byte)];
        let numbers: Vec<f32> = bytes.iter().enumerate().map(number).collect();
        let mut logits = vec![0.0; count * program.outputs()];
        let images = Tensor::from_vec(&[count, h, w, c], numbers.clone())?;
        let graph = fastest(5, || {
            let tape = Tape::new();
            let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
            let images = tape.constant(images.clone());
            model.forward(&mut cx, images.into()).map(|_| ())
        })?;
        let packed = fastest(20, || session.run_into(numbers.as_slice(), &mut logits))?;
        let from_bytes = fastest(20, || session.run_into(bytes, &mut logits))?;
        say(format_args!(
            "{count:>6}  {:>8.3}  {:>9.3}  {:>7.1}x  {:>8.0}  {:>20.3}",
            1e3 * graph.as_secs_f64(),
            1e3 * packed.as_secs_f64(),
            graph.as_secs_f64() / packed.as_secs_f64(),
            count as f64 / packed.as_secs_f64(),
            1e3 * from_bytes.as_secs_f64()
        ));
    }
    let one = &dataset.test.as_bytes()[..image];
    let runs = (0..20).map(|_| session.profile(one)).collect::<Result<Vec<_>, _>>()?;
    say("\nµs for one image, stage by stage");
    for (i, stage) in program.stages().iter().enumerate() {
        let best = runs.iter().map(|times| times[i]).min().unwrap_or_default();
        say(format_args!("{:>9.1}  {}", 1e6 * best.as_secs_f64(), stage.title()));
    }
    Ok(())
}

/// The shortest of several runs.
fn fastest<E>(runs: usize, mut run: impl FnMut() -> Result<(), E>) -> Result<Duration, E> {
    let mut best = Duration::MAX;
    for _ in 0..runs {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}
