use proptest::prelude::*;

use super::*;

/// The opcodes of a storage's tuple and its reference: `[elements]` numbers in the file `0`.
fn storage(kind: &str, elements: u8) -> Vec<u8> {
    let mut bytes = b"(X\x07\0\0\0storage".to_vec();
    bytes.extend(format!("ctorch\n{kind}\n").into_bytes());
    bytes.extend(b"X\x01\0\0\x000X\x03\0\0\0cpuK");
    bytes.push(elements);
    bytes.extend(b"tQ");
    bytes
}

/// A tensor of shape `[2, 3]` in a storage of 6.
fn tensor() -> Vec<u8> {
    let mut bytes = b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
    bytes.extend(storage("FloatStorage", 6));
    bytes.extend(b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtR");
    bytes
}

/// A dictionary with one entry, made of the opcodes for its value.
fn dict_of(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}X\x01\0\0\0w", value, b"s."].concat()
}

fn refused(bytes: &[u8], word: &str) {
    let error = read(bytes).unwrap_err();
    assert!(error.contains(word), "expected `{word}`: {error}");
}

#[test]
fn a_tensor_is_read() {
    let expected = StateTensor {
        name: "w",
        storage: Storage {
            key: "0",
            dtype: Dtype::F32,
            elements: 6,
        },
        offset: 0,
        shape: vec![2, 3],
        strides: vec![3, 1],
    };
    let plain = dict_of(&tensor());
    assert_eq!(read(&plain).unwrap(), [expected]);
    // A parameter is its tensor.
    let parameter = [
        b"ctorch._utils\n_rebuild_parameter\n(",
        &tensor()[..],
        b"\x88ccollections\nOrderedDict\n)RtR",
    ]
    .concat();
    assert_eq!(read(&dict_of(&parameter)).unwrap(), read(&plain).unwrap());
    // Wherever a pickle is cut, it is an error.
    for length in 0..plain.len() {
        assert!(read(&plain[..length]).is_err());
    }
}

#[test]
fn nothing_is_called_that_is_not_a_tensor() {
    for (value, word) in [
        (&b"cos\nsystem\nX\x02\0\0\0id\x85R"[..], "`os.system`"),
        (b"cposix\nsystem\nX\x02\0\0\0id\x85R", "`posix.system`"),
        (b"cbuiltins\neval\n)R", "`builtins.eval`"),
        (b"c__builtin__\ngetattr\n)R", "`__builtin__.getattr`"),
        // The right name of the wrong module.
        (b"cos\nOrderedDict\n)R", "`os.OrderedDict`"),
        (
            b"ctorch.serialization\n_load\n)R",
            "`torch.serialization._load`",
        ),
        (b"(cos\nsystem\nX\x02\0\0\0ido", "`os.system`"),
        (b"(X\x02\0\0\0idios\nsystem\n", "`INST` (0x69)"),
        (
            b"X\x02\0\0\0osX\x06\0\0\0system\x93)R",
            "`STACK_GLOBAL` (0x93)",
        ),
        (b"ccollections\nOrderedDict\n)\x81", "`NEWOBJ` (0x81)"),
        (b"\x82\x01", "`EXT1`"),
        (b"P0\n", "`PERSID`"),
        (b"\xff", "`unknown` (0xff)"),
        (
            b"ccollections\nOrderedDict\nK\x01\x85R",
            "`OrderedDict` with other arguments",
        ),
        (b"ctorch\nFloatStorage\n)R", "with other arguments"),
        (b"X\x01\0\0\0f)R", "calls what is no function"),
        (b"X\x01\0\0\0fQ", "no storage"),
        (b"ccollections\nOrderedDict\n}b", "attributes"),
    ] {
        refused(&dict_of(value), word);
    }
}

#[test]
fn what_is_not_a_dictionary_of_tensors_is_named() {
    refused(b"\x80\x02N.", "no dictionary");
    refused(&dict_of(b"K\x07"), "entry `w` is not a tensor");
    refused(&dict_of(b"}"), "entry `w` is not a tensor");
    refused(b"\x80\x04}.", "protocol `4`");
    refused(b"\x80\x02}K\x01K\x02s.", "not a text");
    refused(b"\x80\x02}(X\x01\0\0\0wu.", "without a value");
    refused(b"\x80\x02K\x01X\x01\0\0\0wK\x02s.", "no dictionary");
    refused(b"\x80\x02h\x05.", "recalls `5`");
    refused(b"\x80\x02q\x05.", "stack");
    refused(b"\x80\x02t.", "stack");
    refused(b"\x80\x02X\x01\0\0\0\xff.", "not UTF-8");
    refused(b"\x80\x02\x8a\x09123456789.", "`9` bytes");
    let negative = tensor();
    let at = negative
        .windows(4)
        .position(|w| w == b"K\x00K\x02")
        .unwrap();
    let negative = [&negative[..at], b"J\xff\xff\xff\xff", &negative[at + 2..]].concat();
    refused(&dict_of(&negative), "offset of `-1`");
}

#[test]
fn long_integers_are_read() {
    let number = |bytes: &[u8]| {
        let mut machine = Machine {
            bytes,
            ..Machine::default()
        };
        match machine.run().unwrap() {
            Value::Int(number) => number,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(number(b"\x8a\x00."), 0);
    assert_eq!(number(b"\x8a\x01\xff."), -1);
    assert_eq!(number(b"\x8a\x05\x00\x00\x00\x00\x01."), 1 << 32);
    assert_eq!(
        number(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f."),
        i64::MAX
    );
}

#[test]
fn what_would_take_much_memory_is_refused() {
    // A text that claims four gigabytes, and one that is there but too long.
    refused(b"\x80\x02X\xff\xff\xff\xff.", "limit of `4096`");
    let long = [b"\x80\x02X\x01\x10\0\0", &[b'a'; 4097][..], b"."].concat();
    refused(&long, "limit of `4096`");
    refused(&[b"c", &[b'a'; 9000][..]].concat(), "without an end");
    refused(&vec![b'('; MAX_BYTES + 1], "limit of `16777216`");
    refused(&vec![b'('; MAX_BYTES], "stacks more than");
    refused(&[b')'; MAX_VALUES + 1], "more than `1048576` values");
    refused(&[b'}'; MAX_VALUES + 1], "more than `1048576` values");
    // One tuple inside the other: neither running nor dropping it takes recursion.
    let mut nested = b"\x80\x02)".to_vec();
    nested.resize(MAX_VALUES, 0x85);
    refused(&nested, "more than `1048576` values");
    let mut nested = b"\x80\x02)".to_vec();
    nested.resize(MAX_VALUES / 2, 0x85);
    nested.push(b'.');
    refused(&nested, "no dictionary");
    // Many numbers in the memo, for one value.
    let mut memo = b"\x80\x02N".to_vec();
    for key in 0..=MAX_VALUES as u32 {
        memo.push(b'r');
        memo.extend(key.to_le_bytes());
    }
    refused(&memo, "remembers more than");
    // Doubling: each tuple holds the one before twice. Nobody walks through it.
    let mut doubled = b"\x80\x02)q\0".to_vec();
    for _ in 0..1000 {
        doubled.extend(b"h\0h\0\x86q\0");
    }
    doubled.push(b'.');
    refused(&doubled, "no dictionary");
    // A view of more axes than any weight has.
    let mut axes = b"(".to_vec();
    (0..9).for_each(|_| axes.extend(b"K\x01"));
    axes.push(b't');
    let wide = tensor();
    let shape = wide
        .windows(5)
        .position(|w| w == b"K\x02K\x03\x86")
        .unwrap();
    let wide = [&wide[..shape], &axes, &wide[shape + 5..]].concat();
    refused(&dict_of(&wide), "`9` axes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any bytes at all, most of them opcodes, end with an answer.
    #[test]
    fn any_bytes_end_with_an_answer(
        parts in prop::collection::vec(
            prop_oneof![
                prop::sample::select(
                    b"(tRQsub}N)XcKMJqrhj.\x80\x85\x86\x87\x88\x89\x8a\x02\x00\n".to_vec()
                ).prop_map(|byte| vec![byte]),
                any::<u8>().prop_map(|byte| vec![byte]),
                Just(tensor()),
                Just(storage("LongStorage", 3)),
                Just(b"ccollections\nOrderedDict\n)R".to_vec()),
                Just(b"X\x01\0\0\0w".to_vec()),
            ],
            0..60,
        ),
    ) {
        let _ = read(&parts.concat());
    }
}
