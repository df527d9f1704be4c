//! Rotary positions (Su et al. 2021): the frequencies of a model, with whatever stretches them to
//! longer texts. Reference implementation: `modeling_rope_utils` of transformers.

use std::f64::consts::PI;

use serde_json::{Map, Value};

use crate::checkpoint::Config;
use crate::error::Result;

/// What the angles of a family are read from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RotarySettings {
    /// Base of the frequencies in layers that see everything.
    pub theta: Theta,
    /// Base in layers that see a window; `None` when it is the same.
    pub local_theta: Option<Theta>,
    /// The setting for the part of a head that turns; `None` when it is all of it.
    pub fraction: Option<&'static str>,
    /// The setting for a factor that stretches texts beyond a length that another setting names;
    /// up to there it changes nothing, and no longer texts are taken.
    pub stretched_beyond: Option<(&'static str, &'static str)>,
}

/// Base of the frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Theta {
    /// The names its setting has had; the first that is there counts.
    pub keys: &'static [&'static str],
    /// What it is without any.
    pub default: f64,
}

/// Which layers an angle is for, as transformers names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// All tokens see each other.
    Full,
    /// Tokens see a window.
    Window,
}

/// How far the queries and keys of one layer are turned per position.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Angle per position of each pair of values. `[turned / 2]`
    pub frequencies: Vec<f32>,
    /// What cosines and sines are multiplied with.
    pub factor: f32,
    /// The longest text these frequencies are right for, when that is less than all positions.
    pub max_tokens: Option<usize>,
}

/// The settings that may stand beside a kind of stretching; any other is unknown here.
const PARAMETERS: &[&str] = &[
    "type",
    "rope_type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "mixed_b",
];

impl Rotary {
    /// Reads the angles of layers with heads of `head_dim` values.
    ///
    /// # Errors
    /// `Error::Unsupported` for a kind of stretching that is not implemented.
    pub(super) fn read(
        settings: &RotarySettings,
        config: &Config,
        head_dim: usize,
        reach: Reach,
    ) -> Result<Self> {
        let parameters = Parameters::find(config, reach)?;
        let theta = match (reach, settings.local_theta) {
            (Reach::Window, Some(local)) => local,
            _ => settings.theta,
        };
        let theta = match parameters.number("rope_theta")? {
            Some(theta) => theta,
            None => theta.read(config)?,
        };
        let fraction = match settings.fraction {
            Some(key) if config.get(key).is_some() => config.number(key)?,
            _ => parameters.number("partial_rotary_factor")?.unwrap_or(1.0),
        };
        let turned = (head_dim as f64 * fraction) as usize;
        let even = turned > 0 && turned.is_multiple_of(2) && turned <= head_dim;
        if !even || !theta.is_finite() || theta <= 1.0 {
            let message = format!("turn `{turned}` of `{head_dim}` values with base `{theta}`");
            return Err(config.error("rotary positions", &message));
        }
        let plain = Self {
            frequencies: frequencies(theta, turned),
            factor: 1.0,
            max_tokens: None,
        };
        let stretched = parameters.stretch(plain, theta)?;
        match settings.stretched_beyond {
            Some((factor, beyond)) if config.get(factor).is_some() => Ok(Self {
                max_tokens: Some(config.count(beyond)?),
                ..stretched
            }),
            _ => Ok(stretched),
        }
    }

    /// How many values of a head are turned.
    pub fn turned(&self) -> usize {
        self.frequencies.len() * 2
    }
}

impl Theta {
    fn read(self, config: &Config) -> Result<f64> {
        match self.keys.iter().find(|key| config.get(key).is_some()) {
            Some(key) => config.number(key),
            None => Ok(self.default),
        }
    }
}

/// `1 / theta^(2i / turned)`, rounded where transformers rounds, because a text of thousands of
/// tokens multiplies the differences by thousands.
fn frequencies(theta: f64, turned: usize) -> Vec<f32> {
    bases(theta, turned).map(|base| 1.0 / base).collect()
}

fn bases(theta: f64, turned: usize) -> impl Iterator<Item = f32> {
    (0..turned / 2).map(move |pair| {
        let exponent = (2 * pair) as f32 / turned as f32;
        f64::from(theta as f32).powf(f64::from(exponent)) as f32
    })
}

/// The object of config.json that says how frequencies are stretched.
struct Parameters<'c> {
    config: &'c Config,
    key: &'static str,
    values: Option<&'c Map<String, Value>>,
}

impl<'c> Parameters<'c> {
    /// transformers 5 writes `rope_parameters`, possibly one per kind of layer; before it was
    /// `rope_scaling`.
    fn find(config: &'c Config, reach: Reach) -> Result<Self> {
        let keys = ["rope_parameters", "rope_scaling"];
        let key = keys.into_iter().find(|key| config.get(key).is_some());
        let Some(key) = key else {
            return Ok(Self {
                config,
                key: keys[0],
                values: None,
            });
        };
        let refusal = || config.unsupported(key, "known parameters of rotary positions");
        let mut values = config.get(key).and_then(Value::as_object);
        let kind = match reach {
            Reach::Full => "full_attention",
            Reach::Window => "sliding_attention",
        };
        if let Some(nested) = values.and_then(|values| values.get(kind)) {
            values = nested.as_object();
        }
        let values = values.ok_or_else(refusal)?;
        let is_known =
            |(key, value): (&String, &Value)| value.is_null() || PARAMETERS.contains(&key.as_str());
        if !values.iter().all(is_known) {
            return Err(refusal());
        }
        Ok(Self {
            config,
            key,
            values: Some(values),
        })
    }

    fn get(&self, name: &str) -> Option<&'c Value> {
        self.values?.get(name).filter(|value| !value.is_null())
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        let number = |value: &Value| value.as_f64().filter(|number| number.is_finite());
        match self.get(name) {
            None => Ok(None),
            Some(value) => match number(value) {
                Some(number) => Ok(Some(number)),
                None => Err(self.refusal(&format!("a number for `{name}`"))),
            },
        }
    }

    fn positive(&self, name: &str) -> Result<f64> {
        let number = self.number(name)?.filter(|number| *number > 0.0);
        number.ok_or_else(|| self.refusal(&format!("a positive `{name}`")))
    }

    fn refusal(&self, expected: &str) -> crate::error::Error {
        self.config.unsupported(self.key, expected)
    }

    /// The frequencies as the parameters change them.
    fn stretch(&self, plain: Rotary, theta: f64) -> Result<Rotary> {
        let kind = self.get("rope_type").or_else(|| self.get("type"));
        match kind.map(|kind| kind.as_str().unwrap_or_default()) {
            None | Some("default") => Ok(plain),
            Some("linear") => {
                let factor = self.positive("factor")? as f32;
                Ok(plain.map(|frequency| frequency / factor))
            }
            Some("dynamic") => Ok(Rotary {
                // The longer the text the lower its frequencies, but only beyond this length.
                max_tokens: self.original_positions(None)?,
                ..plain
            }),
            Some("ntk") => self.ntk(plain, theta),
            Some("llama3") => self.llama3(plain),
            Some("yarn") => self.yarn(&plain, theta),
            Some(_) => {
                Err(self
                    .refusal("the type `default`, `linear`, `dynamic`, `ntk`, `llama3` or `yarn`"))
            }
        }
    }

    /// GTE's fixed stretching: a larger base, and all frequencies lower.
    /// See <https://kexue.fm/archives/9706>, equations 6 and 13.
    fn ntk(&self, plain: Rotary, theta: f64) -> Result<Rotary> {
        let factor = self.positive("factor")?;
        if factor <= 1.0 {
            return Ok(plain);
        }
        let turned = plain.turned();
        let Some(mixed) = self.number("mixed_b")? else {
            let lower = factor.powf(2.0 / turned as f64) as f32;
            let frequencies = frequencies(theta * factor, turned);
            return Ok(Rotary {
                frequencies,
                ..plain
            }
            .map(|frequency| frequency / lower));
        };
        let slope = factor.ln() / (turned as f64 / 2.0).powf(mixed);
        let mut pair = 0.0;
        Ok(plain.map(|frequency| {
            pair += 1.0;
            frequency / (slope * f64::powf(pair, mixed)).exp() as f32
        }))
    }

    /// Llama 3.1: low frequencies are divided, high ones kept, those between in between.
    fn llama3(&self, plain: Rotary) -> Result<Rotary> {
        let factor = self.positive("factor")?;
        let (low, high) = (
            self.positive("low_freq_factor")?,
            self.positive("high_freq_factor")?,
        );
        let positions = self.original_positions(Some("max_position_embeddings"))?;
        let positions = positions.unwrap_or_default() as f64;
        if low >= high {
            return Err(self.refusal("`low_freq_factor` below `high_freq_factor`"));
        }
        Ok(plain.map(|frequency| {
            let frequency = f64::from(frequency);
            let turns = positions * frequency / (2.0 * PI);
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            ((1.0 - kept) * frequency / factor + kept * frequency) as f32
        }))
    }

    /// YaRN (Peng et al. 2023).
    fn yarn(&self, plain: &Rotary, theta: f64) -> Result<Rotary> {
        let factor = self.positive("factor")?;
        let positions = self.original_positions(None)?;
        let Some(positions) = positions.map(|positions| positions as f64) else {
            return Err(self.refusal("`original_max_position_embeddings`"));
        };
        let turned = plain.turned();
        let pair_of =
            |turns: f64| turned as f64 * (positions / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let mut low = pair_of(self.number("beta_fast")?.unwrap_or(32.0));
        let mut high = pair_of(self.number("beta_slow")?.unwrap_or(1.0));
        if self.get("truncate") != Some(&Value::Bool(false)) {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(turned as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let frequencies = bases(theta, turned).enumerate().map(|(pair, base)| {
            let kept = 1.0 - ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
            1.0 / (factor as f32 * base) * (1.0 - kept) + 1.0 / base * kept
        });
        let magnitude = |scale: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * scale * factor.ln() + 1.0
            }
        };
        let scales = (self.number("mscale")?, self.number("mscale_all_dim")?);
        let inferred = match scales {
            (Some(scale), Some(all)) if scale != 0.0 && all != 0.0 => {
                magnitude(scale) / magnitude(all)
            }
            _ => magnitude(1.0),
        };
        Ok(Rotary {
            frequencies: frequencies.collect(),
            factor: self.number("attention_factor")?.unwrap_or(inferred) as f32,
            max_tokens: None,
        })
    }

    /// How many positions a model had before it was stretched; where that is not said, what
    /// another setting says.
    fn original_positions(&self, otherwise: Option<&str>) -> Result<Option<usize>> {
        let key = "original_max_position_embeddings";
        if self.get(key).is_some() {
            return Ok(Some(self.positive(key)? as usize));
        }
        if self.config.get(key).is_some() {
            return self.config.count(key).map(Some);
        }
        otherwise.map(|key| self.config.count(key)).transpose()
    }
}

impl Rotary {
    fn map(mut self, change: impl FnMut(f32) -> f32) -> Self {
        self.frequencies = self.frequencies.into_iter().map(change).collect();
        self
    }
}

#[cfg(test)]
mod tests;
