//! Which instruction set the fast paths use: decided once, from what the processor reports.

use crate::{Parallel, Sequential};

/// An instruction set this processor has. Values exist only for those it has, so a kernel that
/// is handed one may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(crate) Level, pub(crate) Extensions);

/// Instructions that some processors of a level have and others lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// Products of bfloat16 pairs: AVX512_BF16, with the BW, DQ and VL parts of AVX-512 that come
    /// with it.
    pub(crate) bf16: bool,
    /// Products of byte quadruples: AVX512_VNNI, or AVX-VNNI on AVX2.
    pub(crate) vnni: bool,
}

impl Extensions {
    /// Nothing beyond the level itself.
    const NONE: Self = Self {
        bf16: false,
        vnni: false,
    };

    /// What a processor with AVX-512F has on top of it.
    #[cfg(target_arch = "x86_64")]
    fn of_avx512() -> Self {
        let wide = std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl");
        Self {
            bf16: wide && std::arch::is_x86_feature_detected!("avx512bf16"),
            vnni: wide && std::arch::is_x86_feature_detected!("avx512vnni"),
        }
    }

    /// What a processor with AVX2 has on top of it.
    #[cfg(target_arch = "x86_64")]
    fn of_avx2() -> Self {
        Self {
            bf16: false,
            vnni: std::arch::is_x86_feature_detected!("avxvnni"),
        }
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

    /// The best path of this processor.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All paths of this processor, the best one first.
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
            levels.push(Self(Level::Neon, Extensions::NONE));
        }
        levels.push(Self::PORTABLE);
        levels
    }

    /// Whether a kernel may multiply pairs of bf16 and sum them in fp32 (VDPBF16PS).
    pub fn has_bf16(self) -> bool {
        self.1.bf16
    }

    /// All levels of this processor with every choice of the extensions it has, so that tests
    /// reach the paths of lesser processors.
    #[cfg(test)]
    pub(crate) fn combinations() -> Vec<Self> {
        let mut combinations = Vec::new();
        for Self(level, most) in Self::available() {
            for (bf16, vnni) in [(true, true), (true, false), (false, true), (false, false)] {
                let extensions = Extensions {
                    bf16: bf16 && most.bf16,
                    vnni: vnni && most.vnni,
                };
                if !combinations.contains(&Self(level, extensions)) {
                    combinations.push(Self(level, extensions));
                }
            }
        }
        combinations
    }

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
        assert_eq!(Isa::detect(), available[0]);
        assert_eq!(available.last(), Some(&Isa::PORTABLE));
        let names: Vec<&str> = available.iter().map(|isa| isa.name()).collect();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
