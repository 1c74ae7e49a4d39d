use std::path::PathBuf;

/// What can go wrong between a trained model and its packed form.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model cannot be evaluated on images of the shape that it is to be frozen for: it does not take them, or no
    /// training has set what its quantizers need.
    #[error("the model cannot be evaluated on images of shape {shape:?}: {source}")]
    Forward {
        /// Height, width, channels.
        shape: [usize; 3],
        /// What the layer said.
        source: Box<qnn_layers::Error>,
    },
    /// A value that no layer reported.
    #[error(
        "{layer} takes a value that no layer reported: the tape operations before it are unknown; make them of the \
         layers of qnn-layers, or report them with Ctx::report"
    )]
    Unreported {
        /// The layer that meets the value.
        layer: String,
    },
    /// A quantizer that measures its input, or that has too many codes to be a list of cuts.
    #[error(
        "{layer}: {quantizer} is not fixed: most such maps take their scale from the images they are given, so that a \
         result would depend on the rest of the batch; train with a map that is (sign, binary-unit, dorefa-activations, \
         alphabet, uniform, pact, lsq), or implement Quantizer::is_fixed if this one is"
    )]
    Measures {
        /// The layer.
        layer: String,
        /// The map's name.
        quantizer: &'static str,
    },
    /// A quantizer that is no ascending step function.
    #[error("{layer}: {quantizer} cannot be written as ascending cuts: {reason}")]
    NoSteps {
        /// The layer.
        layer: String,
        /// The map's name.
        quantizer: &'static str,
        /// Where it fails.
        reason: String,
    },
    /// A quantizer that fails.
    #[error("{layer}: {source}")]
    Quantizer {
        /// The layer.
        layer: String,
        /// What the map said.
        source: qnn_quant::Error,
    },
    /// A parameter that is not a number.
    #[error(
        "{layer}: element {index} of the {parameter} is {value}: the training has diverged, take an earlier checkpoint"
    )]
    NotFinite {
        /// The layer.
        layer: String,
        /// Which of its parameters.
        parameter: &'static str,
        /// Position in row-major order.
        index: usize,
        /// The element.
        value: f32,
    },
    /// A layer whose shapes a program has no form for.
    #[error("{layer}: {reason}")]
    Unsupported {
        /// The layer.
        layer: String,
        /// What is not supported, and what to do.
        reason: String,
    },
    /// Numbers that cannot be packed.
    #[error("{layer}: {source}")]
    Pack {
        /// The layer.
        layer: String,
        /// What the packing said.
        source: qnn_kernels::packed::PackError,
    },
    /// A program whose parts do not fit together: a damaged or forged file.
    #[error("stage {stage}: {reason}")]
    Program {
        /// The stage's number.
        stage: usize,
        /// What does not fit.
        reason: String,
    },
    /// Images of another number of elements than the program takes.
    #[error("{what}: got {got} elements, expected {expected}")]
    Length {
        /// Images or logits.
        what: &'static str,
        /// The elements given.
        got: usize,
        /// The elements needed.
        expected: String,
    },
    /// An image with a NaN or an infinity.
    #[error("image {image}: element {element} is {value}; images must be finite")]
    Image {
        /// The image's number in the batch.
        image: usize,
        /// The element's position in the image.
        element: usize,
        /// The element.
        value: f32,
    },
    /// Bytes for a program that does not know how training normalised them.
    #[error(
        "the program does not say how bytes become numbers: name the normalisation when freezing \
         (Program::with_normalization), or pass f32 images"
    )]
    NoNormalization,
    /// A normalisation that does not fit the images.
    #[error(transparent)]
    Data(#[from] qnn_data::Error),
    /// A file that cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that holds no program, or a damaged one.
    #[error("{path}: {reason}; the file is damaged or of another kind", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// A file of a format that this version does not know.
    #[error(
        "{path}: a packed model of version {found}, but this program reads versions up to {supported}; use the program that \
         wrote it, or freeze the model again",
        path = .path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The file's version.
        found: u64,
        /// The newest version that can be read.
        supported: u64,
    },
    /// A program and a model that do not belong together.
    #[error("the model did {found} where the program has {expected}: freeze the model again")]
    OtherModel {
        /// What the model's trace says.
        found: String,
        /// What the program says.
        expected: String,
    },
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
