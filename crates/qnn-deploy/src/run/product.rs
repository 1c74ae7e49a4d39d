use qnn_kernels::packed::{
    ByteInput, ConvGeometry, Encoding, Int8Conv, Layout, Output, PackError, PackedConv, Selector, Thresholds,
    Tile, Tiles, WeightOnlyConv,
};
use qnn_kernels::{Algorithm, ChannelAffine, FloatConv, FloatTile, Kernels, vectorized};
use qnn_tensor::parallel::for_each_chunk_of;

use super::signs::sign_map;
use super::{Target, unpackable};
use crate::Result;
use crate::bits::pack;
use crate::chain::Functions;
use crate::codes::{KernelLayout, encoding};
use crate::memory::{Source, with_scratch};
use crate::program::{Arithmetic, Finish, Product, Value, Weights};
use crate::tensors::Tensors;

/// A product with its weights in the form of its kernel.
#[derive(Debug)]
pub(crate) struct ProductRun {
    geometry: ConvGeometry,
    kernel: Kernel,
}

#[derive(Debug)]
enum Kernel {
    /// Sums of numbers.
    Float { conv: Float, rest: Functions },
    /// Integers, and what becomes of them.
    Integer { conv: Box<IntegerConv>, end: End },
}

/// A convolution of numbers, with scale and bias.
#[derive(Debug)]
enum Float {
    Numbers(Box<FloatConv>),
    /// Weights in planes of bits, also in memory.
    Packed {
        conv: Box<WeightOnlyConv>,
        pad: f32,
        affine: [Option<Vec<f32>>; 2],
    },
}

/// A convolution of integers, by what its input lies in.
#[derive(Debug)]
pub(crate) enum IntegerConv {
    Bits(PackedConv),
    Bytes(Int8Conv),
}

#[derive(Debug)]
enum End {
    Thresholds(Thresholds),
    /// Those for each code of the operand.
    Selected(Vec<Thresholds>),
    Affine([Option<Vec<f32>>; 2]),
    Functions(Functions),
}

impl ProductRun {
    pub(crate) fn new(
        product: &Product,
        [input, output]: [&Value; 2],
        operand: Option<&Value>,
        tensors: &Tensors<'_>,
    ) -> Result<Self> {
        let geometry = product.geometry(input.shape, output.shape[2]);
        let weights = product.weights.numbers(geometry.weight_len(), tensors)?;
        let kernel = match product.arithmetic {
            Arithmetic::Integer => {
                let conv = integer_conv(product, &geometry, input, &weights, tensors)?;
                Kernel::Integer {
                    conv: Box::new(conv),
                    end: End::new(&product.finish, output, operand, tensors)?,
                }
            }
            Arithmetic::Float | Arithmetic::WeightOnly | Arithmetic::Winograd | Arithmetic::Exact => {
                let Finish::Chain(chain) = &product.finish else {
                    return Err(tensors.error("sums in f32 have no thresholds".to_owned()));
                };
                let mut rest = Functions::new(chain, geometry.out_channels, tensors)?;
                let affine =
                    match to_signs(output).then(|| sign_map(chain, &rest, geometry.out_channels)).flatten() {
                        Some(map) => {
                            rest = Functions::default();
                            map.map(Some)
                        }
                        None => rest.take_affine(),
                    };
                let conv = Float::new(product, &geometry, &weights, affine, tensors)?;
                Kernel::Float { conv, rest }
            }
        };
        Ok(Self { geometry, kernel })
    }

    pub(crate) fn run(&self, x: Source<'_>, operand: Option<Source<'_>>, y: Target<'_>) {
        match (&self.kernel, x, y) {
            (Kernel::Float { conv, rest }, Source::Floats(x), Target::Floats(y)) => {
                match conv {
                    Float::Numbers(conv) => conv.run(x, y),
                    Float::Packed { conv, pad, affine } => {
                        conv.run(Kernels::current(), x, *pad, channel_affine(affine), y);
                    }
                }
                self.rest(rest, operand, y);
            }
            (Kernel::Float { conv, rest }, Source::Floats(x), Target::Codes(layout, y)) => {
                let visit = |tile: FloatTile<'_>| {
                    rest.apply_at(tile.pixels, self.geometry.out_channels, operand, tile.numbers);
                    pack(layout, tile.numbers, tile.bytes);
                };
                match conv {
                    Float::Numbers(conv) => conv.run_tiles(x, y, &visit),
                    Float::Packed { conv, pad, affine } => {
                        conv.run_tiles(Kernels::current(), x, *pad, channel_affine(affine), y, &visit);
                    }
                }
            }
            (Kernel::Integer { conv, end }, Source::Codes(_, x), y) => self.integer(conv, end, x, operand, y),
            _ => unreachable!("the program was checked"),
        }
    }

    /// The sums themselves, of a product of integers.
    pub(crate) fn accumulators(&self, x: Source<'_>, images: usize) -> Option<Vec<i32>> {
        let (Kernel::Integer { conv, .. }, Source::Codes(_, x)) = (&self.kernel, x) else { return None };
        let mut sums = vec![0; images * self.geometry.out_pixels() * self.geometry.out_channels];
        conv.run(x, Output::Accumulators(&mut sums));
        Some(sums)
    }

    /// What follows the sums in f32, in place.
    fn rest(&self, rest: &Functions, operand: Option<Source<'_>>, y: &mut [f32]) {
        const PIXELS: usize = 64;
        if rest.is_empty() {
            return;
        }
        let channels = self.geometry.out_channels;
        for_each_chunk_of(PIXELS * channels, y, |at, y| {
            let first = at / channels;
            rest.apply_at(first..first + y.len() / channels, channels, operand, y);
        });
    }

    fn integer(&self, conv: &IntegerConv, end: &End, x: &[u8], operand: Option<Source<'_>>, y: Target<'_>) {
        match (end, y) {
            (End::Thresholds(thresholds), Target::Codes(layout, y)) => {
                conv.run(x, Output::Codes { thresholds, layout, y });
            }
            (End::Selected(thresholds), Target::Codes(layout, y)) => {
                let Some(Source::Codes(selecting, codes)) = operand else {
                    unreachable!("the program was checked")
                };
                let by = Selector { layout: selecting, codes };
                conv.run(x, Output::Selected { thresholds, by, layout, y });
            }
            (End::Affine(affine), Target::Floats(y)) => {
                conv.run(x, Output::Scaled { affine: channel_affine(affine), y });
            }
            (End::Functions(functions), Target::Floats(y)) => {
                let visit = |tile: Tile<'_>| {
                    from_sums(tile.accumulators, tile.numbers);
                    functions.apply_at(tile.pixels, self.geometry.out_channels, operand, tile.numbers);
                };
                conv.run(x, Output::Tiles(Tiles { numbers: y, bytes: &mut [], visit: &visit }));
            }
            (End::Functions(functions), Target::Codes(layout, y)) => {
                let visit = |tile: Tile<'_>| self.codes(functions, operand, layout, tile);
                conv.run(x, Output::Tiles(Tiles { numbers: &mut [], bytes: y, visit: &visit }));
            }
            _ => unreachable!("the program was checked"),
        }
    }

    fn codes(&self, functions: &Functions, operand: Option<Source<'_>>, layout: Layout, tile: Tile<'_>) {
        with_scratch(tile.accumulators.len(), |numbers| {
            from_sums(tile.accumulators, numbers);
            functions.apply_at(tile.pixels, self.geometry.out_channels, operand, numbers);
            pack(layout, numbers, tile.bytes);
        });
    }
}

impl IntegerConv {
    /// The kernel of planes of bits, or that of bytes for an input of bytes.
    pub(crate) fn new(
        geometry: &ConvGeometry,
        x: Encoding,
        pad_code: i8,
        w: Encoding,
        weights: &[f32],
    ) -> Result<Self, PackError> {
        if x != Encoding::Int8 {
            return PackedConv::new(geometry, x, pad_code.into(), w, weights).map(Self::Bits);
        }
        if *w.range().start() < -128 || *w.range().end() > 127 {
            let remedy = "weights beside an input of bytes lie in −128 ..= 127";
            return Err(PackError::Unsupported { what: "the weights", encoding: w, remedy });
        }
        let bytes: Vec<i8> = weights.iter().map(|&code| code as i8).collect();
        Int8Conv::new(geometry, ByteInput::Signed { zero_point: 0, pad: pad_code }, &bytes).map(Self::Bytes)
    }

    fn run(&self, x: &[u8], out: Output<'_>) {
        let kernels = Kernels::current();
        match self {
            Self::Bits(conv) => conv.run(kernels, x, out),
            Self::Bytes(conv) => conv.run(kernels, x, out.into()),
        }
    }
}

/// Whether a value lies in one plane of signs.
fn to_signs(value: &Value) -> bool {
    value.layout().is_some_and(|layout| layout.encoding() == Encoding::Sign)
}

/// Whether every image gives one pixel whose window is the whole image: then images are rows of a matrix. With padding
/// before it the one window begins elsewhere.
fn is_matmul(geometry: &ConvGeometry) -> bool {
    let ConvGeometry { height, width, kernel, padding, groups, .. } = *geometry;
    kernel == [height, width]
        && [padding.top, padding.left] == [0, 0]
        && geometry.out_pixels() == 1
        && groups == 1
}

impl Float {
    fn new(
        product: &Product,
        geometry: &ConvGeometry,
        numbers: &[f32],
        affine: [Option<Vec<f32>>; 2],
        tensors: &Tensors<'_>,
    ) -> Result<Self> {
        let encoding = match &product.weights {
            Weights::Packed { alphabet, .. } if product.arithmetic != Arithmetic::Exact => {
                encoding(*alphabet).filter(|&encoding| encoding != Encoding::Int8)
            }
            Weights::Packed { .. } | Weights::Float { .. } => None,
        };
        let rows = ConvGeometry::matmul(geometry.terms(), geometry.out_channels);
        let geometry = if is_matmul(geometry) { &rows } else { geometry };
        let pad = product.pad_code.into();
        let algorithm = match product.arithmetic {
            Arithmetic::Winograd => Algorithm::Winograd,
            Arithmetic::Exact => Algorithm::Exact,
            _ => Algorithm::Direct,
        };
        let Some(encoding) = encoding else {
            let conv = geometry.undilated(1).and_then(|shape| {
                let affine = channel_affine(&affine);
                FloatConv::new(Kernels::current(), &shape, numbers, pad, affine, algorithm)
            });
            let conv = conv.map_err(|error| tensors.error(error.to_string()))?;
            return Ok(Self::Numbers(Box::new(conv)));
        };
        let conv = WeightOnlyConv::new(geometry, encoding, numbers).map_err(unpackable(tensors.stage))?;
        Ok(Self::Packed { conv: Box::new(conv), pad, affine })
    }
}

fn from_sums(sums: &[i32], numbers: &mut [f32]) {
    vectorized(|| numbers.iter_mut().zip(sums).for_each(|(x, &sum)| *x = sum as f32));
}

fn channel_affine(affine: &[Option<Vec<f32>>; 2]) -> ChannelAffine<'_, f32> {
    ChannelAffine { scale: affine[0].as_deref(), bias: affine[1].as_deref() }
}

fn integer_conv(
    product: &Product,
    geometry: &ConvGeometry,
    input: &Value,
    weights: &[f32],
    tensors: &Tensors<'_>,
) -> Result<IntegerConv> {
    let (Some(layout), Weights::Packed { alphabet, .. }) = (input.layout(), &product.weights) else {
        return Err(tensors.error("a product of integers needs codes on both sides".to_owned()));
    };
    let w = encoding(*alphabet).ok_or_else(|| tensors.error(format!("no encoding holds {alphabet:?}")))?;
    let conv = IntegerConv::new(geometry, layout.encoding(), product.pad_code, w, weights);
    conv.map_err(unpackable(tensors.stage))
}

impl End {
    fn new(finish: &Finish, output: &Value, operand: Option<&Value>, tensors: &Tensors<'_>) -> Result<Self> {
        let channels = output.shape[2];
        match (finish, output.layout()) {
            (Finish::Chain(chain), layout) => {
                let mut functions = Functions::new(chain, channels, tensors)?;
                if layout.is_none() && chain.is_affine() {
                    return Ok(Self::Affine(functions.take_affine()));
                }
                Ok(Self::Functions(functions))
            }
            (Finish::Thresholds { cuts, flips }, Some(layout)) => {
                let mut found = all_thresholds([cuts, flips], 1, layout, tensors)?;
                Ok(Self::Thresholds(found.remove(0)))
            }
            (Finish::Selected { cuts, flips }, Some(layout)) => {
                let selector = operand.and_then(Value::layout);
                let selector =
                    selector.ok_or_else(|| tensors.error("nothing selects its thresholds".to_owned()))?;
                let codes = selector.encoding().levels();
                Ok(Self::Selected(all_thresholds([cuts, flips], codes, layout, tensors)?))
            }
            (Finish::Thresholds { .. } | Finish::Selected { .. }, None) => {
                Err(tensors.error("thresholds make codes, not numbers".to_owned()))
            }
        }
    }
}

/// Thresholds `[set, channel, levels − 1]`.
fn all_thresholds(
    [cuts, flips]: [&str; 2],
    sets: usize,
    layout: Layout,
    tensors: &Tensors<'_>,
) -> Result<Vec<Thresholds>> {
    let (channels, levels) = (layout.channels(), layout.encoding().levels());
    let cuts = tensors.integers(cuts, sets * channels * (levels - 1))?.chunks_exact(channels * (levels - 1));
    let flips = tensors.flags(flips, sets * channels)?;
    let found = cuts.zip(flips.chunks_exact(channels));
    let found = found.map(|(cuts, flips)| Thresholds::new(levels, cuts, flips.to_vec()));
    found.collect::<Result<_, _>>().map_err(unpackable(tensors.stage))
}

impl Weights {
    /// The codes, or the values, as numbers.
    fn numbers(&self, len: usize, tensors: &Tensors<'_>) -> Result<Vec<f32>> {
        match self {
            Self::Float { tensor } => Ok(tensors.floats(tensor, len)?.to_vec()),
            Self::Packed { alphabet, tensor } => {
                let layout = KernelLayout::new(*alphabet, len)
                    .ok_or_else(|| tensors.error(format!("no encoding holds {alphabet:?}")))?
                    .map_err(unpackable(tensors.stage))?;
                let bytes = tensors.bytes(tensor, layout.bytes())?;
                layout.unpack(bytes).map_err(unpackable(tensors.stage))
            }
        }
    }
}
