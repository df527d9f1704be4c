//! Where the tokens of a sequence are: how a family numbers them, and the numbers of one sequence.

use super::{Architecture, RotarySettings};
use crate::checkpoint::Config;
use crate::error::Result;

/// What `pad_token_id` is when config.json does not say, as in transformers' `RobertaConfig`.
const ROBERTA_PADDING: usize = 1;

/// How a token learns where it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// Only by what attention makes of distances.
    Unmarked,
    /// Queries and keys are turned by an angle that grows with the position (Su et al. 2021).
    Rotary(RotarySettings),
    /// A learned vector per position.
    Absolute {
        /// Row of the first token.
        first: FirstPosition,
    },
}

/// Which row of the position embeddings belongs to the first token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstPosition {
    /// The first row.
    Zero,
    /// The row after the one numbered `pad_token_id`, which itself is the position of padding.
    AfterPadding,
}

/// The positions of one model: a family's rule with the numbers of config.json in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PositionIds {
    // The token that has no place of its own in a sequence; its position is its own number.
    padding: Option<usize>,
    // The setting that limits them.
    key: Option<&'static str>,
}

/// What most families call their number of positions.
const MAX_POSITIONS: &str = "max_position_embeddings";

impl PositionIds {
    /// Fills in what a family's rule takes from config.json.
    ///
    /// # Errors
    /// `Error::Checkpoint` when `pad_token_id` is not a whole number.
    pub fn read(architecture: &Architecture, config: &Config) -> Result<Self> {
        let padding = match architecture.positions {
            Positions::Absolute {
                first: FirstPosition::AfterPadding,
            } => {
                let padding = config.optional_count("pad_token_id")?;
                Some(padding.unwrap_or(ROBERTA_PADDING))
            }
            _ => None,
        };
        let keys = architecture.keys.positions;
        let key = keys.iter().copied().find(|key| config.get(key).is_some());
        Ok(Self { padding, key })
    }

    /// The position of the first token of a sequence.
    pub fn first(self) -> usize {
        self.padding.map_or(0, |padding| padding + 1)
    }

    /// The longest sequence that has positions; `None` when config.json does not
    /// say how many positions there are.
    ///
    /// # Errors
    /// `Error::Checkpoint` when it is no number, or leaves no position for a token.
    pub fn limit(self, config: &Config) -> Result<Option<usize>> {
        let key = self.key.unwrap_or(MAX_POSITIONS);
        let Some(rows) = config.optional_count(key)? else {
            return Ok(None);
        };
        match rows.checked_sub(self.first()) {
            Some(limit) if limit > 0 => Ok(Some(limit)),
            _ => {
                let first = self.first();
                let message = format!("is `{rows}`, but the first position is `{first}`");
                Err(config.error(key, &message))
            }
        }
    }

    /// Appends the positions of one sequence. A padding token that is *in* a text (its spelling,
    /// `<pad>`, becomes one) gets padding's position and is not counted, as transformers'
    /// `create_position_ids_from_input_ids` has it, although attention does see it.
    pub(crate) fn extend(self, ids: &[i64], positions: &mut Vec<i64>) {
        let first = self.first() as i64;
        let Some(padding) = self.padding.map(|padding| padding as i64) else {
            positions.extend(0..ids.len() as i64);
            return;
        };
        let mut next = first;
        positions.extend(ids.iter().map(|&id| {
            if id == padding {
                return padding;
            }
            next += 1;
            next - 1
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn ids(first: FirstPosition, values: Value) -> Result<PositionIds> {
        let config = Config::new(Path::new("config.json"), values)?;
        let architecture = Architecture {
            positions: Positions::Absolute { first },
            ..super::super::bert::BERT
        };
        PositionIds::read(&architecture, &config)
    }

    fn of(ids: PositionIds, tokens: &[i64]) -> Vec<i64> {
        let mut positions = vec![7];
        ids.extend(tokens, &mut positions);
        positions.split_off(1)
    }

    #[test]
    fn positions_start_where_the_family_says() {
        let bert = ids(FirstPosition::Zero, json!({"pad_token_id": 0})).unwrap();
        assert_eq!(of(bert, &[5, 0, 6]), [0, 1, 2]);
        let roberta = ids(FirstPosition::AfterPadding, json!({"pad_token_id": 1})).unwrap();
        assert_eq!(of(roberta, &[0, 5, 6, 2]), [2, 3, 4, 5]);
        assert_eq!(of(roberta, &[]), [0_i64; 0]);
        // What transformers 5.23 gives for these ids and `padding_idx` 1.
        assert_eq!(of(roberta, &[0, 1, 5, 1, 1, 6, 2]), [2, 1, 3, 1, 1, 4, 5]);
        let unsaid = ids(FirstPosition::AfterPadding, json!({})).unwrap();
        assert_eq!(unsaid, roberta);
        let other = ids(FirstPosition::AfterPadding, json!({"pad_token_id": 3})).unwrap();
        assert_eq!(of(other, &[1, 3, 2]), [4, 3, 5]);
        assert!(ids(FirstPosition::AfterPadding, json!({"pad_token_id": -1})).is_err());
    }

    #[test]
    fn positions_before_the_first_are_not_usable() {
        let limit = |first, rows: Value| {
            let values = json!({"max_position_embeddings": rows});
            let config = Config::new(Path::new("config.json"), values.clone()).unwrap();
            ids(first, values).unwrap().limit(&config)
        };
        assert_eq!(limit(FirstPosition::Zero, json!(512)).unwrap(), Some(512));
        let after = FirstPosition::AfterPadding;
        assert_eq!(limit(after, json!(8194)).unwrap(), Some(8192));
        assert_eq!(limit(after, json!(3)).unwrap(), Some(1));
        assert_eq!(limit(after, Value::Null).unwrap(), None);
        let error = limit(after, json!(2)).unwrap_err().to_string();
        assert!(
            error.contains("`max_position_embeddings` is `2`"),
            "{error}"
        );
    }
}
