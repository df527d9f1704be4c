//! What the tile instructions do, in plain Rust: the pseudocode of TDPBF16PS and TDPBUSD in
//! Intel's Software Developer's Manual, volume 2. For tests of the blocking.

use super::{SIDE, Tiles};
use crate::attention::simd::Portable;
use crate::linear::LinearKind;
use crate::linear::dot::{Dot, WideInt8};
use crate::linear::rows::Layout;

type Tile = [[u32; SIDE]; SIDE];

/// Eight tiles, and what their products are. Those of a new one hold what no code may rely on.
pub(in super::super) struct Emulated<P> {
    tiles: [Tile; 8],
    products: std::marker::PhantomData<P>,
}

/// One instruction.
pub(in super::super) trait Products {
    /// Value `n` of a row of sums, with a row of words and column `n` of the other tile.
    fn dot(sum: u32, a: &[u32; SIDE], b: [u32; SIDE]) -> u32;
}

/// TDPBF16PS.
pub(in super::super) struct Bf16;

/// TDPBUSD.
pub(in super::super) struct Int8;

impl Products for Bf16 {
    /// The low and the high halves of the words are summed apart, then together, then added.
    fn dot(sum: u32, a: &[u32; SIDE], b: [u32; SIDE]) -> u32 {
        let normal = |value: f32| if value.is_subnormal() { 0.0 } else { value };
        let (mut low, mut high) = (0.0, 0.0);
        for (a, b) in a.iter().zip(b) {
            let halves = |word: u32| [word << 16, word & 0xffff_0000].map(f32::from_bits);
            let ([a_low, a_high], [b_low, b_high]) = (halves(*a), halves(b));
            // A product of two bfloat16 is exact in single precision.
            low = normal(low + normal(a_low) * normal(b_low));
            high = normal(high + normal(a_high) * normal(b_high));
        }
        normal(normal(f32::from_bits(sum)) + normal(low + high)).to_bits()
    }
}

impl Products for Int8 {
    fn dot(sum: u32, a: &[u32; SIDE], b: [u32; SIDE]) -> u32 {
        let mut sum = sum as i32;
        for (a, b) in a.iter().zip(b) {
            for (a, b) in a.to_le_bytes().into_iter().zip(b.to_le_bytes()) {
                sum = sum.wrapping_add(i32::from(a) * i32::from(b as i8));
            }
        }
        sum as u32
    }
}

impl<P: Products> Tiles for Emulated<P> {
    unsafe fn begin() -> Self {
        Self {
            // Whole numbers of no meaning, and NaN.
            tiles: [[[0xffff_fff1; SIDE]; SIDE]; 8],
            products: std::marker::PhantomData,
        }
    }

    unsafe fn end(self) {}

    unsafe fn zero<const T: usize>(&mut self) {
        self.tiles[T] = [[0; SIDE]; SIDE];
    }

    unsafe fn load<const T: usize>(&mut self, from: *const u32, stride: usize) {
        for (row, to) in self.tiles[T].iter_mut().enumerate() {
            // SAFETY: the contract of the trait.
            *to = unsafe { from.add(row * stride).cast::<[u32; SIDE]>().read() };
        }
    }

    unsafe fn store<const T: usize>(&self, to: *mut u32, stride: usize) {
        for (row, from) in self.tiles[T].iter().enumerate() {
            // SAFETY: the contract of the trait.
            unsafe { to.add(row * stride).cast::<[u32; SIDE]>().write(*from) };
        }
    }

    unsafe fn dot<const C: usize, const A: usize, const B: usize>(&mut self) {
        for n in 0..SIDE {
            let column = self.tiles[B].map(|row| row[n]);
            for m in 0..SIDE {
                let sum = self.tiles[C][m][n];
                self.tiles[C][m][n] = P::dot(sum, &self.tiles[A][m], column);
            }
        }
    }
}

/// Finishes integer sums of unsigned activations on any processor; multiplies nothing itself.
pub(in super::super) struct FinishInt8;

impl Dot for FinishInt8 {
    type Float = Portable;
    type Sum = [i32; 4];
    type Weights = ();
    type Activations = ();
    const KIND: LinearKind = LinearKind::Int8;
    const LAYOUT: Layout = Layout::OffsetBytes;

    unsafe fn zero() -> [i32; 4] {
        [0; 4]
    }

    unsafe fn load(from: *const f32) -> [i32; 4] {
        // SAFETY: the caller's promise.
        unsafe { WideInt8::<Portable>::load(from) }
    }

    unsafe fn store(to: *mut f32, sum: [i32; 4]) {
        // SAFETY: the caller's promise.
        unsafe { WideInt8::<Portable>::store(to, sum) }
    }

    unsafe fn weights(_from: *const u32) {}

    unsafe fn activations(_from: *const u32) {}

    unsafe fn dot(sum: [i32; 4], (): (), (): ()) -> [i32; 4] {
        sum
    }

    unsafe fn value(sum: [i32; 4], offsets: *const i32) -> [f32; 4] {
        // SAFETY: the caller promises four offsets.
        let offsets = unsafe { offsets.cast::<[i32; 4]>().read() };
        std::array::from_fn(|i| (sum[i] + offsets[i]) as f32)
    }
}
