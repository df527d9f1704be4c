//! The vector operations the attention kernel is written in, and their portable version.
//! One file per instruction set implements the same trait.

/// One instruction set. All functions are inlined into a caller that enables its features.
///
/// # Safety
/// Every function may only run on a processor that has the instruction set; pointers must be
/// valid for `LANES` values, or as their function says.
pub(crate) trait Simd: Copy {
    /// A register of `f32`.
    type Vector: Copy;

    /// Values per register.
    const LANES: usize;

    /// Rows and registers per row of the largest tile that stays in registers; at most 6 and 4.
    const TILE: (usize, usize);

    /// Where [`exp2`](Self::exp2) becomes exactly zero.
    const EXPONENT_MIN: f32 = -127.0;

    unsafe fn splat(value: f32) -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    unsafe fn store(to: *mut f32, value: Self::Vector);
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// `a * b + c`, rounded once where the processor can.
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    /// The larger value per lane; `b` where one of them is NaN, or NaN.
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// The nearest integer per lane.
    unsafe fn round(a: Self::Vector) -> Self::Vector;

    /// `a * 2^n` for integers `n` from `EXPONENT_MIN` to 0, zero for `EXPONENT_MIN`.
    unsafe fn scale(a: Self::Vector, n: Self::Vector) -> Self::Vector;

    unsafe fn sum_lanes(a: Self::Vector) -> f32;
    unsafe fn max_lanes(a: Self::Vector) -> f32;

    /// Writes the transpose of `LANES` rows of `LANES` values to rows `to_stride` apart.
    /// Row `i` is read at `from + min(i, last) * from_stride`.
    unsafe fn transpose(from: Rows, to: *mut f32, to_stride: usize);

    /// `2^x` for `x <= 0`, zero below `EXPONENT_MIN`, NaN for NaN. The relative error is below
    /// 2e-7: the polynomial (minimax of degree 6 for 2^f, |f| <= 1/2, exact at 0) contributes
    /// 3e-9, the rounding of its steps the rest.
    #[inline(always)]
    unsafe fn exp2(x: Self::Vector) -> Self::Vector {
        const COEFFICIENTS: [f32; 6] = [
            1.340_664_3e-3,
            9.617_693e-3,
            5.550_310_4e-2,
            2.402_265_2e-1,
            6.931_472_4e-1,
            1.0,
        ];
        // SAFETY: the caller's promise is this function's.
        unsafe {
            let x = Self::max(Self::splat(Self::EXPONENT_MIN), x);
            let n = Self::round(x);
            let f = Self::sub(x, n);
            let mut power = Self::splat(1.559_467_8e-4);
            for coefficient in COEFFICIENTS {
                power = Self::mul_add(power, f, Self::splat(coefficient));
            }
            Self::scale(power, n)
        }
    }
}

/// Defines operations of a [`Simd`] that are one expression each.
macro_rules! operations {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty { $body:expr })*) => {$(
        #[inline(always)]
        // Whether an intrinsic is unsafe to call depends on what the target always has.
        #[allow(unused_unsafe)]
        unsafe fn $name($($argument: $kind),*) -> $result {
            // SAFETY: the contract of the trait: the processor has the instructions and pointers
            // are valid for `LANES` values. No load or store here needs an alignment.
            unsafe { $body }
        }
    )*};
}
pub(crate) use operations;

/// Rows to transpose: the address of the first, the distance between two, the last's number.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(super) first: *const f32,
    pub(super) stride: usize,
    pub(super) last: usize,
}

impl Rows {
    /// The address of row `i`, or of the last row when there are fewer.
    ///
    /// # Safety
    /// The rows up to `last` lie in one allocation.
    #[inline(always)]
    pub(super) unsafe fn row(self, i: usize) -> *const f32 {
        // SAFETY: the number is at most `last`.
        unsafe { self.first.add(i.min(self.last) * self.stride) }
    }
}

/// Plain Rust on four lanes, the width of the smallest vector registers in use, so that the
/// compiler can turn each operation into one instruction.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Adding and subtracting it rounds to an integer, which then sits in the lowest bits.
const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23

impl Simd for Portable {
    type Vector = [f32; 4];
    const LANES: usize = 4;
    const TILE: (usize, usize) = (4, 2);

    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; 4] {
        [value; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        // SAFETY: the caller promises four values; arrays need no more than their alignment.
        unsafe { from.cast::<[f32; 4]>().read() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: [f32; 4]) {
        // SAFETY: the caller promises room for four values.
        unsafe { to.cast::<[f32; 4]>().write(value) };
    }

    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]
    }

    #[inline(always)]
    unsafe fn sub(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]]
    }

    #[inline(always)]
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]]
    }

    // Not `f32::mul_add`, which without the instruction is a slow library call.
    #[inline(always)]
    unsafe fn mul_add(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        [
            a[0] * b[0] + c[0],
            a[1] * b[1] + c[1],
            a[2] * b[2] + c[2],
            a[3] * b[3] + c[3],
        ]
    }

    #[inline(always)]
    unsafe fn max(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        let max = |a: f32, b: f32| if a > b { a } else { b };
        [
            max(a[0], b[0]),
            max(a[1], b[1]),
            max(a[2], b[2]),
            max(a[3], b[3]),
        ]
    }

    #[inline(always)]
    unsafe fn round(a: [f32; 4]) -> [f32; 4] {
        a.map(|value| (value + ROUNDER) - ROUNDER)
    }

    #[inline(always)]
    unsafe fn scale(a: [f32; 4], n: [f32; 4]) -> [f32; 4] {
        // The bits of `n + ROUNDER` end in those of `n`; shifted up, 127 more of them are the
        // exponent field of 2^n.
        let power = |n: f32| f32::from_bits((n + (ROUNDER + 127.0)).to_bits() << 23);
        [
            a[0] * power(n[0]),
            a[1] * power(n[1]),
            a[2] * power(n[2]),
            a[3] * power(n[3]),
        ]
    }

    #[inline(always)]
    unsafe fn sum_lanes(a: [f32; 4]) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }

    #[inline(always)]
    unsafe fn max_lanes(a: [f32; 4]) -> f32 {
        a[0].max(a[1]).max(a[2].max(a[3]))
    }

    #[inline(always)]
    unsafe fn transpose(from: Rows, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller promises four rows of four values on both sides.
        unsafe {
            let rows: [[f32; 4]; 4] = std::array::from_fn(|i| Self::load(from.row(i)));
            let column = |k: usize| rows.map(|row| row[k]);
            Self::store(to, column(0));
            Self::store(to.add(to_stride), column(1));
            Self::store(to.add(2 * to_stride), column(2));
            Self::store(to.add(3 * to_stride), column(3));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exp2<S: Simd>(x: f32) -> f32 {
        let mut out = [0.0; 16];
        // SAFETY: the caller checked that the processor has `S`, and 16 lanes are the most.
        unsafe { S::store(out.as_mut_ptr(), S::exp2(S::splat(x))) };
        out[0]
    }

    fn check<S: Simd>() {
        let mut worst = 0.0f64;
        for step in 0..=1_000_000u32 {
            let x = -(step as f32) * 1.25e-4;
            let exact = f64::from(x).exp2();
            worst = worst.max((f64::from(exp2::<S>(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(exp2::<S>(0.0), 1.0);
        for x in [f32::NEG_INFINITY, f32::MIN, -1e4, -200.0] {
            assert_eq!(exp2::<S>(x), 0.0, "{x}");
        }
        assert!(exp2::<S>(f32::NAN).is_nan());
    }

    #[test]
    fn powers_of_two_are_precise() {
        check::<Portable>();
        #[cfg(target_arch = "x86_64")]
        {
            use crate::attention::x86::{Avx2, Avx512};
            let names: Vec<&str> = crate::Isa::available()
                .iter()
                .map(|isa| isa.name())
                .collect();
            if names.contains(&"avx2") {
                check::<Avx2>();
            }
            if names.contains(&"avx512") {
                check::<Avx512>();
            }
        }
        #[cfg(target_arch = "aarch64")]
        check::<crate::attention::neon::Neon>();
    }
}
