//! The dot product a linear layer is made of, as one instruction set computes it: 32-bit words of
//! weights, one per column, times one word of activations for all columns.

use super::LinearKind;
use super::rows::Layout;
use crate::attention::simd::{Portable, Simd};
use std::marker::PhantomData;

/// One way to multiply and add. All functions are inlined into a caller that enables the features.
///
/// # Safety
/// Every function may only run on a processor that has the instructions; pointers must be valid
/// for a register, or a word, of what they point at.
pub(super) trait Dot {
    /// The registers in which results are finished, with as many lanes as there are sums.
    type Float: Lanes;

    /// A register of sums, one per column.
    type Sum: Copy;

    /// A register of weights, one word per column, ready to be multiplied.
    type Weights: Copy;

    /// One word of activations, the same in all lanes.
    type Activations: Copy;

    /// What it computes.
    const KIND: LinearKind;

    /// How it wants the activations.
    const LAYOUT: Layout;

    /// Whether one instruction multiplies and adds.
    const FUSED: bool = true;

    /// Has weights fetched that will be read soon, where the arithmetic is so little for each that
    /// it would wait for them.
    #[inline(always)]
    unsafe fn prefetch(_: *const u32) {}

    unsafe fn zero() -> Self::Sum;
    unsafe fn load(from: *const f32) -> Self::Sum;
    unsafe fn store(to: *mut f32, sum: Self::Sum);
    unsafe fn weights(from: *const u32) -> Self::Weights;
    unsafe fn activations(from: *const u32) -> Self::Activations;
    unsafe fn dot(sum: Self::Sum, w: Self::Weights, a: Self::Activations) -> Self::Sum;

    /// The sum as a number: of integer sums the value after `offsets` were added, not yet scaled.
    unsafe fn value(sum: Self::Sum, offsets: *const i32) -> <Self::Float as Simd>::Vector;
}

/// What linear layers need of floating point registers beyond what attention does.
///
/// # Safety
/// As for [`Simd`].
pub(super) trait Lanes: Simd {
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// `negative` where `x < 0`, else `other`.
    unsafe fn select_negative(
        x: Self::Vector,
        negative: Self::Vector,
        other: Self::Vector,
    ) -> Self::Vector;

    /// Words of two bfloat16 as the values of their low and of their high halves.
    unsafe fn halves(from: *const u32) -> (Self::Vector, Self::Vector);

    /// Has the cache line of an address fetched that will be read soon, or that is nobody's. Does
    /// nothing where registers are so wide that the processor fetches early enough by itself.
    #[inline(always)]
    unsafe fn prefetch(_: *const u32) {}
}

/// Integer registers with as many lanes.
///
/// # Safety
/// As for [`Simd`].
pub(super) trait Pairs: Lanes {
    /// A register of `i32`, or of `i16` in pairs.
    type Integer: Copy;

    unsafe fn splat_pair(word: u32) -> Self::Integer;
    unsafe fn load_integer(from: *const i32) -> Self::Integer;
    unsafe fn store_integer(to: *mut i32, value: Self::Integer);
    unsafe fn to_float(a: Self::Integer) -> Self::Vector;

    /// Words of four signed bytes as pairs: bytes 0 and 2, bytes 1 and 3.
    unsafe fn byte_pairs(from: *const u32) -> (Self::Integer, Self::Integer);

    /// `sum + a0 b0 + a1 b1` of the pairs.
    unsafe fn pair_add(sum: Self::Integer, a: Self::Integer, b: Self::Integer) -> Self::Integer;
}

/// The functions of a [`Dot`] whose sums are floating point registers.
macro_rules! sums_are_floats {
    ($simd:ty) => {
        #[inline(always)]
        unsafe fn zero() -> Self::Sum {
            // SAFETY: the contract of the trait.
            unsafe { <$simd as $crate::attention::simd::Simd>::splat(0.0) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self::Sum {
            // SAFETY: the contract of the trait.
            unsafe { <$simd as $crate::attention::simd::Simd>::load(from) }
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, sum: Self::Sum) {
            // SAFETY: the contract of the trait.
            unsafe { <$simd as $crate::attention::simd::Simd>::store(to, sum) }
        }

        #[inline(always)]
        unsafe fn value(sum: Self::Sum, _offsets: *const i32) -> Self::Sum {
            sum
        }
    };
}
pub(super) use sums_are_floats;

/// Single precision.
pub(super) struct F32<S>(PhantomData<S>);

impl<S: Lanes> Dot for F32<S> {
    type Float = S;
    type Sum = S::Vector;
    type Weights = S::Vector;
    type Activations = S::Vector;
    const KIND: LinearKind = LinearKind::Fp32;
    const LAYOUT: Layout = Layout::F32;

    sums_are_floats!(S);

    #[inline(always)]
    unsafe fn prefetch(from: *const u32) {
        // SAFETY: the caller's promise, as everywhere in this file.
        unsafe { S::prefetch(from) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u32) -> S::Vector {
        // SAFETY: the caller's promise, as everywhere in this file.
        unsafe { S::load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn activations(from: *const u32) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::splat(*from.cast()) }
    }

    #[inline(always)]
    unsafe fn dot(sum: S::Vector, w: S::Vector, a: S::Vector) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::mul_add(a, w, sum) }
    }
}

/// bfloat16 without instructions for it: widened, then multiplied in single precision.
pub(super) struct WideBf16<S>(PhantomData<S>);

impl<S: Lanes> Dot for WideBf16<S> {
    type Float = S;
    type Sum = S::Vector;
    type Weights = (S::Vector, S::Vector);
    type Activations = (S::Vector, S::Vector);
    const KIND: LinearKind = LinearKind::Bf16;
    const LAYOUT: Layout = Layout::WideBf16;

    sums_are_floats!(S);

    #[inline(always)]
    unsafe fn weights(from: *const u32) -> Self::Weights {
        // SAFETY: as above.
        unsafe { S::halves(from) }
    }

    #[inline(always)]
    unsafe fn activations(from: *const u32) -> Self::Activations {
        // SAFETY: as above; the layout has two words here.
        unsafe { (S::splat(*from.cast()), S::splat(*from.add(1).cast())) }
    }

    #[inline(always)]
    unsafe fn dot(sum: S::Vector, w: Self::Weights, a: Self::Activations) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::mul_add(a.1, w.1, S::mul_add(a.0, w.0, sum)) }
    }
}

/// Bytes without instructions for them: widened to 16 bits, whose products are added in pairs.
pub(super) struct WideInt8<S>(PhantomData<S>);

impl<S: Pairs> Dot for WideInt8<S> {
    type Float = S;
    type Sum = S::Integer;
    type Weights = (S::Integer, S::Integer);
    type Activations = (S::Integer, S::Integer);
    const KIND: LinearKind = LinearKind::Int8;
    const LAYOUT: Layout = Layout::Int16Pairs;
    const FUSED: bool = false;

    #[inline(always)]
    unsafe fn zero() -> S::Integer {
        // SAFETY: as above.
        unsafe { S::splat_pair(0) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> S::Integer {
        // SAFETY: as above.
        unsafe { S::load_integer(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, sum: S::Integer) {
        // SAFETY: as above.
        unsafe { S::store_integer(to.cast(), sum) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u32) -> Self::Weights {
        // SAFETY: as above.
        unsafe { S::byte_pairs(from) }
    }

    #[inline(always)]
    unsafe fn activations(from: *const u32) -> Self::Activations {
        // SAFETY: as above; the layout has two words here.
        unsafe { (S::splat_pair(*from), S::splat_pair(*from.add(1))) }
    }

    #[inline(always)]
    unsafe fn dot(sum: S::Integer, w: Self::Weights, a: Self::Activations) -> S::Integer {
        // SAFETY: as above.
        unsafe { S::pair_add(S::pair_add(sum, w.0, a.0), w.1, a.1) }
    }

    #[inline(always)]
    unsafe fn value(sum: S::Integer, _offsets: *const i32) -> S::Vector {
        // SAFETY: as above. Signed activations need no offset.
        unsafe { S::to_float(sum) }
    }
}

impl Lanes for Portable {
    #[inline(always)]
    unsafe fn div(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] / b[0], a[1] / b[1], a[2] / b[2], a[3] / b[3]]
    }

    #[inline(always)]
    unsafe fn select_negative(x: [f32; 4], negative: [f32; 4], other: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| if x[i] < 0.0 { negative[i] } else { other[i] })
    }

    #[inline(always)]
    unsafe fn halves(from: *const u32) -> ([f32; 4], [f32; 4]) {
        // SAFETY: the caller promises four words.
        let words = unsafe { from.cast::<[u32; 4]>().read() };
        let low = words.map(|word| f32::from_bits(word << 16));
        (low, words.map(|word| f32::from_bits(word & 0xffff_0000)))
    }
}

impl Pairs for Portable {
    type Integer = [i32; 4];

    #[inline(always)]
    unsafe fn splat_pair(word: u32) -> [i32; 4] {
        [word as i32; 4]
    }

    #[inline(always)]
    unsafe fn load_integer(from: *const i32) -> [i32; 4] {
        // SAFETY: the caller promises four values.
        unsafe { from.cast::<[i32; 4]>().read() }
    }

    #[inline(always)]
    unsafe fn store_integer(to: *mut i32, value: [i32; 4]) {
        // SAFETY: the caller promises room for four values.
        unsafe { to.cast::<[i32; 4]>().write(value) };
    }

    #[inline(always)]
    unsafe fn to_float(a: [i32; 4]) -> [f32; 4] {
        a.map(|value| value as f32)
    }

    #[inline(always)]
    unsafe fn byte_pairs(from: *const u32) -> ([i32; 4], [i32; 4]) {
        // SAFETY: the caller promises four words.
        let words = unsafe { from.cast::<[[i8; 4]; 4]>().read() };
        let pair = |low: i8, high: i8| i32::from(low) & 0xffff | i32::from(high) << 16;
        let even = words.map(|bytes| pair(bytes[0], bytes[2]));
        (even, words.map(|bytes| pair(bytes[1], bytes[3])))
    }

    #[inline(always)]
    unsafe fn pair_add(sum: [i32; 4], a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        let low = |word: i32| i32::from(word as i16);
        std::array::from_fn(|i| sum[i] + low(a[i]) * low(b[i]) + (a[i] >> 16) * (b[i] >> 16))
    }
}
