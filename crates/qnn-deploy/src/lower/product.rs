use qnn_kernels::packed::{ConvGeometry, Encoding, PackError};
use qnn_kernels::{Algorithm, Conv2dShape, ShapeError, reference};
use qnn_layers::{Op, Product as Operands};
use qnn_quant::Alphabet;
use qnn_tensor::ops::Conv2dOptions;

use super::Node;
use super::draft::Draft;
use crate::codes::encoding;
use crate::geometry::{borders_are_small, convolution};
use crate::graph::Graph;
use crate::program::{Arithmetic, Remark};
use crate::run::IntegerConv;
use crate::{Error, Result};

/// A product as the kernels see it: its geometry, its operands and the arithmetic that they allow.
pub(crate) struct Factorization<'a> {
    pub(crate) operands: &'a Operands,
    pub(crate) geometry: ConvGeometry,
    pub(crate) pad_code: i8,
    pub(crate) arithmetic: Arithmetic,
    /// Why the arithmetic is not that of integers.
    pub(crate) remark: Option<Remark>,
    /// No sum is larger.
    pub(crate) reach: i64,
    /// Whether the training graph sums integers, however large their sums.
    exact: bool,
}

/// Sums up to here are exact in the training graph's f32.
const EXACT: i64 = 1 << 24;

impl<'a> Factorization<'a> {
    /// The product that a draft begins with.
    pub(crate) fn of(graph: &'a Graph<'_>, draft: &Draft, input: &Node) -> Result<Self> {
        let layer = &graph.names[draft.start];
        let unsupported = |reason: String| Error::Unsupported { layer: layer.clone(), reason };
        let (operands, geometry, pad, algorithm) = match &graph.steps[draft.start].op {
            Op::Conv2d { product, options } => {
                let geometry = conv_geometry(input.shape, product, options);
                (product, geometry, options.pad_value, options.algorithm)
            }
            Op::Dense { product, exact } => {
                let flat = graph.steps[draft.start].inputs[0].shape().len() == 2;
                let geometry = dense_geometry(input.shape, product.kernel.shape()[1], flat);
                (product, geometry, 0.0, if *exact { Algorithm::Exact } else { Algorithm::Direct })
            }
            other => return Err(unsupported(format!("{other:?} is no product"))),
        };
        let shape = geometry.check().and_then(|()| geometry.undilated(1));
        let shape = shape.map_err(|error: ShapeError| unsupported(error.to_string()))?;
        let pad_code = pad as i8;
        if f64::from(pad_code) != pad {
            return Err(unsupported(format!("it is padded with {pad}; programs pad with 0, 1 or −1")));
        }
        let reach = input.codes.map_or(i64::MAX, |codes| reach(operands, codes, &geometry, pad_code));
        let exact = algorithm == Algorithm::Exact;
        let chosen = choose(operands, input.codes, &geometry, pad_code, reach, exact);
        let (arithmetic, remark) = match chosen {
            (Arithmetic::Float, remark) => (of_weights(algorithm, &shape), remark),
            chosen => chosen,
        };
        Ok(Self { operands, geometry, pad_code, arithmetic, remark, reach, exact })
    }

    pub(crate) fn is_integer(&self) -> bool {
        self.arithmetic == Arithmetic::Integer
    }

    /// The same product where its input, though codes, lies as numbers.
    pub(crate) fn with_numbers(self) -> Self {
        let weights = self.operands.alphabet.map_or("packed weights", |w| beside_numbers(w, self.exact));
        let reason = format!("its input's codes lie as numbers: {weights}");
        let remedy =
            "quantize right before it, behind pools of incomplete windows and channels of zeros".to_owned();
        Self { arithmetic: of_numbers(self.exact), remark: Some(Remark { reason, remedy }), ..self }
    }
}

fn conv_geometry(shape: [usize; 3], product: &Operands, options: &Conv2dOptions) -> ConvGeometry {
    let kernel = product.kernel.shape();
    let Conv2dOptions { stride, padding, groups, .. } = *options;
    convolution(shape, [[kernel[0], kernel[1]], stride], padding, groups, kernel[3])
}

/// A dense layer over flattened images is a convolution as large as the image; otherwise one of single
/// pixels.
pub(super) fn dense_geometry(shape: [usize; 3], columns: usize, flat: bool) -> ConvGeometry {
    let kernel = if flat { [shape[0], shape[1]] } else { [1, 1] };
    ConvGeometry::new(shape, kernel, columns)
}

/// The largest magnitude of a sum: that of the filter with the largest weights.
fn reach(operands: &Operands, codes: Alphabet, geometry: &ConvGeometry, pad_code: i8) -> i64 {
    let mut sums = vec![0_i64; geometry.out_channels];
    for row in operands.kernel.as_slice().chunks_exact(geometry.out_channels) {
        sums.iter_mut().zip(row).for_each(|(sum, w)| *sum += w.abs() as i64);
    }
    let largest = i64::from(codes.magnitude()).max(i64::from(pad_code).abs());
    sums.into_iter().max().unwrap_or(0) * largest
}

fn choose(
    operands: &Operands,
    x: Option<Alphabet>,
    geometry: &ConvGeometry,
    pad_code: i8,
    reach: i64,
    exact: bool,
) -> (Arithmetic, Option<Remark>) {
    let numbers = of_numbers(exact);
    let remark = |reason: String, remedy: &str| Some(Remark { reason, remedy: remedy.to_owned() });
    let weights = operands.alphabet.filter(|&codes| encoding(codes).is_some());
    let (x, w) = match (x, weights) {
        (Some(x), Some(w)) => (x, w),
        (None, Some(w)) => {
            let reason = format!("its input is f32: {}", beside_numbers(w, exact));
            return (numbers, remark(reason, "quantize the activation before it"));
        }
        (Some(_), None) => {
            let reason = "its weights are f32".to_owned();
            return (Arithmetic::Float, remark(reason, "give the layer a kernel quantizer of up to 8 bits"));
        }
        (None, None) => {
            let reason = "input and weights are f32".to_owned();
            let remedy = "quantize the layer's kernel and the activation before it";
            return (Arithmetic::Float, remark(reason, remedy));
        }
    };
    if !borders_are_small(x, geometry, pad_code) {
        let reason = "its kernel is too large to be padded with zeros, which its codes lack".to_owned();
        return (numbers, remark(reason, "pad with 1 or −1, or use a smaller kernel"));
    }
    if reach > EXACT && !exact {
        let reason = format!("its sums reach {reach}, beyond 2²⁴ the training graph itself rounds them");
        return (Arithmetic::WeightOnly, remark(reason, "use fewer bits"));
    }
    let largest = reach / i64::from(x.magnitude()).max(i64::from(pad_code).abs()).max(1);
    match packable(x, w, geometry, pad_code, largest) {
        Ok(()) if encoding(x) == Some(Encoding::Int8) && encoding(w) != Some(Encoding::Int8) => {
            let reason =
                "beside codes of bytes its weights take a byte each in memory, and their bits in the file"
                    .to_owned();
            (Arithmetic::Integer, remark(reason, "use activations of up to 4 bits to keep them packed"))
        }
        Ok(()) => (Arithmetic::Integer, None),
        Err(error) => {
            let remedy = "use codes of up to 8 bits in planes (sign, unsigned, odd, ternary)";
            (numbers, remark(format!("no integer kernel takes it: {error}"), remedy))
        }
    }
}

/// How numbers are summed beside weights that no kernel of integers takes.
fn of_weights(algorithm: Algorithm, shape: &Conv2dShape) -> Arithmetic {
    match algorithm {
        Algorithm::Exact => Arithmetic::Exact,
        Algorithm::Winograd if reference::by_tiles(shape) => Arithmetic::Winograd,
        Algorithm::Winograd | Algorithm::Direct => Arithmetic::Float,
    }
}

/// How codes are summed that lie as numbers.
fn of_numbers(exact: bool) -> Arithmetic {
    if exact { Arithmetic::Exact } else { Arithmetic::WeightOnly }
}

/// How weights lie in memory beside numbers, and what sums are made in.
fn beside_numbers(w: Alphabet, exact: bool) -> &'static str {
    match encoding(w) {
        _ if exact => "weights of f64 in memory, packed in the file alone, sums exact",
        Some(Encoding::Int8) => "weights of f32 in memory, packed in the file alone, sums in f32",
        _ => "packed weights, sums in f32",
    }
}

/// Asks the kernel itself, with a kernel of the least size that has the same encodings, and whether the whole one's sums
/// fit its accumulators: its weights' magnitudes add up to `largest`.
fn packable(
    x: Alphabet,
    w: Alphabet,
    geometry: &ConvGeometry,
    pad_code: i8,
    largest: i64,
) -> Result<(), PackError> {
    let (Some(x), Some(code)) = (encoding(x), encoding(w)) else {
        return Err(PackError::Bits { bits: x.bits().max(w.bits()) });
    };
    // Planes of bits take any codes of their encodings; bytes any input, but these weights.
    let (terms, product) = (geometry.terms(), i64::from(x.magnitude()) * i64::from(code.magnitude()));
    let most = match x {
        Encoding::Int8 => largest.saturating_mul(x.magnitude().into()),
        _ => (terms as i64).saturating_mul(product),
    };
    if most >= i64::from(i32::MAX) {
        return Err(PackError::Accumulator { terms, product });
    }
    let channels = geometry.groups;
    let small = ConvGeometry { channels, out_channels: channels, ..*geometry };
    let weights = vec![w.first as f32; small.weight_len()];
    IntegerConv::new(&small, x, pad_code, code, &weights).map(|_| ())
}
