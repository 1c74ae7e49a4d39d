use std::collections::BTreeMap;
use std::path::Path;

use qnn_files::{Container, Digest, Signature};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use crate::program::{Data, Program};
use crate::serial::ProgramText;
use crate::{Error, Result, Session};

const FORMAT: &str = "qnn-packed-model";
/// The newest version; older ones say less, and what they say in the same way.
const VERSION: u64 = 4;

/// What the bits of a file mean, for whoever reads one without this program. A file that says
/// something else is of another version.
const CONVENTIONS: [(&str, &str); 7] = [
    ("signs", "in a plane of signs a set bit is -1, a clear bit is +1; sign(0) = sign(-0) = +1"),
    (
        "planes",
        "plane i has weight 2^i; ternary codes have a plane of what is not zero, then one of what is negative",
    ),
    (
        "bits",
        "element i of a plane is bit i mod 8 of its byte i / 8; a plane of more than 32 bits is rounded up to 8 bytes, of up to 8, 16, 32 bits to 1, 2, 4; bits past the end are clear",
    ),
    (
        "kernels",
        "one run of elements [kernel row, kernel column, input channel of the group, output channel], plane after plane",
    ),
    ("padding", "padded positions hold pad_code, a code of the input, or an exact zero"),
    (
        "rounding",
        "every link rounds each of its operations once, to nearest even, in IEEE 754 single precision; sums in f32 are one fused accumulator in the order of the kernel's elements",
    ),
    (
        "thresholds",
        "a code's rank is the number of cuts that the integer sum reaches; of flipped channels the rank from above",
    ),
];

/// What version 2 adds, for thresholds that another value selects and for stages of integers.
const OF_INTEGERS: [(&str, &str); 5] = [
    (
        "selected thresholds",
        "the code of the operand at the same element, counted from its least code, selects the element's cuts and flip",
    ),
    (
        "bytes",
        "a value of bytes holds codes in two's complement, the least code as -128; a code times its value's scale is the number, padding is the code 0",
    ),
    (
        "multipliers",
        "sum times factor is floor((sum * multiplier + 2^30) / 2^31), then divided by 2^shift and rounded, halves away from zero; with a negative shift the sum is first shifted left and saturates; then the result is clamped to the codes",
    ),
    (
        "integer sums",
        "a * multipliers[0] + b * multipliers[1], divided by 2^shift and rounded, halves away from zero, clamped",
    ),
    ("quantize", "x / scale in double precision, rounded to even, clamped"),
];

/// What version 3 adds, for kernels whose codes are those of no planes, and for bytes.
const OF_RANKS: [(&str, &str); 1] = [(
    "other kernels",
    "a kernel whose codes are neither signs, nor ternary, nor 2^b codes from 0 in steps of 1, nor 2^b codes around 0 in steps of 2 holds ranks, counted from its least code, in planes; kernels of stages of integers hold a byte for each code, in two's complement",
)];

/// What version 4 adds, for products in tiles and for sums beyond f32.
const OF_TILES_AND_EXACT_SUMS: [(&str, &str); 2] = [
    (
        "winograd",
        "outputs of a 3 x 3 kernel come in tiles of 2 x 2 from the image's upper left corner, A' [(G g G') o (B' d B)] A with the matrices of F(2 x 2, 3 x 3) in arXiv:1509.09308, section 4.1, applied to columns first, terms added in the order of a row; each of a tile's 16 products is one fused accumulator in the order of the input channels; rows and columns of a window outside the image are padding",
    ),
    (
        "exact",
        "of codes that lie as numbers the sum of their products with the kernel's codes is that of integers, rounded once to single precision",
    ),
];

/// What the header says beside the tensors.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    conventions: BTreeMap<String, String>,
    #[serde(with = "ProgramText")]
    program: Program,
}

impl Program {
    /// Writes the program as a safetensors file, atomically. Weights are stored at their true bits,
    /// independently of the kernels and the machine; the description stands in the header as JSON,
    /// under a version and a digest of everything.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let version = self.version();
        let description = Description { conventions: conventions(version), program: self.clone() };
        let json = serde_json::to_string(&description).map_err(|error| format(path, error.to_string()))?;
        let signature = Signature { version, digest: digest(&json, &self.tensors) };
        let bytes: Vec<_> =
            self.tensors.iter().map(|(name, data)| (name.as_str(), data, data.to_bytes())).collect();
        let views = bytes.iter().map(|(name, data, bytes)| {
            let view = TensorView::new(data.dtype(), vec![data.len()], bytes);
            view.map(|view| (*name, view)).map_err(|error| format(path, error.to_string()))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        Ok(Container::write(path, views, signature.sign(FORMAT, &json))?)
    }

    /// Reads a program, of which nothing is trusted.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the file cannot be read, [`Error::Version`] if another version of this
    /// program wrote it, [`Error::Format`] if it is damaged or holds no program, [`Error::Program`]
    /// if the program's parts do not fit together, [`Error::Data`] if its normalisation is none.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let container = Container::read(path)?;
        let (Signature { version, digest: expected }, json) = open(path, container.note())?;
        let tensors = read_tensors(path, &container)?;
        if digest(json, &tensors) != expected {
            return Err(format(path, "its contents do not have the digest of its header".to_owned()));
        }
        let description: Description = serde_json::from_str(json)
            .map_err(|error| format(path, std::format!("its description: {error}")))?;
        if description.conventions != conventions(version) {
            return Err(format(path, "it states other conventions than its version has".to_owned()));
        }
        let mut program = description.program;
        program.tensors = tensors;
        // Whatever a session would refuse is refused here.
        Session::new(&program)?;
        if program.version() != version {
            return Err(format(path, std::format!("it is no program of version {version}")));
        }
        Ok(program)
    }
}

fn conventions(version: u64) -> BTreeMap<String, String> {
    let newer = [(2, &OF_INTEGERS[..]), (3, &OF_RANKS), (4, &OF_TILES_AND_EXACT_SUMS)];
    let added = newer.into_iter().filter(|&(since, _)| version >= since).flat_map(|(_, rules)| rules);
    let all = CONVENTIONS.iter().chain(added);
    all.map(|&(what, rule)| (what.to_owned(), rule.to_owned())).collect()
}

/// Splits a note into signature and description, once the format is known.
fn open<'n>(path: &Path, note: &'n str) -> Result<(Signature, &'n str)> {
    let opened = Signature::open(FORMAT, note);
    let (signature, json) =
        opened.ok_or_else(|| format(path, "its header does not say that it is a packed model".to_owned()))?;
    let found = signature.version;
    if !(1..=VERSION).contains(&found) {
        return Err(Error::Version { path: path.to_owned(), found, supported: VERSION });
    }
    Ok((signature, json))
}

fn read_tensors(path: &Path, container: &Container) -> Result<BTreeMap<String, Data>> {
    let tensors = container.tensors()?;
    let read = |(name, view): (&str, TensorView<'_>)| {
        let data = Data::from_bytes(view.dtype(), view.data()).ok_or_else(|| {
            format(
                path,
                std::format!("the tensor {name:?} is of type {:?}, expected F32, I32 or U8", view.dtype()),
            )
        })?;
        Ok((name.to_owned(), data))
    };
    tensors.iter().map(read).collect()
}

/// A number that changes with any bit of the description and the tensors.
fn digest(json: &str, tensors: &BTreeMap<String, Data>) -> u64 {
    let mut digest = Digest::new();
    digest.text(json);
    for (name, data) in tensors {
        digest.text(name);
        digest.number(data.len() as u64);
        digest.bytes(&data.to_bytes());
    }
    digest.value()
}

fn format(path: &Path, reason: String) -> Error {
    Error::Format { path: path.to_owned(), reason }
}

impl From<qnn_files::Error> for Error {
    fn from(error: qnn_files::Error) -> Self {
        match error {
            qnn_files::Error::File { path, source } => Self::File { path, source },
            qnn_files::Error::Format { path, reason } => Self::Format { path, reason },
        }
    }
}

impl Data {
    /// The number of elements.
    #[allow(clippy::len_without_is_empty)] // No tensor of a program is empty.
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Integers(values) => values.len(),
            Self::Bytes(values) => values.len(),
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Self::Floats(_) => Dtype::F32,
            Self::Integers(_) => Dtype::I32,
            Self::Bytes(_) => Dtype::U8,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Floats(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::Integers(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::Bytes(values) => values.clone(),
        }
    }

    fn from_bytes(dtype: Dtype, bytes: &[u8]) -> Option<Self> {
        let words = bytes.as_chunks::<4>().0.iter();
        match dtype {
            Dtype::F32 => Some(Self::Floats(words.map(|&word| f32::from_le_bytes(word)).collect())),
            Dtype::I32 => Some(Self::Integers(words.map(|&word| i32::from_le_bytes(word)).collect())),
            Dtype::U8 => Some(Self::Bytes(bytes.to_vec())),
            _ => None,
        }
    }
}
