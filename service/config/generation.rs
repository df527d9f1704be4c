//! How models that generate are kept, for all of them and for one.

use retort_models::DecoderWeights;

use super::Error;
use super::raw::{RawGeneration, RawModel};

const MIB: u64 = 1 << 20;

/// The most memory for keys and values that may be given to one model, in MiB.
pub const KV_CACHE_MIB_MAX: i64 = 1 << 22;

/// How a model that generates is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// How its matrices are.
    pub weights: DecoderWeights,
    /// Memory for the keys and values of all conversations with it.
    pub kv_cache_bytes: u64,
}

impl Default for Generation {
    /// As `config.toml` says.
    fn default() -> Self {
        Self {
            weights: DecoderWeights::Fp32,
            kv_cache_bytes: 1 << 30,
        }
    }
}

impl RawGeneration {
    /// What holds for models that say nothing else.
    ///
    /// # Errors
    /// When a value means nothing.
    pub(super) fn checked(&self) -> Result<Generation, Error> {
        let of = "under `[generation]`";
        let bytes = kv_cache(self.kv_cache_mib, 1, of)?;
        Ok(Generation {
            weights: weights(&self.weights, of)?,
            kv_cache_bytes: bytes,
        })
    }
}

impl RawModel {
    /// What holds for this model.
    ///
    /// # Errors
    /// When a value means nothing.
    pub(super) fn generation(&self, all: Generation) -> Result<Generation, Error> {
        let of = format!("of model `{}`", self.id);
        let weights = match self.weights.as_str() {
            "" => all.weights,
            name => weights(name, &of)?,
        };
        let kv_cache_bytes = match kv_cache(self.kv_cache_mib, 0, &of)? {
            0 => all.kv_cache_bytes,
            bytes => bytes,
        };
        Ok(Generation {
            weights,
            kv_cache_bytes,
        })
    }
}

fn weights(name: &str, of: &str) -> Result<DecoderWeights, Error> {
    let read = name.to_ascii_lowercase().parse();
    read.map_err(|_| {
        let known = DecoderWeights::ALL.map(DecoderWeights::name).join(", ");
        Error::new(format!("`weights` = `{name}` {of} are none"))
            .with_hint(format!("known are {known}"))
    })
}

fn kv_cache(typed: i64, least: i64, of: &str) -> Result<u64, Error> {
    let within = Some(typed).filter(|mib| (least..=KV_CACHE_MIB_MAX).contains(mib));
    let mib = within.and_then(|mib| u64::try_from(mib).ok());
    mib.map(|mib| mib * MIB).ok_or_else(|| {
        Error::new(format!(
            "`kv_cache_mib` = `{typed}` {of} is not within {least} to {KV_CACHE_MIB_MAX}"
        ))
    })
}
