//! What a pickle may name, and what its refused opcodes are called.

use safetensors::tensor::Dtype;

/// What may be named. Naming one gives this value and nothing else.
#[derive(Debug, Clone, Copy)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

/// Module, name and meaning of every global that may be named.
pub(super) const GLOBALS: [(&str, &str, Global); 13] = [
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    (
        "torch._utils",
        "_rebuild_parameter",
        Global::RebuildParameter,
    ),
    ("torch", "FloatStorage", Global::Storage(Dtype::F32)),
    ("torch", "HalfStorage", Global::Storage(Dtype::F16)),
    ("torch", "BFloat16Storage", Global::Storage(Dtype::BF16)),
    ("torch", "DoubleStorage", Global::Storage(Dtype::F64)),
    ("torch", "LongStorage", Global::Storage(Dtype::I64)),
    ("torch", "IntStorage", Global::Storage(Dtype::I32)),
    ("torch", "ShortStorage", Global::Storage(Dtype::I16)),
    ("torch", "CharStorage", Global::Storage(Dtype::I8)),
    ("torch", "ByteStorage", Global::Storage(Dtype::U8)),
    ("torch", "BoolStorage", Global::Storage(Dtype::BOOL)),
];

/// Opcodes that other pickles have, for the message that refuses them.
const REFUSED: [(u8, &str); 24] = [
    (b'i', "INST"),
    (b'o', "OBJ"),
    (0x81, "NEWOBJ"),
    (0x92, "NEWOBJ_EX"),
    (0x93, "STACK_GLOBAL"),
    (0x82, "EXT1"),
    (0x83, "EXT2"),
    (0x84, "EXT4"),
    (0x95, "FRAME"),
    (b'P', "PERSID"),
    (b'I', "INT"),
    (b'L', "LONG"),
    (0x8b, "LONG4"),
    (b'F', "FLOAT"),
    (b'G', "BINFLOAT"),
    (b'S', "STRING"),
    (b'T', "BINSTRING"),
    (b'U', "SHORT_BINSTRING"),
    (b'V', "UNICODE"),
    (0x8c, "SHORT_BINUNICODE"),
    (b'C', "SHORT_BINBYTES"),
    (b'B', "BINBYTES"),
    (b']', "EMPTY_LIST"),
    (b'd', "DICT"),
];

/// What to say of an opcode that is not known.
pub(super) fn refusal(opcode: u8) -> String {
    let name = REFUSED.iter().find(|(known, _)| *known == opcode);
    let name = name.map_or("unknown", |(_, name)| *name);
    format!(
        "has the opcode `{name}` (0x{opcode:02x}), which a dictionary of tensors does not need; it \
         was not run"
    )
}
