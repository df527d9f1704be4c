//! Checkpoints that bring their own Python (`auto_map`). Their configuration means whatever that
//! code does, so it is accepted only where the code is known and built here.

use serde_json::Value;

use crate::checkpoint::Config;
use crate::error::Result;

/// The Python of a family that is built here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteCode {
    /// The repositories it is in, other than that of the checkpoint itself.
    pub repositories: &'static [&'static str],
    /// How its `module.Class` names begin.
    pub classes: &'static [&'static str],
}

impl RemoteCode {
    /// There is none.
    pub const NONE: Self = Self {
        repositories: &[],
        classes: &[],
    };

    /// Refuses a configuration that refers to other code.
    pub(super) fn check(self, config: &Config) -> Result<()> {
        let key = "auto_map";
        let Some(map) = config.get(key) else {
            return Ok(());
        };
        let is_known = map
            .as_object()
            .is_some_and(|map| map.values().all(|value| self.knows(value)));
        if is_known {
            return Ok(());
        }
        let expected = if self.repositories.is_empty() {
            "no such setting".to_owned()
        } else {
            format!("the code of `{}`", self.repositories.join("` or `"))
        };
        Err(config.unsupported(key, &expected))
    }

    /// Whether this is `module.Class` or `repository--module.Class` of this family.
    fn knows(self, value: &Value) -> bool {
        let Some(reference) = value.as_str() else {
            return false;
        };
        let class = match reference.split_once("--") {
            Some((repository, _)) if !self.repositories.contains(&repository) => return false,
            Some((_, class)) => class,
            None => reference,
        };
        self.classes.iter().any(|start| class.starts_with(start))
    }
}
