//! Texts that end an answer: nothing that may turn out to be the beginning of one is let through.

/// Looks for stop texts in a stream of text.
#[derive(Debug, Clone, Default)]
pub struct StopTexts {
    stops: Vec<String>,
    /// What is not certain yet; shorter than the longest stop text.
    held: String,
}

/// What came of a piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Text that is certain.
    pub text: String,
    /// Whether a stop text has come; it and all after it are gone.
    pub stopped: bool,
}

impl StopTexts {
    /// Stop texts, of which none is empty.
    pub fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            held: String::new(),
        }
    }

    /// Adds text. Of several stop texts the one counts that is complete first, and of those that
    /// end together the longest, so it does not matter in which pieces the text comes.
    pub fn push(&mut self, text: &str) -> Passed {
        self.held.push_str(text);
        let ends = |stop: &String| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        };
        if let Some((_, start)) = self.stops.iter().filter_map(ends).min() {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return Passed {
                text,
                stopped: true,
            };
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop));
        let certain = self.held.len() - keep.max().unwrap_or_default();
        let rest = self.held.split_off(certain);
        Passed {
            text: std::mem::replace(&mut self.held, rest),
            stopped: false,
        }
    }

    /// What was held back, when nothing more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that a longer `stop` begins with.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).rev();
    let mut lengths = lengths.filter(|&length| length > 0);
    lengths
        .find(|&length| text.ends_with(&stop[..length]))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|&s| s.into()).collect();
        let mut matcher = StopTexts::new(&stops);
        let mut all = String::new();
        for piece in pieces {
            let passed = matcher.push(piece);
            all.push_str(&passed.text);
            if passed.stopped {
                return (all, true);
            }
        }
        all.push_str(&matcher.finish());
        (all, false)
    }

    #[test]
    fn a_stop_text_across_pieces_is_not_leaked() {
        assert_eq!(
            run(&["\nUser:"], &["Hi", "\nUs", "er", ": x"]),
            ("Hi".into(), true)
        );
        assert_eq!(
            run(&["\nUser:"], &["Hi\nUs", "age"]),
            ("Hi\nUsage".into(), false)
        );
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(run(&["水火"], &["x水", "火"]), ("x".into(), true));
    }

    #[test]
    fn what_may_be_a_stop_text_is_held_back() {
        let mut matcher = StopTexts::new(&["###".into()]);
        assert_eq!(matcher.push("a##").text, "a");
        assert_eq!(matcher.push("b").text, "##b");
    }

    #[test]
    fn the_first_that_is_complete_counts() {
        assert_eq!(run(&["abc", "b"], &["abc"]), ("a".into(), true));
        assert_eq!(run(&["abc", "c"], &["abc"]), (String::new(), true));
    }

    proptest! {
        /// Cut into any pieces, a text passes up to the first complete stop text.
        #[test]
        fn pieces_do_not_matter(
            text in "[ab水]{0,24}",
            stops in proptest::collection::vec("[ab水]{1,4}", 0..3),
            cuts in proptest::collection::vec(0usize..24, 0..6),
        ) {
            // The plain definition: character by character, the longest stop text at an end.
            let mut expected = (text.clone(), false);
            'ends: for (at, character) in text.char_indices() {
                let end = at + character.len_utf8();
                let longest = stops.iter().filter(|s| text[..end].ends_with(s.as_str()));
                if let Some(stop) = longest.max_by_key(|s| s.len()) {
                    expected = (text[..end - stop.len()].to_owned(), true);
                    break 'ends;
                }
            }
            let characters: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(characters.len())).collect();
            cuts.push(0);
            cuts.push(characters.len());
            cuts.sort_unstable();
            let pieces: Vec<String> =
                cuts.windows(2).map(|w| characters[w[0]..w[1]].iter().collect()).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stops, &pieces), expected);
        }
    }
}
