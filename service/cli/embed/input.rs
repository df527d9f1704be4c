//! Texts, one after the other, from the command line, a file or stdin.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Deserialize;

use crate::cli::Failure;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InputFormat {
    /// One text a line; an empty line is an empty text
    Lines,
    /// One JSON object a line, with the text under `text`
    Jsonl,
}

/// Where texts come from.
pub enum Source {
    /// The command line.
    Given(Vec<String>),
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// The texts. Every error names the line.
pub struct Texts {
    lines: Lines,
    format: InputFormat,
    read: usize,
    count: Option<usize>,
}

enum Lines {
    Given(std::vec::IntoIter<String>),
    Read(io::Lines<Box<dyn BufRead>>, String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Record {
    Bare(String),
    Object { text: String },
}

impl Texts {
    /// Opens a source; a file's name tells its format unless one is given.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn open(source: Source, format: Option<InputFormat>) -> Result<Self, Failure> {
        let by_name = |path: &Path| match path.extension().and_then(|e| e.to_str()) {
            Some("jsonl" | "ndjson") => InputFormat::Jsonl,
            _ => InputFormat::Lines,
        };
        let (lines, guessed, count) = match source {
            Source::Given(texts) => {
                let count = texts.len();
                let given = Lines::Given(texts.into_iter());
                return Ok(Self {
                    lines: given,
                    format: InputFormat::Lines,
                    read: 0,
                    count: Some(count),
                });
            }
            Source::Stdin => {
                let reader: Box<dyn BufRead> = Box::new(BufReader::new(io::stdin()));
                (
                    Lines::Read(reader.lines(), "stdin".into()),
                    InputFormat::Lines,
                    None,
                )
            }
            Source::File(path) => {
                let open = || -> io::Result<(File, usize)> {
                    let count = BufReader::new(File::open(&path)?).split(b'\n').count();
                    Ok((File::open(&path)?, count))
                };
                let (file, count) = open().map_err(|error| {
                    Failure::new(format!("cannot read `{}`: {error}", path.display()))
                })?;
                let reader: Box<dyn BufRead> = Box::new(BufReader::new(file));
                let name = path.display().to_string();
                (
                    Lines::Read(reader.lines(), name),
                    by_name(&path),
                    Some(count),
                )
            }
        };
        Ok(Self {
            lines,
            format: format.unwrap_or(guessed),
            read: 0,
            count,
        })
    }

    /// How many texts there are, where that is known beforehand; blank lines of JSONL count too.
    pub fn known_count(&self) -> Option<usize> {
        self.count
    }
}

impl Iterator for Texts {
    type Item = Result<String, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (line, name) = match &mut self.lines {
                Lines::Given(texts) => return texts.next().map(Ok),
                Lines::Read(lines, name) => (lines.next()?, name),
            };
            self.read += 1;
            let at = |what: &str| Failure::new(format!("{name}, line {}: {what}", self.read));
            let line = match line {
                Ok(line) => line,
                Err(error) => return Some(Err(at(&error.to_string()))),
            };
            match self.format {
                InputFormat::Lines => return Some(Ok(line)),
                InputFormat::Jsonl if line.trim().is_empty() => {}
                InputFormat::Jsonl => {
                    return Some(match serde_json::from_str(&line) {
                        Ok(Record::Bare(text) | Record::Object { text }) => Ok(text),
                        Err(_) => Err(at("is neither `{\"text\": \"…\"}` nor a text in quotes")),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &str) -> Result<Vec<String>, Failure> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(name);
        std::fs::write(&path, content).expect("a written file");
        Texts::open(Source::File(path), None)?.collect()
    }

    #[test]
    fn lines_are_texts_and_blank_ones_keep_their_place() {
        assert_eq!(
            read("a.txt", "one\n\ntwo\r\n"),
            Ok(vec!["one".into(), "".into(), "two".into()])
        );
    }

    #[test]
    fn the_name_of_a_file_tells_json_lines() {
        let texts = read("a.jsonl", "{\"id\": 1, \"text\": \"one\"}\n\"two\"\n\n");
        assert_eq!(texts, Ok(vec!["one".into(), "two".into()]));
    }

    #[test]
    fn a_bad_line_is_named() {
        let failure = read("a.ndjson", "\"one\"\n{\"txt\": 1}\n").expect_err("no text");
        assert!(
            failure.message.contains("a.ndjson, line 2: is neither"),
            "{failure}"
        );
        let missing = Texts::open(Source::File("/nonexistent/x".into()), None);
        assert!(missing.is_err_and(|f| f.message.starts_with("cannot read `/nonexistent/x`")));
    }
}
