use qnn_kernels::packed::Layout;
use qnn_tensor::parallel::for_each_chunk_of;

use super::Target;
use crate::Result;
use crate::bits::{pack, unpack};
use crate::chain::Functions;
use crate::memory::{Source, with_scratch};
use crate::program::{Chain, Value};
use crate::tensors::Tensors;

/// Functions of single elements, from memory to memory.
#[derive(Debug)]
pub(crate) struct ChainRun {
    functions: Functions,
    channels: usize,
    /// Pixels that are worked on while they lie in the cache: whole rows of the functions' parameters.
    tile: usize,
}

/// Elements that are worked on at once.
const TILE: usize = 4096;

impl ChainRun {
    pub(crate) fn new(chain: &Chain, value: &Value, tensors: &Tensors<'_>) -> Result<Self> {
        let channels = value.shape[2];
        // Behind a flattening every element of the image has parameters of its own.
        let row = chain.row(value, tensors);
        let functions = Functions::new(chain, row, tensors)?;
        let tile = (row / channels) * (TILE / row).max(1);
        Ok(Self { functions, channels, tile })
    }

    /// From `x` to `y`; in place without `x`.
    pub(crate) fn run(&self, x: Option<Source<'_>>, operand: Option<Source<'_>>, y: Target<'_>) {
        match y {
            Target::Floats(y) => for_each_chunk_of(self.tile * self.channels, y, |at, y| {
                self.numbers(at / self.channels, x, operand, y);
            }),
            Target::Codes(layout, y) => for_each_chunk_of(layout.bytes_for(self.tile), y, |at, y| {
                self.codes(at / layout.pixel_bytes(), layout, x, operand, y);
            }),
        }
    }

    fn numbers(&self, first: usize, x: Option<Source<'_>>, operand: Option<Source<'_>>, y: &mut [f32]) {
        let pixels = first..first + y.len() / self.channels;
        match x {
            None => {}
            Some(Source::Floats(x)) => {
                y.copy_from_slice(&x[pixels.start * self.channels..pixels.end * self.channels]);
            }
            Some(Source::Codes(layout, bytes)) => {
                let bytes = &bytes[layout.bytes_for(pixels.start)..layout.bytes_for(pixels.end)];
                unpack(layout, bytes, y);
            }
        }
        self.functions.apply_at(pixels, self.channels, operand, y);
    }

    fn codes(
        &self,
        first: usize,
        layout: Layout,
        x: Option<Source<'_>>,
        operand: Option<Source<'_>>,
        y: &mut [u8],
    ) {
        let pixels = y.len() / layout.pixel_bytes();
        with_scratch(pixels * self.channels, |numbers| {
            self.numbers(first, x, operand, numbers);
            pack(layout, numbers, y);
        });
    }
}

impl Functions {
    /// [`apply`](Functions::apply) to the numbers of a range of pixels, with the operand's part for them.
    pub(crate) fn apply_at(
        &self,
        pixels: std::ops::Range<usize>,
        channels: usize,
        operand: Option<Source<'_>>,
        numbers: &mut [f32],
    ) {
        let each = self.operand_channels(channels);
        match operand {
            None => self.apply(numbers, &[]),
            Some(Source::Floats(values)) => {
                self.apply(numbers, &values[pixels.start * each..pixels.end * each]);
            }
            Some(operand) => with_scratch(numbers.len(), |scratch| {
                self.apply(numbers, operand.numbers(pixels, each, scratch));
            }),
        }
    }
}
