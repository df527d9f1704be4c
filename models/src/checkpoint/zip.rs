//! Where the entries of a zip file lie, for files that store and do not compress them, as PyTorch
//! does. Format: PKWARE's APPNOTE 6.3, with the 64-bit extension that files over 4 GiB have.

use std::collections::HashMap;
use std::ops::Range;

/// An entry of the table of contents, without its variable part.
const ENTRY: usize = 46;
const ENTRY_MAGIC: u32 = 0x0201_4b50;
/// What stands before the bytes of an entry, without its variable part.
const LOCAL: usize = 30;
const LOCAL_MAGIC: u32 = 0x0403_4b50;
/// What a file ends with, but for a comment of up to 64 KiB.
const END: usize = 22;
const END_MAGIC: u32 = 0x0605_4b50;
const END_64: usize = 56;
const END_64_MAGIC: u32 = 0x0606_4b50;
const LOCATOR_64: usize = 20;
const LOCATOR_64_MAGIC: u32 = 0x0706_4b50;
/// Number of the extra field that has the 64-bit sizes.
const EXTRA_64: u64 = 1;

/// Name → bytes in the file of every entry.
///
/// # Errors
/// A message when the file is no zip file, is cut off, repeats a name, or has an entry that is
/// compressed or encrypted.
pub(super) fn stored_entries(file: &[u8]) -> Result<HashMap<&str, Range<usize>>, String> {
    let (table, count) = table_of_contents(file).ok_or("is cut off or is no zip file")?;
    let mut entries = HashMap::new();
    let mut at = 0;
    for _ in 0..count {
        let entry = Entry::read(table, at).ok_or("has a damaged table of contents")?;
        at = entry.next;
        let name = std::str::from_utf8(entry.name)
            .map_err(|_| "has an entry whose name is not UTF-8".to_owned())?;
        if entry.is_encrypted || entry.method != 0 {
            return Err(format!("has a compressed or encrypted entry `{name}`"));
        }
        let range = entry
            .range(file)
            .ok_or_else(|| format!("has an entry `{name}` that lies outside the file"))?;
        if entries.insert(name, range).is_some() {
            return Err(format!("has two entries `{name}`"));
        }
    }
    Ok(entries)
}

/// The table of contents, and how many entries it claims.
fn table_of_contents(file: &[u8]) -> Option<(&[u8], u64)> {
    let last = file.len().checked_sub(END)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let end = (first..=last)
        .rev()
        .find(|&at| number(file, at, 4) == Some(u64::from(END_MAGIC)))?;
    let mut count = number(file, end + 10, 2)?;
    let mut size = number(file, end + 12, 4)?;
    let mut start = number(file, end + 16, 4)?;
    if let Some(end) = end_64(file, end) {
        count = number(file, end + 32, 8)?;
        size = number(file, end + 40, 8)?;
        start = number(file, end + 48, 8)?;
    }
    Some((slice(file, start, size)?, count))
}

/// Where the 64-bit form of the end is, in a file that has one.
fn end_64(file: &[u8], end: usize) -> Option<usize> {
    let locator = end.checked_sub(LOCATOR_64)?;
    if number(file, locator, 4)? != u64::from(LOCATOR_64_MAGIC) {
        return None;
    }
    let at = usize::try_from(number(file, locator + 8, 8)?).ok()?;
    let fits = at.checked_add(END_64)? <= file.len();
    (fits && number(file, at, 4)? == u64::from(END_64_MAGIC)).then_some(at)
}

struct Entry<'a> {
    name: &'a [u8],
    method: u64,
    is_encrypted: bool,
    size: u64,
    local: u64,
    // Where the next one begins.
    next: usize,
}

impl<'a> Entry<'a> {
    fn read(table: &'a [u8], at: usize) -> Option<Self> {
        if number(table, at, 4)? != u64::from(ENTRY_MAGIC) {
            return None;
        }
        let length = |offset: usize| Some(number(table, at + offset, 2)? as usize);
        let (name, extra, comment) = (length(28)?, length(30)?, length(32)?);
        let extra_at = at + ENTRY + name;
        let mut entry = Self {
            name: table.get(at + ENTRY..extra_at)?,
            method: number(table, at + 10, 2)?,
            is_encrypted: number(table, at + 8, 2)? & 1 != 0,
            size: number(table, at + 20, 4)?,
            local: number(table, at + 42, 4)?,
            next: extra_at + extra + comment,
        };
        let full_size = number(table, at + 24, 4)?;
        entry.read_64(table.get(extra_at..extra_at + extra)?, full_size)?;
        Some(entry)
    }

    /// Takes from the extra fields what did not fit into 32 bits: the sizes before and after
    /// compression and the place, in this order, each only where its 32 bits are all ones.
    fn read_64(&mut self, mut extra: &[u8], full_size: u64) -> Option<()> {
        let full = u64::from(u32::MAX);
        while extra.len() >= 4 {
            let length = number(extra, 2, 2)? as usize;
            let body = extra.get(4..4 + length)?;
            if number(extra, 0, 2)? == EXTRA_64 {
                let mut at = if full_size == full { 8 } else { 0 };
                for value in [&mut self.size, &mut self.local] {
                    if *value == full {
                        *value = number(body, at, 8)?;
                        at += 8;
                    }
                }
            }
            extra = &extra[4 + length..];
        }
        Some(())
    }

    /// The bytes of the entry.
    fn range(&self, file: &[u8]) -> Option<Range<usize>> {
        let local = usize::try_from(self.local).ok()?;
        if number(file, local, 4)? != u64::from(LOCAL_MAGIC) {
            return None;
        }
        let variable = number(file, local + 26, 2)? + number(file, local + 28, 2)?;
        let start = self.local + LOCAL as u64 + variable;
        slice(file, start, self.size)?;
        let start = start as usize;
        Some(start..start + self.size as usize)
    }
}

/// A little-endian number of `width` bytes; `None` past the end.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    let digits = bytes.iter().rev();
    Some(digits.fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

fn slice(bytes: &[u8], start: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(start).ok()?;
    let length = usize::try_from(length).ok()?;
    bytes.get(start..start.checked_add(length)?)
}
