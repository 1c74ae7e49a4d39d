//! Quantizers and pseudo-gradients for quantized neural networks, on plain [`ndarray`] arrays of f32 and any rank.
//!
//! A quantized network computes with few levels: weights ±α, activations 0, 1/3, 2/3, 1. Training it takes two things
//! for each quantized tensor: a *forward map* from real numbers to levels, and something to use in place of its
//! derivative, which is zero almost everywhere. Here the two are separate, and any map goes with any gradient.
//!
//! ```text
//!                  fit                      codes                   values
//!     x ──► Quantizer ──► Grid ──────────► small integers ────────► scale · codes
//!                          │   alphabet, bits, groups, scales, levels
//!                          ▼
//!     dx ◄── Estimator ◄── dy            pointwise ones only give a Slope: dx = dy · slope(x)
//!
//!     Pair { map, gradient }             what a layer holds and a command line flag builds
//! ```
//!
//! ```
//! use qnn_quant::ndarray::array;
//! use qnn_quant::{ApproxSign, Pair, ScaledSign, quantize};
//!
//! // The forward map alone:
//! let w = array![[0.5, -0.25], [-1.5, 0.75]];
//! assert_eq!(quantize(&ScaledSign::per_axis(1), &w)?, array![[1.0, -0.5], [-1.0, 0.5]]);
//!
//! // In training, with a gradient of one's choice:
//! let pair = Pair::new(ScaledSign::per_axis(1), ApproxSign);
//! let w = w.into_dyn();
//! let (values, grid) = pair.value(w.view())?;
//! let dy = values.mapv(|_| 1.0);
//! assert_eq!(pair.pullback(w.view(), &grid, dy.view())?, array![[1.0, 1.5], [0.0, 0.5]].into_dyn());
//!
//! // For deployment: integer codes, bits, and one scale per channel.
//! let codes = pair.map.codes(w.view(), &grid)?;
//! assert_eq!((grid.bits(), grid.scales()), (1, &[1.0, 0.5][..]));
//! assert_eq!(grid.dequantize(codes.view())?, values);
//! # Ok::<(), qnn_quant::Error>(())
//! ```
//!
//! # What there is
//!
//! | map | levels | bits | published gradient |
//! |---|---|---|---|
//! | [`Sign`], [`StochasticSign`] | ±1 | 1 | [`ClippedIdentity`] |
//! | [`ScaledSign`] | ±mean\|w\| | 1 | [`XnorNetGradient`] per filter, [`StraightThrough`] per layer |
//! | [`ConstantScaledSign`] | ±s | 1 | [`ClippedIdentity`] |
//! | [`HysteresisSign`] | ±mean\|w\|, with memory | 1 | [`StraightThrough`] |
//! | [`MagnitudeAwareSign`] | ±mean\|w\| per channel | 1 | [`MagnitudeAwareGradient`] |
//! | [`BinaryUnit`], [`Heaviside`] | 0, 1 | 1 | [`ClippedUnit`], [`ClippedIdentity`] |
//! | [`Ternary`] | −α, 0, α | 2 | [`StraightThrough`] |
//! | [`TrainedTernary`] | −Wn, 0, Wp, trained | 2 | [`TrainedTernaryGradient`] |
//! | [`DorefaWeights`] | odd / (2^k − 1) | 1–8 | [`DorefaTanh`], 1 bit: [`StraightThrough`] |
//! | [`DorefaActivations`] | 0 .. 1 in steps of 1 / (2^k − 1) | 1–8 | [`ClippedUnit`] |
//! | [`DorefaGradients`] | −M .. M, rounded by chance | 1–8 | of gradients themselves |
//! | [`EvenLevels`] | n from −a to a | 1–16 | [`ClippedIdentity`] |
//! | [`Uniform`], [`FixedPoint`], [`QuantizedHardTanh`] | multiples of a step | 1–8 | [`ClippedIdentity`] |
//! | [`QuantizedRelu`] | multiples of a step from 0 | 1–8 | [`ClippedUnit`] |
//! | [`Affine`] | S (q − Z) | 1–8 | [`WithinLevels`] |
//! | [`Ap2`], [`LogAp2`], [`Inq`] | powers of two | 10, few, 2–6 | [`StraightThrough`] |
//! | [`Pact`], [`Lsq`] | evenly spaced, trained | 1–8 | [`PactGradient`], [`LsqGradient`] |
//! | [`Identity`] | all | 32 | [`StraightThrough`] |
//!
//! Further gradients: [`ApproxSign`], [`SwishSign`], [`ModifiedTanh`], [`ErrorDecay`], [`LeakyClipped`], [`ScaledSignGradient`], and any closure
//! as [`Custom`]. All of them by name: [`registry`]. One's own map implements [`Quantizer`], one's own gradient [`Slope`] or [`Estimator`].
//!
//! Around them: what is [`Trained`], remembered or random ([`Moment`]); INQ's portions ([`InqPartition`]); ranges that are observed
//! ([`RangeObserver`], [`ChannelObservers`]) and integer-only arithmetic ([`Multiplier`], [`CodeSum`]); XNOR-Net's scales of activations ([`ActivationScaling`]).
//!
//! # Invariants
//!
//! - `grid.dequantize(map.codes(x)) == quantize(map, x)`, exactly, and every value is a level of the grid.
//! - A level is computed in f64 from its integer code and rounded to f32 once, on every path.
//! - `sign(0) = sign(−0.0) = +1`; `round` is half-to-even.
//! - NaN stays NaN in values and is an error where an integer is asked for. Infinities saturate, and are an error where a
//!   mean or maximum is taken. Finite inputs never give NaN: a zero tensor has scale 0.
//! - The same bits for any number of threads and any memory layout, and per channel the same as for the channel alone.
//! - Slopes do not contain the scale: `dy` is the gradient of the value, an estimator replaces the derivative of the
//!   whole map. Four gradients contain it, because their publications do: [`XnorNetGradient`], [`ScaledSignGradient`],
//!   [`MagnitudeAwareGradient`] and [`TrainedTernaryGradient`].

mod activation_scaling;
mod alphabet;
mod bell;
mod bounded;
mod chance;
mod channel_observers;
mod checked;
mod code_sum;
mod error;
mod estimator;
mod estimators;
mod grid;
mod groups;
mod histogram;
mod inq_partition;
mod levels;
mod maps;
mod moment;
mod pair;
mod quantizer;
mod range;
mod range_observer;
mod requantize;
mod rounding;
mod trained;

pub mod elementwise;
pub mod registry;
pub mod statistics;

pub use activation_scaling::ActivationScaling;
pub use alphabet::Alphabet;
pub use channel_observers::ChannelObservers;
pub use code_sum::CodeSum;
pub use error::{Error, Result};
pub use estimator::{Estimator, Slope};
pub use estimators::*;
pub use grid::Grid;
pub use groups::{Granularity, Groups};
pub use inq_partition::{InqOrder, InqPartition};
pub use levels::{Levels, Scale};
pub use maps::*;
pub use moment::{Dependence, Moment};
pub use ndarray;
pub use pair::Pair;
pub use quantizer::{Quantizer, quantize};
pub use range::Range;
pub use range_observer::{RangeMethod, RangeObserver};
pub use requantize::Multiplier;
pub use trained::{LEAST, Trained};
