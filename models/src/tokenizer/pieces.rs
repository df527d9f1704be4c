//! Long texts in pieces: a tokenizer keeps about a hundred bytes for each byte it is given, so a
//! text of 30 MB at once would take 3 GB.

/// How long pieces are, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct PieceSize {
    /// A piece ends at the first good place after so many bytes.
    pub wanted: usize,
    /// And here when there is no good place: the tokens around this point may then differ from
    /// those of the whole text. It is so far out that a text with spaces never gets there, and
    /// that the first piece alone fills any model's limit.
    pub most: usize,
}

/// What the service uses.
pub const PIECE_SIZE: PieceSize = PieceSize {
    wanted: 64 << 10,
    most: 1 << 20,
};

/// Cuts a text so that tokenizing the pieces gives the tokens of the whole: before a single space
/// between two letters or digits, which every tokenizer in use either drops or begins a word with.
pub fn pieces(text: &str, size: PieceSize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (piece, after) = text.split_at(end_of_piece(text, size));
        rest = (!after.is_empty()).then_some(after);
        Some(piece)
    })
}

fn end_of_piece(text: &str, size: PieceSize) -> usize {
    if text.len() <= size.wanted {
        return text.len();
    }
    let searched = &text.as_bytes()[size.wanted..text.len().min(size.most)];
    let spaces = searched
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b' ');
    let mut places = spaces.map(|(at, _)| size.wanted + at);
    let is_good = |&at: &usize| {
        let before = text[..at].chars().next_back();
        let after = text[at + 1..].chars().next();
        before.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric)
    };
    places
        .find(is_good)
        .unwrap_or_else(|| text.floor_char_boundary(size.most))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: PieceSize = PieceSize {
        wanted: 4,
        most: 12,
    };

    fn check(text: &str, expected: &[&str]) {
        let found: Vec<&str> = pieces(text, SMALL).collect();
        assert_eq!(found, expected);
        assert_eq!(found.concat(), text);
    }

    #[test]
    fn pieces_end_before_single_spaces_between_letters() {
        check("", &[""]);
        check("abc", &["abc"]);
        check("ab cdef gh", &["ab cdef", " gh"]);
        check("abcd  ef gh", &["abcd  ef", " gh"]);
        check("abcd. ef gh", &["abcd. ef", " gh"]);
        check("это не так", &["это", " не", " так"]);
    }

    #[test]
    fn a_text_without_a_good_place_is_cut_at_the_most() {
        check("abcdefghijklmnop", &["abcdefghijkl", "mnop"]);
        check("水水水水水水", &["水水水水", "水水"]);
    }
}
