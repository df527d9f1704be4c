//! Whether tiles may be used: the processor has AMX, the operating system keeps the tiles of a
//! thread, and this process was permitted to use them (Intel's Software Developer's Manual,
//! volume 1, chapter 18; Linux, `Documentation/arch/x86/xstate.rst`).

use std::arch::x86_64::{__cpuid_count, _xgetbv, CpuidResult};

/// Which products of tiles there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TileProducts {
    pub(super) bf16: bool,
    pub(super) int8: bool,
}

impl TileProducts {
    const NONE: Self = Self {
        bf16: false,
        int8: false,
    };

    /// Those of CPUID leaf 7.
    fn reported(edx: u32) -> Self {
        let (bf16, tiles, int8) = (edx >> 22 & 1, edx >> 24 & 1, edx >> 25 & 1);
        Self {
            bf16: tiles & bf16 == 1,
            int8: tiles & int8 == 1,
        }
    }
}

/// The parts of XCR0 that hold the configuration of the tiles and the tiles.
const XCR0_TILES: u64 = 3 << 17;

/// What may be used in this process. The permission that it asks for lasts as long as the process.
pub(super) fn detect() -> TileProducts {
    if cpuid(0, 0).eax < 0x1d {
        return TileProducts::NONE;
    }
    let found = TileProducts::reported(cpuid(7, 0).edx);
    let has_tiles = found != TileProducts::NONE
        && std::arch::is_x86_feature_detected!("xsave")
        && is_known_palette()
        // SAFETY: the operating system enabled XSAVE, and with it the instruction.
        && unsafe { _xgetbv(0) } & XCR0_TILES == XCR0_TILES
        && is_permitted();
    match has_tiles {
        true => found,
        false => TileProducts::NONE,
    }
}

// Whether the function is unsafe depends on the version of the compiler.
#[allow(unused_unsafe)]
fn cpuid(leaf: u32, part: u32) -> CpuidResult {
    // SAFETY: every processor with 64 bits has the instruction.
    unsafe { __cpuid_count(leaf, part) }
}

/// Whether palette 1 is the one there is: eight tiles of 16 rows of 64 bytes.
fn is_known_palette() -> bool {
    let palette = cpuid(0x1d, 1);
    let row_bytes = palette.ebx & 0xffff;
    let (tiles, rows) = (palette.ebx >> 16, palette.ecx & 0xffff);
    (tiles, rows, row_bytes) == (8, 16, 64)
}

/// Asks Linux to keep the tiles of this process' threads, which it does not do unasked.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let result: i64;
    // SAFETY: this call of the system changes nothing but the permission; the kernel overwrites
    // `rcx` and `r11`.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Elsewhere there is no such question to ask, and tiles are left alone.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_need_tiles() {
        let products = |edx| {
            let TileProducts { bf16, int8 } = TileProducts::reported(edx);
            (bf16, int8)
        };
        assert_eq!(products(1 << 22 | 1 << 24 | 1 << 25), (true, true));
        assert_eq!(products(1 << 22 | 1 << 24), (true, false));
        assert_eq!(products(1 << 24 | 1 << 25), (false, true));
        assert_eq!(products(1 << 22 | 1 << 25), (false, false));
        assert_eq!(products(!(1 << 24)), (false, false));
    }
}
