//! The management of models as clients of Xinference see it.

use serde_json::json;

use super::*;
use crate::api::ApiKeys;

impl Server {
    async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Body::empty()).unwrap())
            .await
    }

    async fn launch(&self, query: &str, body: Value) -> Answer {
        let path = format!("/v1/models{query}");
        self.post(&path, body.to_string()).await
    }
}

const MISSING: &str = "/nowhere/at/all";

#[tokio::test]
async fn token_ids_become_tokens_nested_as_they_were() {
    let server = Server::new();
    let body = json!({"prompt": "the river", "return_token_strs": true});
    let told = server.ok("/tokenize", &body).await;
    let (ids, pieces) = (&told["tokens"], &told["token_strs"]);
    let path = "/v1/convert_ids_to_tokens";
    let flat = server
        .ok(path, &json!({"model": "fake", "input": ids}))
        .await;
    assert_eq!(flat, *pieces);
    let texts: Vec<String> = ids
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect();
    let nested = json!({"model": "fake", "input": [texts, []]});
    assert_eq!(server.ok(path, &nested).await, json!([pieces, []]));
    for (input, status) in [
        (json!([]), 400),
        (json!(["x"]), 400),
        (json!([999_999]), 400),
        (Value::Null, 400),
    ] {
        let answer = server.post(path, json!({"input": input}).to_string()).await;
        answer.error(status);
        assert_eq!(answer.json()["error"]["param"], "input");
    }
    let unknown = json!({"model": "other", "input": ["5"]}).to_string();
    server.post(path, unknown).await.error(404);
}

#[tokio::test]
async fn every_client_asks_first_whether_keys_are_needed() {
    let auth = |keys| async move {
        let settings = ApiSettings {
            keys,
            ..ApiSettings::default()
        };
        let server = Server::with_settings(settings);
        server.get("/v1/cluster/auth").await.json()
    };
    assert_eq!(auth(ApiKeys::default()).await, json!({"auth": false}));
    assert_eq!(auth(ApiKeys::new(["k"])).await, json!({"auth": true}));
}

#[tokio::test]
async fn a_key_is_a_password_for_who_logs_in() {
    let settings = ApiSettings {
        keys: ApiKeys::new(["right"]),
        ..ApiSettings::default()
    };
    let server = Server::with_settings(settings);
    let login = |password: &str| json!({"username": "me", "password": password}).to_string();
    let answer = server.post("/token", login("right")).await.json();
    assert_eq!(answer["access_token"], "right");
    assert_eq!(answer["token_type"], "bearer");
    let detail = server.post("/token", login("wrong")).await.error(401);
    assert!(
        detail.starts_with("Could not validate credentials"),
        "{detail}"
    );
    server.post("/token", "{}").await.error(401);
}

#[tokio::test]
async fn a_launch_is_seen_at_once_and_a_failed_one_says_why() {
    let server = Server::family();
    let body = json!({"model_name": "broken", "model_path": MISSING, "model_type": "embedding",
                      "replica": 2});
    let answer = server.launch("?wait_ready=False", body.clone()).await;
    assert_eq!(
        answer.json(),
        json!({"model_uid": "broken"}),
        "{}",
        answer.text()
    );
    let path = "/v1/models/instances?model_name=broken&model_uid=broken";
    let instances = server.get(path).await.json();
    assert_eq!(instances.as_array().unwrap().len(), 1, "{instances}");
    assert_eq!(instances[0]["replica"], 2);
    assert_eq!(
        instances[0]["replica_statuses"][1]["replica_model_uid"],
        "broken-1"
    );
    let refused = server.launch("", body).await;
    assert!(!refused.error(503).is_empty());
    let instances = server.get(path).await.json();
    assert_eq!(instances[0]["status"], "ERROR");
    let reason = &instances[0]["replica_statuses"][0]["error_message"];
    assert!(
        reason.as_str().is_some_and(|reason| !reason.is_empty()),
        "{instances}"
    );
    assert_eq!(server.delete("/v1/models/broken").await.json(), Value::Null);
    assert_eq!(server.get(path).await.json(), json!([]));
}

#[tokio::test]
async fn another_model_does_not_get_a_uid_that_is_taken() {
    let server = Server::family();
    let body = |path: &str| json!({"model_name": "x", "model_uid": "mine", "model_path": path});
    let first = server.launch("?wait_ready=false", body(MISSING)).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let detail = server
        .launch("?wait_ready=false", body("/elsewhere"))
        .await
        .error(400);
    let expected = "Model is already in the model list, uid: mine";
    assert!(detail.starts_with(expected), "{detail}");
}

#[tokio::test]
async fn who_launched_a_model_can_end_it_and_nobody_else_is_harmed() {
    let server = Server::family();
    assert_eq!(server.delete("/v1/models/judge").await.json(), Value::Null);
    let detail = server.delete("/v1/models/judge").await.error(404);
    let expected = "Model not found in the model list, uid: judge";
    assert!(detail.starts_with(expected), "{detail}");
    assert_eq!(server.delete("/v1/models/org/fake").await.status, 200);
    server.get("/v1/models/m3").await.json();
}

#[tokio::test]
async fn progress_of_a_model_that_nobody_launched_is_pending() {
    let server = Server::new();
    let progress = server.get("/v1/models/nobody/progress").await;
    let expected =
        json!({"progress": 0.0, "stage": "pending", "download_files": [], "replicas": []});
    assert_eq!(progress.json(), expected);
    let ready = server.get("/v1/models/fake/progress").await.json();
    assert_eq!(
        (&ready["progress"], &ready["stage"]),
        (&json!(1.0), &json!("ready"))
    );
    let none = server.get("/v1/models/instances?model_uid=nobody").await;
    assert_eq!(none.json(), json!([]));
}

#[tokio::test]
async fn replicas_are_added_and_taken_away_and_the_last_one_takes_the_model() {
    let server = Server::family();
    let more = server
        .post("/v1/models/m3/replicas", r#"{"replica":"2"}"#)
        .await;
    assert_eq!(more.json()["replica"], 2, "{}", more.text());
    let one = server.post("/v1/models/m3/replicas", "{}").await.json();
    assert_eq!(one["replica_model_uid"], "m3-3");
    server
        .post("/v1/models/m3/replicas", r#"{"replica":true}"#)
        .await
        .error(400);
    server.delete("/v1/models/m3/replicas/4").await.error(400);
    server.delete("/v1/models/m3/replicas/x").await.error(400);
    for remaining in [3, 2, 1, 0] {
        let left = server.delete("/v1/models/m3/replicas/0").await.json();
        assert_eq!(left, json!({"remaining_replicas": remaining}));
    }
    server.get("/v1/models/m3").await.error(404);
}

#[tokio::test]
async fn the_catalogue_is_told_by_type_and_every_row_has_a_record() {
    let server = Server::new();
    for (model_type, key) in [("embedding", "dimensions"), ("rerank", "type")] {
        let path = format!("/v1/model_registrations/{model_type}");
        let list = server.get(&path).await.json();
        assert!(list.as_array().unwrap().len() > 10);
        for row in list.as_array().unwrap() {
            assert_eq!(row["is_builtin"], true);
            let name = row["model_name"].as_str().unwrap();
            let record = server.get(&format!("{path}/{name}")).await.json();
            assert_eq!(record["model_name"], name);
            assert!(
                record["language"].is_array() && !record[key].is_null(),
                "{record}"
            );
        }
        let detailed = server.get(&format!("{path}?detailed=true")).await.json();
        assert_eq!(
            detailed.as_array().unwrap().len(),
            list.as_array().unwrap().len()
        );
        assert!(detailed[0]["model_specs"][0]["cache_status"].is_boolean());
    }
    for other in ["LLM", "image", "audio", "video", "world", "flexible"] {
        let list = server
            .get(&format!("/v1/model_registrations/{other}"))
            .await;
        assert_eq!(list.json(), json!([]), "{other}");
    }
    server
        .get("/v1/model_registrations/sculpture")
        .await
        .error(400);
    for unknown in ["embedding/nothing", "rerank/bge-m3", "LLM/bge-m3"] {
        let path = format!("/v1/model_registrations/{unknown}");
        assert!(server.get(&path).await.error(400).ends_with("not found"));
    }
}

#[tokio::test]
async fn an_own_model_is_registered_listed_and_taken_out_again() {
    let server = Server::new();
    let path = "/v1/model_registrations/embedding";
    let record = json!({"model_name": "mine", "dimensions": 8, "max_tokens": 16,
                        "language": ["en"], "model_specs": [{"model_uri": "file:///m/mine"}]});
    let body = json!({"model": record.to_string(), "worker_ip": null, "persist": false});
    let body = body.to_string();
    assert_eq!(server.post(path, body.clone()).await.json(), Value::Null);
    server.post(path, body).await.error(400);
    let list = server.get(path).await.json();
    let row = json!({"model_name": "mine", "is_builtin": false});
    assert!(list.as_array().unwrap().contains(&row), "{list}");
    let record = server.get(&format!("{path}/mine")).await.json();
    assert_eq!(record["model_specs"][0]["model_uri"], "file:///m/mine");
    server.delete(&format!("{path}/bge-m3")).await.error(400);
    assert_eq!(
        server.delete(&format!("{path}/mine")).await.json(),
        Value::Null
    );
    server.delete(&format!("{path}/mine")).await.error(400);
    server.post(path, r#"{"model":"{"}"#).await.error(400);
    server.post(path, "{}").await.error(400);
}

#[tokio::test]
async fn the_engine_of_a_model_has_what_the_command_line_indexes() {
    let server = Server::new();
    for path in [
        "/v1/engines/bge-m3",
        "/v1/engines/embedding/bge-m3",
        "/v1/engines/LLM/bge-m3",
        "/v1/engines/BAAI/bge-m3",
    ] {
        let engines = server.get(path).await.json();
        let option = &engines["onnx"][0];
        assert_eq!(option["model_name"], "bge-m3");
        assert!(option["model_size_in_billions"].is_string());
        assert_eq!(option["quantizations"], json!(["none"]));
    }
    server.get("/v1/engines/nothing").await.error(400);
    server.get("/v1/engines/rerank/bge-m3").await.error(400);
}

#[tokio::test]
async fn stopping_the_cluster_answers_and_ends_the_server() {
    let server = Server::new();
    let answer = server.delete("/v1/clusters").await.json();
    assert_eq!(answer, json!({"result": true}));
    server.lifetime.ended().await;
}

#[tokio::test]
async fn the_pages_of_a_cluster_are_those_of_this_machine() {
    let server = Server::new();
    let status = server.get("/status").await.json();
    let cpu = &status["workers"]["127.0.0.1:9997"]["status"]["cpu"];
    assert!(
        cpu["memory_total"].as_u64().is_some_and(|bytes| bytes > 0),
        "{status}"
    );
    let plain = server.get("/v1/cluster/info").await.json();
    assert_eq!(plain[0]["node_type"], "Supervisor");
    assert!(plain[1].get("mem_total").is_none());
    let detailed = server.get("/v1/cluster/info?detailed=true").await.json();
    assert!(
        detailed[1]["cpu_count"]
            .as_u64()
            .is_some_and(|cores| cores > 0)
    );
    let workers = server.get("/v1/workers").await.json();
    assert_eq!(workers[0]["models"]["fake"], "fake");
}

#[tokio::test]
async fn what_is_not_managed_here_is_a_json_404() {
    let server = Server::new();
    for path in [
        "/v1/autostart/models",
        "/v1/workers/x/relaunch",
        "/v1/requests/1/progress",
    ] {
        server.get(path).await.error(404);
    }
    server
        .post("/v1/models/llm/auto-register", "{}")
        .await
        .error(405);
}
