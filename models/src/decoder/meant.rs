//! Whether files are those of a model that continues texts, told without loading them.

use std::path::Path;

use super::DecoderModel;
use crate::architectures;
use crate::checkpoint::Checkpoint;

/// What the names of classes end with that have a head for the next token, in all families.
const NEXT_TOKEN: &str = "ForCausalLM";

impl DecoderModel {
    /// Whether a checkpoint directory is meant to continue texts: its class has a head for the next
    /// token, its family is known, and it has no modules that make vectors or scores of it instead.
    pub fn is_meant(path: &Path) -> bool {
        let Ok(checkpoint) = Checkpoint::open(path) else {
            return false;
        };
        let classes = checkpoint.config.texts("architectures");
        !classes.is_empty()
            && classes.iter().all(|class| class.ends_with(NEXT_TOKEN))
            && !path.join("modules.json").exists()
            && architectures::resolve_decoder(&checkpoint).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_that_make_the_next_token_are_meant() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        for (checkpoint, expected) in [
            ("generators/llama-tiny-generate", true),
            ("generators/qwen3-tiny-generate", true),
            ("checkpoints/qwen3-tiny-lasttoken", false),
            ("checkpoints/bert-tiny-mean", false),
            ("checkpoints/no-such-checkpoint", false),
        ] {
            let meant = DecoderModel::is_meant(&root.join(checkpoint));
            assert_eq!(meant, expected, "{checkpoint}");
        }
    }
}
