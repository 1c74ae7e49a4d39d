use std::collections::BTreeSet;

use qnn_kernels::packed::{ConvGeometry, Encoding};
use qnn_kernels::reference;
use qnn_quant::Alphabet;

use crate::codes::{encoding, planes};
use crate::geometry::{
    LARGEST, borders_are_small, convolution, convolved, frame_bytes, pooled, weight_bytes,
};
use crate::integer::{ByteCodes, IntegerStage};
use crate::plan::Plan;
use crate::program::{
    Action, Arithmetic, Chain, Data, Elements, Factor, Finish, Link, Product, Program, Stage, Weights,
};
use crate::{Error, Result};

/// No session needs more bytes for the values of one image and what kernels make of them.
const MOST_BYTES: u64 = 1 << 32;

/// What the weights of a session may take in any case, and how many times as much as the tensors in the file beyond that: kernels lay
/// weights out in whole vectors of outputs and whole words of channels, of which a small layer fills few.
const LAID_OUT_BYTES: u64 = 1 << 28;
const LAID_OUT_RATIO: u64 = 64;

/// All whole numbers up to this one are numbers of f32.
const LARGEST_DENOMINATOR: u32 = 1 << 24;

/// No chain has more functions: each keeps its parameters laid out.
const MOST_LINKS: usize = 64;

/// No image with statistics of their own for each channel has more channels; each takes a table.
const MOST_NORMALIZED: usize = 1 << 12;

impl Program {
    /// Whether the stages fit together: every value is made once, before it is read, with the shape and
    /// the elements that its maker gives. Tensors are compared when a session takes them.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |stage: usize, reason: String| Err(Error::Program { stage, reason });
        for i in 0..self.values.len() {
            let maker = || self.stages.iter().position(|stage| stage.output == i).unwrap_or(0);
            self.check_value(i).or_else(|reason| wrong(maker(), reason))?;
        }
        if self.values.first().is_none_or(|image| image.elements != Elements::Float) {
            return wrong(0, "value 0, the image, is not there or not in f32".to_owned());
        }
        let mut made = BTreeSet::from([0]);
        for (i, stage) in self.stages.iter().enumerate() {
            for value in [Some(stage.input), stage.operand].into_iter().flatten() {
                if !made.contains(&value) {
                    return wrong(i, format!("it reads value {value}, which no stage before it makes"));
                }
            }
            if stage.output >= self.values.len() || !made.insert(stage.output) {
                return wrong(
                    i,
                    format!("it makes value {}, which is made already or unknown", stage.output),
                );
            }
            self.check_stage(stage).or_else(|reason| wrong(i, reason))?;
        }
        match self.values.get(self.output) {
            Some(value) if made.contains(&self.output) && value.elements == Elements::Float => {}
            _ => {
                let reason = format!("the output, value {}, is not made in f32", self.output);
                return wrong(self.stages.len(), reason);
            }
        }
        self.check_whole().or_else(|reason| wrong(self.stages.len(), reason))
    }

    /// What no stage alone shows.
    fn check_whole(&self) -> Result<(), String> {
        let (classes, outputs) = (self.classes.len(), self.outputs());
        if classes != 0 && classes != outputs {
            return Err(format!("it names {classes} classes for {outputs} outputs"));
        }
        let means = self.normalization.as_ref().map_or(0, |normalization| normalization.mean.len());
        if means > MOST_NORMALIZED {
            return Err(format!("it normalises {means} channels, beyond {MOST_NORMALIZED}"));
        }
        let mut names = BTreeSet::new();
        let twice =
            self.stages.iter().flat_map(|stage| stage.action.tensors()).find(|name| !names.insert(*name));
        if let Some(name) = twice {
            // Sessions lay each out: tensors that are used again and again would fill the memory.
            return Err(format!("it uses the tensor {name} more than once"));
        }
        let frames = self.stages.iter().filter_map(|stage| {
            let [input, output] = [stage.input, stage.output].map(|value| self.values[value].shape);
            let geometry = stage.action.convolution(input, output[2])?;
            Some(frame_bytes(&geometry, stage.action.arithmetic() == Some(Arithmetic::Exact)))
        });
        let largest = frames.max().unwrap_or(0);
        let bytes = Plan::new(self).bytes() + largest;
        if bytes > MOST_BYTES {
            return Err(format!("it needs {bytes} bytes for one image, beyond {MOST_BYTES}"));
        }
        let stored = self.tensors.values().map(|tensor| tensor.bytes() as u64).sum::<u64>();
        let allowed = LAID_OUT_BYTES + LAID_OUT_RATIO * stored;
        let laid_out = self.stages.iter().map(|stage| self.laid_out_bytes(stage));
        match laid_out.fold(0, u64::saturating_add) {
            bytes if bytes > allowed => Err(format!(
                "its weights need {bytes} bytes in whole vectors, beyond {allowed} for its tensors"
            )),
            _ => Ok(()),
        }
    }

    /// Bytes that the weights of a stage do not exceed in the layout of any kernel.
    fn laid_out_bytes(&self, stage: &Stage) -> u64 {
        let [input, output] = [stage.input, stage.output].map(|value| self.values[value]);
        let Some(geometry) = stage.action.convolution(input.shape, output.shape[2]) else { return 0 };
        let planes = match (&stage.action, input.elements) {
            (
                Action::Product(Product {
                    arithmetic: Arithmetic::Integer,
                    weights: Weights::Packed { alphabet, .. },
                    ..
                }),
                Elements::Packed(codes),
            ) if encoding(codes) != Some(Encoding::Int8) => encoding(*alphabet).map_or(0, Encoding::planes),
            _ => 0,
        };
        // Twice as many numbers stand for the sixteen of a tile's nine weights.
        let number = match stage.action.arithmetic() {
            Some(Arithmetic::Exact | Arithmetic::Winograd) => size_of::<f64>(),
            _ => size_of::<f32>(),
        };
        weight_bytes(&geometry, planes, number)
    }

    fn check_value(&self, i: usize) -> Result<(), String> {
        let value = &self.values[i];
        let len = value.shape.iter().try_fold(1_usize, |len, &axis| len.checked_mul(axis));
        if !len.is_some_and(|len| (1..=LARGEST).contains(&len)) {
            return Err(format!("value {i} has the shape {:?}, beyond 1 to {LARGEST} elements", value.shape));
        }
        match value.elements {
            Elements::Bytes(codes) if !ByteCodes(codes).are_sound() => {
                Err(format!("value {i} holds {codes:?}, which no byte does"))
            }
            Elements::Packed(codes) if !(is_sound(codes) && encoding(codes).is_some()) => {
                Err(format!("value {i} holds {codes:?}, which no encoding has"))
            }
            _ => Ok(()),
        }
    }

    fn check_stage(&self, stage: &Stage) -> Result<(), String> {
        let [input, output] = [stage.input, stage.output].map(|value| self.values[value]);
        let expected = stage.action.output_shape(input.shape, output.shape)?;
        if expected != output.shape {
            return Err(format!("its output has the shape {:?}, expected {expected:?}", output.shape));
        }
        if stage.action.arithmetic() == Some(Arithmetic::Winograd) {
            let geometry = stage.action.convolution(input.shape, output.shape[2]);
            let shape = geometry.and_then(|geometry| geometry.undilated(1).ok());
            if !shape.is_some_and(|shape| reference::by_tiles(&shape)) {
                return Err("its convolution is not made in tiles".to_owned());
            }
        }
        let scales = stage.action.scales_pixels();
        if let Some(operand) = stage.operand
            && self.values[operand].shape
                != [output.shape[0], output.shape[1], if scales { 1 } else { output.shape[2] }]
        {
            return Err("the shapes of its operands differ".to_owned());
        }
        let sums = stage.action.sums();
        if sums != usize::from(stage.operand.is_some()) {
            return Err(format!(
                "it makes {sums} sums and products of {} operands",
                usize::from(stage.operand.is_some())
            ));
        }
        if let (true, Some(operand)) = (stage.action.selects(), stage.operand)
            && !matches!(self.values[operand].elements, Elements::Packed(codes) if planes(codes))
        {
            return Err("what selects its thresholds is not packed in planes of bits".to_owned());
        }
        stage.action.check_alphabets()?;
        let links = stage.action.chain().map_or(0, |chain| chain.links.len());
        if links > MOST_LINKS {
            return Err(format!("it has {links} functions, beyond {MOST_LINKS}"));
        }
        let mut factors =
            stage.action.chain().into_iter().flat_map(|chain| &chain.links).filter_map(Link::value_factor);
        if let Some(factor) = factors.find(|factor| !(1..=LARGEST_DENOMINATOR).contains(&factor.denominator))
        {
            return Err(format!("it divides by {}, beyond 1 to {LARGEST_DENOMINATOR}", factor.denominator));
        }
        let operand = stage.operand.map(|operand| self.values[operand].elements);
        if stage.action.chain().is_some() && matches!(operand, Some(Elements::Bytes(_))) {
            return Err("its operand lies in bytes, which functions of numbers do not read".to_owned());
        }
        if let (Action::Product(product), Elements::Packed(codes)) = (&stage.action, input.elements)
            && !borders_are_small(codes, &product.geometry(input.shape, output.shape[2]), product.pad_code)
        {
            return Err("its kernel is too large to be padded with zeros, which its codes lack".to_owned());
        }
        stage.action.check_elements(input.elements, output.elements)
    }

    /// Drops tensors that no stage refers to.
    pub(crate) fn forget_unused_tensors(&mut self) {
        let used: BTreeSet<&str> = self.stages.iter().flat_map(|stage| stage.action.tensors()).collect();
        let used: BTreeSet<String> = used.into_iter().map(str::to_owned).collect();
        self.tensors.retain(|name, _| used.contains(name));
    }

    /// The size of a tensor; nothing if there is none.
    pub(crate) fn bytes_of(&self, name: &str) -> usize {
        self.tensors.get(name).map_or(0, Data::bytes)
    }
}

/// Alphabets come from files with any numbers.
fn is_sound(codes: Alphabet) -> bool {
    let last = i64::from(codes.first) + i64::from(codes.step) * (i64::from(codes.count) - 1);
    codes.step >= 1 && codes.count >= 1 && i64::from(codes.first).abs() <= 1 << 24 && last.abs() <= 1 << 24
}

impl Product {
    /// What it convolves.
    pub(crate) fn geometry(&self, input: [usize; 3], out_channels: usize) -> ConvGeometry {
        convolution(input, [self.kernel, self.stride], self.padding, self.groups, out_channels)
    }
}

impl Action {
    /// What it convolves, if it is a product.
    fn convolution(&self, input: [usize; 3], out_channels: usize) -> Option<ConvGeometry> {
        match self {
            Self::Product(product) => Some(product.geometry(input, out_channels)),
            Self::Integer(IntegerStage::Product(product)) => Some(product.geometry(input, out_channels)),
            _ => None,
        }
    }

    /// How it is summed, if it is a product in planes of bits or of numbers.
    fn arithmetic(&self) -> Option<Arithmetic> {
        match self {
            Self::Product(product) => Some(product.arithmetic),
            _ => None,
        }
    }

    /// The functions of single elements in it.
    pub(crate) fn chain(&self) -> Option<&Chain> {
        match self {
            Self::Chain(chain) | Self::Product(Product { finish: Finish::Chain(chain), .. }) => Some(chain),
            _ => None,
        }
    }

    /// How many sums or products with an operand it makes.
    fn sums(&self) -> usize {
        let is_sum = |link: &&Link| matches!(link, Link::Add { .. } | Link::PixelScale);
        let in_chain = self.chain().map_or(0, |chain| chain.links.iter().filter(is_sum).count());
        let of_integers = if let Self::Integer(stage) = self { stage.sums() } else { 0 };
        in_chain + of_integers + usize::from(self.selects())
    }

    /// Whether its operand scales pixels.
    fn scales_pixels(&self) -> bool {
        self.chain().is_some_and(|chain| chain.links.contains(&Link::PixelScale))
    }

    /// Whether its operand selects thresholds.
    fn selects(&self) -> bool {
        matches!(self, Self::Product(Product { finish: Finish::Selected { .. }, .. }))
    }

    fn output_shape(&self, [h, w, c]: [usize; 3], output: [usize; 3]) -> Result<[usize; 3], String> {
        match self {
            Self::Chain(_) => Ok([h, w, c]),
            Self::Integer(stage) => stage.output_shape([h, w, c], output),
            Self::GlobalAveragePool => Ok([1, 1, c]),
            Self::MeanMagnitude if output == [1; 3] => Ok(output),
            Self::MeanMagnitude => Ok([h, w, 1]),
            Self::PadZero { stride: 0 } => Err("its stride is 0".to_owned()),
            Self::PadZero { stride } => Ok([h.div_ceil(*stride), w.div_ceil(*stride), output[2].max(c)]),
            Self::MaxPool { options, .. } | Self::AveragePool(options) => {
                pooled([h, w], options).map(|[h, w]| [h, w, c])
            }
            Self::Product(product) => convolved(&product.geometry([h, w, c], output[2])),
        }
    }

    /// Whether the alphabets that it names are some.
    fn check_alphabets(&self) -> Result<(), String> {
        let links = self.chain().into_iter().flat_map(|chain| &chain.links);
        let quantized = links.filter_map(|link| match link {
            Link::Quantize { alphabet, .. } => Some(*alphabet),
            _ => None,
        });
        let packed = match self {
            Self::Product(Product { weights: Weights::Packed { alphabet, .. }, .. }) => Some(*alphabet),
            _ => None,
        };
        let unsound = quantized.chain(packed).find(|&codes| !is_sound(codes));
        // What a quantizer makes may lie as numbers; weights that do are no codes.
        let unpacked = || packed.filter(|&codes| encoding(codes).is_none());
        match unsound.or_else(unpacked) {
            Some(codes) => Err(format!("it has the codes {codes:?}, which no encoding has")),
            None => Ok(()),
        }
    }

    fn check_elements(&self, input: Elements, output: Elements) -> Result<(), String> {
        let float = Elements::Float;
        let fits = match self {
            Self::Product(product) => product.fits(input, output),
            Self::Chain(chain) => ends_in(chain, input, output),
            Self::Integer(stage) => stage.fits(input, output),
            Self::MaxPool { falling: None, .. } => input == output,
            Self::MaxPool { falling: Some(_), .. } => input == output && output != float,
            Self::GlobalAveragePool => output == float && !matches!(input, Elements::Bytes(_)),
            Self::AveragePool(_) | Self::MeanMagnitude | Self::PadZero { .. } => {
                [input, output] == [float; 2]
            }
        };
        if fits { Ok(()) } else { Err(format!("it cannot make {output:?} of {input:?}")) }
    }

    /// The names of all tensors it refers to.
    pub(crate) fn tensors(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.chain().into_iter().flat_map(|chain| &chain.links).flat_map(Link::tensors).collect();
        if let Self::MaxPool { falling: Some(falling), .. } = self {
            names.push(falling);
        }
        if let Self::Integer(stage) = self {
            names.extend(stage.tensors());
        }
        if let Self::Product(product) = self {
            names.push(product.weights.tensor());
            if let Finish::Thresholds { cuts, flips } | Finish::Selected { cuts, flips } = &product.finish {
                names.extend([cuts.as_str(), flips.as_str()]);
            }
        }
        names
    }
}

impl Product {
    fn fits(&self, input: Elements, output: Elements) -> bool {
        let packed = matches!(self.weights, Weights::Packed { .. });
        let operands = match self.arithmetic {
            Arithmetic::Integer => matches!(input, Elements::Packed(_)) && packed,
            Arithmetic::WeightOnly => input == Elements::Float && packed,
            Arithmetic::Float | Arithmetic::Exact => input == Elements::Float,
            Arithmetic::Winograd => input == Elements::Float && !packed,
        };
        let finish = match (&self.finish, output) {
            (Finish::Thresholds { .. } | Finish::Selected { .. }, Elements::Packed(codes)) => {
                self.arithmetic == Arithmetic::Integer && planes(codes)
            }
            (Finish::Thresholds { .. } | Finish::Selected { .. }, Elements::Float | Elements::Bytes(_)) => {
                false
            }
            (Finish::Chain(_), Elements::Float) => true,
            (Finish::Chain(chain), output) => ends_in(chain, Elements::Float, output),
        };
        operands && finish
    }
}

/// Whether a chain makes such elements of such: codes come from a quantizer.
fn ends_in(chain: &Chain, input: Elements, output: Elements) -> bool {
    match (chain.links.last(), output) {
        _ if matches!(input, Elements::Bytes(_)) => false,
        (_, Elements::Float) => true,
        (Some(Link::Quantize { alphabet, .. }), Elements::Packed(codes)) => *alphabet == codes,
        (Some(_), Elements::Packed(_)) | (_, Elements::Bytes(_)) => false,
        (None, Elements::Packed(_)) => input == output,
    }
}

impl Link {
    /// From codes to values, where that is part of it.
    fn value_factor(&self) -> Option<Factor> {
        match self {
            Self::Value(factor) | Self::Add { operand: Some(factor) } => Some(*factor),
            _ => None,
        }
    }

    fn tensors(&self) -> Vec<&str> {
        match self {
            Self::Scale { factors } => vec![factors],
            Self::Bias { bias } => vec![bias],
            Self::Norm { mean, s, beta } => vec![mean, s, beta],
            Self::Quantize { cuts, .. } => vec![cuts],
            _ => Vec::new(),
        }
    }
}

impl Weights {
    /// The name of the tensor.
    pub(crate) fn tensor(&self) -> &str {
        match self {
            Self::Float { tensor } | Self::Packed { tensor, .. } => tensor,
        }
    }
}
