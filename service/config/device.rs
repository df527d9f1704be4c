//! Where models are to run, as a person writes it: `auto`, `cpu`, `cuda`, `cuda:all`, `cuda:0,1`.
//! What the machine has is asked elsewhere.

use std::fmt;
use std::str::FromStr;

use super::{Error, raw::RawModel};

/// Where models are to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU where everything that it takes is there, else the CPU, and a line that says
    /// why.
    #[default]
    Auto,
    /// The CPU, whatever else there is.
    Cpu,
    /// GPUs, or nothing.
    Cuda(Gpus),
}

/// Which GPUs, by their number among those that `CUDA_VISIBLE_DEVICES` leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpus {
    /// The first one.
    First,
    /// So many, from the first one on.
    Count(usize),
    /// Every one.
    All,
    /// These, without repetition and in this order. Never empty.
    These(Vec<usize>),
}

/// What may be written.
pub const DEVICES: &str = "`auto`, `cpu`, `cuda`, `cuda:all`, or numbers of GPUs as in `cuda:0,1`";

impl DeviceChoice {
    /// Whether nothing but a GPU will do.
    pub fn wants_gpu(&self) -> bool {
        matches!(self, Self::Cuda(_))
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(Gpus::First) => f.write_str("cuda"),
            Self::Cuda(Gpus::All) => f.write_str("cuda:all"),
            Self::Cuda(Gpus::Count(count)) => {
                // More than any machine has need not be spelled out.
                let first: Vec<String> = (0..*count).take(64).map(|n| n.to_string()).collect();
                write!(f, "cuda:{}", first.join(","))
            }
            Self::Cuda(Gpus::These(numbers)) => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                write!(f, "cuda:{}", numbers.join(","))
            }
        }
    }
}

/// The text is none of [`DEVICES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoDevice;

impl fmt::Display for NoDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "must be {DEVICES}")
    }
}

impl FromStr for DeviceChoice {
    type Err = NoDevice;

    fn from_str(text: &str) -> Result<Self, NoDevice> {
        let text = text.trim().to_ascii_lowercase();
        let (kind, which) = match text.split_once(':') {
            Some((kind, which)) => (kind, Some(which)),
            None => (&*text, None),
        };
        match (kind, which) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("cuda" | "gpu", None) => Ok(Self::Cuda(Gpus::First)),
            ("cuda" | "gpu", Some("all")) => Ok(Self::Cuda(Gpus::All)),
            ("cuda" | "gpu", Some(numbers)) => {
                let numbers = numbers.split(',').map(|number| number.trim().parse().ok());
                let numbers: Vec<usize> = numbers.collect::<Option<_>>().ok_or(NoDevice)?;
                let repeats = (1..numbers.len()).any(|at| numbers[..at].contains(&numbers[at]));
                if repeats {
                    return Err(NoDevice);
                }
                Ok(Self::Cuda(Gpus::These(numbers)))
            }
            _ => Err(NoDevice),
        }
    }
}

impl RawModel {
    /// `None` is where all models run.
    pub(super) fn device(&self) -> Result<Option<DeviceChoice>, Error> {
        if self.device.is_empty() {
            return Ok(None);
        }
        let read = self.device.parse().map(Some);
        read.map_err(|rule: NoDevice| {
            let Self { id, device, .. } = self;
            Error::new(format!("`device` = `{device}` of model `{id}` {rule}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_as_it_is_written() {
        for text in ["auto", "cpu", "cuda", "cuda:all", "cuda:0", "cuda:2,0"] {
            let device: DeviceChoice = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(device.to_string(), text);
        }
        let loose: DeviceChoice = "GPU: 1, 0"
            .parse()
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loose, DeviceChoice::Cuda(Gpus::These(vec![1, 0])));
        for wrong in [
            "", "cuda:", "cuda:0,0", "cuda:-1", "cuda:0,", "cpu:0", "rocm",
        ] {
            assert_eq!(wrong.parse::<DeviceChoice>(), Err(NoDevice), "{wrong}");
        }
    }

    #[test]
    fn a_number_of_gpus_is_written_as_the_first_ones() {
        let two = DeviceChoice::Cuda(Gpus::Count(2));
        assert_eq!(two.to_string(), "cuda:0,1");
    }
}
