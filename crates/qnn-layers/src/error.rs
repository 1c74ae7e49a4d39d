/// What can go wrong in building or running a layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An input that a layer cannot take.
    #[error("{layer} takes {expected}, got {got:?}")]
    Shape {
        /// The kind of layer.
        layer: &'static str,
        /// The shapes it takes.
        expected: String,
        /// The shape of the input.
        got: Vec<usize>,
    },
    /// A setting that makes no layer.
    #[error("{layer}: {setting} is {value}, it must be {expected}")]
    Setting {
        /// The kind of layer.
        layer: &'static str,
        /// The field of its configuration.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// Settings that ask for more memory than any sensible layer needs.
    #[error("{layer}: a kernel of shape {shape:?} has more than {limit} elements")]
    Size {
        /// The kind of layer.
        layer: &'static str,
        /// The shape of the kernel.
        shape: Vec<usize>,
        /// The most elements that a kernel may have.
        limit: usize,
    },
    /// A quantizer whose scales the layer cannot factor out of its sums.
    #[error("{layer}: {quantizer} gives the {operand} of shape {shape:?} {scales} scales; {expected}")]
    Scales {
        /// The kind of layer.
        layer: &'static str,
        /// `kernel` or `input`.
        operand: &'static str,
        /// The quantizer's name.
        quantizer: String,
        /// The shape of what was quantized.
        shape: Vec<usize>,
        /// The number of scales.
        scales: usize,
        /// What the layer can factor out.
        expected: &'static str,
    },
    /// A quantizer that rejects the values.
    #[error("{layer}: the {operand}: {source}")]
    Quantizer {
        /// The kind of layer.
        layer: &'static str,
        /// What was to be quantized.
        operand: &'static str,
        /// The quantizer's reason.
        source: qnn_quant::Error,
    },
    /// A quantizer of inputs that takes its parameters from the first training batch, of which there was none.
    #[error(
        "{layer}: {quantizer} takes its {parameter} from the first training batch, and this model has seen none; train it, or \
         load weights, before what it does is written down"
    )]
    Untrained {
        /// The kind of layer.
        layer: &'static str,
        /// The map's name.
        quantizer: &'static str,
        /// The first of its parameters.
        parameter: &'static str,
    },
    /// An error in a part of a model.
    #[error("in {at}: {source}")]
    Within {
        /// The path of the part.
        at: String,
        /// What went wrong there.
        source: Box<Error>,
    },
}

/// Says in which part of a model an error arose.
pub trait Within {
    /// Prefixes the path of the error, if there is one, with `name`.
    #[must_use]
    fn within(self, name: &str) -> Self;
}

impl Within for Error {
    fn within(self, name: &str) -> Self {
        match self {
            Self::Within { at, source } => Self::Within { at: format!("{name}.{at}"), source },
            error => Self::Within { at: name.to_owned(), source: Box::new(error) },
        }
    }
}

impl<T> Within for Result<T, Error> {
    fn within(self, name: &str) -> Self {
        self.map_err(|error| error.within(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_tells_the_whole_path() {
        let error = Error::Shape { layer: "conv2d", expected: "[n, h, w, 16]".into(), got: vec![2, 3] };
        assert_eq!(
            error.within("conv1").within("0").within("blocks").to_string(),
            "in blocks.0.conv1: conv2d takes [n, h, w, 16], got [2, 3]"
        );
    }
}
