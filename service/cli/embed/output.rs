//! Vectors as JSON, JSON lines, or a NumPy file of float32. A file appears whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use retort_models::{MultiVector, SparseVector};
use serde::{Serialize, Serializer};

use crate::cli::Failure;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// One array of objects with `index`, `text` and `embedding` (or `sparse_embedding`,
    /// `multi_vector_embedding`)
    Json,
    /// One such object a line
    Jsonl,
    /// A NumPy file of dense vectors, float32, one row a text; needs --output
    Npy,
}

/// A text and its vector.
pub struct Row<'a> {
    /// The text.
    pub text: &'a str,
    /// What it became.
    pub vector: Values<'a>,
}

/// The vectors of one text, under the names that the service has for them.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Values<'a> {
    /// `[dimensions]`
    #[serde(rename = "embedding")]
    Dense(&'a [f32]),
    /// Weights by vocabulary entry.
    #[serde(rename = "sparse_embedding", serialize_with = "by_id")]
    Sparse(&'a SparseVector),
    /// `[tokens, width]`
    #[serde(rename = "multi_vector_embedding", serialize_with = "by_token")]
    MultiVector(&'a MultiVector),
}

fn by_id<S: Serializer>(sparse: &&SparseVector, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(sparse.ids.iter().zip(&sparse.weights))
}

fn by_token<S: Serializer>(vectors: &&MultiVector, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(vectors.rows())
}

/// Writes rows, in the order in which they come.
pub struct Writer {
    sink: Sink,
    format: OutputFormat,
    rows: usize,
    dimensions: usize,
}

enum Sink {
    Stdout(BufWriter<io::Stdout>),
    File {
        file: BufWriter<File>,
        unfinished: Unfinished,
        finished: PathBuf,
    },
}

/// The file under the name that it has until it is whole; gone when the work breaks off.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After success it has its final name, and there is nothing here to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[derive(Serialize)]
struct Record<'a> {
    index: usize,
    text: &'a str,
    #[serde(flatten)]
    vector: Values<'a>,
}

impl Writer {
    /// Opens the output; a file's name tells the format unless one is given.
    ///
    /// # Errors
    /// When the file cannot be made, or a NumPy file is to go to stdout: its header states the
    /// number of rows, which is known only at the end.
    pub fn create(path: Option<&Path>, format: Option<OutputFormat>) -> Result<Self, Failure> {
        let extension = path
            .and_then(Path::extension)
            .and_then(|extension| extension.to_str());
        let format = format.unwrap_or(match extension {
            Some("npy") => OutputFormat::Npy,
            Some("jsonl" | "ndjson") => OutputFormat::Jsonl,
            _ => OutputFormat::Json,
        });
        let sink = match path {
            None if format == OutputFormat::Npy => {
                return Err(Failure::usage("a NumPy file cannot be written to stdout")
                    .with_hint("name a file with `--output vectors.npy`"));
            }
            None => Sink::Stdout(BufWriter::new(io::stdout())),
            Some(path) => {
                let mut unfinished = path.as_os_str().to_owned();
                unfinished.push(".part");
                let unfinished = Unfinished(unfinished.into());
                let file = File::create(&unfinished.0).map_err(|error| {
                    Failure::new(format!("cannot write `{}`: {error}", path.display()))
                })?;
                Sink::File {
                    file: BufWriter::new(file),
                    unfinished,
                    finished: path.into(),
                }
            }
        };
        let mut writer = Self {
            sink,
            format,
            rows: 0,
            dimensions: 0,
        };
        if format == OutputFormat::Npy {
            // Of the same length as the real one, which takes its place in the end.
            writer.out().write_all(&npy_header(0, 0))?;
        }
        Ok(writer)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, row: &Row<'_>) -> Result<(), Failure> {
        let record = Record {
            index: self.rows,
            text: row.text,
            vector: row.vector,
        };
        let (first, format) = (self.rows == 0, self.format);
        self.rows += 1;
        let out = self.out();
        match format {
            OutputFormat::Json => {
                out.write_all(if first { b"[\n" } else { b",\n" })?;
                serde_json::to_writer(out, &record).map_err(io::Error::from)?;
            }
            OutputFormat::Jsonl => {
                serde_json::to_writer(&mut *out, &record).map_err(io::Error::from)?;
                out.write_all(b"\n")?;
            }
            OutputFormat::Npy => {
                let Values::Dense(vector) = row.vector else {
                    return Err(Failure::usage("a NumPy file holds only dense vectors")
                        .with_hint("write the others as JSON lines, with `--format jsonl`"));
                };
                for value in vector {
                    out.write_all(&value.to_le_bytes())?;
                }
                self.dimensions = vector.len();
            }
        }
        Ok(())
    }

    /// Completes the output.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<(), Failure> {
        if self.format == OutputFormat::Json {
            let end: &[u8] = if self.rows == 0 { b"[]\n" } else { b"\n]\n" };
            self.out().write_all(end)?;
        }
        let header = npy_header(self.rows, self.dimensions);
        match self.sink {
            Sink::Stdout(mut out) => out.flush()?,
            Sink::File {
                file,
                unfinished,
                finished,
            } => {
                let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                if self.format == OutputFormat::Npy {
                    file.seek(SeekFrom::Start(0))?;
                    file.write_all(&header)?;
                }
                drop(file);
                std::fs::rename(&unfinished.0, finished)?;
            }
        }
        Ok(())
    }

    fn out(&mut self) -> &mut dyn Write {
        match &mut self.sink {
            Sink::Stdout(out) => out,
            Sink::File { file, .. } => file,
        }
    }
}

/// Version 1.0 of NumPy's format (numpy.lib.format): magic, length, a Python dictionary, and
/// blanks up to a multiple of 64 bytes. Always 128 bytes, which fits any number of rows.
fn npy_header(rows: usize, dimensions: usize) -> [u8; 128] {
    const MAGIC: &[u8; 8] = b"\x93NUMPY\x01\x00";
    let dictionary =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dimensions}), }}");
    let mut header = [b' '; 128];
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&118_u16.to_le_bytes());
    header[10..10 + dictionary.len()].copy_from_slice(dictionary.as_bytes());
    header[127] = b'\n';
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [Row<'static>; 2] = [
        Row {
            text: "a",
            vector: Values::Dense(&[1.0, 0.5]),
        },
        Row {
            text: "b",
            vector: Values::Dense(&[-2.0, 0.1]),
        },
    ];

    fn written(name: &str, rows: &[Row<'_>]) -> Vec<u8> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(name);
        let mut writer = Writer::create(Some(&path), None).expect("a writer");
        rows.iter()
            .for_each(|row| writer.write(row).expect("a written row"));
        assert!(!path.exists(), "a file must not appear before it is whole");
        writer.finish().expect("a finished file");
        let names: Vec<_> = std::fs::read_dir(directory.path())
            .expect("a directory")
            .collect();
        assert_eq!(names.len(), 1, "nothing else is left");
        std::fs::read(path).expect("the file")
    }

    /// What `numpy.save` writes for `numpy.array([[1, 0.5], [-2, 0.1]], dtype="float32")`.
    #[test]
    fn a_numpy_file_has_the_bytes_that_numpy_writes() {
        let mut expected = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        expected.extend(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }");
        expected.resize(127, b' ');
        expected.push(b'\n');
        expected.extend(b"\0\0\x80\x3f\0\0\0\x3f\0\0\0\xc0\xcd\xcc\xcc\x3d");
        assert_eq!(written("a.npy", &ROWS), expected);
    }

    #[test]
    fn the_header_holds_the_largest_shape() {
        let header = npy_header(usize::MAX, usize::MAX);
        let text = String::from_utf8_lossy(&header[10..]);
        assert!(
            text.contains("18446744073709551615), }") && text.ends_with('\n'),
            "{text}"
        );
    }

    #[test]
    fn json_is_one_array_and_json_lines_are_one_object_each() {
        let json: serde_json::Value =
            serde_json::from_slice(&written("a.json", &ROWS)).expect("valid JSON");
        let second = serde_json::json!({"index": 1, "text": "b", "embedding": [-2.0, 0.1]});
        assert_eq!(json[1], second);
        let lines = String::from_utf8(written("a.jsonl", &ROWS)).expect("Unicode");
        let first = r#"{"index":0,"text":"a","embedding":[1.0,0.5]}"#;
        assert_eq!(lines.lines().next(), Some(first));
        assert_eq!(lines.lines().count(), 2);
        assert_eq!(written("a.json", &[]), b"[]\n");
    }

    #[test]
    fn other_vectors_have_names_of_their_own() {
        let sparse = SparseVector {
            ids: vec![3, 11],
            weights: vec![0.5, 0.25],
        };
        let vectors = MultiVector {
            width: 2,
            values: vec![1.0, 0.0, 0.0, 1.0],
        };
        let rows = [Values::Sparse(&sparse), Values::MultiVector(&vectors)]
            .map(|vector| Row { text: "a", vector });
        let lines = String::from_utf8(written("a.jsonl", &rows)).expect("Unicode");
        let expected = [
            r#"{"index":0,"text":"a","sparse_embedding":{"3":0.5,"11":0.25}}"#,
            r#"{"index":1,"text":"a","multi_vector_embedding":[[1.0,0.0],[0.0,1.0]]}"#,
        ];
        assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("a.npy");
        let mut writer = Writer::create(Some(&path), None).expect("a writer");
        let failure = writer.write(&rows[0]).expect_err("no row of numbers");
        assert!(failure.message.contains("only dense"), "{failure:?}");
    }

    #[test]
    fn work_that_breaks_off_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut writer =
            Writer::create(Some(&directory.path().join("a.npy")), None).expect("a writer");
        writer.write(&ROWS[0]).expect("a written row");
        drop(writer);
        assert_eq!(
            std::fs::read_dir(directory.path())
                .expect("a directory")
                .count(),
            0
        );
    }

    #[test]
    fn a_numpy_file_needs_a_name() {
        let failure = Writer::create(None, Some(OutputFormat::Npy))
            .err()
            .expect("refused");
        assert_eq!(failure.exit_code, 2);
    }
}
