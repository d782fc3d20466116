//! dockerd: `registry-mirrors` in daemon.json, which hold for Docker Hub alone.

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize as _;
use serde_json::{Map, Value, ser::PrettyFormatter};

use super::{
    plan::{Change, Plan, Standing},
    target::{Mirror, Registry},
};

pub(super) const CONFIG: &str = "/etc/docker/daemon.json";
const KEY: &str = "registry-mirrors";
/// dockerd reads its mirrors again without a restart; containers go on.
/// <https://docs.docker.com/reference/cli/dockerd/#configuration-reload-behavior>
const RELOAD: &str = "systemctl reload docker";
/// Where dockerd gets flags from. A key that is a flag too keeps it from starting.
const FLAGS: [&str; 3] = [
    "/etc/default/docker",
    "/etc/systemd/system/docker.service",
    "/lib/systemd/system/docker.service",
];
const FLAGS_DIR: &str = "/etc/systemd/system/docker.service.d";

pub(super) fn plan(
    standing: &Standing<'_>,
    mirror: &Mirror,
    registries: &[Registry],
) -> Result<Plan> {
    for registry in registries {
        ensure!(
            registry.name == "docker.io",
            "Docker has mirrors for docker.io alone; for {} give dockerd HTTPS_PROXY={mirror} and have the system trust its CA (darter ca interception install)",
            registry.name
        );
    }
    ensure!(
        mirror.path().is_empty(),
        "Docker takes no mirror with a path ({})",
        mirror.path()
    );
    if let Some(file) = flagged(standing)? {
        bail!(
            "{} gives dockerd --registry-mirror, and it does not start with both flag and {CONFIG}: take the flag away first",
            standing.root.shown(&file)
        );
    }
    let before = standing.before(CONFIG)?;
    let after = merge(before.as_deref(), mirror).with_context(|| standing.root.shown(CONFIG))?;
    Ok(Plan {
        changes: vec![Change::new(CONFIG.to_owned(), after, Some(RELOAD))],
        notes: Vec::new(),
    })
}

fn flagged(standing: &Standing<'_>) -> Result<Option<String>> {
    let mut files: Vec<String> = FLAGS.map(str::to_owned).into();
    for name in standing.root.list(FLAGS_DIR)? {
        files.push(format!("{FLAGS_DIR}/{name}"));
    }
    for file in files {
        let text = standing.root.read(&file)?.unwrap_or_default();
        let lines = text.lines().map(str::trim_start);
        let mut said = lines.filter(|line| !line.starts_with('#'));
        if said.any(|line| line.contains("--registry-mirror")) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// daemon.json with the mirror as the first of its mirrors.
fn merge(before: Option<&str>, mirror: &Mirror) -> Result<String> {
    let text = before.unwrap_or_default();
    let mut config: Map<String, Value> = if text.trim().is_empty() {
        Map::new()
    } else {
        serde_json::from_str(text).context("it is no JSON object: mend it first")?
    };
    let ours = mirror.to_string();
    let mirrors = config
        .entry(KEY)
        .or_insert_with(|| Value::Array(Vec::new()));
    let mirrors = mirrors
        .as_array_mut()
        .with_context(|| format!("`{KEY}` is no list: mend it first"))?;
    let is_ours = |value: &Value| {
        let url = value.as_str().unwrap_or_default();
        url.trim_end_matches('/') == ours
    };
    if mirrors.first().is_some_and(is_ours) {
        return Ok(text.to_owned());
    }
    mirrors.retain(|value| !is_ours(value));
    mirrors.insert(0, Value::String(ours));
    let mut bytes = Vec::new();
    let indent = indent(text);
    let formatter = PrettyFormatter::with_indent(indent.as_bytes());
    config.serialize(&mut serde_json::Serializer::with_formatter(
        &mut bytes, formatter,
    ))?;
    if text.is_empty() || text.ends_with('\n') {
        bytes.push(b'\n');
    }
    Ok(String::from_utf8(bytes)?)
}

/// What its lines are indented with.
fn indent(text: &str) -> String {
    let blanks = |line: &str| -> String {
        let blank = line.chars().take_while(|c| " \t".contains(*c));
        blank.collect()
    };
    let mut found = text.lines().map(blanks).filter(|blank| !blank.is_empty());
    found.next().unwrap_or_else(|| "  ".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order_and_their_indent() {
        let mirror: Mirror = "http://127.0.0.1:4001".parse().unwrap();
        let before = "{\n\t\"log-level\": \"warn\",\n\t\"registry-mirrors\": [\n\t\t\"https://other\"\n\t],\n\t\"bip\": \"10.0.0.1/24\"\n}";
        let after = merge(Some(before), &mirror).unwrap();
        assert_eq!(
            after,
            "{\n\t\"log-level\": \"warn\",\n\t\"registry-mirrors\": [\n\t\t\"http://127.0.0.1:4001\",\n\t\t\"https://other\"\n\t],\n\t\"bip\": \"10.0.0.1/24\"\n}"
        );
        assert_eq!(merge(Some(&after), &mirror).unwrap(), after);
        assert_eq!(
            merge(None, &mirror).unwrap(),
            "{\n  \"registry-mirrors\": [\n    \"http://127.0.0.1:4001\"\n  ]\n}\n"
        );
    }

    #[test]
    fn what_is_no_configuration_is_not_overwritten() {
        let mirror: Mirror = "http://127.0.0.1:4001".parse().unwrap();
        for before in ["[]", "{", "{\"registry-mirrors\": \"x\"}"] {
            assert!(merge(Some(before), &mirror).is_err(), "{before}");
        }
    }
}
