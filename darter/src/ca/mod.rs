//! `darter ca`: certificate authorities.
//!
//! Two, for two purposes: the cluster's, which says what host is a member, and the
//! interception's ([`interception`]), which says to a node's own clients who a registry is.
//! What stands directly under `darter ca` is about the cluster's.

mod interception;
mod trust;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use darter_api::HostId;
use darter_runtime::{
    Tasks, identity,
    tls::{self, Authority, DEFAULT_LIFE, Register, Token},
};

use serde_json::json;

use crate::parts::until_signal;
use interception::Interception;

/// Who belongs to the cluster: whoever has the authority's directory decides it. And the CA of
/// the interception.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  darter ca serve --data /var/lib/darter/ca --listen 10.0.0.2:8003
  darter ca token --data /var/lib/darter/ca --valid 1h --uses 100 > token
  darter ca show --data /var/lib/darter/ca
  darter ca interception show
  darter ca interception install           for clients with HTTPS_PROXY
  darter ca interception export > darter.pem")]
pub(crate) enum Ca {
    /// Make an authority, and print its fingerprint.
    #[command(after_help = "\
Examples:
  darter ca init --data /var/lib/darter/ca")]
    Init(Place),
    /// Make a token that lets nodes in, and print it.
    #[command(after_help = "\
Examples:
  darter ca token > token                  for one node, within an hour
  darter ca token --valid 1day --uses 100 > token")]
    Token {
        #[command(flatten)]
        place: Place,
        /// How long it lets nodes in.
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime)]
        valid: Duration,
        /// How many nodes it lets in.
        #[arg(long, default_value_t = 1)]
        uses: u32,
    },
    /// Give certificates to who has a token, and new ones to members, until a signal.
    #[command(after_help = "\
Examples:
  darter ca serve --data /var/lib/darter/ca --listen 10.0.0.2:8003")]
    Serve {
        #[command(flatten)]
        place: Place,
        /// Where nodes ask for them.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8003")]
        listen: SocketAddr,
        /// How long a certificate lives; nodes renew it after two thirds of that.
        #[arg(long, value_name = "TIME", value_parser = humantime)]
        life: Option<Duration>,
        /// End when standard input does.
        #[arg(long, hide = true)]
        exit_with_stdin: bool,
    },
    /// Make a certificate by hand: for `cluster.certificate`, where no authority is served.
    #[command(after_help = "\
Examples:
  darter ca issue --node /var/lib/darter")]
    Issue {
        #[command(flatten)]
        place: Place,
        /// The host's id, as 64 hex digits; the certificate is printed.
        #[arg(long, conflicts_with = "node", required_unless_present = "node")]
        host: Option<HostId>,
        /// A part's data directory on this machine, where key, `node.crt` and `ca.crt` are to
        /// be.
        #[arg(long, value_name = "DIR")]
        node: Option<PathBuf>,
        /// How long it lives.
        #[arg(long, value_name = "TIME", default_value = "365days", value_parser = humantime)]
        life: Duration,
    },
    /// Show the authority, its tokens and its members.
    #[command(after_help = "\
Examples:
  darter ca show
  darter ca show --json | jq .members")]
    Show {
        #[command(flatten)]
        place: Place,
        /// Print one JSON object and nothing else.
        #[arg(long)]
        json: bool,
    },
    /// The CA under which listed registries are intercepted: what clients of the HTTP proxy
    /// trust.
    #[command(subcommand)]
    Interception(Interception),
    /// Give a member no new certificates; the one it has counts until its end.
    #[command(after_help = "\
Examples:
  darter ca remove 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29")]
    Remove {
        #[command(flatten)]
        place: Place,
        /// The host's id.
        host: HostId,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The authority's directory.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/darter/ca")]
    data: PathBuf,
}

fn humantime(text: &str) -> Result<Duration, String> {
    let value = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text);
    humantime_serde::deserialize(value).map_err(|cause| cause.to_string())
}

fn load(data: &Path) -> Result<Authority> {
    Authority::load(data).with_context(|| {
        let data = data.display();
        format!("no authority in {data}: `darter ca init` makes one, --data says where it is")
    })
}

pub(crate) async fn run(command: Ca) -> Result<ExitCode> {
    match command {
        Ca::Init(place) => {
            let authority = Authority::create(&place.data)?;
            println!("{}", authority.fingerprint());
        }
        Ca::Token { place, valid, uses } => {
            let authority = load(&place.data)?;
            println!("{}", token(&authority, valid, uses)?.reveal());
        }
        Ca::Serve {
            place,
            listen,
            life,
            exit_with_stdin,
        } => return serve(place, listen, life.unwrap_or(DEFAULT_LIFE), exit_with_stdin).await,
        Ca::Issue {
            place,
            host,
            node,
            life,
        } => issue(&load(&place.data)?, host, node, life)?,
        Ca::Interception(command) => return interception::run(command).await,
        Ca::Show { place, json } => show(&load(&place.data)?, json)?,
        Ca::Remove { place, host } => {
            let authority = load(&place.data)?;
            let was = Register::new(authority.dir()).remove(&host)?;
            anyhow::ensure!(was, "{host} is no member");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A fresh token of this authority.
pub(crate) fn token(authority: &Authority, valid: Duration, uses: u32) -> Result<Token> {
    let token = Token::generate(authority.fingerprint());
    Register::new(authority.dir()).add_token(&token, valid, uses)?;
    Ok(token)
}

async fn serve(
    place: Place,
    listen: SocketAddr,
    life: Duration,
    exit_with_stdin: bool,
) -> Result<ExitCode> {
    crate::logs::start(&crate::config::Log::default());
    let authority = Arc::new(Authority::load_or_create(&place.data)?);
    let tasks = Tasks::new();
    let address = tls::serve(authority, life, listen, &tasks).await?;
    println!("ready authority={address}");
    until_signal(&tasks, exit_with_stdin).await
}

fn issue(
    authority: &Authority,
    host: Option<HostId>,
    node: Option<PathBuf>,
    life: Duration,
) -> Result<()> {
    let (host, dir) = match (host, node) {
        (Some(host), _) => (host, None),
        (None, Some(dir)) => (identity::load_or_create(&dir)?.id(), Some(dir)),
        (None, None) => anyhow::bail!("for whom? say --host or --node"),
    };
    let certificate = authority.issue(&host, life)?;
    let Some(dir) = dir else {
        print!("{certificate}");
        return Ok(());
    };
    for (name, content) in [
        ("node.crt", certificate.as_str()),
        ("ca.crt", authority.pem()),
    ] {
        let path = dir.join(name);
        std::fs::write(&path, content)
            .with_context(|| format!("can't write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn show(authority: &Authority, as_json: bool) -> Result<()> {
    let register = Register::new(authority.dir());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let (tokens, members) = (register.tokens()?, register.members()?);
    let left = |expires| Duration::from_secs(expires).saturating_sub(now);
    if as_json {
        let tokens = tokens.iter().map(|(name, token)| {
            let valid = left(token.expires).as_secs();
            json!({"name": name, "uses": token.uses, "valid_seconds": valid})
        });
        let members = members.iter().map(|(host, member)| {
            json!({"host": host.to_string(), "token": member.token, "joined": member.joined})
        });
        let whole = json!({
            "fingerprint": authority.fingerprint().to_string(),
            "tokens": tokens.collect::<Vec<_>>(),
            "members": members.collect::<Vec<_>>(),
        });
        println!("{}", serde_json::to_string_pretty(&whole)?);
        return Ok(());
    }
    println!("authority {}", authority.fingerprint());
    for (name, token) in tokens {
        let short: String = name.chars().take(8).collect();
        let left = left(token.expires);
        println!("token {short} uses={} valid={left:?}", token.uses);
    }
    for (host, member) in members {
        let ago = now.saturating_sub(Duration::from_secs(member.joined));
        println!("member {host} token={} joined={ago:?} ago", member.token);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use darter_runtime::tls::Certificate;

    use super::*;

    #[test]
    fn a_certificate_by_hand_is_for_the_nodes_own_key() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca")).unwrap();
        let node = dir.path().join("node");
        issue(&authority, None, Some(node.clone()), DEFAULT_LIFE).unwrap();
        let pem = std::fs::read(node.join("node.crt")).unwrap();
        let key = identity::load_or_create(&node).unwrap();
        assert_eq!(Certificate::from_pem(&pem).unwrap().host, key.id());
    }
}
