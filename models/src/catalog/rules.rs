//! What an entry must obey besides having the right keys and types. Messages name the key.

use std::collections::BTreeSet;

use super::{Entry, Repository, Task};
use crate::heads::Head;
use crate::matryoshka::Matryoshka;

impl Entry {
    /// The first rule that a value breaks, naming the key.
    pub fn wrong(&self) -> Option<String> {
        self.wrong_name()
            .or_else(|| self.wrong_number())
            .or_else(|| self.wrong_head())
            .or_else(|| wrong_repository("huggingface", &self.huggingface))
            .or_else(|| wrong_repository("modelscope", self.modelscope.as_ref()?))
            .or_else(|| {
                let is_digest = |text: &str| {
                    text.len() == 64 && text.bytes().all(|b| b"0123456789abcdef".contains(&b))
                };
                let (file, digest) = self.sha256.iter().find(|(_, text)| !is_digest(text))?;
                Some(format!(
                    "`sha256` of `{file}` is `{digest}`, not 64 hexadecimal digits in lower case"
                ))
            })
    }

    fn wrong_name(&self) -> Option<String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let fits = |name: &&str| {
            !name.is_empty() && !name.starts_with(['.', '-']) && name.chars().all(fits)
        };
        if let Some(name) = self.names().find(|name| !fits(name)) {
            return Some(format!(
                "the name `{name}` must be letters, digits, `-`, `_` and `.`, and begin with a \
                 letter, a digit or `_`"
            ));
        }
        let lower = self.names().map(str::to_lowercase);
        let distinct: BTreeSet<String> = lower.collect();
        (distinct.len() <= self.aliases.len())
            .then(|| "`aliases` repeats the name or an alias".to_owned())
    }

    fn wrong_number(&self) -> Option<String> {
        if self.max_tokens == 0 {
            return Some("`max_tokens` is `0`; say how long an input may be".into());
        }
        if self.languages.is_empty() {
            return Some("`languages` is empty; write `[\"multilingual\"]` for many".into());
        }
        match (self.task, self.dimensions) {
            (Task::Embed, None | Some(0)) => {
                Some("`dimensions` is missing; a model that embeds needs it".into())
            }
            (Task::Rerank, Some(dimensions)) => Some(format!(
                "`dimensions` is `{dimensions}`, but a reranker gives no vectors"
            )),
            (_, dimensions) => {
                let mut below = dimensions.unwrap_or(usize::MAX);
                if let Matryoshka::Range { min, max } = self.matryoshka {
                    let fits = (1..=max).contains(&min) && max <= below;
                    let wrong = format!(
                        "`matryoshka` is `{min}` to `{max}`, not lengths up to `dimensions`"
                    );
                    return (!fits).then_some(wrong);
                }
                let wrong = self.matryoshka.listed().iter().find(|&&length| {
                    let fits = length > 0 && length < below;
                    below = length;
                    !fits
                })?;
                Some(format!(
                    "`matryoshka` has `{wrong}`; lengths must descend from below `dimensions`"
                ))
            }
        }
    }

    fn wrong_head(&self) -> Option<String> {
        let distinct: BTreeSet<Head> = self.heads.iter().copied().collect();
        if self.heads.is_empty() || distinct.len() < self.heads.len() {
            return Some("`heads` must name each output once, and at least one".into());
        }
        let scores = distinct.contains(&Head::Score);
        let wanted = match self.task {
            Task::Embed if scores => "`heads` has `score`, which only `task = \"rerank\"` has",
            Task::Rerank if !scores => "`heads` lacks `score`, which `task = \"rerank\"` needs",
            Task::Rerank if distinct.len() > 1 => "`heads` of a reranker must be just `score`",
            _ => return None,
        };
        Some(wanted.into())
    }
}

/// Ids and revisions become parts of paths and addresses, so only what a hub allows may pass.
fn wrong_repository(table: &str, repository: &Repository) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(fits);
    let is_id = |id: &str| id.split('/').count() == 2 && id.split('/').all(part);
    let ids = std::iter::once(&repository.id).chain(&repository.copies);
    if let Some(id) = ids.into_iter().find(|id| !is_id(id)) {
        return Some(format!(
            "`{id}` under `[{table}]` is no hub id; write `owner/name`"
        ));
    }
    let revision = repository.revision.as_deref()?;
    (!revision.split('/').all(part))
        .then(|| format!("`revision` = `{revision}` under `[{table}]` is no branch, tag or commit"))
}
