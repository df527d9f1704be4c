//! Tables for people, and sizes as people say them.

use comfy_table::{Cell, ContentArrangement, Table, presets};

/// A table without rules, as wide as the terminal allows; long cells wrap.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().map(|title| Cell::new(title.to_uppercase())));
    table
}

/// The text of a table, without the blanks that would end its lines.
pub fn render(table: &Table) -> String {
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect();
    lines.concat()
}

/// `87 B`, `4.2 kB`, `1.3 GB`: powers of 1000, as disks are sold.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut scaled = count as f64;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && scaled < 99.95);
    format!("{scaled:.decimals$} {}", UNITS[unit])
}

/// The size of what is under a directory, links followed: what a reader would read. Unreadable
/// parts count nothing.
pub fn bytes_under(directory: &std::path::Path) -> u64 {
    // Deep enough for every model; a link to its own parent must not lead round in circles.
    const DEPTH_MAX: usize = 8;
    fn walk(directory: &std::path::Path, depth: usize) -> u64 {
        let Ok(entries) = std::fs::read_dir(directory) else {
            return 0;
        };
        let size = |entry: std::fs::DirEntry| match std::fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() && depth < DEPTH_MAX => {
                walk(&entry.path(), depth + 1)
            }
            Ok(metadata) if metadata.is_file() => metadata.len(),
            _ => 0,
        };
        entries.flatten().map(size).sum()
    }
    walk(directory, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_about_three_digits() {
        let check = |count, text| assert_eq!(bytes(count), text);
        check(0, "0 B");
        check(999, "999 B");
        check(1_000, "1.0 kB");
        check(999_949, "1.0 MB");
        check(90_868_376, "90.9 MB");
        check(2_271_000_000, "2.3 GB");
    }

    #[test]
    fn lines_do_not_end_in_blanks() {
        let mut table = table(&["name", "state"]);
        table.add_row(["bge-m3", ""]);
        let text = render(&table);
        assert!(text.lines().all(|line| line == line.trim_end()), "{text:?}");
        assert!(text.contains("NAME"));
    }

    #[test]
    fn a_directory_is_as_large_as_its_files() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join("a")).expect("a directory");
        std::fs::write(directory.path().join("a/b"), [0; 10]).expect("a file");
        std::fs::write(directory.path().join("c"), [0; 5]).expect("a file");
        assert_eq!(bytes_under(directory.path()), 15);
        assert_eq!(bytes_under(&directory.path().join("none")), 0);
    }
}
