//! The pickle that `torch.save` writes for a dictionary of tensors, and nothing more of the pickle
//! language: it calls nothing, imports nothing and builds no other object. Opcodes are those of
//! CPython's `pickletools`, globals those of `torch._utils`; any other is refused by name.

mod names;

use std::collections::HashMap;

use safetensors::tensor::Dtype;

use names::{GLOBALS, Global, refusal};

/// The pickle of a model with ten thousand tensors has about 3 MB.
const MAX_BYTES: usize = 16 << 20;
/// Most values on the stack, in the memo, and in all tuples and dictionaries.
const MAX_VALUES: usize = 1 << 20;
/// Longest text and longest name of a global, in bytes.
const MAX_TEXT: usize = 4096;
/// PyTorch's own limit is 64; weights have up to four.
const MAX_AXES: usize = 8;

/// A tensor of the dictionary: a view of a storage.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StateTensor<'a> {
    /// Its name in the dictionary.
    pub(super) name: &'a str,
    /// Which storage it looks at.
    pub(super) storage: Storage<'a>,
    /// Its first element in the storage.
    pub(super) offset: usize,
    /// Lengths of the axes, outermost first.
    pub(super) shape: Vec<usize>,
    /// Elements from one index of an axis to the next.
    pub(super) strides: Vec<usize>,
}

/// Numbers of one type, which lie in a file of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Storage<'a> {
    /// Name of the file.
    pub(super) key: &'a str,
    /// Type of the numbers.
    pub(super) dtype: Dtype,
    /// How many there are.
    pub(super) elements: usize,
}

/// Reads a dictionary of tensors.
///
/// # Errors
/// A message that names what is not known, or where the pickle is damaged.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<StateTensor<'_>>, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!(
            "its pickle has `{}` bytes, more than the limit of `{MAX_BYTES}`",
            bytes.len()
        ));
    }
    let mut machine = Machine {
        bytes,
        ..Machine::default()
    };
    let top = machine
        .run()
        .map_err(|message| format!("its pickle {message} (byte `{}`)", machine.at))?;
    let Value::Dict(index) = top else {
        return Err("its pickle holds no dictionary of tensors".to_owned());
    };
    let entries = machine.dicts[index].iter();
    entries.map(|entry| machine.state_tensor(*entry)).collect()
}

type Result<T, E = String> = std::result::Result<T, E>;

/// Tuples, dictionaries and tensors are numbers of entries in the machine's tables, so that values
/// can be copied freely and a deeply nested one takes no recursion to drop.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Mark,
    None,
    Bool,
    Int(i64),
    Text(&'a str),
    Global(Global),
    Tuple(usize),
    Dict(usize),
    Storage(Storage<'a>),
    Tensor(usize),
}

/// A tensor without its name; the last two are tuples.
#[derive(Debug, Clone, Copy)]
struct View<'a> {
    storage: Storage<'a>,
    offset: usize,
    shape: usize,
    strides: usize,
}

#[derive(Debug, Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    // The next byte.
    at: usize,
    stack: Vec<Value<'a>>,
    memo: HashMap<u32, Value<'a>>,
    tuples: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(&'a str, Value<'a>)>>,
    views: Vec<View<'a>>,
    // Values in `tuples`, `dicts` and `views` together.
    kept: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value<'a>> {
        loop {
            let [opcode] = self.take()?;
            match opcode {
                b'.' => return self.pop(),
                0x80 => self.protocol()?,
                b'(' => self.push(Value::Mark)?,
                b'N' => self.push(Value::None)?,
                0x88 | 0x89 => self.push(Value::Bool)?,
                b'K' | b'M' | b'J' | 0x8a => self.integer(opcode)?,
                b'X' => self.text()?,
                b'c' => self.global()?,
                b')' => self.tuple(0)?,
                0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?,
                b't' => {
                    let items = self.since_mark()?;
                    self.tuple(items)?;
                }
                b'}' => self.dict()?,
                b's' => self.set_items(2)?,
                b'u' => {
                    let items = self.since_mark()?;
                    self.set_items(items)?;
                }
                b'b' => self.build()?,
                b'R' => self.reduce()?,
                b'Q' => self.persistent_id()?,
                b'q' | b'r' | b'h' | b'j' => self.memo(opcode)?,
                other => return Err(refusal(other)),
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take_slice(N)?;
        bytes.try_into().map_err(|_| CUT_OFF.to_owned())
    }

    fn take_slice(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).ok_or(CUT_OFF)?;
        let bytes = self.bytes.get(self.at..end).ok_or(CUT_OFF)?;
        self.at = end;
        Ok(bytes)
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.stack.len() == MAX_VALUES {
            return Err(format!("stacks more than `{MAX_VALUES}` values"));
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        self.stack.pop().ok_or_else(|| EMPTY.to_owned())
    }

    /// Sees to it that no more than the limit is kept.
    fn keep(&mut self, values: usize) -> Result<()> {
        self.kept += values;
        if self.kept > MAX_VALUES {
            return Err(format!("has more than `{MAX_VALUES}` values"));
        }
        Ok(())
    }

    /// How many values are above the topmost mark, which is taken away.
    fn since_mark(&mut self) -> Result<usize> {
        let is_mark = |value: &Value<'_>| matches!(value, Value::Mark);
        let mark = self.stack.iter().rposition(is_mark).ok_or(EMPTY)?;
        self.stack.remove(mark);
        Ok(self.stack.len() - mark)
    }

    /// The values on top of the stack, which are taken away.
    fn pop_many(&mut self, count: usize) -> Result<Vec<Value<'a>>> {
        let start = self.stack.len().checked_sub(count).ok_or(EMPTY)?;
        Ok(self.stack.split_off(start))
    }

    fn protocol(&mut self) -> Result<()> {
        match self.take()? {
            [2 | 3] => Ok(()),
            [other] => Err(format!("has protocol `{other}`; known are `2` and `3`")),
        }
    }

    fn integer(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'K' => i64::from(u8::from_le_bytes(self.take()?)),
            b'M' => i64::from(u16::from_le_bytes(self.take()?)),
            b'J' => i64::from(i32::from_le_bytes(self.take()?)),
            _ => {
                let [length] = self.take()?;
                let bytes = self.take_slice(usize::from(length))?;
                if bytes.len() > 8 {
                    return Err(format!("has an integer of `{length}` bytes"));
                }
                // Two's complement of as many bytes as needed: the last one's sign goes on.
                let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide[..bytes.len()].copy_from_slice(bytes);
                i64::from_le_bytes(wide)
            }
        };
        self.push(Value::Int(value))
    }

    fn text(&mut self) -> Result<()> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        if length > MAX_TEXT {
            return Err(format!(
                "has a text of `{length}` bytes, more than the limit of `{MAX_TEXT}`"
            ));
        }
        let bytes = self.take_slice(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| "has a text that is not UTF-8")?;
        self.push(Value::Text(text))
    }

    fn global(&mut self) -> Result<()> {
        let (module, name) = (self.line()?, self.line()?);
        let known = GLOBALS
            .iter()
            .find(|(known_module, known_name, _)| (*known_module, *known_name) == (module, name));
        match known {
            Some((_, _, global)) => self.push(Value::Global(*global)),
            None => Err(format!(
                "names `{module}.{name}`, which is no part of a dictionary of tensors; it was not \
                 run"
            )),
        }
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let rest = &rest[..rest.len().min(MAX_TEXT)];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = self.take_slice(end.ok_or("has a name without an end")? + 1)?;
        std::str::from_utf8(&line[..line.len() - 1])
            .map_err(|_| "has a name that is not UTF-8".to_owned())
    }

    fn tuple(&mut self, items: usize) -> Result<()> {
        self.keep(items + 1)?;
        let items = self.pop_many(items)?;
        self.tuples.push(items);
        self.push(Value::Tuple(self.tuples.len() - 1))
    }

    fn dict(&mut self) -> Result<()> {
        self.keep(1)?;
        self.dicts.push(Vec::new());
        self.push(Value::Dict(self.dicts.len() - 1))
    }

    /// Puts keys and values, which alternate on the stack, into the dictionary below them.
    fn set_items(&mut self, items: usize) -> Result<()> {
        self.keep(items / 2)?;
        let items = self.pop_many(items)?;
        let Some(&Value::Dict(index)) = self.stack.last() else {
            return Err("puts entries into what is no dictionary".to_owned());
        };
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err("has a key without a value".to_owned());
        };
        for &[key, value] in pairs {
            let Value::Text(key) = key else {
                return Err("has a dictionary with a key that is not a text".to_owned());
            };
            self.dicts[index].push((key, value));
        }
        Ok(())
    }

    /// Attributes of a dictionary: PyTorch keeps versions of its modules there. They are dropped.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        match (self.stack.last(), state) {
            (Some(Value::Dict(_)), Value::Dict(_)) => Ok(()),
            _ => Err("gives attributes to what is no dictionary".to_owned()),
        }
    }

    /// Stands for a call: of the few things that may be named, each has its meaning here.
    fn reduce(&mut self) -> Result<()> {
        let arguments = self.pop()?;
        let (Value::Global(global), Value::Tuple(arguments)) = (self.pop()?, arguments) else {
            return Err("calls what is no function".to_owned());
        };
        match (global, &self.tuples[arguments][..]) {
            (Global::OrderedDict, []) => self.dict(),
            (Global::RebuildParameter, &[tensor @ Value::Tensor(_), Value::Bool, _]) => {
                self.push(tensor)
            }
            (
                Global::RebuildTensor,
                &[
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(shape),
                    Value::Tuple(strides),
                    Value::Bool,
                    Value::Dict(_),
                ],
            ) => {
                let view = View {
                    storage,
                    offset: size(offset, "offset")?,
                    shape,
                    strides,
                };
                self.keep(1)?;
                self.views.push(view);
                self.push(Value::Tensor(self.views.len() - 1))
            }
            _ => Err(format!("calls `{global:?}` with other arguments")),
        }
    }

    /// `('storage', type, key, device, elements)`
    fn persistent_id(&mut self) -> Result<()> {
        let id = self.pop()?;
        let parts = match id {
            Value::Tuple(index) => &self.tuples[index][..],
            _ => &[],
        };
        let &[
            Value::Text("storage"),
            Value::Global(Global::Storage(dtype)),
            Value::Text(key),
            Value::Text(_),
            Value::Int(elements),
        ] = parts
        else {
            return Err("refers to what is no storage".to_owned());
        };
        let elements = size(elements, "number of elements")?;
        self.push(Value::Storage(Storage {
            key,
            dtype,
            elements,
        }))
    }

    /// Remembers the value on top, or recalls one.
    fn memo(&mut self, opcode: u8) -> Result<()> {
        let key = match opcode {
            b'q' | b'h' => u32::from(u8::from_le_bytes(self.take()?)),
            _ => u32::from_le_bytes(self.take()?),
        };
        if matches!(opcode, b'h' | b'j') {
            let value = self.memo.get(&key).copied();
            return self.push(value.ok_or_else(|| format!("recalls `{key}`, which it never had"))?);
        }
        if self.memo.len() == MAX_VALUES {
            return Err(format!("remembers more than `{MAX_VALUES}` values"));
        }
        let top = *self.stack.last().ok_or(EMPTY)?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn state_tensor(&self, (name, value): (&'a str, Value<'a>)) -> Result<StateTensor<'a>> {
        let Value::Tensor(index) = value else {
            return Err(format!("its entry `{name}` is not a tensor"));
        };
        let view = self.views[index];
        let lengths = |tuple: usize| -> Result<Vec<usize>> {
            let items = &self.tuples[tuple];
            if items.len() > MAX_AXES {
                return Err(format!("its tensor `{name}` has `{}` axes", items.len()));
            }
            let length = |item: &Value<'_>| match item {
                Value::Int(length) => size(*length, "length"),
                _ => Err("has a length that is not a whole number".to_owned()),
            };
            let lengths: Result<_> = items.iter().map(length).collect();
            lengths.map_err(|message| format!("its tensor `{name}` {message}"))
        };
        Ok(StateTensor {
            name,
            storage: view.storage,
            offset: view.offset,
            shape: lengths(view.shape)?,
            strides: lengths(view.strides)?,
        })
    }
}

const CUT_OFF: &str = "is cut off";
const EMPTY: &str = "takes more from its stack than is there";

fn size(number: i64, what: &str) -> Result<usize> {
    usize::try_from(number).map_err(|_| format!("has a {what} of `{number}`"))
}

#[cfg(test)]
mod tests;
