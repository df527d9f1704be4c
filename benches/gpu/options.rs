//! What a part is told: pairs of `--name value`, and what follows from them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use retort::{
    config::{self, Environment, Inputs, Purpose, Typed},
    devices,
    provision::Progress,
};
use retort_models::{CudaOptions, DtypeChoice, EncoderModel, LoadOptions, Provider, Runtime, Task};
use serde_json::Value;

use crate::measure::Outcome;

/// The options of a part.
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// Reads pairs.
    pub fn read(arguments: &[String]) -> Outcome<Self> {
        let pairs = arguments.chunks(2).map(|pair| match pair {
            [name, value] if name.starts_with("--") => Ok((name[2..].to_owned(), value.clone())),
            other => Err(format!("{other:?} is no `--name value`")),
        });
        Ok(Self(pairs.collect::<Result<_, _>>()?))
    }

    /// A text that has to be there.
    pub fn text(&self, name: &str) -> Outcome<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.ok_or_else(|| format!("`--{name}` is missing").into())
    }

    /// A path that has to be there.
    pub fn path(&self, name: &str) -> Outcome<&Path> {
        Ok(Path::new(self.text(name)?))
    }

    /// A path that may be left out.
    pub fn optional_path(&self, name: &str) -> Option<PathBuf> {
        self.0
            .get(name)
            .filter(|text| !text.is_empty())
            .map(PathBuf::from)
    }

    /// A value, or what it is by default.
    pub fn or<T: FromStr>(&self, name: &str, default: T) -> Outcome<T> {
        match self.0.get(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| format!("`--{name}` cannot be `{text}`").into()),
        }
    }

    /// Where the service listens.
    pub fn address(&self) -> Outcome<SocketAddr> {
        Ok(self.text("address")?.parse()?)
    }

    /// The lengths of the natural mix, in tokens.
    pub fn mix(&self) -> Outcome<Vec<usize>> {
        let text = std::fs::read_to_string(self.path("mix")?)?;
        let lengths: Value = serde_json::from_str(&text)?;
        let lengths = lengths.as_array().ok_or("the mix is no list")?;
        let lengths = lengths.iter().filter_map(Value::as_u64);
        Ok(lengths.map(|length| length as usize).collect())
    }
}

/// ONNX Runtime and where models run with it.
pub struct Machine {
    runtime: Runtime,
    provider: Provider,
}

impl Machine {
    /// Finds ONNX Runtime as the service does it, for the device of `--device`, `cuda` by default.
    /// Nothing falls to the processor.
    pub fn new(options: &Options) -> Outcome<Self> {
        let device = options.or("device", "cuda".to_owned())?;
        let flag = |name: &str, value: &str| -> Outcome<Typed> {
            let setting = config::SETTINGS.iter().find(|setting| setting.flag == name);
            Ok(Typed {
                setting: setting.ok_or("an unknown flag")?,
                values: vec![value.to_owned()],
            })
        };
        let inputs = Inputs {
            purpose: Purpose::Local,
            flags: vec![flag("device", &device)?, flag("offline", "true")?],
            file: None,
            environment: Environment::of_process(),
            directory: std::env::temp_dir(),
        };
        let config = config::load(&inputs)?.config;
        let provided = devices::provide(&config, &devices::found, &Progress::stderr())?;
        let provider = match provided.devices.gpus().first() {
            Some(gpu) => Provider::Cuda(CudaOptions {
                ordinal: gpu.ordinal,
                memory_limit: None,
            }),
            None => Provider::Cpu,
        };
        Ok(Self {
            runtime: provided.runtime,
            provider,
        })
    }

    /// Loads a model in a type.
    pub fn load(&self, folder: &Path, dtype: DtypeChoice) -> Outcome<EncoderModel> {
        self.load_for(folder, dtype, None)
    }

    /// The same for a purpose that its files do not tell.
    pub fn load_for(
        &self,
        folder: &Path,
        dtype: DtypeChoice,
        task: Option<Task>,
    ) -> Outcome<EncoderModel> {
        let options = LoadOptions {
            provider: self.provider.clone(),
            dtype,
            task,
            force_dtype: true,
            ..LoadOptions::new(self.runtime.clone())
        };
        let model = EncoderModel::load(folder, &options)?;
        // A table of token vectors is on no GPU; everything else has to be where it was asked for.
        let there = model.info().provider == self.provider;
        if there {
            Ok(model)
        } else {
            let device = &model.info().device;
            Err(format!("it was asked for on {} and runs on {device}", self.provider).into())
        }
    }

    /// What `fp16` is where models run: on a processor, for want of it, 32 bits.
    pub fn half(&self) -> DtypeChoice {
        match self.provider {
            Provider::Cpu => DtypeChoice::Fp32,
            Provider::Cuda(_) => DtypeChoice::Fp16,
        }
    }
}
