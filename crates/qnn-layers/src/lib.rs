//! Layers of quantized neural networks: each weight layer with an optional kernel quantizer, input
//! quantizer and constraint.
//!
//! ```text
//!   Param, Buffer   the leaves of a model: trained tensors, and those that are only saved
//!      │
//!   Module          passes every leaf with its path: state dict, counting, updating
//!      │
//!   Layer           forward(&self, cx, x): a Signal in, a Signal out
//!      ├── Ctx      one forward pass: tape, mode, randomness, queued buffer values
//!      └── Signal   a value on the tape, perhaps factored: scale · codes
//! ```
//!
//! A training step:
//!
//! ```
//! use qnn_layers::{Conv2d, Conv2dConfig, Ctx, Init, Layer, Mode, apply_updates, for_each_param_mut};
//! use qnn_quant::{Pair, Sign};
//! use qnn_tensor::{Tape, Tensor};
//!
//! let config = Conv2dConfig { kernel_quantizer: Some(Pair::published(Sign)), ..Conv2dConfig::new(3, 8, 3) };
//! let mut model = Conv2d::new(&config, &mut Init::new(0))?;
//!
//! let tape = Tape::new();
//! let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
//! let images = tape.constant(Tensor::full(&[1, 8, 8, 3], 0.5));
//! let y = model.forward(&mut cx, images.into())?.value();
//! let bindings = cx.finish();
//! let mut gradients = bindings.gradients(&mut tape.backward(y.sum()));
//! let updates = bindings.into_updates();
//! drop(tape); // it shares the parameters' buffers
//!
//! for_each_param_mut(&mut model, &mut |_path, param| {
//!     let gradient = gradients.take(param.id()).expect("every parameter took part");
//!     let values = param.value_mut().as_mut_slice().iter_mut();
//!     values.zip(gradient.as_slice()).for_each(|(w, dw)| *w -= 0.1 * dw);
//!     param.constrain();
//! });
//! apply_updates(&mut model, updates);
//! # Ok::<(), qnn_layers::Error>(())
//! ```
//!
//! # Invariants
//!
//! - A forward pass never writes to the model; what is to change queues in the [`Ctx`].
//! - The gradient that reaches a factored signal's codes is that of its value.
//! - A product of codes is scaled after the sum, in the same operations that a packed model uses.
//! - A network with identity quantizers computes what it computes without any, bit for bit.
//! - Randomness is a function of (seed, step, use); first values of (seed, parameter).

mod activation;
mod batch_norm;
mod calibration;
mod conv2d;
mod ctx;
mod dense;
mod diagnose;
mod dropout;
mod error;
mod flatten;
mod folded_conv2d;
mod frozen;
mod init;
mod input_scale;
mod integer;
mod layer;
mod module;
mod normalization;
mod normalized_conv2d;
mod operands;
mod padding;
mod param;
mod pool;
mod quantize;
mod quantize_gradient;
mod quantize_range;
mod reach;
mod relu_in_range;
mod residual;
mod sequential;
mod shift_batch_norm;
mod signal;
mod slot;
mod state;
mod trace;

pub use activation::{HardSigmoid, HardTanh, LeakyRelu, Relu, Sigmoid, Tanh};
pub use batch_norm::{BatchNorm, BatchNormConfig};
pub use calibration::Calibration;
pub use conv2d::{Conv2d, Conv2dConfig};
pub use ctx::{Bindings, Ctx, Draw, Mode, ParamGradients, Updates, apply_updates};
pub use dense::{Dense, DenseConfig};
pub use diagnose::{Diagnostic, diagnose_kernel};
pub use dropout::Dropout;
pub use error::{Error, Within};
pub use flatten::Flatten;
pub use folded_conv2d::FoldedConv2d;
pub use frozen::has_weights_to_freeze;
pub use init::{Init, Initializer, glorot_coefficient};
pub use input_scale::mean_magnitudes;
pub use integer::{
    IntegerFinish, IntegerOp, IntegerProduct, IntegerUnit, Multiplicand, UnitOutput, average_in_range,
};
pub use layer::Layer;
pub use module::{
    Count, Leaf, LeafMut, Module, Path, for_each_param, for_each_param_mut, model_bits, parameter_count,
};
pub use normalization::Normalization;
pub use normalized_conv2d::NormalizedConv2d;

pub use padding::PaddingRule;
pub use param::{Buffer, BufferId, Constraint, Param, ParamId, Role};
pub use pool::{AveragePool2d, GlobalAveragePool, MaxPool2d, Window};
pub use quantize::{FakeQuantize, Quantize, Quantized};
pub use quantize_gradient::QuantizeGradient;
pub use quantize_range::{QuantizeRange, QuantizeRangeConfig};
pub use relu_in_range::ReluInRange;
pub use residual::{Residual, normalize_and_activate, normalize_sum_and_activate, sum_and_activate};
pub use sequential::Sequential;
pub use shift_batch_norm::{ShiftBatchNorm, ShiftBatchNormConfig};
pub use signal::Signal;
pub use state::{LoadError, StateDict, WrongShape, load_pretrained, load_state_dict, state_dict};
pub use trace::{Op, Product, Step, Trace};
