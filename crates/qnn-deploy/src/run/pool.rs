use qnn_kernels::Kernels;
use qnn_kernels::packed::{Extreme, Layout, PoolGeometry};
use qnn_layers::mean_magnitudes;
use qnn_tensor::ops::PoolOptions;
use qnn_tensor::ops::slices::{average_pool, global_mean, max_pool};
use qnn_tensor::parallel::for_each_chunk_of;

use super::Target;
use crate::Result;
use crate::bits::unpack;
use crate::geometry::pool_geometry;
use crate::memory::{Source, with_scratch};
use crate::program::{Action, Elements, Value};
use crate::tensors::Tensors;

/// A pool over numbers or over packed codes.
#[derive(Debug)]
pub(crate) struct PoolRun {
    image: [usize; 3],
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Max(PoolOptions),
    Average(PoolOptions),
    GlobalAverage,
    Magnitude,
    Codes { geometry: PoolGeometry, falling: Option<Vec<bool>> },
}

impl PoolRun {
    pub(crate) fn new(action: &Action, input: &Value, tensors: &Tensors<'_>) -> Result<Self> {
        let image = input.shape;
        let kind = match action {
            Action::MaxPool { options, falling } if input.elements != Elements::Float => {
                let geometry = pool_geometry(image, options)
                    .ok_or_else(|| tensors.error(format!("no kernel over packed codes does {options:?}")))?;
                let falling = falling.as_ref().map(|name| tensors.flags(name, image[2])).transpose()?;
                Kind::Codes { geometry, falling }
            }
            Action::MaxPool { options, .. } => Kind::Max(*options),
            Action::AveragePool(options) => Kind::Average(*options),
            Action::GlobalAveragePool => Kind::GlobalAverage,
            Action::MeanMagnitude => Kind::Magnitude,
            other => return Err(tensors.error(format!("{other:?} is no pool"))),
        };
        Ok(Self { image, kind })
    }

    pub(crate) fn run(&self, x: Source<'_>, y: Target<'_>) {
        match (x, y) {
            (Source::Codes(layout, x), Target::Codes(_, y)) => {
                let Kind::Codes { geometry, falling } = &self.kind else {
                    unreachable!("numbers have other pools")
                };
                let extreme = falling.as_deref().map_or(Extreme::Largest, Extreme::SmallestWhere);
                Kernels::current().pool_codes(geometry, layout, extreme, x, y);
            }
            (Source::Floats(x), Target::Floats(y)) => self.numbers(x, y),
            (Source::Codes(layout, x), Target::Floats(y)) => self.mean(layout, x, y),
            _ => unreachable!("the program was checked"),
        }
    }

    /// The mean of codes, as that of numbers.
    fn mean(&self, layout: Layout, x: &[u8], y: &mut [f32]) {
        let pixels = self.image[0] * self.image[1];
        let images = x.chunks_exact(layout.bytes_for(pixels)).zip(y.chunks_exact_mut(self.image[2]));
        with_scratch(self.image.iter().product(), |numbers| {
            for (x, y) in images {
                unpack(layout, x, numbers);
                global_mean(numbers, y);
            }
        });
    }

    fn numbers(&self, x: &[f32], y: &mut [f32]) {
        let len: usize = self.image.iter().product();
        let images = x.len() / len;
        if images == 0 {
            return;
        }
        let out = y.len() / images;
        for_each_chunk_of(out, y, |at, y| {
            let x = &x[at / out * len..][..len];
            match &self.kind {
                Kind::Max(options) => max_pool(self.image, options, x, y),
                Kind::Average(options) => average_pool(self.image, options, x, y),
                Kind::GlobalAverage => global_mean(x, y),
                Kind::Magnitude => mean_magnitudes(x, y),
                Kind::Codes { .. } => unreachable!("codes have another pool"),
            }
        });
    }
}
