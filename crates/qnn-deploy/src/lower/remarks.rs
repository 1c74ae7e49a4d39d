//! Why what is no product is a stage of its own, or computes in f32, and what could be done about it.

use qnn_layers::Op;

use super::draft::{Body, Draft};
use crate::graph::Graph;
use crate::program::{Elements, Remark, Value};

/// What to do about whatever computes XNOR-Net's scales of activations.
pub(super) const WITHOUT_SCALES: &str = "train without the scales of activations";

pub(super) fn remark(reason: &str, remedy: &str) -> Remark {
    Remark { reason: reason.to_owned(), remedy: remedy.to_owned() }
}

/// Of a draft that is no product and reads such a value; nothing if it runs on packed codes.
pub(super) fn alone(graph: &Graph<'_>, draft: &Draft, input: &Value) -> Option<Remark> {
    let (reason, remedy) = match draft.body {
        Body::Product => return None,
        Body::Input => of_functions(graph, draft),
        Body::MaxPool(_) if input.elements != Elements::Float => return None,
        Body::MaxPool(_) => (
            "the pool takes f32",
            "quantize right before it; behind sums of integers with scales that are not negative a quantizer may follow \
             it, where its windows lie in the image",
        ),
        Body::AveragePool(_) => {
            ("means of windows are no codes", "pool the largest codes instead, or leave it as it is")
        }
        Body::GlobalAveragePool => {
            ("the mean of a channel is added in f64", "none is needed: its input is read once")
        }
        Body::MeanMagnitude => {
            ("the scale of activations is the mean of magnitudes that are f32", WITHOUT_SCALES)
        }
        Body::PadZero { .. } => {
            ("zeros are no codes of its input, so that it copies f32", "use a shortcut that projects")
        }
    };
    Some(remark(reason, remedy))
}

/// Of functions of single elements, which else are part of the stage that makes their input.
fn of_functions(graph: &Graph<'_>, draft: &Draft) -> (&'static str, &'static str) {
    let none = "none is needed: each element is read and written once";
    match graph.maker(draft.input).map(|maker| &graph.steps[maker].op) {
        None => ("no stage comes before it", none),
        Some(_) if graph.only_taker(draft.input).is_none() => {
            ("its input is read by another layer, too, and therefore lies in memory", none)
        }
        Some(
            Op::MaxPool(_)
            | Op::AveragePool(_)
            | Op::GlobalAveragePool
            | Op::MeanMagnitude
            | Op::PadZero { .. },
        ) => (
            "it follows a layer that applies no functions",
            "move it before that layer where the two commute",
        ),
        Some(_) => ("the stage before it takes a second value already, and a stage takes one", none),
    }
}
