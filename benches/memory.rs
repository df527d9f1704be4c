//! What `retort estimate` says against what a process then takes, for models of four shapes. Every
//! case has a process of its own, because the most memory that a process ever held cannot be taken
//! back; between loading and running its high-water mark is set back, so that each has its own.

use std::{fs, path::Path, process::Command, thread};

use retort_models::{
    Batch, DtypeChoice, EncoderModel, Encoding, Estimate, LoadOptions, Runtime,
    estimate::{Load, PROCESS_BYTES},
};
use serde_json::{Value, json};

use crate::{
    full_size,
    measure::{Outcome, Table, Targets, processor},
    rotary,
    subject::{self, Subject},
};

/// Says that this process is one case; the folder, the tokens, the workers and the library follow.
pub const CASE: &str = "--memory-case";
/// How far an estimate may be off.
const TOLERANCE: f64 = 0.15;
const MEBIBYTE: f64 = (1 << 20) as f64;
const PRIVATE: &str = "the estimate of a process's own memory";
const PEAK: &str = "the estimate of its peak";

/// Tokens at once, and how many workers run as many each.
type Budget = (usize, usize);

/// Estimates and measures every model at two budgets.
pub fn run(subject: &Subject, targets: &mut Targets) -> Outcome {
    let base = full_size::checkpoint("bert-base", full_size::BASE)?;
    let large = full_size::checkpoint("bge-m3", full_size::LARGE)?;
    let rotary = rotary::checkpoint()?;
    let cases: [(&str, &Path, [Budget; 2]); 4] = [
        (subject::MODEL, &subject.dir, [(256, 2), (8192, 1)]),
        ("12 layers of 768", &base, [(512, 2), (8192, 1)]),
        ("nomic base", &rotary, [(512, 2), (8192, 1)]),
        // The longest text takes a minute; two of them at once would only take two.
        ("bge-m3", &large, [(512, 2), (8192, 1)]),
    ];
    let mut table = Table::new(
        "### Memory in MiB, estimated and then measured".to_owned(),
        &[
            "model",
            "sessions x tokens",
            "own: estimate",
            "measured",
            "ratio",
            "kept after",
            "peak: estimate",
            "while loading",
            "while running",
            "ratio",
        ],
    );
    let mut ratios = [Vec::new(), Vec::new()];
    for (name, folder, budgets) in cases {
        for budget in budgets {
            let estimate = Estimate::of_files(folder, &load(budget), None)?;
            let measured = child(folder, budget, subject.runtime.library())?;
            let mib = |key: &str| measured[key].as_f64().unwrap_or(f64::NAN) / MEBIBYTE;
            let own = (estimate.private + PROCESS_BYTES) as f64 / MEBIBYTE;
            let peak = estimate.total as f64 / MEBIBYTE;
            let highest = mib("loading").max(mib("running"));
            ratios[0].push(mib("own") / own);
            ratios[1].push(highest / peak);
            let cells = [own, mib("own"), mib("own") / own, mib("kept"), peak];
            let cells = cells
                .into_iter()
                .chain([mib("loading"), mib("running"), highest / peak]);
            let sessions = load(budget).session_threads.len();
            // Ratios are small numbers, mebibytes large ones.
            let decimals = |cell: f64| if cell < 10.0 { 2 } else { 0 };
            let drawn = cells.map(|cell| format!("{cell:.*}", decimals(cell)));
            table.row(
                name,
                [format!("{sessions} x {}", budget.0)]
                    .into_iter()
                    .chain(drawn),
            );
        }
    }
    table.print();
    for (what, ratios) in [PRIVATE, PEAK].into_iter().zip(&ratios) {
        let furthest = ratios
            .iter()
            .map(|ratio| (ratio - 1.0).abs())
            .fold(0.0, f64::max);
        let off = |share: f64| format!("{:.0} % off", share * 100.0);
        let aim = format!("at most {}", off(TOLERANCE));
        targets.note(what, off(furthest), &aim, (furthest <= TOLERANCE).into());
    }
    Ok(())
}

/// The sessions of a service: each worker one, and another that has all cores.
fn load((tokens, workers): Budget) -> Load {
    let cores = processor::cores();
    let mut session_threads = vec![(cores / workers).max(1); workers];
    session_threads.extend((workers > 1).then_some(cores));
    Load {
        max_batch_tokens: tokens,
        session_threads,
        max_tokens: Some(tokens),
        pooling: None,
        task: None,
        cutoff_layer: None,
        dtype: DtypeChoice::Fp32,
    }
}

fn child(folder: &Path, (tokens, workers): Budget, library: &Path) -> Outcome<Value> {
    println!("{}, {workers} x {tokens} tokens …", folder.display());
    let output = Command::new(std::env::current_exe()?)
        .arg(CASE)
        .args([folder, Path::new(&tokens.to_string())])
        .args([Path::new(&workers.to_string()), library])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The whole of a process that is one case: loads, runs all sessions at once, prints one line.
pub fn case(arguments: &[String]) -> Outcome {
    let [folder, tokens, workers, library] = arguments else {
        return Err("a case needs a folder, tokens, workers and a library".into());
    };
    let tokens: usize = tokens.parse()?;
    let own = |field: &str| processor::memory(std::process::id(), field);
    let options = LoadOptions::new(Runtime::load(Path::new(library))?);
    let model = EncoderModel::load(Path::new(folder), &options)?;
    let mut encoders = Vec::new();
    for threads in load((tokens, workers.parse()?)).session_threads {
        encoders.push(model.encoder(threads)?);
    }
    let loading = own("VmHWM");
    // Sets the high-water mark back; see proc(5).
    fs::write("/proc/self/clear_refs", "5")?;
    thread::scope(|scope| -> Outcome {
        let mut runs = Vec::new();
        for (session, encoder) in encoders.iter_mut().enumerate() {
            let batch = batch(&model, tokens, session as u32);
            runs.push(scope.spawn(move || {
                let outputs = encoder.encode(&batch);
                outputs.map(drop).map_err(|error| error.to_string())
            }));
        }
        for run in runs {
            run.join().map_err(|_| "a run panicked")??;
        }
        Ok(())
    })?;
    // What is read of files only grows, so that the rest of the mark is the process's own: arenas
    // of long runs have been given back by now.
    let running = own("VmHWM");
    let most = running.zip(own("RssFile")).map(|(all, files)| all - files);
    let kept = own("RssAnon");
    let found = json!({"loading": loading, "running": running, "own": most, "kept": kept});
    println!("{found}");
    Ok(())
}

/// As many tokens as asked for, in texts as long as the model takes, and others for each session.
fn batch(model: &EncoderModel, tokens: usize, session: u32) -> Batch {
    let info = model.info();
    let mut batch = Batch::wanting(info.heads);
    let mut left = tokens;
    while left > 0 {
        let length = left.min(info.max_tokens);
        let first = session << 20 | left as u32;
        // Knuth's multiplicative hash: scattered over the vocabulary, as words are.
        let id = |place: u32| (first + place).wrapping_mul(2_654_435_761) % info.vocab_size as u32;
        batch.push(&Encoding {
            input_ids: (0..length as u32).map(id).collect(),
            token_type_ids: vec![0; length],
            ..Encoding::default()
        });
        left -= length;
    }
    batch
}
