//! The manager's REST does what its document says, as a fuzzer reads it; a lost password.

use std::{path::Path, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darter_integration::{
    darter::{Part, binary},
    http,
    process::output,
    report::{has_tools, tool},
    secrets,
};
use serde_json::{Value, json};
use tokio::process::Command;

const ANY: &str = "127.0.0.1:0";
const PASSWORD: &str = "correct horse battery";

/// Everything in one process.
async fn standalone(dir: &Path, upstream: &str) -> Result<Part> {
    let data = dir.join("data").display().to_string();
    let mut arguments = vec!["standalone", "--listen", ANY, "--operations-listen", ANY];
    arguments.extend(["--data", &data, "--upstream", upstream]);
    for setting in [
        "proxy.peer=127.0.0.1:0",
        "scheduler.listen=127.0.0.1:0",
        "manager.listen=127.0.0.1:0",
        "manager.grpc=127.0.0.1:0",
    ] {
        arguments.extend(["--set", setting]);
    }
    let password = dir.join("password");
    secrets::keep(PASSWORD);
    std::fs::write(&password, PASSWORD)?;
    let password = format!("manager.root_password_file={}", password.display());
    arguments.extend(["--set", &password]);
    Part::start("standalone", dir, &arguments).await
}

/// A token of the administrator, who keeps his password to himself.
async fn token(manager: &Part) -> Result<String> {
    use base64::Engine as _;
    let root = base64::prelude::BASE64_STANDARD.encode(format!("root:{PASSWORD}"));
    let root = format!("Basic {root}");
    let headers = [
        ("content-type", "application/json"),
        ("authorization", root.as_str()),
    ];
    let url = format!("http://{}/api/v1/tokens", manager.address("manager"));
    let wish = json!({"name": "fuzzer", "role": "root"}).to_string();
    let reply = http::send(::http::Method::POST, &url, &headers, wish.into()).await?;
    ensure!(reply.status() == 201, "{reply:?}");
    let made: Value = serde_json::from_slice(reply.body())?;
    let token = made["token"].as_str().context("a token")?;
    secrets::keep(token);
    Ok(token.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_does_what_its_document_says() -> Result<()> {
    let test = "the_rest_does_what_its_document_says";
    if !has_tools(test, &["schemathesis"]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let all = standalone(dir.path(), "docker.io=http://127.0.0.1:9").await?;
    let document = format!("http://{}/api/v1/openapi.json", all.address("manager"));
    let authorization = format!("Authorization: Bearer {}", token(&all).await?);
    let schemathesis = tool("schemathesis").context("it was there")?;
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
                  response_headers_conformance,response_schema_conformance";
    let mut arguments = vec!["run", &document, "--header", &authorization];
    arguments.extend(["--checks", checks, "--phases", "examples,coverage,fuzzing"]);
    arguments.extend(["--max-examples", "10", "--max-time", "60", "--seed", "7"]);
    arguments.extend(["--request-timeout", "30", "--no-shrink"]);
    // It would follow a job to its end; and take its own token away.
    for operation in ["jobEvents", "revokeToken"] {
        arguments.extend(["--exclude-operation-id", operation]);
    }
    let mut fuzzer = Command::new(schemathesis);
    fuzzer.args(&arguments).current_dir(dir.path());
    let fuzzed = output(fuzzer.stdin(Stdio::null())).await?;
    let said = String::from_utf8_lossy(&fuzzed.stdout);
    ensure!(fuzzed.status.success(), "{said}");
    let url = format!("http://{}/healthy", all.address("manager"));
    ensure!(http::get(&url).await?.status() == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_password_is_found_with_the_database_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let all = standalone(dir.path(), "docker.io=http://127.0.0.1:9").await?;
    let data = dir.path().join("data/manager").display().to_string();
    let reset = output(Command::new(binary()).args(["passwd", "--data", &data])).await?;
    let said = String::from_utf8_lossy(&reset.stdout).into_owned();
    ensure!(reset.status.success(), "{said}{reset:?}");
    let password = said
        .split("password ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let url = format!("http://{}/api/v1/tokens", all.address("manager"));
    let status = async |password: &str| -> Result<u16> {
        use base64::Engine as _;
        let root = base64::prelude::BASE64_STANDARD.encode(format!("root:{password}"));
        let root = format!("Basic {root}");
        let headers = [("authorization", root.as_str())];
        let reply = http::send(::http::Method::GET, &url, &headers, Bytes::new()).await?;
        Ok(reply.status().as_u16())
    };
    let password = password.context("a password")?;
    secrets::keep(password);
    // The manager runs all the while.
    assert_eq!(status(password).await?, 200);
    assert_eq!(status(PASSWORD).await?, 401);
    Ok(())
}
