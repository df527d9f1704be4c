//! Who may call what: API keys and the access that each row of the route table demands.

use std::fmt;

use http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::{
    engine::lane::Tenant,
    error::{Error, Result},
};

/// What a route demands of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Open,
    /// Nothing, unless the settings close the metrics; then as [`Access::Inference`].
    Metrics,
    /// Any key, when keys are set.
    Inference,
    /// An admin key, when keys are set.
    Admin,
}

/// Whose key a request shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody was asked for a key.
    Anyone,
    /// Has the inference key of this number.
    Key(usize),
    /// Has an admin key that is no inference key.
    Admin,
}

/// The configured keys. Only their SHA-256 is kept, so that no log, dump or debugger line can
/// show a key, and so that comparing takes the same time whatever was sent.
#[derive(Clone, Default)]
pub struct ApiKeys {
    inference: Vec<KeyDigest>,
    admin: Vec<KeyDigest>,
}

type KeyDigest = [u8; 32];

impl ApiKeys {
    /// Keys that may query models and infer.
    pub fn new(keys: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let inference = keys.into_iter().map(|key| digest(key.as_ref())).collect();
        Self {
            inference,
            admin: Vec::new(),
        }
    }

    /// Adds keys that may also administer.
    #[must_use]
    pub fn with_admin(mut self, keys: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.admin
            .extend(keys.into_iter().map(|key| digest(key.as_ref())));
        self
    }

    /// Whether any key is set, i.e. whether callers have to show one.
    pub fn required(&self) -> bool {
        !(self.inference.is_empty() && self.admin.is_empty())
    }

    /// How many callers can be told apart.
    pub fn inference_keys(&self) -> usize {
        self.inference.len()
    }

    /// Whether this is one of the keys.
    pub fn knows(&self, key: &str) -> bool {
        let key = digest(key);
        bool::from(any_equal(&self.inference, &key) | any_equal(&self.admin, &key))
    }

    /// Lets a caller pass, or says why not. With no keys set the headers are not looked at: clients
    /// send `Authorization: ` without a value and `Bearer None` there.
    pub fn allow(&self, access: Access, headers: &HeaderMap) -> Result<Holder> {
        if access == Access::Open || !self.required() {
            return Ok(Holder::Anyone);
        }
        let mut shown = presented(headers).map(digest).peekable();
        if shown.peek().is_none() {
            return Err(Error::Unauthorized(
                "send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
            ));
        }
        let (mut number, mut administers) = (None, Choice::from(0));
        for key in shown {
            number = number.or(number_of(&self.inference, &key));
            administers |= any_equal(&self.admin, &key);
        }
        match (bool::from(administers), number) {
            (_, Some(number)) if access != Access::Admin => Ok(Holder::Key(number)),
            (true, _) => Ok(Holder::Admin),
            (false, Some(_)) => Err(Error::Forbidden(
                "API keys can only access model query and inference endpoints; this one needs an \
                 admin key"
                    .into(),
            )),
            (false, None) => Err(Error::Unauthorized("the API key is wrong")),
        }
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ApiKeys({} inference, {} admin)",
            self.inference.len(),
            self.admin.len()
        )
    }
}

/// The tenant of a request: the key that it shows, whether or not keys are asked for.
pub fn tenant(headers: &HeaderMap) -> Tenant {
    presented(headers)
        .next()
        .map_or_else(Tenant::default, |key| Tenant(digest(key)))
}

/// The keys that a caller shows, at most one per header.
fn presented(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let bearer = text(AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, key) = value.split_once(char::is_whitespace)?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    [bearer, text("x-api-key")]
        .into_iter()
        .flatten()
        .filter(|key| !key.is_empty())
}

fn digest(key: &str) -> KeyDigest {
    Sha256::digest(key.as_bytes()).into()
}

/// Compares with every key, so that the time tells neither which one matched nor how far.
fn any_equal(keys: &[KeyDigest], shown: &KeyDigest) -> Choice {
    keys.iter()
        .fold(Choice::from(0), |found, key| found | key.ct_eq(shown))
}

/// Which of the keys it is; compares with every one, as [`any_equal`] does.
fn number_of(keys: &[KeyDigest], shown: &KeyDigest) -> Option<usize> {
    let equal = |key: &KeyDigest| bool::from(key.ct_eq(shown));
    let numbered = keys.iter().map(equal).enumerate();
    numbered.fold(None, |found, (number, equal)| match equal {
        true => found.or(Some(number)),
        false => found,
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|&(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn a_key_is_taken_from_either_header_in_any_spelling_of_the_scheme() {
        let keys = ApiKeys::new(["one", "two"]);
        for shown in [
            [("authorization", "Bearer one")],
            [("authorization", "bearer   two  ")],
            [("authorization", "BEARER\tone")],
            [("x-api-key", " two ")],
        ] {
            assert!(
                keys.allow(Access::Inference, &headers(&shown)).is_ok(),
                "{shown:?}"
            );
        }
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        let keys = ApiKeys::new(["one"]);
        for shown in [
            ("authorization", ""),
            ("authorization", "Bearer"),
            ("authorization", "Bearer None"),
            ("authorization", "Basic one"),
            ("authorization", "one"),
            ("authorization", "Bearer one two"),
            ("authorization", "Bearer ONE"),
            ("x-api-key", ""),
            ("x-api-key", "o"),
        ] {
            let refused = keys.allow(Access::Inference, &headers(&[shown]));
            assert!(matches!(refused, Err(Error::Unauthorized(_))), "{shown:?}");
        }
        assert!(keys.allow(Access::Metrics, &HeaderMap::new()).is_err());
        assert!(keys.allow(Access::Open, &HeaderMap::new()).is_ok());
    }

    #[test]
    fn administering_needs_an_admin_key_and_inference_takes_either() {
        let keys = ApiKeys::new(["user"]).with_admin(["root"]);
        let user = headers(&[("x-api-key", "user")]);
        let root = headers(&[("x-api-key", "root")]);
        assert!(matches!(
            keys.allow(Access::Admin, &user),
            Err(Error::Forbidden(_))
        ));
        assert!(keys.allow(Access::Admin, &root).is_ok());
        let caller = |shown| keys.allow(Access::Inference, shown).unwrap();
        assert_eq!(caller(&root), Holder::Admin);
        assert_eq!(caller(&user), Holder::Key(0));
        let open = keys.allow(Access::Open, &root).unwrap();
        assert_eq!(open, Holder::Anyone);
    }

    #[test]
    fn keys_do_not_show_in_debug_output() {
        let shown = format!("{:?}", ApiKeys::new(["hunter2"]));
        assert_eq!(shown, "ApiKeys(1 inference, 0 admin)");
    }
}
