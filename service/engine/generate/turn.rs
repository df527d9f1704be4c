//! The seam to whoever shares the device out: a step begins when it is its turn.

/// Asked before and told after every step.
pub trait Turns: Send {
    /// Waits until a step of so many tokens may begin.
    fn begin(&mut self, tokens: usize);

    /// The step is over.
    fn end(&mut self);
}

/// A device that nobody else uses, or whose users do not wait for each other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unshared;

impl Turns for Unshared {
    fn begin(&mut self, _tokens: usize) {}

    fn end(&mut self) {}
}
