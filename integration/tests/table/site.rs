//! One registry of each kind with a Darter before it, and how clients get there.

use std::{path::Path, path::PathBuf, time::Duration};

use anyhow::Result;
use darter_integration::{
    clients::Reach,
    darter::Part,
    guarded::{Authority, Tokens, basic, bearer},
    image::{Blob, Flavour, Image},
    registry::{Guard, Registry, Setup},
};

pub(crate) const ALICE: (&str, &str) = ("alice", "s3cret-of-alice");
pub(crate) const REPOSITORY: &str = "team/app";
/// What else clients may call the registry; it has no address anywhere.
const ALIAS: &str = "registry.test";

/// What a registry asks of those who come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, in plain text.
    Open,
    /// A name and a password, in plain text.
    Basic,
    /// A token of a server that asks for a name and a password, both behind a private CA.
    Bearer,
    /// To trust a private CA.
    PrivateCa,
}

impl Kind {
    /// The first ones are part of every run.
    pub(crate) const ALL: [Self; 4] = [Self::Bearer, Self::Open, Self::Basic, Self::PrivateCa];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Basic => "Basic",
            Self::Bearer => "Bearer",
            Self::PrivateCa => "private CA",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Basic => "basic",
            Self::Bearer => "bearer",
            Self::PrivateCa => "private-ca",
        }
    }

    pub(crate) const fn asks_for_names(self) -> bool {
        matches!(self, Self::Basic | Self::Bearer)
    }

    const fn is_tls(self) -> bool {
        matches!(self, Self::Bearer | Self::PrivateCa)
    }
}

/// How a client is led to Darter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As a mirror of `docker.io`; the client says so by `ns`, or means nothing else.
    Ns,
    /// With the registry's name in the path.
    Path,
    /// As an HTTP proxy that opens TLS.
    Proxy,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Ns, Self::Path, Self::Proxy];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Ns => "mirror by `ns`",
            Self::Path => "mirror by path",
            Self::Proxy => "HTTPS_PROXY",
        }
    }
}

/// What all kinds have in common: one authority, one token server, one image.
pub(crate) struct Common {
    pub(crate) authority: Authority,
    pub(crate) tokens: Tokens,
    pub(crate) image: Image,
    htpasswd: PathBuf,
    _back_door: Registry,
}

impl Common {
    pub(crate) async fn new(root: &Path) -> Result<Self> {
        let authority = Authority::new(&root.join("authority"))?;
        let tokens = Tokens::start(&authority, Duration::from_secs(900)).await?;
        tokens.user(ALICE.0, ALICE.1);
        tokens.allow(Some(ALICE.0), REPOSITORY);
        let htpasswd = root.join("htpasswd");
        let line = format!("{}:{}\n", ALICE.0, bcrypt::hash(ALICE.1, 4)?);
        std::fs::write(&htpasswd, line)?;
        let back_door = Registry::start(root).await?;
        let layers = vec![Blob::layer(1, 600_000), Blob::layer(2, 2_000)];
        let image = Image::push(&back_door, REPOSITORY, "1", Flavour::Oci, layers).await?;
        Ok(Self {
            authority,
            tokens,
            image,
            htpasswd,
            _back_door: back_door,
        })
    }
}

/// A registry of one kind and the Darter before it.
pub(crate) struct Site {
    pub(crate) kind: Kind,
    pub(crate) node: Part,
    trust: PathBuf,
    _registry: Registry,
}

impl Site {
    pub(crate) async fn new(root: &Path, common: &Common, kind: Kind) -> Result<Self> {
        let name = kind.name();
        let identity = match kind.is_tls() {
            true => Some(common.authority.issue(name)?),
            false => None,
        };
        let setup = Setup {
            name,
            guard: match kind {
                Kind::Basic => Guard::Htpasswd(&common.htpasswd),
                Kind::Bearer => Guard::Tokens(&common.tokens),
                Kind::Open | Kind::PrivateCa => Guard::Nobody,
            },
            identity: identity.as_ref(),
            clients: None,
        };
        let registry = Registry::start_as(root, setup).await?;
        let node = start(root, common, kind, &registry.url()).await?;
        // What clients have to trust: the token server's authority, and Darter's.
        let own = root.join(format!("node-{name}/ca.crt"));
        let both = std::fs::read_to_string(common.authority.file())?;
        let trust = root.join(format!("{name}.trust.pem"));
        std::fs::write(&trust, both + &std::fs::read_to_string(own)?)?;
        Ok(Self {
            kind,
            node,
            trust,
            _registry: registry,
        })
    }

    /// How a client gets to the image; `by_mirror` for the clients that name no registry by the
    /// mirror's own name, but know what mirrors are.
    pub(crate) fn reach(&self, way: Way, by_mirror: bool) -> Reach {
        let url = self.node.mirror();
        let host = url.trim_start_matches("http://");
        let image = match way {
            Way::Path if !by_mirror => format!("{host}/docker.io/{REPOSITORY}:1"),
            Way::Ns | Way::Path => format!("docker.io/{REPOSITORY}:1"),
            Way::Proxy => format!("{ALIAS}/{REPOSITORY}:1"),
        };
        let as_mirror = way == Way::Ns || way == Way::Path && by_mirror;
        let (name, password) = ALICE;
        let login = self.kind.asks_for_names();
        Reach {
            image,
            mirror: as_mirror.then(|| url.clone()),
            proxy: (way == Way::Proxy).then(|| url.clone()),
            trust: self.trust.clone(),
            login: login.then(|| format!("{name}:{password}")),
            plain: way == Way::Path && !by_mirror,
        }
    }

    /// Where curl finds a path of the repository, and what it asks beside.
    pub(crate) fn url(&self, way: Way, path: &str) -> String {
        let mirror = self.node.mirror();
        match way {
            Way::Ns => format!("{mirror}/v2/{REPOSITORY}/{path}?ns=docker.io"),
            Way::Path => format!("{mirror}/v2/docker.io/{REPOSITORY}/{path}"),
            Way::Proxy => format!("https://{ALIAS}/v2/{REPOSITORY}/{path}"),
        }
    }

    /// The Authorization that curl shows.
    pub(crate) async fn authorization(&self, common: &Common) -> Result<Option<String>> {
        Ok(match self.kind {
            Kind::Open | Kind::PrivateCa => None,
            Kind::Basic => Some(basic(ALICE.0, ALICE.1)),
            Kind::Bearer => {
                let (authority, tokens) = (&common.authority, &common.tokens);
                Some(bearer(authority, tokens, Some(ALICE), REPOSITORY).await?)
            }
        })
    }
}

async fn start(root: &Path, common: &Common, kind: Kind, url: &str) -> Result<Part> {
    let ca = match kind.is_tls() {
        true => format!(", ca = \"{}\"", common.authority.file().display()),
        false => String::new(),
    };
    let realm = common.tokens.authority();
    let upstream = format!(
        "proxy.upstreams=[{{name = \"docker.io\", aliases = [\"{ALIAS}\"], url = \"{url}\"{ca}, realms = [\"{realm}\"]}}]"
    );
    let name = format!("node-{}", kind.name());
    let data = root.join(&name).display().to_string();
    let any = "127.0.0.1:0";
    let login = format!("proxy.mirror.login={}", kind.asks_for_names());
    let arguments = [
        "proxy",
        "--listen",
        any,
        "--operations-listen",
        any,
        "--data",
        &data,
        "--set",
        &upstream,
        "--set",
        "proxy.peer=\"127.0.0.1:0\"",
        "--set",
        &login,
    ];
    Part::start(&name, root, &arguments).await
}
