//! Working memory of one thread, kept between blocks because fresh pages are slow.

use std::cell::RefCell;

/// Aligned memory that grows to the largest block seen: the scores of 192 rows and 256 keys, four
/// matrices in proportion to the head size and a line of biases, some 0.5 MiB in all for heads of
/// 64 values, whatever the length of the sequence.
#[derive(Default)]
pub(super) struct Scratch {
    lines: Vec<Line>,
}

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// Lends this thread's memory.
    pub(super) fn with<R>(use_it: impl FnOnce(&mut Scratch) -> R) -> R {
        SCRATCH.with_borrow_mut(use_it)
    }

    /// How much memory was needed so far.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
    }

    /// Buffers of the given sizes, each at the start of a cache line. Their content is what was
    /// left there.
    pub(super) fn split<const N: usize>(&mut self, sizes: [usize; N]) -> [&mut [f32]; N] {
        let lines: usize = sizes.iter().map(|size| size.div_ceil(16)).sum();
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0.0; 16]));
        }
        let mut rest = &mut self.lines[..lines];
        sizes.map(|size| {
            let (lines, others) = std::mem::take(&mut rest).split_at_mut(size.div_ceil(16));
            rest = others;
            // SAFETY: a line is 16 `f32` without padding, and `size` fits into these lines.
            unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_apart() {
        let mut scratch = Scratch::default();
        let [a, b, c] = scratch.split([3, 17, 0]);
        assert_eq!((a.len(), b.len(), c.len()), (3, 17, 0));
        assert_eq!((a.as_ptr() as usize % 64, b.as_ptr() as usize % 64), (0, 0));
        a.fill(1.0);
        b.fill(2.0);
        assert!(a.iter().all(|&value| value == 1.0));
    }
}
