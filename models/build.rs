//! Lists the files of `catalog/` for `src/catalog.rs`: adding a model is adding a file.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let catalog = root.join("catalog");
    println!("cargo::rerun-if-changed={}", catalog.display());
    let mut code = list("ENTRIES", &catalog, "toml")?;
    code += &list("REFERENCES", &catalog.join("reference"), "json")?;
    let target = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(target.join("catalog.rs"), code)
}

/// A constant with the name and the text of every file of a folder that ends as given.
fn list(name: &str, folder: &Path, extension: &str) -> io::Result<String> {
    let mut files = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == extension));
    files.sort();
    let mut code = format!("const {name}: &[(&str, &str)] = &[\n");
    for path in files {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        // The debug form of a path is a Rust string on every system.
        let _ = writeln!(code, "    ({file:?}, include_str!({path:?})),");
    }
    Ok(code + "];\n")
}
