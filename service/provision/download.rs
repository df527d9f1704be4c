//! One file from one address: resumed where an earlier try broke off, hashed while it arrives,
//! and moved to its place only when it is whole and right.

use std::{
    fs,
    io::{self, Read, Seek, Write},
    path::Path,
    thread,
};

use ureq::http::HeaderMap;

use super::{
    digest::{CHUNK_BYTES, Digest, Hasher},
    error::SourceError,
    http::{Client, Reply, Request},
    progress::{Progress, Transfer},
    secret::Secret,
};

/// Tries in a row that bring nothing new before the file is given up.
const FRUITLESS_TRIES_MAX: u32 = 5;
/// Fewer new bytes than this do not count as getting on, so that the number of tries is bounded.
const WORTHWHILE_BYTES: u64 = 256 * 1024;

/// A part this large takes a noticeable time to hash.
const SLOW_TO_HASH_BYTES: u64 = 256 * 1024 * 1024;

/// A file to fetch.
pub(super) struct Download<'a> {
    /// What the file is called in progress and messages.
    pub label: &'a str,
    /// Its address.
    pub url: &'a str,
    /// Sent to the host of `url` only.
    pub token: Option<&'a Secret>,
    /// Its length, where the listing says so.
    pub bytes: Option<u64>,
    /// Its hash, where the listing says so.
    pub digest: Option<Digest>,
    /// Puts a status other than success into words.
    pub explain: fn(u16, &HeaderMap) -> SourceError,
}

/// Fetches the file to `target` by way of `part`, which is kept when it is unfinished.
pub(super) fn download(
    client: &Client,
    download: &Download<'_>,
    part: &Path,
    target: &Path,
    progress: &Progress,
) -> Result<(), SourceError> {
    let (mut fruitless, mut wrong_before) = (0, false);
    loop {
        let before = part_bytes(part);
        match transfer(client, download, part, progress) {
            Ok(()) => break,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::WrongContent(error)) => {
                // Once may be a bad resume or a damaged disk block; twice is the server.
                remove(part)?;
                if wrong_before {
                    return Err(error);
                }
                wrong_before = true;
            }
            Err(Failure::Interrupted(error)) => {
                let gained = part_bytes(part).saturating_sub(before);
                fruitless = if gained >= WORTHWHILE_BYTES {
                    0
                } else {
                    fruitless + 1
                };
                if fruitless >= FRUITLESS_TRIES_MAX {
                    let reason = format!(
                        "{} ({FRUITLESS_TRIES_MAX} tries; what has arrived of `{}` is kept)",
                        error.reason, download.label
                    );
                    return Err(SourceError::new(reason));
                }
                progress.note(&format!(
                    "{}: {}; trying again",
                    download.label, error.reason
                ));
                thread::sleep(client.retry_delay() * 2u32.pow(fruitless));
            }
        }
    }
    fs::rename(part, target).map_err(|error| SourceError::io("move a file to", target, &error))
}

/// Why one try did not bring the whole file.
enum Failure {
    /// Another try may go on from here.
    Interrupted(SourceError),
    /// All bytes are there and they are the wrong ones.
    WrongContent(SourceError),
    /// Trying again would not help.
    Final(SourceError),
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::Final(error)
    }
}

fn transfer(
    client: &Client,
    download: &Download<'_>,
    part: &Path,
    progress: &Progress,
) -> Result<(), Failure> {
    let checking = (part_bytes(part) > SLOW_TO_HASH_BYTES)
        .then(|| progress.task(&format!("checking what has arrived of {}", download.label)));
    let mut partial = Partial::open(part, download)?;
    drop(checking);
    let mut bar = progress.transfer(download.label, download.bytes, partial.bytes);
    if download.bytes != Some(partial.bytes) || partial.bytes == 0 {
        let request = Request {
            url: download.url,
            token: download.token,
            from: partial.bytes,
        };
        let reply = client.get(&request).map_err(Failure::Interrupted)?;
        let bytes = accept(&reply, download, &mut partial)?;
        bar.set(partial.bytes);
        receive(reply, &mut partial, bytes, &mut bar)?;
    }
    partial.verify(download)?;
    bar.finish();
    Ok(())
}

/// Decides whether a reply goes on where the partial file ends or begins anew, and returns the
/// length the whole file will have, when that is known.
fn accept(
    reply: &Reply,
    download: &Download<'_>,
    partial: &mut Partial,
) -> Result<Option<u64>, Failure> {
    let range = reply.content_range();
    let rest = download.bytes.map(|bytes| bytes - partial.bytes);
    let goes_on = match range {
        Some((first, _)) => first == partial.bytes,
        None => rest.is_some() && reply.content_length() == rest,
    };
    match reply.status {
        // ModelScope honours a range and may still answer 200.
        200 | 206 if goes_on => {}
        200 => partial.restart()?,
        206 | 416 => {
            partial.restart()?;
            let reason = format!("`{}` could not be resumed", download.label);
            return Err(Failure::Interrupted(SourceError::new(reason)));
        }
        status @ (408 | 429 | 500..) => {
            let error = (download.explain)(status, &reply.headers);
            return Err(Failure::Interrupted(error));
        }
        status => return Err(Failure::Final((download.explain)(status, &reply.headers))),
    }
    let announced = reply.content_length().map(|rest| partial.bytes + rest);
    let announced = range.and_then(|(_, total)| total).or(announced);
    match (download.bytes, announced) {
        (Some(expected), Some(announced)) if expected != announced => {
            let reason = format!(
                "the server has {announced} bytes for `{}`, its listing says {expected}",
                download.label
            );
            Err(Failure::WrongContent(SourceError::new(reason)))
        }
        (expected, announced) => Ok(expected.or(announced)),
    }
}

fn receive(
    reply: Reply,
    partial: &mut Partial,
    bytes: Option<u64>,
    bar: &mut Transfer<'_>,
) -> Result<(), Failure> {
    let mut body = reply.body.into_reader();
    let mut chunk = vec![0; CHUNK_BYTES];
    let broke_off = |reason: String| Failure::Interrupted(SourceError::new(reason));
    loop {
        let read = match body.read(&mut chunk) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broke_off(format!("the connection broke off: {error}"))),
        };
        if read == 0 {
            break;
        }
        partial.append(&chunk[..read])?;
        bar.set(partial.bytes);
        if bar.is_cancelled() {
            let reason = "it was cancelled; what has arrived is kept";
            return Err(Failure::Final(SourceError::new(reason)));
        }
        if bytes.is_some_and(|bytes| partial.bytes > bytes) {
            return Err(Failure::WrongContent(SourceError::new(
                "more bytes came than announced",
            )));
        }
    }
    match bytes {
        Some(bytes) if partial.bytes < bytes => Err(broke_off(format!(
            "the connection ended after {} of {bytes} bytes",
            partial.bytes
        ))),
        _ => Ok(()),
    }
}

/// The unfinished file, with the hash of what is in it.
struct Partial<'a> {
    path: &'a Path,
    file: fs::File,
    bytes: u64,
    digest: Option<&'a Digest>,
    hasher: Option<Hasher>,
}

impl<'a> Partial<'a> {
    /// Opens what an earlier try left, or a new file.
    fn open(path: &'a Path, download: &'a Download<'_>) -> Result<Self, SourceError> {
        let parent = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|error| SourceError::io("create", parent, &error))?;
        let open = |error| SourceError::io("open", path, &error);
        let mut file = fs::OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(path)
            .map_err(open)?;
        let bytes = file.metadata().map_err(open)?.len();
        let digest = download.digest.as_ref();
        let mut hasher = digest.map(Hasher::new);
        let too_long = download.bytes.is_some_and(|expected| bytes > expected);
        if let Some(hasher) = hasher.as_mut().filter(|_| !too_long) {
            hasher
                .update_from(&mut file)
                .map_err(|error| SourceError::io("read", path, &error))?;
        }
        let mut partial = Self {
            path,
            file,
            bytes,
            digest,
            hasher,
        };
        // Without a hash at the end, nobody could tell a wrong continuation from a right one.
        if too_long || partial.hasher.is_none() {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn restart(&mut self) -> Result<(), SourceError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|error| SourceError::io("empty", self.path, &error))?;
        self.bytes = 0;
        self.hasher = self.digest.map(Hasher::new);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        self.file
            .write_all(bytes)
            .map_err(|error| SourceError::io("write", self.path, &error))?;
        self.bytes += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(())
    }

    /// Compares length and hash with what is expected, and sees the bytes onto the disk.
    fn verify(self, download: &Download<'_>) -> Result<(), Failure> {
        if let (Some(digest), Some(hasher)) = (self.digest, self.hasher) {
            let actual = hasher.finish();
            if actual != digest.hex() {
                let reason = format!(
                    "{} of `{}` is `{actual}`, expected `{}`",
                    digest.name(),
                    download.label,
                    digest.hex()
                );
                return Err(Failure::WrongContent(SourceError::new(reason)));
            }
        }
        let synced = self.file.sync_all();
        Ok(synced.map_err(|error| SourceError::io("write", self.path, &error))?)
    }
}

fn part_bytes(part: &Path) -> u64 {
    fs::metadata(part).map_or(0, |metadata| metadata.len())
}

fn remove(part: &Path) -> Result<(), SourceError> {
    match fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SourceError::io("delete", part, &error))
        }
        _ => Ok(()),
    }
}
