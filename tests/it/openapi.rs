//! The OpenAPI document that a node serves says what the node does.

use std::collections::BTreeSet;

use metacdn::client::Peer;
use metacdn::model::Principal;
use metacdn::protocol;
use serde_json::{Map, Value};

use crate::answers::{Answer, ask, connect_as, exchange};
use crate::cluster::{Cluster, put};

const METHODS: [&str; 5] = ["get", "head", "put", "post", "delete"];

async fn served() -> (Cluster, Peer, Value) {
    let cluster = Cluster::start(&["AWS"]).await;
    let client = cluster.client("AWS");
    let answer = ask(&client, "GET", protocol::OPENAPI, &[], "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let document = answer.json();
    (cluster, client, document)
}

fn paths(document: &Value) -> &Map<String, Value> {
    document["paths"].as_object().unwrap()
}

/// What a reference within the document points at; a value that is none stands for itself.
fn resolve<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    let Some(reference) = value["$ref"].as_str() else { return value };
    let pointer = reference.strip_prefix('#').unwrap();
    document.pointer(pointer).unwrap_or_else(|| panic!("{reference} points at nothing"))
}

fn each_value<'d>(value: &'d Value, visit: &mut impl FnMut(&'d Value)) {
    visit(value);
    match value {
        Value::Array(values) => values.iter().for_each(|value| each_value(value, visit)),
        Value::Object(fields) => fields.values().for_each(|value| each_value(value, visit)),
        _ => {}
    }
}

/// A path of the document with something in each of its places.
fn example(path: &str) -> String {
    let hash = metacdn::model::ContentHash::of(b"text").to_string();
    [("{key}", "a.txt"), ("{hash}", &hash), ("{bucket}", "7"), ("{size}", "10"), ("{id}", "AWS"), ("{provider}", "AWS")]
        .iter()
        .fold(path.to_owned(), |path, (place, example)| path.replace(place, example))
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_paths_and_methods_are_those_served() {
    let (_cluster, client, document) = served().await;
    put(&client, "a.txt", "text").await;
    let mut asked = 0;
    for (path, item) in paths(&document) {
        let served = ask(&client, "OPTIONS", &example(path), &[], "").await;
        assert_eq!(served.status, 405, "{path} is served, though not for OPTIONS");
        let served: BTreeSet<String> = served.header("allow").split(',').map(|m| m.trim().to_lowercase()).collect();
        let mut documented: BTreeSet<String> =
            METHODS.iter().filter(|method| !item[**method].is_null()).map(|method| (*method).to_owned()).collect();
        // HEAD is served wherever GET is, and documented where it says more.
        if documented.contains("get") {
            documented.insert("head".to_owned());
        }
        assert_eq!(served, documented, "{path}");
        asked += 1;
    }
    assert!(asked >= 12, "only {asked} paths are documented");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_of_the_protocol_is_documented() {
    let (_cluster, _client, document) = served().await;
    let documented: Vec<_> = paths(&document).keys().collect();
    for path in [
        protocol::OBJECTS,
        protocol::BLOBS,
        protocol::ENTRIES,
        protocol::FEED,
        protocol::PING,
        protocol::RECEIPTS,
        protocol::DIGESTS,
        protocol::WITHHELD,
        protocol::PROBE,
        protocol::STATUS,
        protocol::SCRUB,
        protocol::SERVERS,
        protocol::PRICES,
        protocol::OPENAPI,
        protocol::HEALTH,
        protocol::READY,
        protocol::METRICS,
    ] {
        let below = format!("{path}/{{");
        assert!(documented.iter().any(|known| *known == path || known.starts_with(&below)), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_whole() {
    let (_cluster, _client, document) = served().await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut referred = BTreeSet::new();
    each_value(&document, &mut |value| {
        if let Some(reference) = value["$ref"].as_str() {
            resolve(&document, value);
            referred.insert(reference.to_owned());
        }
    });
    for kind in ["schemas", "responses", "parameters", "headers"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            assert!(referred.contains(&format!("#/components/{kind}/{name}")), "nothing refers to {kind}/{name}");
        }
    }
    let mut names = BTreeSet::new();
    for (path, item) in paths(&document) {
        for operation in METHODS.iter().filter_map(|method| item.get(*method)) {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name} stands twice");
            assert!(operation["summary"].is_string(), "{name}");
            let places: BTreeSet<_> = path.split('/').filter_map(|part| part.strip_prefix('{')).collect();
            let parameters = [&item["parameters"], &operation["parameters"]];
            let parameters = parameters.iter().filter_map(|list| list.as_array()).flatten();
            let described: BTreeSet<_> = parameters
                .map(|parameter| resolve(&document, parameter))
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            assert_eq!(places.iter().map(|place| place.trim_end_matches('}')).collect::<BTreeSet<_>>(), described);
            for (status, response) in operation["responses"].as_object().unwrap() {
                let response = resolve(&document, response);
                assert!(response["description"].is_string(), "{name} {status}");
                let is_problem = !response["content"]["application/problem+json"].is_null();
                let is_error = status.as_str() >= "400";
                assert_eq!(is_problem, is_error, "{name} {status}: errors are problems, and nothing else is");
            }
        }
    }
}

/// What is wrong with `value` by `schema`: as much of JSON Schema as the document uses for objects.
fn mismatch(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let schema = resolve(document, schema);
    if let Some(choices) = schema["oneOf"].as_array() {
        let fitting = choices.iter().filter(|choice| mismatch(document, choice, value).is_none()).count();
        return (fitting != 1).then(|| format!("{value} fits {fitting} of {schema}"));
    }
    let kinds: Vec<_> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let unknown = !kinds.is_empty() && !kinds.contains(&kind);
    let other = schema.get("const").is_some_and(|constant| constant != value)
        || schema["enum"].as_array().is_some_and(|choices| !choices.contains(value));
    if unknown || other {
        return Some(format!("{value} is not {schema}"));
    }
    match value {
        Value::Array(values) => values.iter().find_map(|value| mismatch(document, &schema["items"], value)),
        Value::Object(fields) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let mut missing = required.filter(|name| !fields.contains_key(*name));
            missing.next().map(|name| format!("{value} lacks {name}")).or_else(|| {
                fields.iter().find_map(|(name, value)| {
                    match schema["properties"].get(name).or_else(|| schema.get("additionalProperties")) {
                        Some(schema) => mismatch(document, schema, value),
                        None => Some(format!("{name} is not documented")),
                    }
                })
            })
        }
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tariffs_are_as_documented_and_hourly_prices_leave_their_rates() {
    let (_cluster, client, document) = served().await;
    let json = [("content-type", "application/json")];
    let rates = r#"{"instance_hour":0.0416,"rates":{"egress":{"free_gb":100,"tiers":[{"price_per_gb":"0.09"}]}}}"#;
    let hours = r#"{"instance_hour":300000000,"network_hour":0}"#;
    for (method, path, example, headers, body, status) in [
        ("put", "/v1/tariffs/{provider}", "/v1/tariffs/AWS", &json[..], rates, 204),
        ("put", "/v1/tariffs/{provider}", "/v1/tariffs/AWS", &json, r#"{"rates":{"egress":{"tiers":[]}}}"#, 400),
        ("put", "/v1/tariffs/{provider}", "/v1/tariffs/AWS", &json, r#"{"rates":{}}"#, 422),
        ("put", "/v1/prices/{provider}", "/v1/prices/AWS", &json, hours, 204),
        ("get", "/v1/tariffs", "/v1/tariffs", &[], "", 200),
        ("delete", "/v1/tariffs/{provider}", "/v1/tariffs/AWS", &[], "", 204),
    ] {
        let answer = ask(&client, &method.to_uppercase(), example, headers, body).await;
        assert_eq!(answer.status, status, "{method} {example}: {answer:?}");
        check(&document, method, path, &answer);
        if method == "get" {
            let egress = serde_json::json!({
                "unit": "GB", "free_gb": 100, "free_gb_per_server": 0, "allowance": "before_tiers",
                "tiers": [{ "price_per_gb": "0.09" }],
            });
            let rates = serde_json::json!({ "currency": "USD", "egress": egress });
            let aws = serde_json::json!({ "instance_hour": "0.30", "network_hour": "0.00", "rates": rates });
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(body, serde_json::json!({ "AWS": aws }));
        }
    }
    let refused = ask(&client, "PUT", "/v1/tariffs/AWS", &json, r#"{"rates":{"egress":{"tiers":[]}}}"#).await;
    assert!(String::from_utf8_lossy(&refused.body).contains("rates.egress.tiers: there are 1 to 16, not 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_documented() {
    let (cluster, client, document) = served().await;
    let json = [("content-type", "application/json")];
    let tariff = r#"{"instance_hour":300000000,"network_hour":100000000}"#;
    let node = serde_json::to_string(&client.servers().await.unwrap().servers[0].node).unwrap();
    put(&client, "deleted", "").await;
    client.delete_object(&crate::cluster::key("deleted")).await.unwrap();
    for (method, path, example, headers, body, status) in [
        ("put", "/v1/objects/{key}", "/v1/objects/a.txt", &[][..], "text", 201),
        ("put", "/v1/objects/{key}", "/v1/objects/a.txt", &[], "text", 200),
        ("put", "/v1/objects/{key}", "/v1/objects/a.txt", &[("if-none-match", "*")], "text", 412),
        ("put", "/v1/objects/{key}", "/v1/objects/a.txt", &[("content-encoding", "br")], "text", 415),
        ("get", "/v1/objects/{key}", "/v1/objects/a.txt", &[], "", 200),
        ("get", "/v1/objects/{key}", "/v1/objects/a.txt", &[("range", "bytes=0-1")], "", 206),
        ("get", "/v1/objects/{key}", "/v1/objects/a.txt", &[("range", "bytes=9-")], "", 416),
        ("get", "/v1/objects/{key}", "/v1/objects/a.txt", &[("if-none-match", "*")], "", 304),
        ("get", "/v1/objects/{key}", "/v1/objects/deleted", &[], "", 404),
        ("get", "/v1/objects", "/v1/objects?limit=1", &[], "", 200),
        ("get", "/v1/objects", "/v1/objects?limit=x", &[], "", 400),
        ("put", "/v1/prices/{provider}", "/v1/prices/AWS", &json, tariff, 204),
        ("put", "/v1/prices/{provider}", "/v1/prices/AWS", &json, "{", 400),
        ("put", "/v1/prices/{provider}", "/v1/prices/AWS", &[], tariff, 415),
        ("put", "/v1/prices/{provider}", "/v1/prices/AWS", &json, r#"{"instance_hour":-1,"network_hour":0}"#, 422),
        (
            "put",
            "/v1/prices/{provider}",
            "/v1/prices/AWS",
            &json,
            r#"{"instance_hour":18446744073709551615,"network_hour":0}"#,
            422,
        ),
        ("put", "/v1/prices/{provider}", "/v1/prices/A.B", &json, tariff, 400),
        ("get", "/v1/prices", "/v1/prices", &[], "", 200),
        ("get", "/v1/entries/{key}", "/v1/entries/a.txt", &[], "", 200),
        ("get", "/v1/entries/{key}", "/v1/entries/never", &[], "", 200),
        ("get", "/v1/feed", "/v1/feed", &[], "", 200),
        ("get", "/v1/feed", "/v1/feed?since=-1", &[], "", 400),
        ("get", "/v1/ping", "/v1/ping", &[], "", 200),
        ("get", "/v1/probe/{size}", "/v1/probe/1000", &[], "", 200),
        ("get", "/v1/probe/{size}", "/v1/probe/1048577", &[], "", 400),
        ("get", "/v1/status", "/v1/status", &[], "", 200),
        ("get", "/v1/servers", "/v1/servers", &[], "", 200),
        ("put", "/v1/servers/{id}", "/v1/servers/AWS", &json, &node, 200),
        ("put", "/v1/servers/{id}", "/v1/servers/AWS", &json, &node.replace("off", "static"), 409),
        ("put", "/v1/servers/{id}", "/v1/servers/GC", &json, &node, 400),
        ("put", "/v1/servers/{id}/state", "/v1/servers/AWS/state", &json, r#""active""#, 204),
        ("put", "/v1/servers/{id}/state", "/v1/servers/GC/state", &json, r#""draining""#, 404),
        ("put", "/v1/servers/{id}/state", "/v1/servers/AWS/state", &json, r#""asleep""#, 422),
        ("delete", "/v1/servers/{id}/state", "/v1/servers/AWS/state", &[], "", 204),
        ("delete", "/v1/prices/{provider}", "/v1/prices/AWS", &[], "", 204),
        ("delete", "/v1/prices/{provider}", "/v1/prices/AWS", &[], "", 404),
        ("delete", "/v1/objects/{key}", "/v1/objects/a.txt", &[], "", 204),
        ("get", "/health", "/health", &[], "", 200),
        ("get", "/ready", "/ready", &[], "", 200),
        ("get", "/metrics", "/metrics", &[], "", 200),
    ] {
        let answer = ask(&client, &method.to_uppercase(), example, headers, body).await;
        assert_eq!(answer.status, status, "{method} {example} {headers:?}: {answer:?}");
        check(&document, method, path, &answer);
    }
    // Without a certificate, what the document opens is open, and nothing else.
    for (path, item) in paths(&document) {
        for method in METHODS.iter().filter(|method| !item[**method].is_null() && **method != "head") {
            let path = self::example(path);
            let head = format!("{} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", method.to_uppercase());
            let request = format!("{head}Content-Type: application/json\r\nContent-Length: 0\r\n\r\n");
            let stream = connect_as(&cluster, "AWS", Principal::Anonymous).await;
            let answer = Answer::parse(&exchange(stream, request.as_bytes()).await);
            let open = item[*method]["security"].as_array().is_some_and(Vec::is_empty);
            assert_eq!(answer.status == 403, !open, "{method} {path}: {answer:?}");
        }
    }
}

/// Fails if the document does not know the answer's status, media type, JSON or headers.
fn check(document: &Value, method: &str, path: &str, answer: &Answer) {
    let what = format!("{method} {path} {}", answer.status);
    let operation = &document["paths"][path][method];
    let response = resolve(document, &operation["responses"][answer.status.to_string()]);
    assert!(response.is_object(), "{what} is not documented");
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let may_lack = resolve(document, header)["required"] == false;
        assert!(may_lack || answer.headers.contains_key(name.as_str()), "{what} lacks {name}");
    }
    let media_type = answer.header("content-type").split(';').next().unwrap();
    let Some(content) = response["content"].as_object() else {
        return assert_eq!((media_type, answer.body.len()), ("", 0), "{what} has no content");
    };
    let described = content.get(media_type).or_else(|| content.get("*/*"));
    let schema = &described.unwrap_or_else(|| panic!("{what} may not be {media_type:?}"))["schema"];
    if media_type.ends_with("json") {
        assert_eq!(mismatch(document, schema, &answer.json()), None, "{what}");
    }
}
