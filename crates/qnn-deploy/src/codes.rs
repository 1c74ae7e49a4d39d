//! Alphabets of codes as the kernels' encodings.

use qnn_kernels::packed::{Encoding, Layout, PackError};
use qnn_quant::Alphabet;

/// The bits that hold an alphabet's codes in memory, if there are such: its own planes, or bytes. Codes
/// of more than four bits lie in bytes where they can: a product of planes takes a pass for each pair of
/// them.
pub(crate) fn encoding(alphabet: Alphabet) -> Option<Encoding> {
    let in_bytes = alphabet.first >= -128 && alphabet.last() <= 127;
    match exact(alphabet) {
        Some(encoding) if encoding.planes() <= 4 || !in_bytes => Some(encoding),
        _ => in_bytes.then_some(Encoding::Int8),
    }
}

/// The planes that hold an alphabet's codes and no others.
fn exact(alphabet: Alphabet) -> Option<Encoding> {
    let planes = (1..=8).flat_map(|bits| [Encoding::Unsigned { bits }, Encoding::Odd { bits }]);
    let all = [Encoding::Sign, Encoding::Ternary].into_iter().chain(planes);
    all.into_iter().find(|&encoding| is(encoding, alphabet))
}

/// Whether the codes of the two are the same.
fn is(encoding: Encoding, alphabet: Alphabet) -> bool {
    encoding.levels() == alphabet.count as usize
        && encoding.code(0) == alphabet.first
        && encoding.code(encoding.levels() - 1) == alphabet.last()
}

/// Whether codes lie in planes of bits of their own, which thresholds can produce.
pub(crate) fn planes(alphabet: Alphabet) -> bool {
    encoding(alphabet).is_some_and(|encoding| encoding != Encoding::Int8 && is(encoding, alphabet))
}

/// How a whole kernel lies in a file: as one pixel with as many channels as the kernel has elements, in
/// planes of its codes, or of their ranks where no planes hold those codes alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelLayout {
    alphabet: Alphabet,
    layout: Layout,
    ranks: bool,
}

impl KernelLayout {
    /// Nothing for an alphabet that no encoding holds.
    pub(crate) fn new(alphabet: Alphabet, elements: usize) -> Option<Result<Self, PackError>> {
        encoding(alphabet)?;
        let bits = alphabet.count.next_power_of_two().ilog2().max(1);
        let planes = exact(alphabet).unwrap_or(Encoding::Unsigned { bits });
        let ranks = !is(planes, alphabet);
        Some(Layout::new(planes, elements).map(|layout| Self { alphabet, layout, ranks }))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.layout.pixel_bytes()
    }

    /// Packs codes of the alphabet.
    pub(crate) fn pack(&self, codes: &[f32]) -> Result<Vec<u8>, PackError> {
        let mut bytes = vec![0; self.bytes()];
        if self.ranks {
            let Alphabet { first, step, .. } = self.alphabet;
            let ranks: Vec<f32> = codes.iter().map(|code| (code - first as f32) / step as f32).collect();
            self.layout.pack(&ranks, &mut bytes)?;
        } else {
            self.layout.pack(codes, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// The codes, of which a damaged file may hold some that the alphabet has not.
    pub(crate) fn unpack(&self, bytes: &[u8]) -> Result<Vec<f32>, PackError> {
        let mut codes = vec![0.0; self.layout.channels()];
        self.layout.unpack(bytes, &mut codes)?;
        if self.ranks {
            let Alphabet { first, step, count } = self.alphabet;
            if let Some(index) = codes.iter().position(|&rank| rank >= count as f32) {
                let (value, encoding) = (codes[index], self.layout.encoding());
                return Err(PackError::NotACode { index, value, encoding });
            }
            codes.iter_mut().for_each(|code| *code = first as f32 + *code * step as f32);
        }
        Ok(codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabets_take_their_own_planes_or_bytes() {
        let cases = [
            (Alphabet::BINARY, Some(Encoding::Sign)),
            (Alphabet::TERNARY, Some(Encoding::Ternary)),
            (Alphabet::UNIT, Some(Encoding::Unsigned { bits: 1 })),
            (Alphabet::unsigned(8), Some(Encoding::Unsigned { bits: 8 })),
            (Alphabet::odd(3), Some(Encoding::Odd { bits: 3 })),
            (Alphabet::odd(5), Some(Encoding::Int8)),
            (Alphabet::odd(8), Some(Encoding::Odd { bits: 8 })),
            (Alphabet { first: -7, step: 1, count: 15 }, Some(Encoding::Int8)),
            (Alphabet { first: -127, step: 1, count: 255 }, Some(Encoding::Int8)),
            (Alphabet::unsigned(9), None),
        ];
        for (alphabet, expected) in cases {
            assert_eq!(encoding(alphabet), expected, "{alphabet:?}");
        }
    }

    #[test]
    fn kernels_come_back_from_their_true_bits() {
        let cases = [
            (Alphabet::BINARY, 1),
            (Alphabet::TERNARY, 2),
            (Alphabet::odd(5), 5),
            (Alphabet { first: -8, step: 1, count: 16 }, 4),
            (Alphabet { first: -7, step: 1, count: 15 }, 4),
            (Alphabet { first: -127, step: 1, count: 255 }, 8),
            (Alphabet { first: -128, step: 1, count: 256 }, 8),
            (Alphabet { first: 5, step: 3, count: 1 }, 1),
        ];
        for (alphabet, bits) in cases {
            let code =
                |i: usize| (alphabet.first + alphabet.step * (i as i32 % alphabet.count as i32)) as f32;
            let codes: Vec<f32> = (0..640).map(code).collect();
            let layout = KernelLayout::new(alphabet, codes.len()).unwrap().unwrap();
            let mut bytes = layout.pack(&codes).unwrap();
            assert_eq!(bytes.len(), bits * 640 / 8, "{alphabet:?}");
            assert_eq!(layout.unpack(&bytes).unwrap(), codes, "{alphabet:?}");
            bytes.fill(0xff);
            let all_set = layout.unpack(&bytes);
            assert_eq!(all_set.is_err(), matches!(alphabet.count, 1 | 15 | 255), "{alphabet:?}: {all_set:?}");
            assert!(layout.pack(&vec![1000.0; 640]).is_err() && layout.pack(&[]).is_err(), "{alphabet:?}");
        }
        assert!(KernelLayout::new(Alphabet::unsigned(9), 8).is_none());
    }
}
