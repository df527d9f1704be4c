//! Paths as clients write them → paths as the route table has them, before anything is routed.
//! Nothing is redirected: a redirected POST loses its body in some clients.

use axum::extract::Request;
use http::Uri;

/// Rewrites the path of a request: no empty segments, no trailing slash, `/v1` once.
pub async fn normalize(mut request: Request) -> Request {
    let path = request.uri().path();
    let normal = normal(path);
    if normal != path {
        let wanted = match request.uri().query() {
            Some(query) => format!("{normal}?{query}"),
            None => normal,
        };
        // Leaving out segments of a valid path leaves a valid path.
        if let Ok(uri) = wanted.parse::<Uri>() {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// The path as the route table has it.
pub fn normal(path: &str) -> String {
    let mut normal = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        // Users configure a root with `/v1`, and clients append `/v1` again.
        if segment == "v1" && normal == "/v1" {
            continue;
        }
        normal.push('/');
        normal.push_str(segment);
    }
    if normal.is_empty() {
        normal.push('/');
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_what_clients_add() {
        for (written, meant) in [
            ("/", "/"),
            ("//", "/"),
            ("/v1/embeddings", "/v1/embeddings"),
            ("/v1/embeddings/", "/v1/embeddings"),
            ("//v1///embeddings//", "/v1/embeddings"),
            ("/v1/v1/embeddings", "/v1/embeddings"),
            ("/v1/v1/v1/embeddings", "/v1/embeddings"),
            ("/v1//v1/models/", "/v1/models"),
            ("/v1/models/v1", "/v1/models/v1"),
            ("/v1/models/v1/v1", "/v1/models/v1/v1"),
            ("/v1/models/BAAI/bge-m3", "/v1/models/BAAI/bge-m3"),
            ("/v1/models/BAAI%2Fbge-m3", "/v1/models/BAAI%2Fbge-m3"),
            ("/v10/models", "/v10/models"),
        ] {
            assert_eq!(normal(written), meant, "{written}");
        }
    }

    #[tokio::test]
    async fn the_query_stays() {
        let request = Request::get("/v1/models/?a=1//")
            .body(axum::body::Body::empty())
            .unwrap();
        assert_eq!(normalize(request).await.uri(), "/v1/models?a=1//");
    }
}
