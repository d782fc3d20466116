//! Whether the proxy's ports are its own.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
};

use http_body_util::Empty;
use hyper::{Request, body::Bytes};
use tokio::{net::TcpStream, time::timeout};

use super::{Patient, finding::Finding, vitals::LOCAL};
use crate::{http::client, setup::reachable};

const CHECK: &str = "ports";
/// Of a socket that listens, in /proc/net/tcp.
const LISTENS: &str = "0A";

pub(super) async fn check(patient: &Patient) -> Vec<Finding> {
    let proxy = &patient.config.proxy;
    let ports = [
        ("the mirror", "--listen", proxy.listen),
        ("peers", "--set proxy.peer=..", proxy.peer),
        (
            "health and metrics",
            "--operations-listen",
            patient.config.operations.listen,
        ),
    ];
    let mut findings = Vec::new();
    for (what, flag, address) in ports {
        findings.push(if address.port() == 0 {
            Finding::skipped(CHECK, format!("{what}: any free port, whichever that is"))
        } else if patient.vitals.runs() {
            answers(what, address).await
        } else {
            is_free(what, flag, address)
        });
    }
    findings
}

/// Of a proxy that runs.
async fn answers(what: &str, address: SocketAddr) -> Finding {
    let to = reachable(address);
    let is_there = match what {
        "the mirror" => is_mirror(to).await,
        _ => matches!(timeout(LOCAL, TcpStream::connect(to)).await, Ok(Ok(_))),
    };
    if is_there {
        return Finding::ok(CHECK, format!("{what}: {address} answers"));
    }
    Finding::wrong(
        CHECK,
        format!("{what}: the proxy runs, but {address} {}", holder(address)),
        "give doctor the flags that the proxy was started with; or see its log",
    )
}

/// Whether the port answers as a registry mirror does.
async fn is_mirror(address: SocketAddr) -> bool {
    let request = Request::get(format!("http://{address}/v2/")).body(Empty::<Bytes>::new());
    let Ok(request) = request else { return false };
    let reply = timeout(LOCAL, client().request(request)).await;
    reply.is_ok_and(|reply| {
        reply.is_ok_and(|reply| {
            reply
                .headers()
                .contains_key("docker-distribution-api-version")
        })
    })
}

/// Of a proxy that does not run.
fn is_free(what: &str, flag: &str, address: SocketAddr) -> Finding {
    let cause = match TcpListener::bind(address) {
        Ok(_) => return Finding::ok(CHECK, format!("{what}: {address} is free")),
        Err(cause) => cause,
    };
    let other = format!("or say another address ({flag})");
    match cause.kind() {
        ErrorKind::AddrInUse => Finding::wrong(
            CHECK,
            format!("{what}: {address} {}", holder(address)),
            format!("stop that process, {other}"),
        ),
        ErrorKind::AddrNotAvailable => Finding::wrong(
            CHECK,
            format!("{what}: {address} is no address of this machine"),
            format!("give the machine that address, {other}"),
        ),
        _ => Finding::wrong(
            CHECK,
            format!("{what}: {address} can't be had: {cause}"),
            format!("run the proxy as a user who may, {other}"),
        ),
    }
}

/// Who listens there, in words.
fn holder(address: SocketAddr) -> String {
    let Some(inode) = listening(address.port()) else {
        return "is nobody's".to_owned();
    };
    match process_of(&inode) {
        Some((pid, name)) => format!("is taken by {name} (process {pid})"),
        None => "is taken by a process that only root can see".to_owned(),
    }
}

/// The inode of the socket that listens on a port (proc(5), `/proc/net/tcp`).
fn listening(port: u16) -> Option<String> {
    let port = format!(":{port:04X}");
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..]
                && state == LISTENS
                && local.ends_with(&port)
            {
                return Some(inode.to_owned());
            }
        }
    }
    None
}

/// The process that has a socket open, and its name.
fn process_of(inode: &str) -> Option<(u32, String)> {
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(open) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let mut targets = open
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok());
        if targets.any(|target| target == wanted) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_has() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let found = holder(address);
        let own = format!("(process {})", std::process::id());
        assert!(found.contains(&own), "{found}");
        drop(taken);
        assert_eq!(holder(address), "is nobody's");
    }
}
