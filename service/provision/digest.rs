//! The two hashes by which hubs name file contents, computed while the bytes pass by.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Bytes per read when hashing or copying a file.
pub(super) const CHUNK_BYTES: usize = 128 * 1024;

/// The content a file must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// sha256 of the content in lower-case hexadecimal: git-LFS object ids and wheels.
    Sha256(String),
    /// Git's blob id: sha1 over a header with the length, then the content.
    GitBlob {
        /// The blob id in lower-case hexadecimal.
        sha1: String,
        /// Length of the content, which is part of what is hashed.
        bytes: u64,
    },
}

impl Digest {
    /// The kind of hash a hub's ETag or object id is, told by its length.
    pub fn of_object_id(id: &str, bytes: Option<u64>) -> Option<Self> {
        let id = id.to_ascii_lowercase();
        let is_hex = id.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (id.len(), bytes) {
            (64, _) if is_hex => Some(Self::Sha256(id)),
            (40, Some(bytes)) if is_hex => Some(Self::GitBlob { sha1: id, bytes }),
            _ => None,
        }
    }

    /// The expected hash in lower-case hexadecimal.
    pub fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitBlob { sha1: hex, .. } => hex,
        }
    }

    /// What the hash is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::GitBlob { .. } => "git blob id",
        }
    }
}

/// A hash under way.
pub(super) enum Hasher {
    Sha256(Sha256),
    Sha1(Sha1),
}

impl Hasher {
    /// Begins the kind of hash that `digest` is.
    pub fn new(digest: &Digest) -> Self {
        match digest {
            Digest::Sha256(_) => Self::Sha256(Sha256::new()),
            Digest::GitBlob { bytes, .. } => {
                Self::Sha1(Sha1::new_with_prefix(format!("blob {bytes}\0")))
            }
        }
    }

    /// Hashes the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha1(hasher) => hasher.update(bytes),
        }
    }

    /// Hashes everything a reader has left.
    pub fn update_from(&mut self, reader: &mut impl Read) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match reader.read(&mut chunk)? {
                0 => return Ok(()),
                bytes => self.update(&chunk[..bytes]),
            }
        }
    }

    /// The hash in lower-case hexadecimal.
    pub fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Sha1(hasher) => hex(&hasher.finalize()),
        }
    }

    /// The hash of a file, of the kind that `digest` is.
    pub fn of_file(digest: &Digest, path: &Path) -> io::Result<String> {
        let mut hasher = Self::new(digest);
        hasher.update_from(&mut fs::File::open(path)?)?;
        Ok(hasher.finish())
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}
