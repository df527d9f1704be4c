//! What serves a model, of whichever kind it is.

use std::{sync::Arc, time::Duration};

use super::{
    encode, generate,
    request::{Backlog, Chats, ModelInfo},
};
use crate::error::Result;

/// The pipeline of a loaded model. Cheap to clone; the last clone ends its threads.
#[derive(Clone)]
pub enum Served {
    /// One forward pass an input.
    Encoder(Arc<encode::Pipeline>),
    /// One forward pass a token.
    Generator(Arc<generate::Pipeline>),
}

impl Served {
    /// Puts what is known of the model into its record.
    pub fn describe(&self, info: &mut ModelInfo) {
        (info.encoder, info.generator, info.chats) = match self {
            Self::Encoder(pipeline) => (Some(pipeline.info().clone()), None, Chats::No),
            Self::Generator(pipeline) => (None, Some(pipeline.info().clone()), pipeline.chats()),
        };
    }

    /// The encoder, if it is one.
    pub fn into_encoder(self) -> Option<Arc<encode::Pipeline>> {
        match self {
            Self::Encoder(pipeline) => Some(pipeline),
            Self::Generator(_) => None,
        }
    }

    /// The generator, if it is one.
    pub fn into_generator(self) -> Option<Arc<generate::Pipeline>> {
        match self {
            Self::Encoder(_) => None,
            Self::Generator(pipeline) => Some(pipeline),
        }
    }

    /// A real forward pass; how long it took.
    ///
    /// # Errors
    /// What the forward pass says, or that it was not done in time.
    pub async fn probe(&self, patience: Duration) -> Result<Duration> {
        match self {
            Self::Encoder(pipeline) => pipeline.probe(patience).await,
            Self::Generator(pipeline) => pipeline.probe(patience).await,
        }
    }

    /// What waits now.
    pub fn backlog(&self) -> Backlog {
        match self {
            Self::Encoder(pipeline) => pipeline.backlog(),
            Self::Generator(pipeline) => pipeline.backlog(),
        }
    }

    /// Refuses new work; what is inside is still done.
    pub fn close(&self) {
        match self {
            Self::Encoder(pipeline) => pipeline.close(),
            Self::Generator(pipeline) => pipeline.close(),
        }
    }
}
