use std::time::Duration;

use safetensors::tensor::{TensorView, serialize};

use super::*;
use crate::graph::weight_only::Bits;

/// A checkpoint of two matrices, and what of them is to be rounded.
fn checkpoint(dir: &Path, first: f32) -> Vec<QuantizedWeight> {
    let values = |count: usize| -> Vec<u8> {
        let value = |at: usize| first + (at as f32 * 0.37).sin();
        (0..count).flat_map(|at| value(at).to_le_bytes()).collect()
    };
    let (a, b) = (values(6 * 40), values(3 * 64));
    let view = |shape: [usize; 2], bytes| TensorView::new(Dtype::F32, shape.into(), bytes).unwrap();
    let views = [("a", view([6, 40], &a)), ("b", view([3, 64], &b))];
    fs::write(
        dir.join("model.safetensors"),
        serialize(views, None).unwrap(),
    )
    .unwrap();
    let weights = Weights::open(dir).unwrap();
    let kept = |name: &str, bits| QuantizedWeight {
        numbers: format!("{name}.q"),
        scales: format!("{name}.scales"),
        tensor: weights.get(name).unwrap().clone(),
        bits,
    };
    vec![kept("a", Bits::Four), kept("b", Bits::Eight)]
}

fn store(dir: &Path) -> RoundedStore {
    RoundedStore {
        dir: dir.join("rounded"),
        max_bytes: 1 << 20,
    }
}

/// What a store has, held against what is rounded in memory.
fn check(found: &Weights, weights: &[QuantizedWeight]) {
    for weight in weights {
        let (numbers, scales) = quantize(&weight.tensor, weight.bits).unwrap();
        assert_eq!(found.get(&weight.numbers).unwrap().data(), numbers);
        let stored = found.get(&weight.scales).unwrap();
        assert!(stored.mapped_range().is_some(), "used where it lies");
        assert_eq!(stored.to_f32().unwrap().as_slice(), scales);
    }
}

fn only_file(store: &RoundedStore) -> PathBuf {
    let mut files = fs::read_dir(&store.dir).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "nothing but the file itself");
    file
}

#[test]
fn what_was_rounded_once_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (weights, store) = (checkpoint(dir.path(), 0.5), store(dir.path()));
    let (made, rounding) = store.rounded(&weights).unwrap();
    assert_eq!(rounding, Rounding::Made);
    check(&made, &weights);
    let (found, rounding) = store.rounded(&weights).unwrap();
    assert_eq!(rounding, Rounding::Found);
    check(&found, &weights);
    only_file(&store);
}

#[test]
fn a_damaged_file_and_another_checkpoint_are_rounded_again() {
    let dir = tempfile::tempdir().unwrap();
    let (weights, store) = (checkpoint(dir.path(), 0.5), store(dir.path()));
    drop(store.rounded(&weights).unwrap());
    let path = only_file(&store);
    let whole = fs::read(&path).unwrap();
    let last = whole.len() - 1;
    for damage in [
        [&whole[..last], &[whole[last] ^ 1]].concat(),
        whole[..last].to_vec(),
        whole[..3].to_vec(),
        [&[0xff; 8], &whole[8..]].concat(),
    ] {
        fs::write(&path, damage).unwrap();
        let (made, rounding) = store.rounded(&weights).unwrap();
        assert_eq!(rounding, Rounding::Made);
        check(&made, &weights);
    }
    // Of the same size and time, as files of packages may be.
    let file = dir.path().join("model.safetensors");
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    let others = checkpoint(dir.path(), 0.6);
    let opened = File::options().write(true).open(&file).unwrap();
    opened.set_modified(time).unwrap();
    let (made, rounding) = store.rounded(&others).unwrap();
    assert_eq!(rounding, Rounding::Made);
    check(&made, &others);
}

#[test]
fn what_was_unused_the_longest_gives_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store(dir.path());
    let mut models = Vec::new();
    for (at, first) in [0.5, 0.6, 0.7].into_iter().enumerate() {
        let folder = dir.path().join(at.to_string());
        fs::create_dir(&folder).unwrap();
        models.push(checkpoint(&folder, first));
    }
    for (at, weights) in models[..2].iter().enumerate() {
        drop(store.rounded(weights).unwrap());
        let long_ago = UNIX_EPOCH + Duration::from_secs(at as u64);
        for file in fs::read_dir(&store.dir).unwrap() {
            let file = File::options().write(true).open(file.unwrap().path());
            let file = file.unwrap();
            if file.metadata().unwrap().modified().unwrap() > UNIX_EPOCH + Duration::from_secs(9) {
                file.set_modified(long_ago).unwrap();
            }
        }
    }
    // The first is used again, so it is the second that goes.
    assert_eq!(store.rounded(&models[0]).unwrap().1, Rounding::Found);
    let sizes = fs::read_dir(&store.dir).unwrap();
    store.max_bytes = sizes
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    // What a process left unfinished goes before all.
    let unfinished = store.dir.join("00000000.1-1");
    fs::write(&unfinished, "half").unwrap();
    let file = File::options().write(true).open(&unfinished).unwrap();
    file.set_modified(UNIX_EPOCH).unwrap();
    assert_eq!(store.rounded(&models[2]).unwrap().1, Rounding::Made);
    assert!(!unfinished.exists());
    assert_eq!(store.rounded(&models[0]).unwrap().1, Rounding::Found);
    assert_eq!(store.rounded(&models[1]).unwrap().1, Rounding::Made);
    store.max_bytes = 100;
    fs::remove_dir_all(&store.dir).unwrap();
    let error = store.rounded(&models[0]).err().unwrap().to_string();
    assert!(error.contains("more than the 100"), "{error}");
}
