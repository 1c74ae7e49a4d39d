//! Packing and unpacking inside of stages: single planes by the kernels' own vectors, all else by the
//! layout, with the same bits.

use qnn_kernels::packed::{Encoding, Layout, PackError};

/// Packs codes that a quantizer has made, or numbers of which the sign is the code.
pub(crate) fn pack(layout: Layout, codes: &mut [f32], packed: &mut [u8]) {
    match layout.encoding() {
        Encoding::Sign => pack_signs(layout, codes, -1.0, packed),
        // A plane of ones is the plane of the signs of −1 and −0.
        Encoding::Unsigned { bits: 1 } => {
            codes.iter_mut().for_each(|code| *code = -*code);
            let signs = Layout::new(Encoding::Sign, layout.channels()).expect("as many channels as before");
            pack_signs(signs, codes, 1.0, packed);
        }
        _ => layout.pack(codes, packed).expect("a chain that makes codes ends in a quantizer"),
    }
}

/// Sums of finite images may overflow, and opposite infinities make NaN: it reaches no threshold, and so has the lowest code, as in
/// [`Cuts`](crate::chain::Cuts).
fn pack_signs(layout: Layout, numbers: &mut [f32], lowest: f32, packed: &mut [u8]) {
    let mut result = layout.pack_signs(numbers, packed);
    if let Err(PackError::NotANumber { .. }) = result {
        numbers.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = lowest);
        result = layout.pack_signs(numbers, packed);
    }
    result.expect("numbers of whole pixels");
}

/// The codes of whole pixels.
pub(crate) fn unpack(layout: Layout, packed: &[u8], codes: &mut [f32]) {
    let table = match layout.encoding() {
        Encoding::Sign => &SIGNS,
        Encoding::Unsigned { bits: 1 } => &UNITS,
        _ => return layout.unpack(packed, codes).expect("both are whole pixels"),
    };
    let pixels = codes.chunks_exact_mut(layout.channels()).zip(packed.chunks_exact(layout.pixel_bytes()));
    for (codes, packed) in pixels {
        let (eights, rest) = codes.as_chunks_mut::<8>();
        eights.iter_mut().zip(packed).for_each(|(codes, &byte)| *codes = table[usize::from(byte)]);
        if !rest.is_empty() {
            rest.copy_from_slice(&table[usize::from(packed[eights.len()])][..rest.len()]);
        }
    }
}

/// The eight codes of every byte of a plane.
static SIGNS: [[f32; 8]; 256] = spread(1.0, -1.0);
static UNITS: [[f32; 8]; 256] = spread(0.0, 1.0);

const fn spread(clear: f32, set: f32) -> [[f32; 8]; 256] {
    let mut table = [[clear; 8]; 256];
    let mut i = 0;
    while i < 256 * 8 {
        if ((i / 8) >> (i % 8)) & 1 == 1 {
            table[i / 8][i % 8] = set;
        }
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_has_the_lowest_code() {
        for encoding in [Encoding::Sign, Encoding::Unsigned { bits: 1 }] {
            let layout = Layout::new(encoding, 3).unwrap();
            let mut packed = vec![0; layout.bytes_for(1)];
            pack(layout, &mut [1.0, f32::NAN, 1.0], &mut packed);
            let mut codes = [9.0; 3];
            unpack(layout, &packed, &mut codes);
            assert_eq!(codes, [1.0, encoding.code(0) as f32, 1.0], "{encoding}");
        }
    }

    #[test]
    fn both_ways_agree_with_the_layout() {
        let encodings = [
            Encoding::Sign,
            Encoding::Unsigned { bits: 1 },
            Encoding::Unsigned { bits: 2 },
            Encoding::Ternary,
        ];
        for encoding in encodings {
            for channels in [1, 3, 8, 16, 17, 33, 64, 65, 130] {
                let layout = Layout::new(encoding, channels).unwrap();
                let code = |i: usize| encoding.code(i * 7 % 5 % encoding.levels()) as f32;
                let codes: Vec<f32> = (0..3 * channels).map(code).collect();
                let (mut expected, mut found) =
                    (vec![0; layout.bytes_for(3)], vec![0xff; layout.bytes_for(3)]);
                layout.pack(&codes, &mut expected).unwrap();
                pack(layout, &mut codes.clone(), &mut found);
                assert_eq!(found, expected, "{encoding} {channels}");
                let mut back = vec![9.0; codes.len()];
                unpack(layout, &found, &mut back);
                assert_eq!(back, codes, "{encoding} {channels}");
            }
        }
    }
}
