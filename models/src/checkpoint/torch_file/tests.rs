use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::checkpoint::Weights;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/torch")
        .join(name)
}

/// A checkpoint folder with these files, each a copy of another.
fn folder_of(files: &[(&str, &Path)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, source) in files {
        fs::copy(source, dir.path().join(name)).unwrap();
    }
    dir
}

/// Names, types, shapes and numbers of both folders are the same; gives how many there are.
fn assert_same(torch: &Path, safetensors: &Path) -> usize {
    let (torch, safetensors) = (Weights::open(torch), Weights::open(safetensors));
    let (torch, safetensors) = (torch.unwrap(), safetensors.unwrap());
    let mut names: Vec<&str> = torch.names().collect();
    let mut expected: Vec<&str> = safetensors.names().collect();
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for name in &names {
        let (found, expected) = (torch.get(name).unwrap(), safetensors.get(name).unwrap());
        assert_eq!(found.shape(), expected.shape(), "{name}");
        match (found.to_f32(), expected.to_f32()) {
            (Ok(found), Ok(expected)) => {
                assert_eq!(found.as_slice(), expected.as_slice(), "{name}");
            }
            (found, expected) => {
                assert_eq!(found.is_err(), expected.is_err(), "{name}");
            }
        }
    }
    names.len()
}

#[test]
fn a_state_dictionary_is_what_safetensors_has() {
    let bin = folder_of(&[("pytorch_model.bin", &golden("state.bin"))]);
    let safetensors = folder_of(&[("model.safetensors", &golden("state.safetensors"))]);
    assert_eq!(assert_same(bin.path(), safetensors.path()), 18);

    // Byte by byte too, for the types that are no weights.
    let (file, other) = (
        fs::read(golden("state.bin")).unwrap(),
        fs::read(golden("state.safetensors")).unwrap(),
    );
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&other).unwrap();
    let tensors = metadata.tensors();
    for found in read(&file).unwrap() {
        let expected = tensors[found.name];
        let (start, end) = expected.data_offsets;
        let bytes = &other[header + 8 + start..header + 8 + end];
        assert_eq!(
            (found.dtype, &found.shape, &file[found.bytes]),
            (expected.dtype, &expected.shape, bytes),
            "{}",
            found.name
        );
    }
}

#[test]
fn numbers_are_used_where_they_lie() {
    let dir = folder_of(&[("pytorch_model.bin", &golden("state.bin"))]);
    let weights = Weights::open(dir.path()).unwrap();
    let file = fs::read(golden("state.bin")).unwrap();
    let view = weights.get("view").unwrap();
    let values = view.to_f32().unwrap();
    assert!(matches!(
        values,
        crate::checkpoint::weights::F32Values::Mapped(_)
    ));
    let bytes: Vec<u8> = values
        .as_slice()
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert_eq!(file[view.f32_range().unwrap()], bytes);
    // Tied weights are one place.
    let range = |name: &str| weights.get(name).unwrap().f32_range().unwrap();
    assert_eq!(range("tied"), range("0.weight"));
}

#[test]
fn shards_are_joined_and_safetensors_go_first() {
    let dir = folder_of(&[
        ("pytorch_model-00001-of-00002.bin", &golden("state.bin")),
        (
            "pytorch_model-00002-of-00002.bin",
            &golden("transposed.bin"),
        ),
    ]);
    let index = |second: &str| {
        let map = format!(
            r#"{{"weight_map":{{"a":"pytorch_model-00001-of-00002.bin","b":"{second}"}}}}"#
        );
        fs::write(dir.path().join("pytorch_model.bin.index.json"), map).unwrap();
        Weights::open(dir.path()).map_err(|error| error.to_string())
    };
    let error = index("pytorch_model-00002-of-00002.bin").unwrap_err();
    assert!(error.contains("another order"), "{error}");
    let error = index("../pytorch_model.bin").unwrap_err();
    assert!(error.contains("not a file name"), "{error}");
    let weights = index("pytorch_model-00001-of-00002.bin").unwrap();
    assert_eq!(weights.names().count(), 18);
    // A second shard with the same tensors.
    fs::copy(golden("state.bin"), dir.path().join("other.bin")).unwrap();
    let error = index("other.bin").unwrap_err();
    assert!(error.contains("repeats the tensor"), "{error}");
    fs::write(dir.path().join("model.safetensors"), "").unwrap();
    let error = Weights::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("not safetensors"), "{error}");
}

#[test]
fn other_forms_are_refused_with_advice() {
    let error = |name: &str| read(&fs::read(golden(name)).unwrap()).unwrap_err();
    let legacy = error("legacy.bin");
    assert!(legacy.contains("before 1.6"), "{legacy}");
    let transposed = error("transposed.bin");
    assert!(
        transposed.contains("`weight`") && transposed.contains("strides `[1, 3]`"),
        "{transposed}"
    );
    for message in [legacy, transposed] {
        assert!(message.contains("convert the checkpoint"), "{message}");
    }
}

/// A zip file of stored entries, as small as it can be.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut table) = (Vec::new(), Vec::new());
    let half = |number: usize| (number as u16).to_le_bytes();
    let word = |number: usize| (number as u32).to_le_bytes();
    for (name, data) in entries {
        let place = file.len();
        // Version, flags, method, time, date, checksum.
        let head = [0_u8; 14];
        let sizes = [word(data.len()), word(data.len())].concat();
        let lengths = [half(name.len()), half(0)].concat();
        let common = [&head[2..], &sizes, &lengths].concat();
        file.extend([b"PK\x03\x04\0\0", &common[..], name.as_bytes(), data].concat());
        let rest = [&[0_u8; 10][..], &word(place)].concat();
        table.extend([b"PK\x01\x02\0\0\0\0", &common[..], &rest, name.as_bytes()].concat());
    }
    let (start, count) = (file.len(), half(entries.len()));
    file.extend(&table);
    let end = [
        b"PK\x05\x06\0\0\0\0",
        &count[..],
        &count,
        &word(table.len()),
        &word(start),
        &half(0),
    ];
    file.extend(end.concat());
    file
}

/// The pickle of one tensor `w` of two axes over a storage of floats, all sizes of one byte.
fn pickle_of(offset: u8, shape: [u8; 2], strides: [u8; 2], elements: u8) -> Vec<u8> {
    let pair = |[a, b]: [u8; 2]| [b'K', a, b'K', b, 0x86];
    [
        &b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage"[..],
        b"ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK",
        &[elements],
        b"tQK",
        &[offset],
        &pair(shape),
        &pair(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.",
    ]
    .concat()
}

#[test]
fn sizes_that_lie_are_errors() {
    let data = [7_u8; 24];
    let file = |pickle: &[u8], data: &[u8]| {
        archive(&[
            ("m/data.pkl", pickle),
            ("m/byteorder", b"little"),
            ("m/data/0", data),
        ])
    };
    let good = file(&pickle_of(0, [2, 3], [3, 1], 6), &data);
    let tensors = read(&good).unwrap();
    assert_eq!((tensors[0].name, &tensors[0].shape[..]), ("w", &[2, 3][..]));
    assert_eq!(good[tensors[0].bytes.clone()], data);
    // A step along an axis of one is never taken.
    assert!(read(&file(&pickle_of(2, [1, 4], [9, 1], 6), &data)).is_ok());
    for (pickle, data, word) in [
        (
            pickle_of(0, [2, 3], [3, 1], 7),
            &data[..],
            "not `7` numbers",
        ),
        (pickle_of(0, [2, 3], [3, 1], 6), &data[1..], "`23` bytes"),
        (pickle_of(1, [2, 3], [3, 1], 6), &data, "from element `1`"),
        (pickle_of(0, [2, 4], [4, 1], 6), &data, "more than the `6`"),
        (pickle_of(0, [2, 3], [1, 2], 6), &data, "another order"),
        (pickle_of(0, [2, 3], [0, 1], 6), &data, "another order"),
        (pickle_of(0, [2, 2], [3, 1], 6), &data, "another order"),
    ] {
        let error = read(&file(&pickle, data)).unwrap_err();
        assert!(error.contains(word), "expected `{word}`: {error}");
    }
    let pickle = pickle_of(0, [2, 3], [3, 1], 6);
    for (entries, word) in [
        (vec![("m/data.pkl", &pickle[..])], "no entry `data/0`"),
        (vec![("m/version", &b"3"[..])], "without an entry"),
        (
            vec![("m/data.pkl", &pickle[..]), ("n/data.pkl", &pickle[..])],
            "several",
        ),
        (
            vec![("m/data.pkl", &pickle[..]), ("m/data.pkl", &pickle[..])],
            "two entries",
        ),
        (
            vec![("m/data.pkl", &pickle[..]), ("m/byteorder", &b"big"[..])],
            "not little-endian",
        ),
    ] {
        let error = read(&archive(&entries)).unwrap_err();
        assert!(error.contains(word), "expected `{word}`: {error}");
    }
}

#[test]
fn damaged_containers_are_errors() {
    let pickle = pickle_of(0, [2, 3], [3, 1], 6);
    let good = archive(&[("m/data.pkl", &pickle), ("m/data/0", &[0; 24])]);
    assert!(read(&good).is_ok());
    for length in 0..good.len() {
        assert!(read(&good[..length]).is_err(), "cut to {length} bytes");
    }
    let table = good.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let end = good.len() - 22;
    for (at, bytes, word) in [
        // The method, the flags, the size, the place of the first entry.
        (table + 10, &[8, 0][..], "compressed"),
        (table + 8, &[1, 0], "encrypted"),
        (table + 20, &[0xff, 0xff, 0xff, 0x7f], "outside the file"),
        (table + 42, &[5, 0, 0, 0], "outside the file"),
        (table + 28, &[0xff, 0xff], "table of contents"),
        // More entries than there are, and a table elsewhere.
        (end + 10, &[0xff, 0xff], "table of contents"),
        (end + 16, &[0xff, 0xff, 0xff, 0x7f], "cut off"),
        (end + 16, &[0, 0, 0, 0], "table of contents"),
    ] {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let error = read(&file).unwrap_err();
        assert!(error.contains(word), "expected `{word}`: {error}");
    }
}

#[test]
fn sizes_of_64_bits_are_read() {
    // The file above, with the 64-bit end that large files have, and entries that use it.
    let pickle = pickle_of(0, [2, 3], [3, 1], 6);
    let plain = archive(&[("m/data.pkl", &pickle), ("m/data/0", &[9; 24])]);
    let table = plain.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let end = plain.len() - 22;
    let mut wide = plain[..table].to_vec();
    let mut at = table;
    while at < end {
        let number = |at: usize| u32::from_le_bytes(plain[at..at + 4].try_into().unwrap());
        let name = usize::from(plain[at + 28]);
        let mut entry = plain[at..at + 46 + name].to_vec();
        let mut extra = [&[1_u8, 0, 24, 0][..]].concat();
        for value in [number(at + 24), number(at + 20), number(at + 42)] {
            extra.extend(u64::from(value).to_le_bytes());
        }
        entry[20..28].fill(0xff);
        entry[42..46].fill(0xff);
        entry[30] = extra.len() as u8;
        wide.extend([&entry[..], &extra].concat());
        at += 46 + name;
    }
    let (start, size) = (table as u64, (wide.len() - table) as u64);
    let end_64 = wide.len() as u64;
    wide.extend([&b"PK\x06\x06"[..], &44_u64.to_le_bytes(), &[0; 12]].concat());
    for number in [2, 2, size, start] {
        wide.extend(number.to_le_bytes());
    }
    wide.extend(
        [
            &b"PK\x06\x07\0\0\0\0"[..],
            &end_64.to_le_bytes(),
            &[1, 0, 0, 0],
        ]
        .concat(),
    );
    wide.extend([&b"PK\x05\x06"[..], &[0xff; 16], &[0, 0]].concat());
    let tensors = read(&wide).unwrap();
    assert_eq!(wide[tensors[0].bytes.clone()], [9; 24]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Whatever a file has become, opening it ends with an answer, and every tensor lies in it.
    #[test]
    fn broken_files_are_errors_and_not_panics(
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..8),
        moved in prop::option::weighted(0.2, (any::<usize>(), any::<usize>(), 0_usize..64)),
        length in prop::option::weighted(0.2, any::<usize>()),
    ) {
        let mut bytes = fs::read(golden("state.bin")).unwrap();
        let size = bytes.len();
        if let Some((from, to, length)) = moved {
            let (from, to) = (from % (size - 64), to % (size - 64));
            bytes.copy_within(from..from + length, to);
        }
        let ends = zip::stored_entries(&fs::read(golden("state.bin")).unwrap()).unwrap()
            ["state/data.pkl"].clone();
        for (index, (at, byte)) in flips.into_iter().enumerate() {
            // Numbers may be anything: most flips go to the pickle and the table of contents.
            let at = match index % 3 {
                0 => ends.start + at % ends.len(),
                1 => size - 1 - at % (size / 4),
                _ => at % size,
            };
            bytes[at] = byte;
        }
        if let Some(length) = length {
            bytes.truncate(length % size);
        }
        if let Ok(tensors) = read(&bytes) {
            for tensor in tensors {
                let elements: usize = tensor.shape.iter().product();
                prop_assert_eq!(tensor.bytes.len(), elements * tensor.dtype.bitsize() / 8);
                prop_assert!(tensor.bytes.end <= bytes.len());
            }
        }
    }
}

/// The heads of BGE-M3 as they are published, which are here where this project is developed.
#[test]
fn published_files_are_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/models/bge-m3-graph");
    if !dir.exists() {
        println!("stepping aside: `{}` is not here", dir.display());
        return;
    }
    let bin = folder_of(&[("pytorch_model.bin", &dir.join("sparse_linear.pt"))]);
    let name = "sparse_linear.safetensors";
    let safetensors = folder_of(&[("model.safetensors", &dir.join(name))]);
    let weights = Weights::open(bin.path()).unwrap();
    let expected = Weights::open(safetensors.path()).unwrap();
    for name in ["weight", "bias"] {
        let (found, expected) = (weights.get(name).unwrap(), expected.get(name).unwrap());
        // One file says `[1, 1024]`, the other `[1024]`.
        assert_eq!(found.elements(), expected.elements());
        let (found, expected) = (found.to_f32().unwrap(), expected.to_f32().unwrap());
        assert_eq!(found.as_slice(), expected.as_slice(), "{name}");
    }
    let colbert = folder_of(&[("pytorch_model.bin", &dir.join("colbert_linear.pt"))]);
    let weights = Weights::open(colbert.path()).unwrap();
    let weight = weights.get("weight").unwrap();
    assert_eq!(
        (weight.shape(), weight.dtype()),
        (&[1024, 1024][..], "float16".to_owned())
    );
    let values = weight.to_f32().unwrap();
    let mean = values
        .as_slice()
        .iter()
        .map(|value| value.abs())
        .sum::<f32>()
        / 1_048_576.0;
    assert!(values.as_slice().iter().all(|value| value.is_finite()) && mean > 1e-3 && mean < 1.0);
}
