//! Stages ready to run: parameters at hand, weights in the kernels' forms, values at their places.

mod chain;
mod integer;
mod pool;
mod product;
mod signs;

use qnn_tensor::parallel::for_each_chunk_of;

use crate::memory::{Memory, Source};
use crate::plan::Plan;
use crate::program::{Action, Program, Value};
use crate::tensors::Tensors;
use crate::{Error, Result};

use chain::ChainRun;
use integer::IntegerRun;
use pool::PoolRun;
pub(crate) use product::{IntegerConv, ProductRun};

/// A stage ready to run.
#[derive(Debug)]
pub(crate) struct StageRun {
    pub(crate) input: Place,
    pub(crate) operand: Option<Place>,
    pub(crate) output: Place,
    pub(crate) kind: Kind,
}

/// What a stage does.
#[derive(Debug)]
pub(crate) enum Kind {
    Product(Box<ProductRun>),
    Chain(ChainRun),
    Pool(PoolRun),
    PadZero(ZeroChannels),
    Integer(IntegerRun),
}

/// Where a value lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) slot: usize,
    pub(crate) value: Value,
}

impl StageRun {
    pub(crate) fn new(program: &Program, plan: &Plan, stage: usize) -> Result<Self> {
        let of = &program.stages[stage];
        let place = |value: usize| Place { slot: plan.of[value], value: program.values[value] };
        let (input, output) = (place(of.input), place(of.output));
        let tensors = Tensors { data: &program.tensors, stage };
        let kind = match &of.action {
            Action::Product(product) => {
                let operand = of.operand.map(|value| &program.values[value]);
                let values = [&input.value, &output.value];
                Kind::Product(Box::new(ProductRun::new(product, values, operand, &tensors)?))
            }
            Action::Chain(chain) => Kind::Chain(ChainRun::new(chain, &output.value, &tensors)?),
            Action::PadZero { stride } => Kind::PadZero(ZeroChannels {
                stride: *stride,
                from: input.value.shape,
                to: output.value.shape,
            }),
            Action::Integer(integer) => {
                let operand = of.operand.map(|value| &program.values[value]);
                Kind::Integer(IntegerRun::new(integer, &input.value, operand, &output.value, &tensors)?)
            }
            action => Kind::Pool(PoolRun::new(action, &input.value, &tensors)?),
        };
        Ok(Self { input, operand: of.operand.map(place), output, kind })
    }

    /// Runs on so many images in memory.
    pub(crate) fn run(&self, memory: &mut Memory, images: usize) {
        let Self { input, operand, output, kind } = self;
        let in_place = input.slot == output.slot;
        memory.writing(output.slot, |memory, words| {
            let operand = operand.map(|operand| operand.read(memory, images));
            let y = Target::new(&output.value, words, images);
            if in_place {
                let Kind::Chain(chain) = kind else { unreachable!("the plan runs nothing else in place") };
                return chain.run(None, operand, y);
            }
            let x = input.read(memory, images);
            match kind {
                Kind::Product(product) => product.run(x, operand, y),
                Kind::Chain(chain) => chain.run(Some(x), operand, y),
                Kind::Pool(pool) => pool.run(x, y),
                Kind::Integer(integer) => integer.run(x, operand, y),
                Kind::PadZero(channels) => {
                    let (Source::Floats(x), Target::Floats(y)) = (x, y) else {
                        unreachable!("the program was checked")
                    };
                    channels.append(0.0, x, y);
                }
            }
        });
    }
}

impl Place {
    pub(crate) fn read<'m>(&self, memory: &'m Memory, images: usize) -> Source<'m> {
        let bytes = self.value.bytes() * images;
        match self.value.layout() {
            None => Source::Floats(memory.floats(self.slot, bytes / 4)),
            Some(layout) => Source::Codes(layout, memory.bytes(self.slot, bytes)),
        }
    }
}

/// Where a stage writes.
#[derive(Debug)]
pub(crate) enum Target<'a> {
    Floats(&'a mut [f32]),
    Codes(qnn_kernels::packed::Layout, &'a mut [u8]),
}

impl<'a> Target<'a> {
    fn new(value: &Value, words: &'a mut [u64], images: usize) -> Self {
        let bytes = value.bytes() * images;
        match value.layout() {
            None => Self::Floats(&mut bytemuck::cast_slice_mut(words)[..bytes / 4]),
            Some(layout) => Self::Codes(layout, &mut bytemuck::cast_slice_mut(words)[..bytes]),
        }
    }
}

/// Every `stride`-th pixel of images, with channels of zeros appended.
#[derive(Debug)]
pub(crate) struct ZeroChannels {
    pub(crate) stride: usize,
    /// The shapes of the images before and after.
    pub(crate) from: [usize; 3],
    pub(crate) to: [usize; 3],
}

impl ZeroChannels {
    fn append<T: Copy + Send + Sync>(&self, zero: T, x: &[T], y: &mut [T]) {
        let ([_, width, channels], [_, out_width, out_channels]) = (self.from, self.to);
        let [x_image, y_image] = [self.from, self.to].map(|shape| shape.iter().product::<usize>());
        for_each_chunk_of(y_image, y, |at, y| {
            let x = &x[at / y_image * x_image..][..x_image];
            let rows = x.chunks_exact(width * channels).step_by(self.stride);
            for (y, x) in y.chunks_exact_mut(out_width * out_channels).zip(rows) {
                let pixels = x.chunks_exact(channels).step_by(self.stride);
                for (y, x) in y.chunks_exact_mut(out_channels).zip(pixels) {
                    y[..channels].copy_from_slice(x);
                    y[channels..].fill(zero);
                }
            }
        });
    }
}

/// The layout that a program's own check has promised.
fn unpackable(stage: usize) -> impl Fn(qnn_kernels::packed::PackError) -> Error {
    move |error| Error::Program { stage, reason: error.to_string() }
}
