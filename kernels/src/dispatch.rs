//! Which instruction set the fast paths use: decided once, from what the processor reports and
//! from what it computes on problems that are built in.

#[cfg(target_arch = "x86_64")]
mod amx;
mod proof;

use self::proof::Proof;
use crate::{Parallel, Sequential};

/// An instruction set this processor has. Values exist only for those it has, so a kernel that
/// is handed one may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(crate) Level, pub(crate) Extensions);

/// Instructions that some processors of a level have and others lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// Products of bfloat16 pairs: AVX512_BF16, with the BW, DQ and VL parts of AVX-512 that come
    /// with it, or FEAT_BF16 of Arm.
    pub(crate) bf16: bool,
    /// Products of byte quadruples: AVX512_VNNI, AVX-VNNI on AVX2, or FEAT_DotProd of Arm.
    pub(crate) int8: bool,
    /// Products of tiles of bfloat16 pairs, AMX-BF16; not without `bf16`.
    pub(crate) tiles_bf16: bool,
    /// Products of tiles of byte quadruples, AMX-INT8; not without `int8`.
    pub(crate) tiles_int8: bool,
}

impl Extensions {
    /// Nothing beyond the level itself.
    const NONE: Self = Self {
        bf16: false,
        int8: false,
        tiles_bf16: false,
        tiles_int8: false,
    };

    /// What a processor with AVX-512F has on top of it.
    #[cfg(target_arch = "x86_64")]
    fn of_avx512() -> Self {
        let wide = std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl");
        let bf16 = wide && std::arch::is_x86_feature_detected!("avx512bf16");
        let int8 = wide && std::arch::is_x86_feature_detected!("avx512vnni");
        let tiles = amx::detect();
        Self {
            bf16,
            int8,
            tiles_bf16: bf16 && tiles.bf16,
            tiles_int8: int8 && tiles.int8,
        }
    }

    /// What a processor with AVX2 has on top of it.
    #[cfg(target_arch = "x86_64")]
    fn of_avx2() -> Self {
        Self {
            int8: std::arch::is_x86_feature_detected!("avxvnni"),
            ..Self::NONE
        }
    }

    /// What a processor with Advanced SIMD has on top of it.
    #[cfg(target_arch = "aarch64")]
    fn of_neon() -> Self {
        Self {
            bf16: std::arch::is_aarch64_feature_detected!("bf16"),
            int8: std::arch::is_aarch64_feature_detected!("dotprod"),
            ..Self::NONE
        }
    }

    /// Every choice of these extensions that a processor might have.
    #[cfg(test)]
    fn subsets(self) -> Vec<Self> {
        let mut subsets = Vec::new();
        for bits in (0..16).rev() {
            let has = |bit: usize| bits >> bit & 1 == 1;
            let subset = Self {
                bf16: has(0) && self.bf16,
                int8: has(1) && self.int8,
                tiles_bf16: has(2) && self.tiles_bf16,
                tiles_int8: has(3) && self.tiles_int8,
            };
            if !subsets.contains(&subset) {
                subsets.push(subset);
            }
        }
        subsets
    }
}

/// The code paths that exist on this architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512F, with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Advanced SIMD of AArch64.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// What the compiler makes of plain Rust for the baseline of the architecture.
    Portable,
}

impl Isa {
    /// The path that runs on every processor.
    pub const PORTABLE: Self = Self(Level::Portable, Extensions::NONE);

    /// The best path of this processor: of those that it reports, the first that computes what
    /// the portable one does.
    pub fn detect() -> Self {
        Proof::of_this_processor().isa
    }

    /// What this processor reports and [`detect`](Self::detect) did not take, because it gave
    /// other numbers than the portable path: such as `amx_bf16`. Empty where all is well.
    pub fn failed() -> &'static [&'static str] {
        &Proof::of_this_processor().failed
    }

    /// All paths that this processor reports, the best one first.
    pub fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                levels.push(Self(Level::Avx512, Extensions::of_avx512()));
            }
            levels.push(Self(Level::Avx2, Extensions::of_avx2()));
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            levels.push(Self(Level::Neon, Extensions::of_neon()));
        }
        levels.push(Self::PORTABLE);
        levels
    }

    /// Whether a kernel may multiply pairs of bf16 and sum them in fp32 (VDPBF16PS,
    /// BFDOT).
    pub fn has_bf16(self) -> bool {
        self.1.bf16
    }

    /// All levels of this processor with every choice of the extensions it has, so that tests
    /// reach the paths of lesser processors; on the portable one tiles are emulated.
    #[cfg(test)]
    pub(crate) fn combinations() -> Vec<Self> {
        let mut combinations = Vec::new();
        for Self(level, extensions) in Self::available() {
            let subsets = extensions.subsets().into_iter();
            combinations.extend(subsets.map(|extensions| Self(level, extensions)));
        }
        combinations.push(Self::EMULATED_TILES);
        combinations
    }

    /// The tile instructions of a processor that this one need not be, in plain Rust.
    #[cfg(test)]
    pub(crate) const EMULATED_TILES: Self = {
        let extensions = Extensions {
            tiles_bf16: true,
            tiles_int8: true,
            ..Extensions::NONE
        };
        Self(Level::Portable, extensions)
    };

    /// The name shown to people: `avx512`, `avx2`, `neon` or `portable`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            Level::Portable => "portable",
        }
    }
}

/// How a kernel runs: on which instructions and on which threads.
#[derive(Clone, Copy)]
pub struct Execution<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// Who runs the tasks.
    pub parallel: &'a dyn Parallel,
}

impl Execution<'static> {
    /// On the calling thread alone.
    pub fn sequential(isa: Isa) -> Self {
        Self {
            isa,
            parallel: &Sequential,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_comes_first_and_portable_last() {
        let available = Isa::available();
        assert_eq!(Isa::detect(), available[0], "{:?}", Isa::failed());
        assert_eq!(available.last(), Some(&Isa::PORTABLE));
        let names: Vec<&str> = available.iter().map(|isa| isa.name()).collect();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
