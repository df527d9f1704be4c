//! A kernel with its arguments, and the machines that run it: devices, or in tests the processor.

use super::CudaError;
use ort::memory::AllocationDevice;
use std::ffi::c_void;

/// The kernels of `kernels/cuda/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Pooling of 16-bit states.
    PoolF16,
    /// Pooling of 32-bit states.
    PoolF32,
    /// Pooling of 16-bit states, 16 bytes at a time.
    PoolF16Packs,
    /// Pooling of 32-bit states, 16 bytes at a time.
    PoolF32Packs,
    /// Rows of 16 bits made unit length, in 32.
    UnitRowsF16,
    /// Rows of 32 bits made unit length.
    UnitRowsF32,
    /// Rows of 16 bits made unit length, in 32, 16 bytes at a time.
    UnitRowsF16Packs,
    /// Rows of 32 bits made unit length, 16 bytes at a time.
    UnitRowsF32Packs,
    /// Rows of 16 bits made unit length, in 16.
    HalfUnitRowsF16,
    /// Rows of 16 bits made unit length, in 16, 16 bytes at a time.
    HalfUnitRowsF16Packs,
    /// The largest weight of each token, of 16-bit weights.
    LexicalF16,
    /// The largest weight of each token, of 32-bit weights.
    LexicalF32,
    /// Late interaction of 16-bit vectors.
    MaxSimF16,
    /// Late interaction of 32-bit vectors.
    MaxSimF32,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 14] = [
        Self::PoolF16,
        Self::PoolF32,
        Self::PoolF16Packs,
        Self::PoolF32Packs,
        Self::UnitRowsF16,
        Self::UnitRowsF32,
        Self::UnitRowsF16Packs,
        Self::UnitRowsF32Packs,
        Self::HalfUnitRowsF16,
        Self::HalfUnitRowsF16Packs,
        Self::LexicalF16,
        Self::LexicalF32,
        Self::MaxSimF16,
        Self::MaxSimF32,
    ];

    /// What it is called in its module.
    pub fn name(self) -> &'static str {
        match self {
            Self::PoolF16 => "pool_f16",
            Self::PoolF32 => "pool_f32",
            Self::PoolF16Packs => "pool_f16_packs",
            Self::PoolF32Packs => "pool_f32_packs",
            Self::UnitRowsF16 => "unit_rows_f16",
            Self::UnitRowsF32 => "unit_rows_f32",
            Self::UnitRowsF16Packs => "unit_rows_f16_packs",
            Self::UnitRowsF32Packs => "unit_rows_f32_packs",
            Self::HalfUnitRowsF16 => "half_unit_rows_f16",
            Self::HalfUnitRowsF16Packs => "half_unit_rows_f16_packs",
            Self::LexicalF16 => "lexical_f16",
            Self::LexicalF32 => "lexical_f32",
            Self::MaxSimF16 => "max_sim_f16",
            Self::MaxSimF32 => "max_sim_f32",
        }
    }

    /// Threads of a block, as its source has them.
    pub fn threads(self) -> u32 {
        match self.module() {
            Module::Lexical => 128,
            Module::Pooling | Module::Rows | Module::MaxSim => 256,
        }
    }

    pub(super) fn module(self) -> Module {
        match self {
            Self::PoolF16 | Self::PoolF32 | Self::PoolF16Packs | Self::PoolF32Packs => {
                Module::Pooling
            }
            Self::UnitRowsF16
            | Self::UnitRowsF32
            | Self::UnitRowsF16Packs
            | Self::UnitRowsF32Packs
            | Self::HalfUnitRowsF16
            | Self::HalfUnitRowsF16Packs => Module::Rows,
            Self::LexicalF16 | Self::LexicalF32 => Module::Lexical,
            Self::MaxSimF16 | Self::MaxSimF32 => Module::MaxSim,
        }
    }
}

/// A source file, compiled ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Module {
    Pooling,
    Rows,
    Lexical,
    MaxSim,
}

impl Module {
    pub(super) const ALL: [Self; 4] = [Self::Pooling, Self::Rows, Self::Lexical, Self::MaxSim];

    /// What the driver translates for its device. Ends with the zero that the driver looks for.
    pub(super) fn ptx(self) -> &'static str {
        match self {
            Self::Pooling => concat!(include_str!("../../cuda/pooling.ptx"), "\0"),
            Self::Rows => concat!(include_str!("../../cuda/rows.ptx"), "\0"),
            Self::Lexical => concat!(include_str!("../../cuda/lexical.ptx"), "\0"),
            Self::MaxSim => concat!(include_str!("../../cuda/max_sim.ptx"), "\0"),
        }
    }
}

/// The most arguments that a kernel has.
const MAX_ARGUMENTS: usize = 8;

/// One launch of a kernel: how many blocks, on which data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    kernel: Kernel,
    grid: [u32; 3],
    // Each in the first bytes of its place; addresses fill it, numbers the first half.
    arguments: [u64; MAX_ARGUMENTS],
    count: usize,
}

impl Launch {
    pub(super) fn new(kernel: Kernel, grid: [u32; 3]) -> Self {
        Self {
            kernel,
            grid,
            arguments: [0; MAX_ARGUMENTS],
            count: 0,
        }
    }

    pub(super) fn address(mut self, address: u64) -> Self {
        self.arguments[self.count] = address;
        self.count += 1;
        self
    }

    pub(super) fn number(mut self, number: i32) -> Self {
        let mut place = [0; 8];
        place[..4].copy_from_slice(&number.to_ne_bytes());
        self.arguments[self.count] = u64::from_ne_bytes(place);
        self.count += 1;
        self
    }

    /// What is launched.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// How many blocks in each direction; none of them is 0.
    pub fn grid(&self) -> [u32; 3] {
        self.grid
    }

    /// Where each argument is, as `cuLaunchKernel` wants to be told. They are only read, while
    /// this launch is borrowed.
    pub fn arguments(&self) -> Vec<*mut c_void> {
        let places = self.arguments[..self.count].iter();
        places
            .map(|place| std::ptr::from_ref(place).cast_mut().cast())
            .collect()
    }
}

/// What runs kernels.
pub trait Machine: Send + Sync {
    /// Puts a launch behind all others of a stream (null for the machine's default) and returns,
    /// perhaps before it has run.
    ///
    /// # Safety
    /// The addresses of the launch are memory of this machine, as large as the call's description
    /// says, and stay so until the stream is done with it.
    unsafe fn launch(&self, stream: *mut c_void, launch: &Launch) -> Result<(), CudaError>;

    /// Memory of this machine that holds these bytes.
    fn upload(&self, bytes: &[u8]) -> Result<Box<dyn Memory>, CudaError>;

    /// The stream that everything goes to which is on no session's; null for the default one.
    fn stream(&self) -> *mut c_void;

    /// Which execution provider of ONNX Runtime has its tensors in this machine's memory; `None`
    /// is the processor's.
    fn provider(&self) -> Option<&'static str>;

    /// Whether kernels of this machine can read and write tensors in such a place.
    fn reaches(&self, place: &AllocationDevice<'_>) -> bool;
}

/// Memory of a machine; dropping it gives it back.
pub trait Memory: Send {
    /// Where it begins, a multiple of 16.
    fn address(&self) -> u64;

    /// Waits for the machine and reads from the beginning.
    fn read(&self, bytes: &mut [u8]) -> Result<(), CudaError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_in_its_module_with_its_threads() {
        for kernel in Kernel::ALL {
            let ptx = kernel.module().ptx();
            let entry = format!(".entry {}(", kernel.name());
            let (_, rest) = ptx.split_once(&entry).unwrap_or_else(|| panic!("{entry}"));
            let bound = format!(".maxntid {}", kernel.threads());
            let (header, _) = rest.split_once('{').unwrap();
            assert!(header.contains(&bound), "{}: {header}", kernel.name());
        }
        let entries: usize = Module::ALL
            .iter()
            .map(|module| module.ptx().matches(".entry ").count())
            .sum();
        assert_eq!(entries, Kernel::ALL.len());
    }

    #[test]
    fn arguments_are_laid_out_as_the_driver_reads_them() {
        let launch = Launch::new(Kernel::PoolF16, [3, 2, 1])
            .address(0x0102_0304_0506_0708)
            .number(-7);
        let arguments = launch.arguments();
        assert_eq!(arguments.len(), 2);
        // SAFETY: the places have 8 bytes each and belong to the launch.
        let (address, number) = unsafe {
            (
                arguments[0].cast::<u64>().read(),
                arguments[1].cast::<i32>().read(),
            )
        };
        assert_eq!((address, number), (0x0102_0304_0506_0708, -7));
        assert_eq!(
            (launch.kernel(), launch.grid()),
            (Kernel::PoolF16, [3, 2, 1])
        );
    }
}
