//! The element-wise functions that may follow a linear layer, on vector registers.

use super::dot::Lanes;
use crate::KernelError;
use std::fmt;
use std::str::FromStr;

/// What is applied to the outputs of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinearActivation {
    /// `x Φ(x)` with the exact normal distribution (Hendrycks & Gimpel 2016, arXiv 1606.08415).
    Gelu,
    /// The approximation of the same by the hyperbolic tangent, from the same paper.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x sigmoid(x)`.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl LinearActivation {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Gelu,
        Self::GeluTanh,
        Self::Relu,
        Self::Silu,
        Self::Tanh,
        Self::Sigmoid,
    ];

    /// The name in a graph.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::Relu => "relu",
            Self::Silu => "silu",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
        }
    }
}

impl fmt::Display for LinearActivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LinearActivation {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let found = Self::ALL.into_iter().find(|known| known.name() == name);
        found.ok_or_else(|| KernelError::UnknownActivation {
            name: name.to_owned(),
        })
    }
}

/// The function of every lane. NaN and the infinities give NaN or an infinity, also where the
/// function tends to a number: what went wrong before must not look right here.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(super) unsafe fn activate<S: Lanes>(activation: LinearActivation, x: S::Vector) -> S::Vector {
    // SAFETY: the caller's promise.
    unsafe {
        match activation {
            LinearActivation::Gelu => gelu::<S>(x),
            // (1 + tanh(z)) / 2 is the logistic function of 2 z.
            LinearActivation::GeluTanh => {
                let cubic = S::mul_add(S::mul(x, x), S::splat(0.044_715), S::splat(1.0));
                let z = S::mul(S::mul(x, cubic), S::splat(2.0 * SQRT_2_OVER_PI));
                S::mul(x, sigmoid::<S>(z))
            }
            LinearActivation::Relu => expose::<S>(x, S::max(S::splat(0.0), x)),
            LinearActivation::Silu => S::mul(x, sigmoid::<S>(x)),
            LinearActivation::Tanh => expose::<S>(x, tanh::<S>(x)),
            LinearActivation::Sigmoid => expose::<S>(x, sigmoid::<S>(x)),
        }
    }
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// `x Φ(x)`, as `max(x, 0) - |x| Φ(-|x|)` with `Φ(-a) = 2^R(a)`. `R` is a polynomial fitted to
/// `a 2^R(a)` on 0 to 10, where it is off by at most 4e-9; beyond, `Φ` is below 1e-22. Together
/// with the roundings the result is within 5e-8 of the function, relative to `max(|x|, 1)`.
#[inline(always)]
unsafe fn gelu<S: Lanes>(x: S::Vector) -> S::Vector {
    const COEFFICIENTS: [f32; 9] = [
        -4.762_842e-6,
        4.496_950_4e-5,
        -1.836_315_2e-4,
        -1.825_487_4e-4,
        7.162_161e-3,
        -5.259_242_3e-2,
        -4.591_628e-1,
        -1.151_114_6,
        -9.999_994e-1,
    ];
    // SAFETY: the caller's promise; the argument of `exp2` is negative.
    unsafe {
        let magnitude = abs::<S>(x);
        // The smaller of the two, which is not NaN.
        let near = S::sub(
            S::splat(10.0),
            S::max(S::sub(S::splat(10.0), magnitude), S::splat(0.0)),
        );
        let mut power = S::splat(1.961_847e-7);
        for coefficient in COEFFICIENTS {
            power = S::mul_add(power, near, S::splat(coefficient));
        }
        let tail = S::mul(magnitude, S::exp2(power));
        S::sub(S::max(x, S::splat(0.0)), tail)
    }
}

/// `1 / (1 + e^-x)`, by the exponential of a negative number on both sides of zero.
#[inline(always)]
unsafe fn sigmoid<S: Lanes>(x: S::Vector) -> S::Vector {
    // SAFETY: the caller's promise; the argument of `exp2` is not positive.
    unsafe {
        let one = S::splat(1.0);
        let decay = S::exp2(S::mul(abs::<S>(x), S::splat(-std::f32::consts::LOG2_E)));
        // The upper side is 1 / (1 + e), the lower e / (1 + e).
        let upper = S::div(one, S::add(one, decay));
        S::select_negative(x, S::mul(upper, decay), upper)
    }
}

/// `(1 - e) / (1 + e)` with `e = exp(-2 |x|)`, and the sign of `x`.
#[inline(always)]
unsafe fn tanh<S: Lanes>(x: S::Vector) -> S::Vector {
    // SAFETY: the caller's promise; the argument of `exp2` is not positive.
    unsafe {
        let one = S::splat(1.0);
        let scaled = S::mul(abs::<S>(x), S::splat(-2.0 * std::f32::consts::LOG2_E));
        let decay = S::exp2(scaled);
        let size = S::div(S::sub(one, decay), S::add(one, decay));
        S::select_negative(x, S::sub(S::splat(0.0), size), size)
    }
}

/// `result`, or NaN where `x` is not finite: only then is `x - x` not zero.
#[inline(always)]
unsafe fn expose<S: Lanes>(x: S::Vector, result: S::Vector) -> S::Vector {
    // SAFETY: the caller's promise.
    unsafe { S::add(result, S::sub(x, x)) }
}

/// The magnitude; NaN for NaN.
#[inline(always)]
unsafe fn abs<S: Lanes>(x: S::Vector) -> S::Vector {
    // SAFETY: the caller's promise.
    unsafe { S::max(S::sub(S::splat(0.0), x), x) }
}
