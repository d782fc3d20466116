//! Whole trees: written, written again, taken back.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use clap::Parser as _;

use super::*;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    setup: Setup,
}

fn setup(root: &Path, line: &str) -> Result<bool> {
    let root = root.to_str().unwrap();
    let words = ["setup"].into_iter().chain(line.split(' '));
    let line = Line::parse_from(words.chain(["--root", root]));
    run(&line.setup).map(|code| code == ExitCode::SUCCESS)
}

/// Every path with its mode and, of a file, its content.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::symlink_metadata(&path).unwrap().mode();
            let content = if path.is_dir() {
                dirs.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path, (mode, content));
        }
    }
    found
}

/// The files of a machine that somebody has worked on.
fn used(root: &Path) {
    let files = [
        (
            "etc/containerd/config.toml",
            "version = 3\n# mine\n[plugins]\n",
            0o640,
        ),
        (
            "etc/containerd/certs.d/docker.io/hosts.toml",
            "server = 'https://x'\n[host.'https://y']\n",
            0o644,
        ),
        (
            "etc/containerd/certs.d/ghcr.io/own.crt",
            "a certificate",
            0o644,
        ),
        (
            "etc/docker/daemon.json",
            "{\"bip\": \"10.1.0.1/24\"}",
            0o600,
        ),
        (
            "etc/containers/registries.conf",
            "[[registry]]\nlocation = 'docker.io'\n",
            0o644,
        ),
    ];
    for (path, content, mode) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

const WRITES: [&str; 5] = [
    "containerd --registry docker.io --registry ghcr.io --write",
    "docker --write",
    "podman --write",
    "crio --registry quay.io --write",
    "containerd --mirror http://127.0.0.1:5001 --write",
];
const UNDOS: [&str; 3] = ["containerd --undo", "docker --undo", "podman --undo"];

#[test]
fn undone_to_the_byte_and_written_once() {
    for prepare in [|_: &Path| {}, used] {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let before = tree(dir.path());
        for line in WRITES {
            assert!(setup(dir.path(), line).unwrap(), "{line}");
            let once = tree(dir.path());
            assert!(setup(dir.path(), line).unwrap(), "{line}");
            assert_eq!(tree(dir.path()), once, "{line} twice");
        }
        assert_ne!(tree(dir.path()), before);
        for line in UNDOS {
            assert!(setup(dir.path(), line).unwrap(), "{line}");
        }
        assert_eq!(tree(dir.path()), before);
        assert!(setup(dir.path(), UNDOS[0]).unwrap(), "nothing to do");
    }
}

#[test]
fn what_is_printed_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    used(dir.path());
    let before = tree(dir.path());
    for client in ["containerd", "docker", "podman", "crio --print"] {
        assert!(setup(dir.path(), client).unwrap());
    }
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn another_mirror_takes_the_place_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    used(dir.path());
    for port in [1, 2] {
        for client in ["containerd", "docker", "podman"] {
            let line = format!("{client} --mirror http://127.0.0.1:{port} --write");
            assert!(setup(dir.path(), &line).unwrap());
        }
    }
    for file in [
        "etc/containerd/certs.d/docker.io/hosts.toml",
        "etc/docker/daemon.json",
        "etc/containers/registries.conf.d/99-darter.conf",
    ] {
        let text = fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(text.contains("127.0.0.1:2"), "{file}: {text}");
        assert!(!text.contains("127.0.0.1:1"), "{file}: {text}");
    }
}

#[test]
fn somebody_elses_change_is_not_destroyed() {
    let dir = tempfile::tempdir().unwrap();
    used(dir.path());
    let file = dir.path().join("etc/docker/daemon.json");
    let before = tree(dir.path());
    assert!(setup(dir.path(), "docker --write").unwrap());
    let written = fs::read_to_string(&file).unwrap();
    let edited = written.replace("10.1.0.1/24", "10.2.0.1/24");
    fs::write(&file, &edited).unwrap();
    assert!(
        !setup(dir.path(), "docker --undo").unwrap(),
        "left, and said"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), edited);

    // What is written on top of the edit is taken back down to the edit.
    let line = "docker --mirror http://127.0.0.1:5001 --write";
    assert!(setup(dir.path(), line).unwrap());
    assert!(!setup(dir.path(), "docker --undo").unwrap());
    assert_eq!(fs::read_to_string(&file).unwrap(), edited);

    // The record still knows the way back from what it had written.
    fs::write(&file, &written).unwrap();
    assert!(setup(dir.path(), "docker --undo").unwrap());
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn a_write_that_broke_off_can_be_undone() {
    let dir = tempfile::tempdir().unwrap();
    used(dir.path());
    let before = tree(dir.path());
    let file = dir.path().join("etc/containerd/config.toml");
    let old = fs::read(&file).unwrap();
    assert!(setup(dir.path(), "containerd --write").unwrap());
    // As if the crash had come after the record and the first file.
    fs::write(&file, old).unwrap();
    assert!(setup(dir.path(), "containerd --undo").unwrap());
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn what_is_there_already_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    used(dir.path());
    assert!(setup(dir.path(), WRITES[0]).unwrap());
    let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
    let config = read("etc/containerd/config.toml");
    assert!(config.starts_with("version = 3\n# mine\n"), "{config}");
    assert!(
        config.contains("[plugins.\"io.containerd.cri.v1.images\".registry]"),
        "{config}"
    );
    let hub = read("etc/containerd/certs.d/docker.io/hosts.toml");
    assert!(hub.starts_with("server = 'https://x'\n"), "{hub}");
    assert!(hub.contains("[host.'https://y']"), "{hub}");
    let ghcr = read("etc/containerd/certs.d/ghcr.io/hosts.toml");
    assert!(ghcr.contains("ca = [\"own.crt\"]"), "{ghcr}");
    let mode = fs::metadata(dir.path().join("etc/containerd/config.toml")).unwrap();
    assert_eq!(mode.mode() & 0o7777, 0o640);
    let record = fs::metadata(dir.path().join("var/lib/darter/setup.json")).unwrap();
    assert_eq!(record.mode() & 0o7777, 0o600);
}

#[test]
fn what_the_client_would_refuse_is_said_before_anything_is_written() {
    let cases = [
        (
            "etc/containerd/config.toml",
            "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry.mirrors.'docker.io']\nendpoint = ['https://x']\n",
            "containerd",
            "registry.mirrors for docker.io",
        ),
        (
            "etc/systemd/system/docker.service.d/own.conf",
            "ExecStart=/usr/bin/dockerd --registry-mirror=https://x\n",
            "docker",
            "take the flag away first",
        ),
        (
            "etc/containers/registries.conf.d/999-own.conf",
            "[[registry]]\nlocation = 'docker.io'\n",
            "podman",
            "is read after",
        ),
        ("etc/docker/daemon.json", "{", "docker", "mend it first"),
        (
            "etc/containerd/config.toml",
            "version = ",
            "containerd",
            "mend it first",
        ),
        (
            "unrelated",
            "",
            "docker --registry ghcr.io",
            "docker.io alone",
        ),
        ("unrelated", "", "podman --registry _default", "name them"),
    ];
    for (file, content, line, said) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        let before = tree(dir.path());
        let error = setup(dir.path(), &format!("{line} --write")).unwrap_err();
        assert!(format!("{error:#}").contains(said), "{line}: {error:#}");
        assert_eq!(tree(dir.path()), before);
    }
}

#[test]
fn imported_files_and_folders_that_containerd_finds_first() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        (
            "etc/containerd/config.toml",
            "version = 2\nimports = ['conf.d/*.toml']\n",
        ),
        (
            "etc/containerd/conf.d/own.toml",
            "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/own/a:/own/b'\n",
        ),
        ("own/b/reg.example_5000_/ca.crt", "x"),
        ("own/b/_default/hosts.toml", "[host.'https://all']\n"),
    ];
    for (file, content) in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let line = "containerd --registry docker.io --registry reg.example:5000 --write";
    assert!(setup(dir.path(), line).unwrap());
    let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
    assert!(read("own/a/docker.io/hosts.toml").contains("https://all"));
    let named = read("own/b/reg.example_5000_/hosts.toml");
    assert!(named.contains("server = \"https://reg.example:5000\""));
    assert!(named.contains("ca = [\"ca.crt\"]"), "{named}");
    assert!(!read("etc/containerd/config.toml").contains("config_path"));
}

#[test]
fn a_mirror_that_was_set_up_by_hand_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        (
            "etc/containerd/config.toml",
            "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/own'\n",
        ),
        (
            "own/_default/hosts.toml",
            "[host.'http://127.0.0.1:4001']\ncapabilities = ['pull', 'resolve']\n",
        ),
        (
            "etc/docker/daemon.json",
            "{\"registry-mirrors\": [\"http://127.0.0.1:4001/\"]}",
        ),
        (
            "etc/containers/registries.conf",
            "[[registry]]\nlocation = 'docker.io'\n[[registry.mirror]]\nlocation = '127.0.0.1:4001/docker.io'\ninsecure = true\n",
        ),
    ];
    for (file, content) in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let before = tree(dir.path());
    for client in ["containerd", "docker", "podman"] {
        assert!(setup(dir.path(), &format!("{client} --write")).unwrap());
    }
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn many_at_once_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    used(dir.path());
    let before = tree(dir.path());
    std::thread::scope(|scope| {
        for line in ["containerd", "docker", "podman", "containerd"] {
            let root = dir.path();
            scope.spawn(move || setup(root, &format!("{line} --write --json")).unwrap());
        }
    });
    for line in UNDOS {
        assert!(setup(dir.path(), line).unwrap(), "{line}");
    }
    assert_eq!(tree(dir.path()), before);
}

/// As Docker's own package of containerd has it.
#[test]
fn a_containerd_without_cri_is_not_reconfigured() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("etc/containerd/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "disabled_plugins = [\"cri\"]\n").unwrap();
    assert!(setup(dir.path(), "containerd --write").unwrap());
    let after = fs::read_to_string(config).unwrap();
    assert_eq!(after, "disabled_plugins = [\"cri\"]\n");
    let hosts = "etc/containerd/certs.d/docker.io/hosts.toml";
    assert!(dir.path().join(hosts).is_file());
}

#[test]
fn the_proxys_file_says_what_is_mirrored() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("darter.toml");
    fs::write(&file, "[proxy]\nlisten = '0.0.0.0:5001'\n[[proxy.upstreams]]\nname = 'reg.example:5000'\nurl = 'http://10.0.0.5:5000'\n").unwrap();
    let root = dir.path().join("system");
    fs::create_dir(&root).unwrap();
    let line = |client| format!("{client} --config {} --write", file.display());
    assert!(setup(&root, &line("containerd")).unwrap());
    let hosts = root.join("etc/containerd/certs.d/reg.example:5000/hosts.toml");
    let hosts = fs::read_to_string(hosts).unwrap();
    assert!(
        hosts.contains("server = \"http://10.0.0.5:5000\""),
        "{hosts}"
    );
    assert!(
        hosts.contains("[host.\"http://127.0.0.1:5001\"]"),
        "{hosts}"
    );
    let error = setup(&root, &line("docker")).unwrap_err().to_string();
    assert!(error.contains("docker.io alone"), "{error}");
    let gone = setup(&root, "docker --config /nowhere.toml").unwrap_err();
    assert!(gone.to_string().contains("/nowhere.toml"), "{gone}");
}
