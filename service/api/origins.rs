//! What pages in a browser may do: cross-origin rules for inference, and none for the routes that
//! manage the server unless that was allowed.

use axum::{
    Router,
    extract::Request,
    middleware::{Next, from_fn},
    response::Response,
};
use http::{HeaderMap, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::{
    ROUTES,
    access::Access,
    path,
    settings::{ApiSettings, PagesMay},
};
use crate::error::{Error, Result};

/// Puts the configured rules around the routes.
pub fn layered(edge: Router, settings: &ApiSettings) -> Router {
    let Some(cors) = cors(&settings.cors_origins) else {
        return edge;
    };
    let edge = edge.layer(cors);
    match settings.pages_may {
        PagesMay::Manage => edge,
        // The layer knows no routes and says the same to all; here the rest is taken back.
        PagesMay::Infer => edge.layer(from_fn(keep_to_inference)),
    }
}

/// Refuses a page of another origin on a route that manages. A browser sends some requests
/// without asking first, and that the page cannot read the answer would not undo what they did.
///
/// # Errors
/// [`Error::Forbidden`], when the request is one of such a page.
pub fn check(settings: &ApiSettings, access: Access, headers: &HeaderMap) -> Result<()> {
    if access != Access::Admin || settings.pages_may == PagesMay::Manage || !is_foreign(headers) {
        return Ok(());
    }
    Err(Error::Forbidden(
        "pages of other origins may not manage the server; set `cors_admin = true` to let those \
         of `cors_origins`"
            .into(),
    ))
}

/// Whether a browser says that the page behind a request came from elsewhere.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let authority = origin.to_str().ok().and_then(|o| o.split_once("://"));
    match (authority, text(header::HOST)) {
        (Some((_, authority)), Some(host)) => !authority.eq_ignore_ascii_case(host),
        // `null`, which is what a file or a sandboxed frame has.
        _ => true,
    }
}

async fn keep_to_inference(request: Request, next: Next) -> Response {
    let manages = manages(&request);
    let mut response = next.run(request).await;
    if manages {
        for name in [
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::ACCESS_CONTROL_ALLOW_METHODS,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            response.headers_mut().remove(name);
        }
    }
    response
}

/// Whether a request, or the one that a browser asks about first, is for a row that manages.
fn manages(request: &Request) -> bool {
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD);
    let method = match asked {
        Some(asked) if request.method() == Method::OPTIONS => asked.as_bytes(),
        _ => request.method().as_str().as_bytes(),
    };
    let path = path::normal(request.uri().path());
    let rows = ROUTES.iter().filter(|row| row.access == Access::Admin);
    let mut rows = rows.filter(|row| row.method.as_str().as_bytes() == method);
    rows.any(|row| row.paths.iter().any(|pattern| fits(pattern, &path)))
}

/// Whether a path is one that a row of the table means; no such row has a wildcard.
fn fits(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some(wanted), Some(found)) if wanted.starts_with('{') || wanted == found => {}
            _ => return false,
        }
    }
}

/// Cross-origin rules for browsers, or none when no origin is allowed.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|o| HeaderValue::from_str(o).ok()))
    };
    let layer = CorsLayer::new().allow_origin(allowed).allow_methods(Any);
    Some(layer.allow_headers(Any).expose_headers(Any))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_foreign_unless_it_came_from_here() {
        let foreign = |pairs: &[(&'static str, &'static str)]| {
            let pair = |&(name, value): &(&'static str, &'static str)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            };
            is_foreign(&pairs.iter().map(pair).collect())
        };
        let host = ("host", "127.0.0.1:9997");
        assert!(!foreign(&[host]));
        assert!(!foreign(&[host, ("origin", "http://127.0.0.1:9997")]));
        for origin in ["http://127.0.0.1:9998", "https://app.example", "null", ""] {
            assert!(foreign(&[host, ("origin", origin)]), "{origin}");
        }
        assert!(foreign(&[("origin", "http://127.0.0.1:9997")]));
    }

    #[test]
    fn a_pattern_fits_segment_by_segment() {
        assert!(fits("/v1/models/{model}/cancel", "/v1/models/m/cancel"));
        assert!(!fits("/v1/models/{model}/cancel", "/v1/models/m"));
        assert!(!fits("/v1/models", "/v1/models/m"));
        assert!(!fits("/v1/models/{model}/cancel", "/v1/models/m/progress"));
    }
}
