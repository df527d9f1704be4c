//! Tables that are aligned in a terminal and are Markdown as they stand.

/// The cells of one line.
pub type Row = Vec<String>;

/// A table under construction: the first column is text, the others are numbers.
pub struct Table {
    title: String,
    rows: Vec<Row>,
}

impl Table {
    /// A table with a title above it and the names of its columns.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let header = columns.iter().map(|&column| column.to_owned()).collect();
        Self {
            title: title.into(),
            rows: vec![header],
        }
    }

    /// Appends a line.
    pub fn row(&mut self, name: impl Into<String>, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(std::iter::once(name.into()).chain(cells).collect());
    }

    /// Prints the table to standard output.
    pub fn print(&self) {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        println!("\n{}\n", self.title);
        for (at, row) in self.rows.iter().enumerate() {
            let cell = |(column, width): (usize, &usize)| {
                let text = row.get(column).map_or("", String::as_str);
                if column == 0 {
                    format!("{text:<width$}")
                } else {
                    format!("{text:>width$}")
                }
            };
            let cells: Vec<String> = widths.iter().enumerate().map(cell).collect();
            println!("| {} |", cells.join(" | "));
            if at == 0 {
                let rule = |(column, width): (usize, &usize)| {
                    let dashes = "-".repeat(width + 1);
                    if column == 0 {
                        format!("-{dashes}")
                    } else {
                        format!("{dashes}:")
                    }
                };
                let rules: Vec<String> = widths.iter().enumerate().map(rule).collect();
                println!("|{}|", rules.join("|"));
            }
        }
    }
}
