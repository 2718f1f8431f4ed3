//! The OpenAPI document against the route table.

use super::*;

#[tokio::test]
async fn the_description_names_every_call_and_every_call_is_there() {
    let f = Fixture::start().await;
    let description = f.get("/api/openapi.json").await.body;
    let contract = [
        ("/api/openapi.json", vec!["get"]),
        ("/api/v1/apps", vec!["get"]),
        ("/api/v1/apps/{app}", vec!["get"]),
        ("/api/v1/apps/{app}/abort", vec!["post"]),
        ("/api/v1/apps/{app}/history", vec!["get"]),
        ("/api/v1/apps/{app}/hold", vec!["post"]),
        ("/api/v1/apps/{app}/keep", vec!["post"]),
        ("/api/v1/apps/{app}/maintenance", vec!["post"]),
        ("/api/v1/apps/{app}/mirror", vec!["get"]),
        ("/api/v1/apps/{app}/pause", vec!["post"]),
        ("/api/v1/apps/{app}/pin", vec!["delete", "post"]),
        ("/api/v1/apps/{app}/plan", vec!["get"]),
        ("/api/v1/apps/{app}/preview-link", vec!["post"]),
        ("/api/v1/apps/{app}/promote", vec!["post"]),
        ("/api/v1/apps/{app}/reject", vec!["post"]),
        ("/api/v1/apps/{app}/resume", vec!["post"]),
        ("/api/v1/apps/{app}/retry", vec!["post"]),
        ("/api/v1/apps/{app}/revisions/{rev}", vec!["delete", "put"]),
        ("/api/v1/apps/{app}/rollback", vec!["post"]),
        ("/api/v1/apps/{app}/smoke", vec!["get", "post"]),
        ("/api/v1/apps/{app}/unpause", vec!["post"]),
        ("/api/v1/apps/{app}/weight", vec!["post"]),
        ("/api/v1/events", vec!["get"]),
        ("/api/v1/journal", vec!["get"]),
        ("/api/v1/reload", vec!["post"]),
        ("/api/v1/version", vec!["get"]),
        ("/api/v1/whoami", vec!["get"]),
    ];
    let paths = description["paths"].as_object().unwrap();
    let described: BTreeSet<_> = paths.keys().map(String::as_str).collect();
    assert_eq!(described, contract.iter().map(|(path, _)| *path).collect());
    for (path, methods) in contract {
        let item = paths[path].as_object().unwrap();
        let described: BTreeSet<_> = item.keys().map(String::as_str).collect();
        assert_eq!(described, methods.iter().copied().collect(), "{path}");
        // The route table itself: what the path offers is what `Allow` lists on a method that none has.
        let concrete = path.replace("{app}", "shop").replace("{rev}", "v9");
        let patch = f.send(request(Method::PATCH, &concrete, &f.operator, Value::Null)).await;
        assert_eq!(patch.status, 405, "{path}");
        let offered: BTreeSet<_> = patch.header("allow").unwrap().split(',').map(str::to_lowercase).collect();
        let expected = methods.iter().flat_map(|m| if *m == "get" { vec!["get", "head"] } else { vec![*m] });
        assert_eq!(offered, expected.map(str::to_owned).collect(), "{path}");
        for (method, operation) in item {
            complete(path, method, operation);
        }
    }
    references_resolve(&description, &description);
    assert_eq!(description["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

/// An operation says what it is for, names every placeholder of its path, and describes its errors and, where it acts,
/// its guards and its body.
fn complete(path: &str, method: &str, operation: &Value) {
    let place = format!("{method} {path}");
    assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{place}");
    let parameters: BTreeSet<_> = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| {
            assert!(p["description"].is_string() && p["schema"].is_object(), "{place}: {p}");
            (p["in"].as_str().unwrap().to_owned(), p["name"].as_str().unwrap().to_owned())
        })
        .collect();
    for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        assert!(parameters.contains(&("path".into(), name.into())), "{place}: {name}");
    }
    let responses = operation["responses"].as_object().unwrap();
    assert!(responses["200"]["content"].is_object(), "{place}");
    if path == "/api/openapi.json" {
        return;
    }
    let mut statuses = vec!["400", "401", "403", "405", "421"];
    if path.ends_with("/preview-link") {
        statuses.extend(["404", "408", "413", "415", "503"]);
    } else if method != "get" && path != "/api/v1/reload" {
        statuses.extend(["404", "408", "409", "412", "413", "415", "422", "500", "503"]);
        for (place_in, name) in [("header", "If-Match"), ("header", "Idempotency-Key"), ("query", "dryRun")] {
            assert!(parameters.contains(&(place_in.into(), name.into())), "{place}: {name}");
        }
        assert!(operation["requestBody"]["content"]["application/json"].is_object(), "{place}");
        assert!(responses["200"]["headers"]["ETag"].is_object(), "{place}");
    }
    for status in statuses {
        let schema = &responses[status]["content"]["application/problem+json"]["schema"]["$ref"];
        assert_eq!(schema, "#/components/schemas/Problem", "{place} {status}");
    }
}

fn references_resolve(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            fields.values().for_each(|part| references_resolve(document, part));
        }
        Value::Array(parts) => parts.iter().for_each(|part| references_resolve(document, part)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
