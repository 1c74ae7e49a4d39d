//! Networks of integers alone: each step of the trace is a stage, by the same rule.

use std::collections::BTreeMap;

use qnn_kernels::packed::{ByteInput, ConvGeometry, Int8Conv};
use qnn_layers::{IntegerFinish as Ending, IntegerOp, IntegerProduct as Operands, Op};
use qnn_quant::{Grid, Quantizer};
use qnn_tensor::ops::{Conv2dOptions, PoolOptions};

use super::Store;
use super::product::dense_geometry;
use super::remarks::remark;
use crate::geometry::{convolution, pool_geometry};
use crate::graph::Graph;
use crate::integer::{ByteCodes, IntegerFinish, IntegerProduct, IntegerStage};
use crate::program::{Action, Data, Elements, LayerName, Program, Remark, Stage, Value};
use crate::{Error, Result};

/// Whether a layer of the graph computes in integers; then all must.
pub(super) fn is_integer(graph: &Graph<'_>) -> bool {
    graph.steps.iter().any(|step| matches!(step.op, Op::Integer(_)))
}

/// The program of such a graph whose image is the node `input`.
pub(super) fn lower(graph: &Graph<'_>, input: usize, shape: [usize; 3]) -> Result<Program> {
    let image = Value { shape, elements: Elements::Float };
    let mut lowering = Lowering {
        graph,
        values: vec![image],
        stages: Vec::new(),
        tensors: Store::new(graph),
        places: BTreeMap::from([(input, 0)]),
    };
    for i in (0..graph.steps.len()).filter(|&i| graph.lives[i]) {
        lowering.step(i)?;
    }
    let output = lowering.places[&graph.output];
    let Lowering { values, stages, tensors, .. } = lowering;
    let (normalization, classes) = (None, Vec::new());
    Program { values, stages, output, normalization, classes, tensors: tensors.data }.checked()
}

struct Lowering<'a, 't> {
    graph: &'a Graph<'t>,
    values: Vec<Value>,
    stages: Vec<Stage>,
    tensors: Store<'a, 't>,
    /// From nodes to values.
    places: BTreeMap<usize, usize>,
}

impl Lowering<'_, '_> {
    fn step(&mut self, i: usize) -> Result<()> {
        let graph = self.graph;
        let step = &graph.steps[i];
        match &step.op {
            Op::Flatten => {
                let from = self.places[&step.inputs[0].index()];
                self.places.insert(step.output.index(), from);
                Ok(())
            }
            Op::Quantize { map, grid } => self.quantize(i, &**map, grid),
            Op::PadZero { stride, channels } => {
                let elements = self.input(i).elements;
                self.bytes_in(i)?;
                let [height, width, _] = graph.shape(i)?;
                let value = Value { shape: [height, width, *channels], elements };
                self.push(i, value, Action::Integer(IntegerStage::PadZero { stride: *stride }));
                Ok(())
            }
            Op::MaxPool(options) => self.max_pool(i, options, &[]),
            Op::Integer(op) => self.integer(i, op),
            _ => Err(self.unsupported(
                i,
                "it computes in f32 inside of a network of integers; give the layer before it an observed range, or leave it \
                 out",
            )),
        }
    }

    fn integer(&mut self, i: usize, op: &IntegerOp) -> Result<()> {
        self.bytes_in(i)?;
        let shape = self.graph.shape(i)?;
        let value = |codes| Value { shape, elements: Elements::Bytes(codes) };
        match op {
            IntegerOp::Conv2d { product, options } => self.product(i, product, Some(options)),
            IntegerOp::Dense { product } => self.product(i, product, None),
            IntegerOp::MaxPool { options, falling } => self.max_pool(i, options, falling),
            IntegerOp::Sum { sum, codes } => {
                let stage = IntegerStage::Sum { multipliers: sum.multipliers(), shift: sum.shift() };
                self.push(i, value(*codes), Action::Integer(stage));
                Ok(())
            }
            IntegerOp::Mean { multiplier, codes } => {
                let (multiplier, shift) = (multiplier.multiplier(), multiplier.shift());
                self.push(i, value(*codes), Action::Integer(IntegerStage::Mean { multiplier, shift }));
                Ok(())
            }
        }
    }

    /// The largest code of each window, in falling channels the smallest.
    fn max_pool(&mut self, i: usize, options: &PoolOptions, falling: &[bool]) -> Result<()> {
        self.bytes_in(i)?;
        let from = self.input(i);
        if pool_geometry(from.shape, options).is_none() {
            return Err(self
                .unsupported(i, "no kernel over bytes has such windows; choose ones that lie in the image"));
        }
        let falling = falling.contains(&true).then(|| {
            let flags = falling.iter().map(|&falls| falls.into()).collect();
            self.tensors.put(i, "falling", Data::Bytes(flags))
        });
        let value = Value { shape: self.graph.shape(i)?, ..from };
        self.push(i, value, Action::MaxPool { options: *options, falling });
        Ok(())
    }

    fn quantize(&mut self, i: usize, map: &dyn Quantizer, grid: &Grid) -> Result<()> {
        let (layer, from) = (self.graph.names[i].clone(), self.input(i));
        if !map.is_fixed() {
            return Err(Error::Measures { layer, quantizer: map.name() });
        }
        match (grid.alphabet(), grid.zero_points(), from.elements) {
            (Some(codes), [_], Elements::Float) if ByteCodes(codes).are_sound() => {
                let value = Value { elements: Elements::Bytes(codes), ..from };
                let scale = grid.scales()[0];
                self.push(i, value, Action::Integer(IntegerStage::Quantize { scale }));
                Ok(())
            }
            _ => Err(self.unsupported(
                i,
                "only numbers are quantized, by affine maps; integers follow from one another",
            )),
        }
    }

    fn product(&mut self, i: usize, product: &Operands, options: Option<&Conv2dOptions>) -> Result<()> {
        let from = self.input(i);
        let geometry = self.geometry(i, from.shape, product, options)?;
        let bytes: Vec<i8> = product.kernel.as_slice().iter().map(|&code| code as i8).collect();
        // Whether sums fit 32 bits is for the kernel to say.
        let zero_point = from.byte_codes().map_or(0, ByteCodes::zero_point) as i8;
        Int8Conv::with_bias(&geometry, ByteInput::signed(zero_point), &bytes, &product.bias)
            .map_err(|source| Error::Pack { layer: self.graph.names[i].clone(), source })?;
        let weights = bytes.into_iter().map(i8::cast_unsigned).collect();
        let (finish, elements) = match &product.finish {
            Ending::Codes { multipliers, codes } => {
                let of = |part: fn(&qnn_quant::Multiplier) -> i32| multipliers.iter().map(part).collect();
                let (bits, shifts) = (of(|by| by.multiplier()), of(|by| by.shift()));
                let multipliers = self.tensors.put(i, "multipliers", Data::Integers(bits));
                let shifts = self.tensors.put(i, "shifts", Data::Integers(shifts));
                (IntegerFinish::Codes { multipliers, shifts }, Elements::Bytes(*codes))
            }
            Ending::Values { scales } => {
                let scales = self.tensors.put(i, "scales", Data::Floats(scales.clone()));
                (IntegerFinish::Values { scales }, Elements::Float)
            }
        };
        let ConvGeometry { kernel, stride, padding, groups, .. } = geometry;
        let weights = self.tensors.put(i, "kernel", Data::Bytes(weights));
        let bias = self.tensors.put(i, "bias", Data::Integers(product.bias.clone()));
        let stage = IntegerProduct { kernel, stride, padding, groups, weights, bias, finish };
        let value = Value { shape: self.graph.shape(i)?, elements };
        self.push(i, value, Action::Integer(IntegerStage::Product(stage)));
        Ok(())
    }

    /// A dense layer over a flattened image is a convolution as large as the image.
    fn geometry(
        &self,
        i: usize,
        shape: [usize; 3],
        product: &Operands,
        options: Option<&Conv2dOptions>,
    ) -> Result<ConvGeometry> {
        let kernel = product.kernel.shape();
        let geometry = match (options, kernel) {
            (Some(options), &[height, width, _, channels]) if options.pad_value == 0.0 => {
                let Conv2dOptions { stride, padding, groups, .. } = *options;
                convolution(shape, [[height, width], stride], padding, groups, channels)
            }
            (None, &[_, channels]) => {
                let flat = self.graph.steps[i].inputs[0].shape().len() == 2;
                dense_geometry(shape, channels, flat)
            }
            _ => return Err(self.unsupported(i, "integers are padded with the code 0")),
        };
        geometry.check().map_err(|error| self.unsupported(i, &error.to_string()))?;
        Ok(geometry)
    }

    fn input(&self, i: usize) -> Value {
        self.values[self.places[&self.graph.steps[i].inputs[0].index()]]
    }

    /// Refuses a step that reads anything but bytes.
    fn bytes_in(&self, i: usize) -> Result<()> {
        let inputs = self.graph.steps[i].inputs.iter().map(|x| self.values[self.places[&x.index()]]);
        if inputs.into_iter().all(|value| value.byte_codes().is_some()) {
            return Ok(());
        }
        Err(self.unsupported(i, "it reads numbers where integers are expected; quantize the image first"))
    }

    fn push(&mut self, i: usize, value: Value, action: Action) {
        let step = &self.graph.steps[i];
        let place = |node: usize| self.places[&node];
        let input = place(step.inputs[0].index());
        let operand = step.inputs.get(1).map(|x| place(x.index()));
        let output = self.values.len();
        let layers = vec![LayerName { step: i, name: self.graph.names[i].clone() }];
        let remarks = alone(&action).into_iter().collect();
        self.stages.push(Stage { layers, input, operand, output, action, remarks });
        self.values.push(value);
        self.places.insert(step.output.index(), output);
    }

    fn unsupported(&self, i: usize, reason: &str) -> Error {
        Error::Unsupported { layer: self.graph.names[i].clone(), reason: reason.to_owned() }
    }
}

/// Why a stage is not part of the product before it.
fn alone(action: &Action) -> Option<Remark> {
    let Action::Integer(stage) = action else { return None };
    let reason = match stage {
        IntegerStage::Product(_) => return None,
        IntegerStage::Quantize { .. } => "no stage comes before it",
        IntegerStage::Sum { .. } => {
            "the two values of a sum have scales of their own, and each is rounded first"
        }
        IntegerStage::Mean { .. } => "a mean needs all pixels of its image",
        IntegerStage::PadZero { .. } => "a shortcut without weights copies bytes",
    };
    Some(remark(reason, "none is needed: each byte is read and written once"))
}
