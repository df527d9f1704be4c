//! The tiles of Intel's AMX. Its instructions are written out, since the compiler's names for
//! them are not stable. So far run on no processor that has them: see `proof.rs` of `dispatch`.

use super::Tiles;
use std::arch::asm;

/// The operand of LDTILECFG (Intel's Software Developer's Manual, volume 1, section 18.2).
#[repr(align(64))]
struct Configuration([u8; 64]);

/// Eight tiles of 16 rows of 64 bytes.
static WHOLE: Configuration = {
    let mut bytes = [0; 64];
    bytes[0] = 1; // the palette
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64; // bytes of a row, in 16 bits
        bytes[48 + tile] = 16; // rows
        tile += 1;
    }
    Configuration(bytes)
};

/// Tiles whose products are those of one instruction.
macro_rules! tiles {
    ($(#[$about:meta])* $name:ident $product:literal) => {
        $(#[$about])*
        pub(in super::super) struct $name;

        impl Tiles for $name {
            #[inline(always)]
            unsafe fn begin() -> Self {
                // SAFETY: the contract of the trait: the processor has tiles.
                unsafe {
                    asm!("ldtilecfg [{}]", in(reg) WHOLE.0.as_ptr(),
                        options(nostack, preserves_flags));
                }
                Self
            }

            #[inline(always)]
            unsafe fn end(self) {
                // SAFETY: as above.
                unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
            }

            #[inline(always)]
            unsafe fn zero<const T: usize>(&mut self) {
                // SAFETY: as above.
                unsafe { asm!("tilezero tmm{}", const T, options(nostack, preserves_flags)) }
            }

            #[inline(always)]
            unsafe fn load<const T: usize>(&mut self, from: *const u32, stride: usize) {
                // SAFETY: as above, and the pointer is valid for the rows.
                unsafe {
                    asm!("tileloadd tmm{}, [{} + {}*1]", const T, in(reg) from, in(reg) stride * 4,
                        options(nostack, preserves_flags));
                }
            }

            #[inline(always)]
            unsafe fn store<const T: usize>(&self, to: *mut u32, stride: usize) {
                // SAFETY: as above.
                unsafe {
                    asm!("tilestored [{} + {}*1], tmm{}", in(reg) to, in(reg) stride * 4, const T,
                        options(nostack, preserves_flags));
                }
            }

            #[inline(always)]
            unsafe fn dot<const C: usize, const A: usize, const B: usize>(&mut self) {
                // SAFETY: as above.
                unsafe {
                    asm!(concat!($product, " tmm{}, tmm{}, tmm{}"), const C, const A, const B,
                        options(nostack, preserves_flags));
                }
            }
        }
    };
}

tiles! {
    /// Pairs of bfloat16, which it takes for zero where they are subnormal.
    AmxBf16 "tdpbf16ps"
}

tiles! {
    /// Quadruples of bytes, those of the rows unsigned: 128 more than they are.
    AmxInt8 "tdpbusd"
}
