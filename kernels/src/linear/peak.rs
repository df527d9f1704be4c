//! The most a core can multiply on a path: what measurements of a layer are compared with.

use super::LinearKind;
use super::dot::Dot;
use super::path::Path;
use crate::Isa;
use crate::attention::simd::Simd;

/// Sums that are under way at once: enough to hide the latency of two multipliers, few enough
/// for sixteen registers.
const SUMS: usize = 12;

/// Runs the products of a kind on registers alone, so many rounds, on the calling thread.
/// Returns how many multiplications and additions that was.
pub fn peak(kind: LinearKind, isa: Isa, rounds: usize) -> f64 {
    let path = Path::new(kind, isa);
    // SAFETY: the path belongs to this processor.
    let words = unsafe { (path.peak)(rounds) };
    2.0 * words as f64 * kind.values_per_word() as f64
}

/// Independent sums, over and over; returns how many words were multiplied with words.
///
/// # Safety
/// The processor has `D`.
#[inline(always)]
pub(super) unsafe fn multiply_registers<D: Dot>(rounds: usize) -> usize {
    let lanes = D::Float::LANES;
    // Different beginnings, or the compiler would see that all sums are one.
    let begin: Vec<f32> = (0..SUMS * lanes).map(|at| at as f32).collect();
    let mut values = std::hint::black_box(begin);
    let word = std::hint::black_box([0u32; 16]);
    let values_at = values.as_mut_ptr();
    // SAFETY: there are values for all sums; a register of weights is at most 16 words.
    unsafe {
        let w = D::weights(word.as_ptr());
        // Written out, because the compiler keeps an array in memory here.
        macro_rules! sums {
            ($($sum:ident $at:literal)*) => {
                $(let mut $sum = D::load(values_at.add($at * lanes));)*
                for _ in 0..rounds {
                    // Read anew, or products of unchanging numbers would be taken out of the loop.
                    let a = D::activations([word.as_ptr().read_volatile(); 2].as_ptr());
                    $(
                        // Products that are not part of a sum would be computed once for all sums.
                        let a = match D::FUSED {
                            true => a,
                            false => {
                                D::activations([word.as_ptr().read_volatile(); 2].as_ptr())
                            }
                        };
                        $sum = D::dot($sum, w, a);
                    )*
                }
                $(D::store(values_at.add($at * lanes), $sum);)*
            };
        }
        sums!(s0 0 s1 1 s2 2 s3 3 s4 4 s5 5 s6 6 s7 7 s8 8 s9 9 s10 10 s11 11);
    }
    std::hint::black_box(values);
    rounds * SUMS * lanes
}
