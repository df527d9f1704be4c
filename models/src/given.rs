//! A finished `.onnx` file, such as optimum or a model's authors export: its inputs and outputs
//! are found by name and shape. It runs padded by nature, so sequences of one length go together
//! and nothing is ever padded.

mod external;
mod interface;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use memmap2::Mmap;
use retort_kernels::{Execution, Isa, PackedHidden, Pooling};

use crate::architectures::PositionIds;
use crate::batch::Batch;
use crate::checkpoint::weights::{Weights, git_lfs_pointer};
use crate::encoder::{BatchBounds, Encode, check_heads, rows};
use crate::error::{Error, Result};
use crate::heads::{Heads, Output};
use crate::runtime::Runtime;
use crate::session::{LoadedSession, builder, with_data_folder};
use interface::{Inputs, Tokens};
pub(crate) use interface::{OutputKind, Probed, Wanted};

/// Where a checkpoint keeps a finished graph.
const FILES: [&str; 2] = ["model.onnx", "onnx/model.onnx"];
/// Beyond about this many tokens a larger run is no faster on CPU, and only takes more memory.
const TOKENS_PER_RUN: usize = 512;

/// An `.onnx` file that can be opened any number of times.
pub(crate) struct GivenModel {
    runtime: Runtime,
    file: PathBuf,
    model: ModelBytes,
    // Where tensors outside the file are, with links resolved.
    data_folder: Option<PathBuf>,
    bytes: u64,
    // Some graphs give a sequence another vector when it has company; see `external`.
    one_by_one: bool,
    positions: Option<PositionIds>,
    bounds: Option<BatchBounds>,
    output: Option<OutputKind>,
    // The session that looked the graph over; the first encoder of one thread takes it.
    probe: Mutex<Option<LoadedSession>>,
}

enum ModelBytes {
    Mapped(Mmap),
    Rewritten(Vec<u8>),
}

/// Finds the `.onnx` file that `path` means, and the checkpoint directory around it. `None` when
/// `path` is a directory whose weights a graph can be built for, or has no such file.
pub(crate) fn find(path: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    if path.is_dir() {
        if Weights::are_in(path) {
            return Ok(None);
        }
        return Ok(beside(path).map(|file| (file, path.to_owned())));
    }
    if path.extension().is_none_or(|extension| extension != "onnx") {
        return Err(Error::checkpoint(
            path,
            "is neither a directory nor an `.onnx` file",
        ));
    }
    let around = path
        .ancestors()
        .skip(1)
        .take(2)
        .find(|dir| dir.join("config.json").exists());
    match around {
        Some(dir) => Ok(Some((path.to_owned(), dir.to_owned()))),
        None => Err(Error::checkpoint(
            path,
            "has no `config.json` beside it or one level above",
        )),
    }
}

/// The finished graph in a checkpoint directory, whatever else is there.
pub(crate) fn beside(dir: &Path) -> Option<PathBuf> {
    FILES
        .iter()
        .map(|name| dir.join(name))
        .find(|file| file.exists())
}

impl GivenModel {
    /// Reads the file and finds the tensors that it keeps elsewhere.
    pub(crate) fn open(
        file: &Path,
        runtime: &Runtime,
        positions: Option<PositionIds>,
    ) -> Result<Self> {
        let unreadable = |error: std::io::Error| Error::checkpoint(file, error.to_string());
        let opened = File::open(file).map_err(unreadable)?;
        // SAFETY: the map is private and read-only; see `Weights` on who may touch the file.
        let map = unsafe { Mmap::map(&opened) }.map_err(unreadable)?;
        if let Some(pointer) = git_lfs_pointer(&map) {
            return Err(Error::checkpoint(file, pointer));
        }
        let survey = external::survey(file, &map)?;
        let bytes = map.len() as u64 + survey.data_bytes;
        let model = match survey.rewritten {
            Some(rewritten) => ModelBytes::Rewritten(rewritten),
            None => ModelBytes::Mapped(map),
        };
        Ok(Self {
            runtime: runtime.clone(),
            file: file.to_owned(),
            model,
            data_folder: survey.data_folder,
            bytes,
            one_by_one: survey.scales_by_batch,
            positions,
            bounds: None,
            output: None,
            probe: Mutex::new(None),
        })
    }

    /// Size of the file and of the files it refers to.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Opens the graph, runs three tokens through it and sees what comes out.
    ///
    /// `pooling` is how to pool token vectors, and whether the operator insists on it.
    pub(crate) fn probe(&mut self, pooling: Wanted) -> Result<Probed> {
        let mut session = self.session(1)?;
        let inputs = Inputs::find(&session, self.positions).map_err(|e| self.named(e))?;
        self.one_by_one |= inputs.single_sequence;
        let batch = [0i64; 3];
        let mut tokens = Tokens::default();
        tokens.extend(&batch, &batch, self.positions.unwrap_or_default());
        let run = session.run(inputs.values(&tokens, [1, 3])?)?;
        let probed = interface::choose(&run, pooling, [1, 3]).map_err(|e| self.named(e))?;
        drop(run);
        self.output = Some(probed.output.clone());
        *self.probe.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        Ok(probed)
    }

    /// Sets what batches must keep to.
    pub(crate) fn bounded(mut self, bounds: BatchBounds) -> Self {
        self.bounds = Some(bounds);
        self
    }

    /// Makes an encoder. `probe` and `bounded` come first.
    pub(crate) fn encoder(&self, threads: usize) -> Result<Box<dyn Encode>> {
        let (Some(bounds), Some(output)) = (self.bounds, self.output.clone()) else {
            return Err(Error::Runtime("the graph was not looked over".to_owned()));
        };
        let probe = if threads == 1 {
            self.probe
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        } else {
            None
        };
        let session = probe.map_or_else(|| self.session(threads), Ok)?;
        Ok(Box::new(GivenEncoder {
            inputs: Inputs::find(&session, self.positions)?,
            session,
            bounds,
            output,
            one_by_one: self.one_by_one,
            positions: self.positions.unwrap_or_default(),
        }))
    }

    fn session(&self, threads: usize) -> Result<LoadedSession> {
        let mut builder = builder(&self.runtime, threads)?;
        if let Some(folder) = &self.data_folder {
            builder = with_data_folder(builder, folder)?;
        }
        let bytes = match &self.model {
            ModelBytes::Mapped(map) => &map[..],
            ModelBytes::Rewritten(bytes) => bytes,
        };
        let session = builder.commit_from_memory(bytes);
        Ok(LoadedSession::owning(
            session.map_err(|error| self.named(error.into()))?,
        ))
    }

    /// Puts the name of the file before a message about its contents.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Unsupported(message) | Error::Runtime(message) => {
                Error::checkpoint(&self.file, message)
            }
            other => other,
        }
    }
}

struct GivenEncoder {
    session: LoadedSession,
    inputs: Inputs,
    bounds: BatchBounds,
    output: OutputKind,
    one_by_one: bool,
    positions: PositionIds,
}

impl Encode for GivenEncoder {
    fn encode(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        if batch.sequences() == 0 {
            return Ok(Vec::new());
        }
        self.bounds.check(batch)?;
        check_heads(Heads::DENSE, batch.heads)?;
        let ranges: Vec<_> = batch.ranges().collect();
        let mut order: Vec<usize> = (0..ranges.len()).collect();
        order.sort_by_key(|&sequence| ranges[sequence].len());
        let mut outputs: Vec<Option<Output>> = vec![None; ranges.len()];
        for same_length in order.chunk_by(|&a, &b| ranges[a].len() == ranges[b].len()) {
            let length = ranges[same_length[0]].len();
            let per_run = if self.one_by_one {
                1
            } else {
                (TOKENS_PER_RUN / length).max(1)
            };
            for group in same_length.chunks(per_run) {
                let mut tokens = Tokens::default();
                for &sequence in group {
                    let range = ranges[sequence].clone();
                    let types = &batch.token_type_ids[range.clone()];
                    tokens.extend(&batch.input_ids[range], types, self.positions);
                }
                let vectors = self.run(&tokens, [group.len(), length])?;
                for (&sequence, vector) in group.iter().zip(vectors) {
                    outputs[sequence] = Some(vector);
                }
            }
        }
        let missing = || Error::Runtime("the graph returned too few vectors".to_owned());
        outputs
            .into_iter()
            .map(|output| output.ok_or_else(missing))
            .collect()
    }
}

impl GivenEncoder {
    /// Runs sequences of one length: `[sequences, length]` → one vector each.
    fn run(&mut self, tokens: &Tokens, shape: [usize; 2]) -> Result<Vec<Output>> {
        let [sequences, length] = shape;
        let run = self.session.run(self.inputs.values(tokens, shape)?)?;
        let (shape, values) = interface::extract(&run[self.output.name()])?;
        match &self.output {
            OutputKind::Pooled { .. } => rows(&shape, &values, sequences),
            OutputKind::Tokens { pooling, .. } => {
                let hidden = *shape.last().unwrap_or(&0) as usize;
                if shape != [sequences as i64, length as i64, hidden as i64] || hidden == 0 {
                    return Err(Error::Runtime(format!(
                        "token vectors of shape `{shape:?}`"
                    )));
                }
                pool(*pooling, &values, [sequences, length, hidden])
            }
        }
    }
}

/// Pools `[sequences, length, hidden]`, which is what packed sequences of one length look like.
fn pool(pooling: Pooling, values: &[f32], shape: [usize; 3]) -> Result<Vec<Output>> {
    let [sequences, length, hidden_size] = shape;
    let cu_seqlens: Vec<i32> = (0..=sequences)
        .map(|index| (index * length) as i32)
        .collect();
    let packed = PackedHidden {
        hidden: values,
        hidden_size,
        cu_seqlens: &cu_seqlens,
    };
    let mut pooled = vec![0.0; sequences * hidden_size];
    let execution = Execution::sequential(Isa::detect());
    retort_kernels::pooling::pool(pooling, &packed, execution, &mut pooled)?;
    rows(&[sequences as i64, hidden_size as i64], &pooled, sequences)
}

#[cfg(test)]
pub(crate) mod tests;
