use std::fs;

use super::*;

/// A message with one field of this number: a varint tag, a length, the body.
fn field(number: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_varint(number << 3 | 2, &mut out);
    encode_varint(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out
}

/// A tensor whose numbers are elsewhere.
fn tensor(entries: &[(&str, &str)]) -> Vec<u8> {
    let entry = |(key, value): &(&str, &str)| {
        let entry = StringStringEntryProto {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        field(13, &entry.encode_to_vec())
    };
    entries.iter().flat_map(entry).collect()
}

/// Models that have a tensor in every place where `onnx.proto` allows one.
fn models(tensor: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let in_graph = |graph: &[u8]| field(7, graph);
    let node = |attribute: &[u8]| in_graph(&field(1, &field(5, attribute)));
    vec![
        ("initializer", in_graph(&field(5, tensor))),
        (
            "values of a sparse one",
            in_graph(&field(15, &field(1, tensor))),
        ),
        (
            "indices of a sparse one",
            in_graph(&field(15, &field(2, tensor))),
        ),
        ("attribute", node(&field(5, tensor))),
        ("attributes", node(&field(10, tensor))),
        ("sparse attribute", node(&field(22, &field(1, tensor)))),
        ("sparse attributes", node(&field(23, &field(2, tensor)))),
        ("subgraph", node(&field(6, &field(5, tensor)))),
        ("subgraphs", node(&field(11, &field(5, tensor)))),
        (
            "function",
            field(25, &field(7, &field(5, &field(5, tensor)))),
        ),
    ]
}

/// A folder with 64 bytes of data beside the model, and the name of the model.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("data.bin"), [0; 64]).unwrap();
    let file = dir.path().join("model.onnx");
    (dir, file)
}

fn refused(file: &Path, entries: &[(&str, &str)], word: &str) {
    for (place, model) in models(&tensor(entries)) {
        let error = survey(file, &model).expect_err(place).to_string();
        assert!(error.contains(word), "{place}, {entries:?}: {error}");
    }
}

#[test]
fn data_is_found_wherever_a_tensor_may_be() {
    let (dir, file) = folder();
    let entries = [("location", "data.bin"), ("offset", "16"), ("length", "48")];
    for (place, model) in models(&tensor(&entries)) {
        let survey = survey(&file, &model).unwrap();
        assert_eq!(survey.data_bytes, 64, "{place}");
        assert_eq!(survey.data_folder, Some(dir.path().canonicalize().unwrap()));
        assert_eq!(survey.rewritten.unwrap(), model, "{place}");
    }
}

#[test]
fn paths_that_leave_the_directory_are_refused_wherever_they_are() {
    let (dir, file) = folder();
    let absolute = dir.path().join("data.bin");
    let out = [
        absolute.to_str().unwrap(),
        "/etc/hostname",
        "..",
        "../data.bin",
        "a/../../data.bin",
        "a/../data.bin",
        "./data.bin",
        "",
    ];
    for path in out {
        refused(&file, &[("location", path)], "inside its directory");
    }
    for path in ["absent.bin", "data.bin/deeper", "a\0b"] {
        refused(&file, &[("location", path)], "does not exist");
    }
    fs::create_dir(dir.path().join("folder")).unwrap();
    refused(&file, &[("location", "folder")], "is not a file");
}

/// The Hugging Face cache links files out of the folder, so a link is taken for what it leads to;
/// all data must be in one place, as ONNX Runtime looks in one.
#[cfg(unix)]
#[test]
fn links_lead_to_one_directory_or_are_refused() {
    use std::os::unix::fs::symlink;
    let (dir, file) = folder();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("blob"), [0; 8]).unwrap();
    symlink(outside.path().join("blob"), dir.path().join("linked.bin")).unwrap();
    symlink(dir.path().join("loop"), dir.path().join("loop")).unwrap();
    symlink(outside.path(), dir.path().join("folder")).unwrap();
    let model = |names: &[&str]| -> Vec<u8> {
        let initializer = |name: &&str| field(5, &tensor(&[("location", name)]));
        field(7, &names.iter().flat_map(initializer).collect::<Vec<_>>())
    };
    for name in ["linked.bin", "folder/blob"] {
        let found = survey(&file, &model(&[name])).unwrap();
        let real = outside.path().canonicalize().unwrap();
        assert_eq!(found.data_folder, Some(real), "{name}");
    }
    let error = survey(&file, &model(&["data.bin", "linked.bin"])).unwrap_err();
    assert!(error.to_string().contains("another directory"), "{error}");
    refused(&file, &[("location", "loop")], "does not exist");
    refused(&file, &[("location", "folder")], "is not a file");
}

#[test]
fn ranges_that_leave_the_file_are_refused() {
    let (_dir, file) = folder();
    let most = u64::MAX.to_string();
    let ranges = [
        [("offset", "65"), ("length", "0")],
        [("offset", "0"), ("length", "65")],
        [("offset", "60"), ("length", "5")],
        [("length", &most), ("offset", "1")],
        [("offset", &most), ("length", &most)],
        [("offset", "1099511627776"), ("length", "4")],
    ];
    for [first, second] in ranges {
        // The order of the entries is free.
        refused(&file, &[("location", "data.bin"), first, second], "64");
        refused(&file, &[first, ("location", "data.bin"), second], "64");
        refused(&file, &[first, second, ("location", "data.bin")], "64");
    }
    for number in ["-1", "", "1e3", "18446744073709551616", "0x10"] {
        for key in ["offset", "length"] {
            let entries = [("location", "data.bin"), (key, number)];
            refused(&file, &entries, "whole number");
        }
    }
}

/// Numbers that only have to be various and the same every time.
fn dice(state: &mut u64, bound: usize) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize % bound
}

/// Whatever the bytes are, the answer is a survey or an error, and what is kept is bounded by what
/// was read: the names of data files are the only thing that may grow, to 255 bytes each.
#[test]
fn mutated_models_are_surveyed_or_refused() {
    let (_dir, file) = folder();
    let entries = [("location", "data.bin"), ("offset", "16"), ("length", "48")];
    let mut state = 11;
    let (mut good, mut bad) = (0, 0);
    for (_, model) in models(&tensor(&entries)) {
        for _ in 0..400 {
            let mut model = model.clone();
            for _ in 0..=dice(&mut state, 3) {
                let at = dice(&mut state, model.len());
                match dice(&mut state, 5) {
                    0 => model[at] = dice(&mut state, 256) as u8,
                    1 => model[at] ^= 1 << dice(&mut state, 8),
                    2 => model.insert(at, [0, 0x7f, 0x80, 0xff][dice(&mut state, 4)]),
                    3 => model.truncate(at.max(1)),
                    _ => _ = model.drain(at..model.len().min(at + 3)),
                }
                if model.is_empty() {
                    model.push(0);
                }
            }
            match survey(&file, &model) {
                Ok(survey) => {
                    let grown = survey.rewritten.map_or(0, |bytes| bytes.len());
                    assert!(grown <= 20 * model.len() + 255, "{grown} bytes");
                    good += 1;
                }
                Err(_) => bad += 1,
            }
        }
    }
    assert!(good > 100 && bad > 100, "{good} good, {bad} bad");
}

#[test]
fn depth_is_bounded() {
    let mut graph = Vec::new();
    for _ in 0..200 {
        graph = field(1, &field(5, &field(6, &graph)));
    }
    let error = survey(Path::new("model.onnx"), &field(7, &graph)).unwrap_err();
    assert!(error.to_string().contains("nested too deeply"), "{error}");
}
