//! One TOML file with a section a component; variables and flags over it.
//!
//! Each section is the component's own options struct. All mistakes are found before
//! anything starts, each with where it stands and what was expected.

use std::{fmt, net::SocketAddr, path::Path};

use darter_api::membership::PartUrl;
use darter_manager::KEEP_ALIVE;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{Table, Value};

/// The variable of the manager that commands ask, by its REST.
pub(crate) const MANAGER_URL: &str = "DARTER_MANAGER_URL";
/// The variable of the file with what they show to it.
pub(crate) const MANAGER_TOKEN_FILE: &str = "DARTER_MANAGER_TOKEN_FILE";
/// Variables of commands' flags, which look like keys of a section and are none.
const OF_COMMANDS: [&str; 2] = [MANAGER_URL, MANAGER_TOKEN_FILE];

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) proxy: darter_proxy::app::Options,
    pub(crate) scheduler: darter_scheduler::Options,
    pub(crate) manager: darter_manager::Options,
    pub(crate) cluster: darter_runtime::tls::Options,
    pub(crate) operations: Operations,
    pub(crate) log: Log,
}

/// Health and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Operations {
    pub(crate) listen: SocketAddr,
}

impl Default for Operations {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4002)),
        }
    }
}

/// Logs, which go to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) format: Format,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: Format::Text,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Text,
    Json,
}

/// One key with its value, and where it was said.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    said: String,
    key: String,
    value: Value,
}

impl Setting {
    /// `section.key=value`
    pub(crate) fn parse(said: &str, text: &str) -> Self {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        Self {
            said: format!("{said} {key}"),
            key: key.trim().to_owned(),
            value: value_of(value.trim()),
        }
    }

    pub(crate) fn text(said: &str, key: &str, text: &str) -> Self {
        Self::new(said, key, Value::String(text.to_owned()))
    }

    pub(crate) fn flag(said: &str, key: &str) -> Self {
        Self::new(said, key, Value::Boolean(true))
    }

    pub(crate) fn list(said: &str, key: &str, texts: &[String]) -> Self {
        let texts = texts.iter().cloned().map(Value::String).collect();
        Self::new(said, key, Value::Array(texts))
    }

    pub(crate) fn upstreams(said: &str, texts: &[String]) -> Self {
        let entry = |text: &String| {
            let parsed = darter_proxy::upstream::UpstreamOptions::parse(text);
            let mut table = Table::new();
            table.insert("name".to_owned(), Value::String(parsed.name));
            if let Some(url) = parsed.url {
                table.insert("url".to_owned(), Value::String(url));
            }
            Value::Table(table)
        };
        Self::new(
            said,
            "proxy.upstreams",
            Value::Array(texts.iter().map(entry).collect()),
        )
    }

    fn new(said: &str, key: &str, value: Value) -> Self {
        Self {
            said: said.to_owned(),
            key: key.to_owned(),
            value,
        }
    }
}

/// A mistake, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    place: String,
    what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// All of them in one, for who can't list them.
pub(crate) fn as_error(mistakes: &[Mistake]) -> anyhow::Error {
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    anyhow::anyhow!("the configuration: {}", lines.join("; "))
}

/// A value as TOML writes it; what is no TOML is a text.
fn value_of(text: &str) -> Value {
    let parsed = format!("x = {text}").parse::<Table>();
    parsed
        .ok()
        .and_then(|mut table| table.remove("x"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Reads file, variables and flags; later ones win.
pub(crate) fn load(
    file: Option<&Path>,
    variables: impl Iterator<Item = (String, String)>,
    flags: Vec<Setting>,
) -> Result<Config, Vec<Mistake>> {
    let mut settings = Vec::new();
    if let Some(path) = file {
        settings.extend(read(path).map_err(|mistake| vec![mistake])?);
    }
    settings.extend(variables.filter_map(|(name, value)| variable(&name, &value)));
    settings.extend(flags);
    put_together(&settings)
}

/// What settings say together; later ones win.
fn put_together(settings: &[Setting]) -> Result<Config, Vec<Mistake>> {
    let mut table = Table::new();
    let mut mistakes = Vec::new();
    for setting in settings {
        let mut alone = Table::new();
        insert(&mut alone, &setting.key, setting.value.clone());
        match parse::<Config>(&alone) {
            Ok(_) => insert(&mut table, &setting.key, setting.value.clone()),
            Err(what) => mistakes.push(Mistake {
                place: setting.said.clone(),
                what,
            }),
        }
    }
    let config = match parse::<Config>(&table) {
        Ok(config) => config,
        Err(what) => {
            let place = "together".to_owned();
            mistakes.push(Mistake { place, what });
            return Err(mistakes);
        }
    };
    mistakes.extend(check(&config));
    if mistakes.is_empty() {
        Ok(config)
    } else {
        Err(mistakes)
    }
}

fn parse<T: DeserializeOwned>(table: &Table) -> Result<T, String> {
    T::deserialize(table.clone()).map_err(|error| error.message().trim().replace('\n', " "))
}

/// A file's keys, each on its own, so that one mistake hides no other.
fn read(path: &Path) -> Result<Vec<Setting>, Mistake> {
    let place = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|cause| Mistake {
        place: place.clone(),
        what: cause.to_string(),
    })?;
    settings_of(place, &text)
}

fn settings_of(place: String, text: &str) -> Result<Vec<Setting>, Mistake> {
    let table: Table = text.parse().map_err(|cause: toml::de::Error| Mistake {
        place: place.clone(),
        what: cause.to_string().trim().to_owned(),
    })?;
    let mut settings = Vec::new();
    leaves(&place, "", table, &mut settings);
    Ok(settings)
}

fn leaves(place: &str, prefix: &str, table: Table, settings: &mut Vec<Setting>) {
    for (key, value) in table {
        let key = if prefix.is_empty() {
            key
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Table(inner) => leaves(place, &key, inner, settings),
            value => settings.push(Setting {
                said: format!("{place}: {key}"),
                key,
                value,
            }),
        }
    }
}

/// `DARTER_PROXY_STORE_CAPACITY` is `proxy.store.capacity`.
fn variable(name: &str, value: &str) -> Option<Setting> {
    if OF_COMMANDS.contains(&name) {
        return None;
    }
    let rest = name.strip_prefix("DARTER_")?.to_lowercase();
    let defaults = Table::try_from(Config::default()).ok()?;
    let (section, rest) = rest.split_once('_')?;
    let known = defaults.get(section)?.as_table()?;
    let key = format!("{section}.{}", nested(known, rest));
    Some(Setting::new(name, &key, value_of(value)))
}

/// Finds the dots that a variable's underscores stand for.
fn nested(known: &Table, rest: &str) -> String {
    for (key, value) in known {
        if let (Value::Table(inner), Some(below)) = (
            value,
            rest.strip_prefix(key.as_str())
                .and_then(|below| below.strip_prefix('_')),
        ) {
            return format!("{key}.{}", nested(inner, below));
        }
    }
    rest.to_owned()
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = table
                .entry(first)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// What types can't say.
fn check(config: &Config) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut wrong = |place: &str, what: String| {
        mistakes.push(Mistake {
            place: place.to_owned(),
            what,
        });
    };
    if let Err(errors) = darter_proxy::upstream::Upstreams::new(
        &config.proxy.upstreams,
        &darter_runtime::Tasks::new(),
    ) {
        for error in errors {
            wrong("proxy.upstreams", error.to_string());
        }
    }
    for error in config.proxy.check_peers() {
        wrong("proxy.peers", error);
    }
    let schedulers = config.proxy.schedulers.iter();
    let urls = schedulers
        .map(|url| ("proxy.schedulers", url))
        .chain(
            config
                .proxy
                .manager
                .iter()
                .map(|url| ("proxy.manager", url)),
        )
        .chain(
            config
                .scheduler
                .manager
                .iter()
                .map(|url| ("scheduler.manager", url)),
        );
    for (place, url) in urls {
        if let Err(error) = url.parse::<PartUrl>() {
            wrong(place, format!("`{url}` {error}"));
        } else if url.starts_with("https://") != config.cluster.is_member() {
            let what = if config.cluster.is_member() {
                "is plain text, and members of a cluster speak TLS: say https://"
            } else {
                "asks for a certificate of a cluster, and [cluster] names none"
            };
            wrong(place, format!("`{url}` {what}"));
        }
    }
    let keep_alive = config.manager.keep_alive;
    if !KEEP_ALIVE.contains(&keep_alive) {
        let (least, most) = (KEEP_ALIVE.start(), KEEP_ALIVE.end());
        wrong(
            "manager.keep_alive",
            format!("{keep_alive:?} is not between {least:?} and {most:?}"),
        );
    }
    if let Some(mistake) = config.cluster.mistake() {
        wrong("cluster", mistake.to_owned());
    }
    if let Err(error) = config.proxy.limits.check() {
        wrong("proxy.limits", error.to_string());
    }
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&config.log.level) {
        wrong("log.level", format!("`{}`: {error}", config.log.level));
    }
    mistakes
}

/// A target of `hack/fuzz.sh`, and of a test over the inputs that are kept: a file of settings,
/// or, behind a zero byte, flags and variables in lines. What is taken makes sense, and is taken
/// again as it is written.
#[cfg(any(test, fuzzing))]
pub(crate) fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // Files that it names are read.
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    let settings = match text.strip_prefix('\0') {
        None => settings_of("file".to_owned(), text),
        Some(lines) => Ok(lines
            .lines()
            .flat_map(|line| {
                let (name, value) = line.split_once('=').unwrap_or((line, ""));
                variable(name, value).or_else(|| Some(Setting::parse("--set", line)))
            })
            .collect()),
    };
    let Ok(settings) = settings else {
        return;
    };
    match put_together(&settings) {
        Ok(config) => {
            assert!(check(&config).is_empty());
            let written = Table::try_from(&config).expect("all of it can be written");
            let again = parse::<Config>(&written).expect("it was just written");
            assert_eq!(Table::try_from(&again).ok(), Some(written));
        }
        Err(mistakes) => assert!(!mistakes.is_empty()),
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests;
