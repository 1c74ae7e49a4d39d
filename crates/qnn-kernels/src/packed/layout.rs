//! How the channels of one pixel lie in memory, packing and unpacking.

use super::{Encoding, PackError};
use crate::Kernels;

/// A packed pixel: `channels` codes in planes of bits, or in bytes.
///
/// ```text
/// pixel = plane 0, plane 1, …;   a plane has channels bits, rounded up to 8, 16, 32 or a multiple of 64;
/// channel c is bit c mod 8 of the plane's byte c / 8;   bits past the last channel are clear
/// ```
///
/// Pixels follow each other without gaps, in the order image, row, column. Bytes make it the same on every machine: buffers of packed
/// codes can be written to files as they are.
///
/// ```
/// use qnn_kernels::packed::{Encoding, Layout};
/// let layout = Layout::new(Encoding::Sign, 3)?;
/// let mut packed = vec![0; layout.bytes_for(2)];
/// layout.pack(&[1.0, -1.0, 1.0, -1.0, -1.0, 1.0], &mut packed)?;
/// assert_eq!(packed, [0b010, 0b011]);
/// # Ok::<(), qnn_kernels::packed::PackError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    encoding: Encoding,
    channels: usize,
}

impl Layout {
    /// The layout of pixels with so many channels.
    ///
    /// # Errors
    ///
    /// [`PackError::Bits`] for an encoding of more than 8 bits, [`PackError::Shape`] for no channels or too many to address.
    pub fn new(encoding: Encoding, channels: usize) -> Result<Self, PackError> {
        if channels == 0 {
            return Err(crate::ShapeError::Zero { what: "channel count" }.into());
        }
        if channels > isize::MAX as usize / 64 {
            return Err(crate::ShapeError::Overflow { what: "packed pixel" }.into());
        }
        Ok(Self { encoding: encoding.checked()?, channels })
    }

    /// The encoding of the codes.
    #[must_use]
    pub const fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Codes in a pixel.
    #[must_use]
    pub const fn channels(&self) -> usize {
        self.channels
    }

    /// Bytes of one plane of one pixel: 1, 2, 4 or a multiple of 8. For [`Encoding::Int8`] those of the pixel.
    #[must_use]
    pub const fn plane_bytes(&self) -> usize {
        match (self.encoding, self.channels) {
            (Encoding::Int8, channels) => channels,
            (_, ..=8) => 1,
            (_, ..=16) => 2,
            (_, ..=32) => 4,
            (_, channels) => channels.div_ceil(64) * 8,
        }
    }

    /// Bytes of one pixel.
    #[must_use]
    pub const fn pixel_bytes(&self) -> usize {
        match self.encoding {
            Encoding::Int8 => self.channels,
            encoding => encoding.planes() * self.plane_bytes(),
        }
    }

    /// Bytes of so many pixels.
    #[must_use]
    pub const fn bytes_for(&self, pixels: usize) -> usize {
        pixels * self.pixel_bytes()
    }

    /// Packs codes, channels innermost.
    ///
    /// # Errors
    ///
    /// [`PackError::NotANumber`] or [`PackError::NotACode`] with the position of the first such element, [`PackError::Length`] if `codes` are no
    /// whole pixels or `packed` has not the bytes for them. What `packed` holds after an error is unspecified.
    pub fn pack(&self, codes: &[f32], packed: &mut [u8]) -> Result<(), PackError> {
        self.check_lengths(codes.len(), packed.len())?;
        let mut sound = true;
        for (codes, packed) in
            codes.chunks_exact(self.channels).zip(packed.chunks_exact_mut(self.pixel_bytes()))
        {
            sound &= self.pack_pixel(codes, packed);
        }
        if sound {
            return Ok(());
        }
        let mut levels =
            codes.iter().enumerate().map(|(index, &code)| self.encoding.level_of(code, index, codes.len()));
        levels.try_for_each(|level| level.map(|_| ()))
    }

    /// Packs one pixel and says whether all its numbers are codes.
    fn pack_pixel(&self, codes: &[f32], packed: &mut [u8]) -> bool {
        let mut sound = true;
        packed.fill(0);
        for (byte, codes) in codes.chunks(8).enumerate() {
            let mut stored = [0; 8];
            for (stored, &code) in stored.iter_mut().zip(codes) {
                let (bits, is_code) = self.encoding.stored(code);
                *stored = bits;
                sound &= is_code;
            }
            if self.encoding == Encoding::Int8 {
                packed[8 * byte..][..codes.len()].copy_from_slice(&stored[..codes.len()]);
            } else {
                for (plane, packed) in packed.chunks_exact_mut(self.plane_bytes()).enumerate() {
                    let bit = |(index, stored): (usize, &u8)| (stored >> plane & 1) << index;
                    packed[byte] = stored.iter().enumerate().map(bit).sum();
                }
            }
        }
        sound
    }

    /// Packs the signs of numbers: `x < 0` becomes −1, all else +1, both zeros included.
    ///
    /// # Errors
    ///
    /// As [`Self::pack`]; [`PackError::Unsupported`] if the encoding is not [`Encoding::Sign`].
    pub fn pack_signs(&self, values: &[f32], packed: &mut [u8]) -> Result<(), PackError> {
        Kernels::current().pack_signs(*self, values, packed)
    }

    /// The codes of packed pixels.
    ///
    /// # Errors
    ///
    /// [`PackError::Length`] if the lengths do not fit.
    pub fn unpack(&self, packed: &[u8], codes: &mut [f32]) -> Result<(), PackError> {
        self.check_lengths(codes.len(), packed.len())?;
        let pixels = codes.chunks_exact_mut(self.channels).zip(packed.chunks_exact(self.pixel_bytes()));
        for (codes, packed) in pixels {
            for (channel, code) in codes.iter_mut().enumerate() {
                *code = self.code(channel, packed) as f32;
            }
        }
        Ok(())
    }

    /// The code of one channel of a packed pixel.
    ///
    /// # Panics
    ///
    /// If there is no byte for such a channel, or the pixel is shorter than [`Self::pixel_bytes`].
    #[must_use]
    #[track_caller]
    pub fn code(&self, channel: usize, pixel: &[u8]) -> i32 {
        if self.encoding == Encoding::Int8 {
            return self.encoding.code_of(pixel[channel]);
        }
        let planes = pixel.chunks_exact(self.plane_bytes()).enumerate();
        let bits = planes.fold(0, |bits, (i, plane)| bits | (plane[channel / 8] >> (channel % 8) & 1) << i);
        self.encoding.code_of(bits)
    }

    /// Sets a channel of a pixel that is clear there.
    pub(crate) fn set(&self, channel: usize, level: usize, pixel: &mut [u8]) {
        let bits = self.encoding.bits(level);
        if self.encoding == Encoding::Int8 {
            pixel[channel] = bits;
        } else {
            for (i, plane) in pixel.chunks_exact_mut(self.plane_bytes()).enumerate() {
                plane[channel / 8] |= (bits >> i & 1) << (channel % 8);
            }
        }
    }

    pub(crate) fn check_lengths(&self, codes: usize, bytes: usize) -> Result<(), PackError> {
        let whole = codes.next_multiple_of(self.channels);
        if codes != whole {
            return Err(PackError::Length { what: "codes", found: codes, expected: whole });
        }
        let expected = self.bytes_for(codes / self.channels);
        if bytes != expected {
            return Err(PackError::Length { what: "packed bytes", found: bytes, expected });
        }
        Ok(())
    }
}
