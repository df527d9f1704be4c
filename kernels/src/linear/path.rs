//! The ways to compute a linear layer, and which of them a processor gets.

use super::LinearKind;
use super::dot::{Dot, F32, WideBf16, WideInt8};
use super::rows::{Layout, convert};
use super::tile::{Job, multiply};
use super::{peak, tiles};
use crate::Isa;
use crate::attention::simd::{Portable, Simd};
use crate::dispatch::Level;
use std::ops::Range;

/// One way: its functions may only be called on a processor that has its instructions.
#[derive(Clone, Copy)]
pub(super) struct Path {
    /// For people.
    pub(super) name: &'static str,
    /// Columns of a panel.
    pub(super) width: usize,
    /// Registers of a panel.
    pub(super) registers: usize,
    pub(super) granularity: Granularity,
    pub(super) layout: Layout,
    /// [`convert`].
    pub(super) convert: unsafe fn(&[f32], &mut [u32]) -> f32,
    /// [`multiply`].
    pub(super) multiply: unsafe fn(&Job<'_>, &Range<usize>, Range<usize>),
    /// [`multiply_registers`](peak::multiply_registers).
    pub(super) peak: unsafe fn(usize) -> usize,
}

/// What a path takes at once.
#[derive(Clone, Copy)]
pub(super) struct Granularity {
    /// Rows that are read, even if there are fewer.
    pub(super) rows: usize,
    /// Words of a column, padded with zeros.
    pub(super) words: usize,
    /// How many times as fast as with registers.
    pub(super) speed: usize,
}

impl Granularity {
    /// One row and one word.
    const SINGLE: Self = Self {
        rows: 1,
        words: 1,
        speed: 1,
    };

    /// Whole tiles. A processor multiplies 16 times as many words in a tick as with a register.
    const TILE: Self = Self {
        rows: tiles::SIDE,
        words: tiles::SIDE,
        speed: 16,
    };
}

/// A path of so many registers per panel, on the given instructions.
macro_rules! path {
    ($name:literal, $dot:ty, $registers:literal $(, $features:literal)?) => {{
        type Chosen = $dot;
        $(#[target_feature(enable = $features)])?
        unsafe fn convert_row(row: &[f32], to: &mut [u32]) -> f32 {
            convert(<Chosen as Dot>::LAYOUT, row, to)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn multiply_block(job: &Job<'_>, rows: &Range<usize>, panels: Range<usize>) {
            // SAFETY: the caller's promise, and the features are enabled here.
            unsafe { multiply::<Chosen, $registers>(job, rows, panels) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn peak(rounds: usize) -> usize {
            // SAFETY: as above.
            unsafe { peak::multiply_registers::<Chosen>(rounds) }
        }
        Path {
            name: $name,
            width: $registers * <Chosen as Dot>::Float::LANES,
            registers: $registers,
            granularity: Granularity::SINGLE,
            layout: <Chosen as Dot>::LAYOUT,
            convert: convert_row,
            multiply: multiply_block,
            peak,
        }
    }};
}

/// A path by tiles, whose sums are finished in so many registers, on the given instructions.
#[cfg(any(test, target_arch = "x86_64"))]
macro_rules! tile_path {
    ($name:literal, ($tiles:ty, $layout:expr), ($finish:ty, $registers:literal)
        $(, $features:literal)?) => {{
        $(#[target_feature(enable = $features)])?
        unsafe fn convert_row(row: &[f32], to: &mut [u32]) -> f32 {
            convert($layout, row, to)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn multiply_block(job: &Job<'_>, rows: &Range<usize>, panels: Range<usize>) {
            // SAFETY: the caller's promise, and the features are enabled here.
            unsafe { tiles::multiply::<$tiles, $finish, $registers>(job, rows, panels) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn peak(rounds: usize) -> usize {
            // SAFETY: as above.
            unsafe { tiles::multiply_registers::<$tiles>(rounds) }
        }
        Path {
            name: $name,
            width: tiles::WIDTH,
            registers: $registers,
            granularity: Granularity::TILE,
            layout: $layout,
            convert: convert_row,
            multiply: multiply_block,
            peak,
        }
    }};
}

impl Path {
    /// The best way for a kind on these instructions.
    pub(super) fn new(kind: LinearKind, isa: Isa) -> Self {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512(kind, isa),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2(kind, isa),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => neon(kind, isa),
            #[cfg(test)]
            Level::Portable if isa == Isa::EMULATED_TILES => emulated_tiles(kind),
            Level::Portable => portable(kind),
        }
    }
}

fn portable(kind: LinearKind) -> Path {
    match kind {
        LinearKind::Fp32 => path!("portable", F32<Portable>, 2),
        LinearKind::Bf16 => path!("portable", WideBf16<Portable>, 2),
        LinearKind::Int8 => path!("portable", WideInt8<Portable>, 2),
    }
}

#[cfg(test)]
fn emulated_tiles(kind: LinearKind) -> Path {
    use super::tiles::emulated::{Bf16, Emulated, FinishInt8, Int8};
    match kind {
        LinearKind::Fp32 => portable(kind),
        LinearKind::Bf16 => {
            tile_path!("emulated tiles", (Emulated<Bf16>, Layout::Bf16), (F32<Portable>, 8))
        }
        LinearKind::Int8 => {
            tile_path!(
                "emulated tiles",
                (Emulated<Int8>, Layout::OffsetBytes),
                (FinishInt8, 8)
            )
        }
    }
}

#[cfg(target_arch = "aarch64")]
fn neon(kind: LinearKind, isa: Isa) -> Path {
    use super::neon::{NeonBf16, NeonInt8};
    use crate::attention::neon::Neon;
    match kind {
        LinearKind::Fp32 => path!("neon", F32<Neon>, 4, "neon"),
        LinearKind::Bf16 if isa.1.bf16 => path!("neon_bf16", NeonBf16, 4, "neon,bf16"),
        LinearKind::Bf16 => path!("neon", WideBf16<Neon>, 2, "neon"),
        LinearKind::Int8 if isa.1.int8 => path!("neon_dotprod", NeonInt8, 4, "neon,dotprod"),
        LinearKind::Int8 => path!("neon", WideInt8<Neon>, 2, "neon"),
    }
}

#[cfg(target_arch = "x86_64")]
fn avx512(kind: LinearKind, isa: Isa) -> Path {
    use super::tiles::amx::{AmxBf16, AmxInt8};
    use super::x86::{Avx512Bf16, Avx512Vnni};
    use crate::attention::x86::Avx512;
    match kind {
        LinearKind::Fp32 => path!("avx512f", F32<Avx512>, 4, "avx512f,avx2,fma"),
        LinearKind::Bf16 if isa.1.tiles_bf16 => tile_path!(
            "amx_bf16",
            (AmxBf16, Layout::Bf16),
            (Avx512Bf16, 2),
            "avx512f,avx512bf16,avx2,fma"
        ),
        LinearKind::Bf16 if isa.1.bf16 => {
            path!("avx512_bf16", Avx512Bf16, 4, "avx512f,avx512bf16,avx2,fma")
        }
        LinearKind::Bf16 => path!("avx512f", WideBf16<Avx512>, 2, "avx512f,avx2,fma"),
        LinearKind::Int8 if isa.1.tiles_int8 => tile_path!(
            "amx_int8",
            (AmxInt8, Layout::OffsetBytes),
            (Avx512Vnni, 2),
            "avx512f,avx512vnni,avx2,fma"
        ),
        LinearKind::Int8 if isa.1.int8 => {
            path!("avx512_vnni", Avx512Vnni, 4, "avx512f,avx512vnni,avx2,fma")
        }
        // AVX-512F has no products of 16-bit numbers.
        LinearKind::Int8 => avx2(kind, isa),
    }
}

#[cfg(target_arch = "x86_64")]
fn avx2(kind: LinearKind, isa: Isa) -> Path {
    use super::x86::Avx2Vnni;
    use crate::attention::x86::Avx2;
    match kind {
        LinearKind::Fp32 => path!("avx2", F32<Avx2>, 2, "avx2,fma"),
        LinearKind::Bf16 => path!("avx2", WideBf16<Avx2>, 1, "avx2,fma"),
        LinearKind::Int8 if isa.0 == Level::Avx2 && isa.1.int8 => {
            path!("avx_vnni", Avx2Vnni, 2, "avx2,fma,avxvnni")
        }
        LinearKind::Int8 => path!("avx2", WideInt8<Avx2>, 1, "avx2,fma"),
    }
}
