//! The types of numbers in a graph.

/// What the elements of a tensor are. The numbers are those of `TensorProto.DataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// 32-bit floating point.
    F32 = 1,
    /// Bytes.
    U8 = 2,
    /// 32-bit signed integers.
    I32 = 6,
    /// 64-bit signed integers.
    I64 = 7,
    /// 16-bit floating point.
    F16 = 10,
    /// The upper half of 32-bit floating point.
    Bf16 = 16,
}

impl ElementType {
    /// Bytes of one element.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// Whether it is for floating-point numbers.
    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// 32 bits for what is floating-point numbers in 16, else the same.
    pub(super) fn widened(self) -> Self {
        match self {
            Self::F16 => Self::F32,
            other => other,
        }
    }
}
