//! Instruction sets, and which of them this machine has.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// Whether the machine has a feature; without `std` whether the crate was compiled for it.
#[cfg(target_arch = "x86_64")]
macro_rules! has {
    ($feature:tt) => {{
        #[cfg(feature = "std")]
        let has = std::is_x86_feature_detected!($feature);
        #[cfg(not(feature = "std"))]
        let has = cfg!(target_feature = $feature);
        has
    }};
}
#[cfg(target_arch = "x86_64")]
pub(crate) use has;

/// An instruction set with its own kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Portable code; runs everywhere.
    Scalar,
    /// x86-64 with `popcnt`: as `Scalar`, but bits are counted by one instruction.
    Popcnt,
    /// x86-64 with AVX2, FMA and `popcnt`.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL, besides all of `Avx2`.
    Avx512,
    /// AArch64 with its 128-bit vectors.
    Neon,
}

/// A name that is no instruction set.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no instruction set; the names are scalar, popcnt, avx2, avx512 and neon")]
pub struct UnknownIsa(String);

impl Isa {
    /// All of them, the best first.
    pub const ALL: [Self; 5] = [Self::Avx512, Self::Avx2, Self::Popcnt, Self::Neon, Self::Scalar];

    /// Those that this machine can run, the best first; tests and benchmarks loop over them.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// Whether this machine can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            // The targets without floating point in hardware have none.
            Self::Neon => cfg!(all(target_arch = "aarch64", target_feature = "neon")),
            #[cfg(target_arch = "x86_64")]
            Self::Popcnt => has!("popcnt"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => [has!("avx2"), has!("fma"), has!("popcnt")] == [true; 3],
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                let has = [has!("avx512f"), has!("avx512bw"), has!("avx512dq"), has!("avx512vl")];
                Self::Avx2.is_available() && has == [true; 4]
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Popcnt | Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// The name that `QNN_ISA` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Popcnt => "popcnt",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Self::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        let error = "sse9".parse::<Isa>().unwrap_err().to_string();
        assert!(error.contains("\"sse9\"") && error.contains("avx512"), "{error}");
    }

    #[test]
    fn scalar_is_always_there_and_last() {
        assert_eq!(Isa::available().last(), Some(Isa::Scalar));
    }
}
