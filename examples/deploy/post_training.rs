//! Integers for a network that was trained in full precision.

use std::sync::Arc;

use qnn::data::{Images, Loader, LoaderConfig, Normalize};
use qnn::experiment::say;
use qnn::layers::state_dict;
use qnn::prelude::*;
use qnn::quant::RangeMethod;
use qnn::train::quantize_trained;

use crate::AnyError;
use crate::args::{Args, Range};

/// The network in the design's scheme, with the parameters of a trained one and the ranges of some training images.
pub(crate) fn quantized(
    args: &Args,
    design: &dyn Design,
    trained: &dyn Layer,
    dataset: &Dataset,
    normalize: &Normalize,
) -> Result<Box<dyn Layer>, AnyError> {
    let config = LoaderConfig { batch: args.batch, normalize: normalize.clone(), ..LoaderConfig::default() };
    let loader = |images: &Images| Loader::new(Arc::new(images.clone()), config.clone());
    let (train, test) = (loader(&dataset.train.take(args.calibrate))?, loader(&dataset.test)?);
    let method = match args.range {
        Range::MinMax => RangeMethod::MinMax,
        Range::MovingAverage => RangeMethod::MovingAverage { rate: 0.1 },
        Range::Percentile => RangeMethod::Percentile { percent: 99.99 },
        Range::SquaredError => RangeMethod::SquaredError { bits: 8 },
        Range::Divergence => RangeMethod::Divergence { bits: 8 },
    };
    let mut model = design.build(&mut Init::new(0))?;
    let batches = train.batches_per_epoch();
    let ranges = quantize_trained(model.as_mut(), &state_dict(trained), &train, batches, method)?;
    let accuracy =
        |model: &dyn Layer| evaluate(model, &test, &Loss::default()).map(|found| 100.0 * found.accuracy);
    let [before, after] = [accuracy(trained)?, accuracy(model.as_ref())?];
    say(format_args!(
        "{ranges} ranges from {} training images: test accuracy {before:.2} % before, {after:.2} % after",
        args.calibrate.clamp(1, dataset.train.len())
    ));
    Ok(model)
}
