use qnn_data::Loader;
use qnn_layers::{
    Calibration, Ctx, Layer, StateDict, apply_updates, load_pretrained, load_state_dict, state_dict,
};
use qnn_quant::RangeMethod;
use qnn_tensor::Tape;

use crate::Error;
use crate::data::into_tensor;

/// Post-training quantization: gives a network of quantized layers the parameters of one that was trained without, and
/// [calibrates](calibrate) it. Returns how many ranges that gave.
///
/// `model` is the same architecture under the scheme `int8`, which folds batch norms into kernels and quantizes both; whatever the state
/// lacks, its ranges, is what calibration finds.
///
/// # Errors
///
/// [`Error::State`] for parameters of another network, and those of [`calibrate`]. The model is then unchanged.
pub fn quantize_trained(
    model: &mut dyn Layer,
    state: &StateDict,
    loader: &Loader,
    batches: usize,
    method: RangeMethod,
) -> Result<usize, Error> {
    let before = state_dict(model);
    load_pretrained(model, state)?;
    let calibrated = calibrate(model, loader, batches, method);
    if calibrated.is_err() {
        load_state_dict(model, &before)?;
    }
    calibrated
}

/// Gives the activations of a network the ranges that they have on the
/// first batches of a loader, and returns how many layers that were.
///
/// The model is one with [`QuantizeRange`](qnn_layers::QuantizeRange) layers, for instance under the scheme
/// `int8`, with the weights of a network in full precision from
/// [`load_pretrained`](qnn_layers::load_pretrained). While it is calibrated, it computes without
/// quantized activations; afterwards it evaluates with them. Krishnamoorthi 2018, arXiv:1806.08342,
/// section 3.
///
/// # Errors
///
/// [`Error::Setting`] for no batches and for a method out of its range, [`Error::Layer`] if the images do not
/// fit the model or its activations are not finite. The model is then unchanged.
pub fn calibrate(
    model: &mut dyn Layer,
    loader: &Loader,
    batches: usize,
    method: RangeMethod,
) -> Result<usize, Error> {
    if batches == 0 {
        return Err(Error::setting("the number of batches to calibrate on", batches, "at least 1"));
    }
    let refuse = |error: qnn_quant::Error| Error::setting("the method of calibration", error, "another");
    let mut calibration = Calibration::new(method).map_err(refuse)?;
    for batch in loader.epoch(0).take(batches) {
        let (images, _) = into_tensor(batch)?;
        let tape = Tape::new();
        let mut cx = Ctx::calibrating(&tape, calibration);
        model.forward(&mut cx, tape.constant(images).into())?;
        calibration = cx.into_calibration();
    }
    let ranges = calibration.len();
    apply_updates(model, calibration.into_updates());
    Ok(ranges)
}
