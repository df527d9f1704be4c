//! What each kernel is launched with: shapes are checked here, and become blocks.
//!
//! A call describes matrices by address. Which kernel it takes follows from the numbers, and from
//! whether all rows begin at multiples of 16 bytes.

use super::{Kernel, Launch};
use crate::{KernelError, Pooling};

/// Numbers of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// IEEE 754 of 16 bits.
    F16,
    /// IEEE 754 of 32 bits.
    F32,
}

impl Number {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Bytes that a thread reads or writes at once where it can.
const PACK_BYTES: usize = 16;

/// A matrix in a machine's memory, its rows one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// Where it begins.
    pub address: u64,
    /// How many rows it has.
    pub rows: usize,
    /// How many values each row has.
    pub columns: usize,
    /// What the values are.
    pub number: Number,
}

impl Matrix {
    fn has_packs(&self) -> bool {
        let row = self.columns * self.number.bytes();
        self.address.is_multiple_of(PACK_BYTES as u64) && row.is_multiple_of(PACK_BYTES)
    }
}

/// The boundaries of packed sequences in a machine's memory, as `CuSeqlens` has them; kernels
/// check only that they stay inside. // [sequences + 1]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequences {
    /// Where they begin.
    pub address: u64,
    /// How many sequences there are.
    pub count: usize,
}

/// A size that a kernel takes as a number of 32 bits.
fn number(name: &'static str, found: usize) -> Result<i32, KernelError> {
    let rule = "at most `2147483647` on a device";
    i32::try_from(found).map_err(|_| KernelError::Size { name, found, rule })
}

fn not_empty(name: &'static str, found: usize) -> Result<(), KernelError> {
    let rule = "at least `1`";
    match found {
        0 => Err(KernelError::Size { name, found, rule }),
        _ => Ok(()),
    }
}

fn blocks(name: &'static str, items: usize, each: usize) -> Result<u32, KernelError> {
    Ok(number(name, items.div_ceil(each))?.unsigned_abs())
}

/// The most blocks in any direction but the first.
const MAX_TILES: u32 = 65_535;

/// Pooling, the definition of which is [`pool_plain`](crate::pooling::pool_plain); a sequence
/// without tokens becomes NaN.
#[derive(Debug, Clone, Copy)]
pub struct PoolCall {
    /// The kind.
    pub pooling: Pooling,
    /// The states. // [tokens, hidden_size]
    pub hidden: Matrix,
    /// The sequences.
    pub sequences: Sequences,
    /// Where the vectors go, 32-bit numbers. // [sequences, hidden_size]
    pub out: u64,
}

impl PoolCall {
    /// The launch, `None` when there is nothing to do.
    pub fn launch(&self) -> Result<Option<Launch>, KernelError> {
        let Matrix {
            address,
            rows,
            columns,
            number: kind,
        } = self.hidden;
        not_empty("hidden_size", columns)?;
        if self.sequences.count == 0 {
            return Ok(None);
        }
        // Columns of a block: lanes times values of a load, as the source has them.
        let (kernel, tile) = match (kind, self.hidden.has_packs()) {
            (Number::F16, true) => (Kernel::PoolF16Packs, 64),
            (Number::F32, true) => (Kernel::PoolF32Packs, 32),
            (Number::F16, false) => (Kernel::PoolF16, 32),
            (Number::F32, false) => (Kernel::PoolF32, 32),
        };
        let tiles = blocks("hidden_size", columns, tile)?;
        if tiles > MAX_TILES {
            return Err(KernelError::Size {
                name: "hidden_size",
                found: columns,
                rule: "at most `2097120` on a device",
            });
        }
        let grid = [blocks("sequences", self.sequences.count, 1)?, tiles, 1];
        let pooling = Pooling::ALL.iter().position(|&p| p == self.pooling);
        let launch = Launch::new(kernel, grid)
            .address(address)
            .address(self.sequences.address)
            .address(self.out)
            .number(number("tokens", rows)?)
            .number(number("hidden_size", columns)?)
            .number(number("pooling", pooling.unwrap_or_default())?);
        Ok(Some(launch))
    }
}

/// Rows cut and made unit length, the definition of which is
/// [`unit_rows`](crate::normalize::unit_rows).
#[derive(Debug, Clone, Copy)]
pub struct UnitRowsCall {
    /// The rows. // [count, width]
    pub rows: Matrix,
    /// How many values of each row are kept.
    pub dimensions: usize,
    /// What the results are; 16-bit ones only of 16-bit rows.
    pub out_number: Number,
    /// Where they go. // [count, dimensions]
    pub out: u64,
    /// Where the faults go, 32-bit whole numbers: `RowFault::code`, or 0. // [count]
    pub faults: u64,
}

impl UnitRowsCall {
    /// The launch, `None` when there is nothing to do.
    pub fn launch(&self) -> Result<Option<Launch>, KernelError> {
        let width = self.rows.columns;
        if self.dimensions == 0 || self.dimensions > width {
            return Err(KernelError::Dimensions {
                asked: self.dimensions,
                available: width,
            });
        }
        if self.rows.rows == 0 {
            return Ok(None);
        }
        // The cut must be between packs of what is read and of what is written.
        let cut = Matrix {
            columns: self.dimensions,
            ..self.rows
        };
        let out = Matrix {
            address: self.out,
            number: self.out_number,
            ..cut
        };
        let packs = self.rows.has_packs() && cut.has_packs() && out.has_packs();
        let kernel = match (self.rows.number, self.out_number, packs) {
            (Number::F16, Number::F32, false) => Kernel::UnitRowsF16,
            (Number::F16, Number::F32, true) => Kernel::UnitRowsF16Packs,
            (Number::F16, Number::F16, false) => Kernel::HalfUnitRowsF16,
            (Number::F16, Number::F16, true) => Kernel::HalfUnitRowsF16Packs,
            (Number::F32, Number::F32, false) => Kernel::UnitRowsF32,
            (Number::F32, Number::F32, true) => Kernel::UnitRowsF32Packs,
            (Number::F32, Number::F16, _) => {
                return Err(KernelError::Size {
                    name: "bytes of a result",
                    found: self.out_number.bytes(),
                    rule: "`4` for rows of 32-bit numbers",
                });
            }
        };
        // A warp for each row, eight warps to a block.
        let grid = [blocks("rows", self.rows.rows, 8)?, 1, 1];
        let launch = Launch::new(kernel, grid)
            .address(self.rows.address)
            .address(self.out)
            .address(self.faults)
            .number(number("rows", self.rows.rows)?)
            .number(number("width", width)?)
            .number(number("dimensions", self.dimensions)?);
        Ok(Some(launch))
    }
}

/// The largest weight of each token, the definition of which is
/// [`lexical_weights`](crate::lexical::lexical_weights).
#[derive(Debug, Clone, Copy)]
pub struct LexicalCall {
    /// The weights, in one column. // [tokens, 1]
    pub weights: Matrix,
    /// The tokens, 64-bit whole numbers. // [tokens]
    pub ids: u64,
    /// The sequences.
    pub sequences: Sequences,
    /// The tokens that get no weight, 32-bit whole numbers, and how many they are.
    pub left_out: (u64, usize),
    /// Where the weights go, 32-bit numbers. // [tokens]
    pub out: u64,
}

impl LexicalCall {
    /// The launch, `None` when there is nothing to do.
    pub fn launch(&self) -> Result<Option<Launch>, KernelError> {
        let Matrix { rows, columns, .. } = self.weights;
        if columns != 1 {
            return Err(KernelError::Size {
                name: "weights of a token",
                found: columns,
                rule: "`1`",
            });
        }
        if rows == 0 {
            return Ok(None);
        }
        not_empty("sequences", self.sequences.count)?;
        let kernel = match self.weights.number {
            Number::F16 => Kernel::LexicalF16,
            Number::F32 => Kernel::LexicalF32,
        };
        let grid = [blocks("tokens", rows, kernel.threads() as usize)?, 1, 1];
        let launch = Launch::new(kernel, grid)
            .address(self.weights.address)
            .address(self.ids)
            .address(self.sequences.address)
            .address(self.left_out.0)
            .address(self.out)
            .number(number("tokens", rows)?)
            .number(number("sequences", self.sequences.count)?)
            .number(number("left_out", self.left_out.1)?);
        Ok(Some(launch))
    }
}

/// Late interaction of pairs, the definition of which is [`max_sim`](crate::max_sim::max_sim); a
/// pair with a sequence that does not exist becomes NaN.
#[derive(Debug, Clone, Copy)]
pub struct MaxSimCall {
    /// The vectors of tokens. // [tokens, size]
    pub vectors: Matrix,
    /// The sequences.
    pub sequences: Sequences,
    /// A byte per token, not 0 when it has a vector; 0 as the address means that all have.
    pub kept: u64,
    /// Which two sequences are compared, 32-bit whole numbers, and how many times. // [count, 2]
    pub pairs: (u64, usize),
    /// Where the scores go, 32-bit numbers. // [count]
    pub out: u64,
}

impl MaxSimCall {
    /// The launch, `None` when there is nothing to do.
    pub fn launch(&self) -> Result<Option<Launch>, KernelError> {
        not_empty("size", self.vectors.columns)?;
        if self.pairs.1 == 0 {
            return Ok(None);
        }
        let kernel = match self.vectors.number {
            Number::F16 => Kernel::MaxSimF16,
            Number::F32 => Kernel::MaxSimF32,
        };
        let launch = Launch::new(kernel, [blocks("pairs", self.pairs.1, 1)?, 1, 1])
            .address(self.vectors.address)
            .address(self.sequences.address)
            .address(self.kept)
            .address(self.pairs.0)
            .address(self.out)
            .number(number("tokens", self.vectors.rows)?)
            .number(number("sequences", self.sequences.count)?)
            .number(number("size", self.vectors.columns)?);
        Ok(Some(launch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(address: u64, columns: usize, number: Number) -> Matrix {
        Matrix {
            address,
            rows: 10,
            columns,
            number,
        }
    }

    fn pool(hidden: Matrix, count: usize) -> Result<Option<Launch>, KernelError> {
        let call = PoolCall {
            pooling: Pooling::Mean,
            hidden,
            sequences: Sequences { address: 32, count },
            out: 64,
        };
        call.launch()
    }

    #[test]
    fn rows_that_begin_at_packs_are_read_by_packs() {
        let check = |hidden, kernel, grid| {
            let launch = pool(hidden, 3).unwrap().unwrap();
            assert_eq!((launch.kernel(), launch.grid()), (kernel, grid));
        };
        let (f16, f32) = (Number::F16, Number::F32);
        check(matrix(256, 1024, f16), Kernel::PoolF16Packs, [3, 16, 1]);
        check(matrix(258, 1024, f16), Kernel::PoolF16, [3, 32, 1]);
        check(matrix(256, 30522, f16), Kernel::PoolF16, [3, 954, 1]);
        check(matrix(256, 100, f32), Kernel::PoolF32Packs, [3, 4, 1]);
        check(matrix(256, 1, f32), Kernel::PoolF32, [3, 1, 1]);
    }

    #[test]
    fn nothing_is_launched_for_nothing() {
        assert_eq!(pool(matrix(0, 8, Number::F16), 0), Ok(None));
        let call = UnitRowsCall {
            rows: Matrix {
                rows: 0,
                ..matrix(0, 8, Number::F32)
            },
            dimensions: 8,
            out_number: Number::F32,
            out: 0,
            faults: 0,
        };
        assert_eq!(call.launch(), Ok(None));
    }

    #[test]
    fn sizes_that_kernels_cannot_take_are_refused() {
        assert!(pool(matrix(0, 0, Number::F16), 1).is_err());
        assert!(pool(matrix(0, 1 << 22, Number::F16), 1).is_err());
        let many = Matrix {
            rows: 1 << 31,
            ..matrix(0, 8, Number::F16)
        };
        assert!(pool(many, 1).is_err());
        for dimensions in [0, 9] {
            let call = UnitRowsCall {
                rows: matrix(0, 8, Number::F32),
                dimensions,
                out_number: Number::F32,
                out: 0,
                faults: 0,
            };
            assert!(matches!(
                call.launch(),
                Err(KernelError::Dimensions { available: 8, .. })
            ));
        }
    }

    #[test]
    fn cuts_inside_a_pack_are_read_number_by_number() {
        let kernel = |dimensions, out_number| {
            let call = UnitRowsCall {
                rows: matrix(64, 64, Number::F16),
                dimensions,
                out_number,
                out: 128,
                faults: 256,
            };
            call.launch().unwrap().unwrap().kernel()
        };
        assert_eq!(kernel(64, Number::F32), Kernel::UnitRowsF16Packs);
        assert_eq!(kernel(32, Number::F16), Kernel::HalfUnitRowsF16Packs);
        assert_eq!(kernel(20, Number::F32), Kernel::UnitRowsF16);
        assert_eq!(kernel(63, Number::F16), Kernel::HalfUnitRowsF16);
    }
}
