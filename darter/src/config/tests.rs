//! What a configuration is put together from, and what is wrong with it.

use super::*;

fn none() -> std::iter::Empty<(String, String)> {
    std::iter::empty()
}

#[test]
fn inputs_that_are_kept() {
    replay::replay("configuration", configuration);
}

#[test]
fn flags_win_over_variables_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(
        &file,
        "[scheduler]\ndegree = 3\nlisten = \"127.0.0.1:1\"\n[proxy.store]\ncapacity = \"1GiB\"\n",
    )
    .unwrap();
    let variables = [
        ("DARTER_SCHEDULER_LISTEN", "127.0.0.1:2"),
        ("DARTER_PROXY_STORE_CAPACITY", "2GiB"),
        ("DARTER_MANAGER_LISTEN", "127.0.0.1:3"),
        ("DARTER_MANAGER_KEEP_ALIVE", "3s"),
        ("DARTER_PROXY_MANAGER", "http://127.0.0.1:4"),
        ("DARTER_UNRELATED", "x"),
        (MANAGER_URL, "http://127.0.0.1:5"),
        (MANAGER_TOKEN_FILE, "token"),
    ];
    let variables = variables
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
    let flags = vec![Setting::parse("--set", "scheduler.degree=5")];
    let config = load(Some(&file), variables, flags).unwrap();
    assert_eq!(config.scheduler.degree, 5);
    assert_eq!(config.scheduler.listen.port(), 2);
    assert_eq!(config.proxy.store.capacity, bytesize::ByteSize::gib(2));
    assert_eq!(config.manager.listen.port(), 3);
    assert_eq!(config.manager.keep_alive.as_secs(), 3);
    assert_eq!(config.proxy.manager.as_deref(), Some("http://127.0.0.1:4"));
}

#[test]
fn every_mistake_is_said_at_once_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "[scheduler]\ndegree = \"many\"\nnonsense = 1\n[proxy]\nlisten = \"here\"\nschedulers = [\"ftp://x\"]\npeers = [\"node-1\"]\nmanager = \"here\"\n[manager]\nkeep_alive = \"0s\"\n[log]\nformat = \"xml\"\n[proxy.limits]\ndisk = \"9 KiB\"\n").unwrap();
    let flags = vec![
        Setting::upstreams("--upstream", &["BAD NAME".to_owned()]),
        Setting::parse("--set", "proxy.nothing=1"),
    ];
    let mistakes = load(Some(&file), none(), flags).unwrap_err();
    let text = mistakes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    for wanted in [
        "scheduler.degree",
        "scheduler.nonsense",
        "proxy.listen",
        "log.format",
        "proxy.nothing",
        "BAD NAME",
        "ftp://x",
        "disk: 9.0 KiB",
        "`node-1` is neither",
        "there are `schedulers`",
    ] {
        assert!(text.contains(wanted), "{wanted} in:\n{text}");
    }
    assert!(text.contains("c.toml: scheduler.degree"), "{text}");
    assert_eq!(mistakes.len(), 12, "{text}");
}

/// `config.toml.example` has every key with its default, commented out.
#[test]
fn the_example_is_true() {
    let text = include_str!("../../../config.toml.example");
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix("#: ").unwrap_or(line))
        .filter(|line| !line.starts_with("# "))
        .collect::<Vec<_>>()
        .join("\n");
    let table: Table = uncommented
        .parse()
        .unwrap_or_else(|error| panic!("{error}\n{uncommented}"));
    let config = parse::<Config>(&table).unwrap();
    assert_eq!(config, Config::default());
    let mut wanted = Vec::new();
    leaves(
        "",
        "",
        Table::try_from(Config::default()).unwrap(),
        &mut wanted,
    );
    let mut found = Vec::new();
    leaves("", "", table, &mut found);
    let keys = |settings: Vec<Setting>| {
        let mut keys: Vec<String> = settings.into_iter().map(|setting| setting.key).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(found), keys(wanted));
}

/// Keys without a default, each beside all others, and the tables that there may be.
#[test]
fn what_the_example_leaves_open_is_true() {
    let text = include_str!("../../../config.toml.example");
    let lines: Vec<&str> = text.lines().collect();
    let open = |line: &str| line.strip_prefix("# ").map(str::to_owned);
    let is_plain = |byte: u8| b"._".contains(&byte) || byte.is_ascii_lowercase();
    let is_word = |word: &str| word.bytes().all(is_plain);
    let is_key = |line: &&str| {
        let key = line
            .strip_prefix("# ")
            .and_then(|line| line.split_once(" = "));
        key.is_some_and(|(key, _)| is_word(key))
    };
    let is_table = |line: &str| {
        let name = line
            .strip_prefix("# [[")
            .and_then(|line| line.strip_suffix("]]"));
        name.is_some_and(is_word)
    };
    let (mut at, mut tried) = (0, 0);
    while at < lines.len() {
        let line = lines[at];
        let table = is_table(line);
        let keys = lines[at + 1..]
            .iter()
            .take_while(|line| table && is_key(line));
        let block = at..at + 1 + keys.count();
        at = block.end;
        if !table && !is_key(&line) {
            continue;
        }
        // A table stands at the end, and for the empty list before it.
        let list = (table && block.start > 0).then(|| block.start - 1);
        let others = (0..lines.len()).filter(|at| !block.contains(at) || !table);
        let others = others.filter(|at| Some(*at) != list);
        let mut said: Vec<String> = others
            .map(|at| {
                let default = lines[at].strip_prefix("#: ").unwrap_or(lines[at]);
                let here = block.contains(&at).then(|| open(default)).flatten();
                here.unwrap_or_else(|| default.to_owned())
            })
            .collect();
        if table {
            said.extend(lines[block].iter().filter_map(|line| open(line)));
        }
        let said = said.join("\n");
        let said = said.replace("FINGERPRINT.SECRET", &format!("{:064}.{:032}", 0, 0));
        let said: Table = said.parse().unwrap();
        let parsed = parse::<Config>(&said);
        assert!(
            parsed
                .as_ref()
                .is_ok_and(|config| *config != Config::default()),
            "line {at}: {line}: {:?}",
            parsed.err()
        );
        tried += 1;
    }
    assert!(tried > 25, "{tried}");
}
