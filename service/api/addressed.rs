//! The model that the address of a request names, for protocols that know of one model only.

use std::collections::HashMap;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};

use super::{AppState, fields};
use crate::error::{Error, Result};

/// The model of `/tei/{model}/…`, else that of `?model=…`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addressed(pub Option<String>);

impl Addressed {
    /// The model that a request means: what its address names goes before what its body says.
    ///
    /// # Errors
    /// When the name is too long to be one.
    pub fn or(self, body: Option<String>) -> Result<Option<String>> {
        fields::named_model(self.0.or(body))
    }
}

impl FromRequestParts<AppState> for Addressed {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
        let Path(mut path) = path.map_err(|error| Error::invalid("model", error.body_text()))?;
        let query = || {
            let query = parts.uri.query()?;
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            let (_, model) = pairs.find(|(key, _)| key == "model")?;
            Some(model.into_owned())
        };
        Ok(Self(path.remove("model").or_else(query)))
    }
}
