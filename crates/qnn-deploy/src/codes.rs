//! Alphabets of codes as the kernels' encodings.

use qnn_kernels::packed::{Encoding, Layout, PackError};
use qnn_quant::Alphabet;

/// The bits that hold an alphabet's codes, if there are such: its own planes, or bytes. Codes of more
/// than four bits lie in bytes where they can: a product of planes takes a pass for each pair of them.
pub(crate) fn encoding(alphabet: Alphabet) -> Option<Encoding> {
    let planes = (1..=8).flat_map(|bits| [Encoding::Unsigned { bits }, Encoding::Odd { bits }]);
    let exact = [Encoding::Sign, Encoding::Ternary]
        .into_iter()
        .chain(planes)
        .find(|&encoding| is(encoding, alphabet));
    let in_bytes = alphabet.first >= -128 && alphabet.last() <= 127;
    match exact {
        Some(encoding) if encoding.planes() <= 4 || !in_bytes => Some(encoding),
        _ => in_bytes.then_some(Encoding::Int8),
    }
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

/// The largest magnitude of a code.
pub(crate) fn magnitude(alphabet: Alphabet) -> u32 {
    alphabet.first.unsigned_abs().max(alphabet.last().unsigned_abs())
}

/// How a whole kernel lies in a file: as one pixel with as many channels as the kernel has elements.
pub(crate) fn kernel_layout(alphabet: Alphabet, elements: usize) -> Option<Result<Layout, PackError>> {
    Some(Layout::new(encoding(alphabet)?, elements))
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
}
