//! The way to an upstream: straight, or through an HTTP proxy that tunnels, which may itself be
//! spoken to over TLS: its certificate is checked by the upstream's authorities.
//!
//! Only TLS goes through the proxy (CONNECT, RFC 9110, section 9.3.6): what is plain is near.
//! The proxy resolves names then, so that which addresses they may have is for its own rules;
//! a name that this host's own resolver knows as an inside one is not asked of it where only
//! public targets may be reached.

use std::{
    future::Future,
    io::ErrorKind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use darter_runtime::tls::Stream;
use http::{HeaderValue, Uri};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tower::Service;

use super::{
    http_client::{CONNECT_TIMEOUT, Resolver},
    policy::is_public,
};

/// For this host's resolver to say where a name leads; behind a proxy it may never answer.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Of a proxy's reply to CONNECT.
const MAX_HEAD: usize = 8 * 1024;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A proxy, and the name and password for it.
#[derive(Debug)]
pub(super) struct Via {
    proxy: Uri,
    authorization: Option<HeaderValue>,
    /// Its name in its certificate, if it speaks TLS, and how that is checked.
    tls: Option<(ServerName<'static>, Option<Arc<ClientConfig>>)>,
}

impl Via {
    /// `http[s]://[name:password@]host:port`. A mistake does not repeat the text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "`proxy` is `http[s]://[name:password@]host:port`".to_owned();
        let url = url::Url::parse(text).map_err(|_| wrong())?;
        let (Some(host), scheme @ ("http" | "https"), "" | "/") =
            (url.host_str(), url.scheme(), url.path())
        else {
            return Err(wrong());
        };
        let port = url.port_or_known_default().ok_or_else(wrong)?;
        let decode = |text: &str| {
            let pairs = format!("x={}", text.replace('+', "%2B"));
            url::form_urlencoded::parse(pairs.as_bytes())
                .next()
                .map(|(_, value)| value.into_owned())
        };
        let authorization = match (decode(url.username()), url.password()) {
            (Some(name), Some(password)) => {
                let pair = format!("{name}:{}", decode(password).unwrap_or_default());
                let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)));
                let mut value = value.map_err(|_| wrong())?;
                value.set_sensitive(true);
                Some(value)
            }
            _ => None,
        };
        let bare = host.trim_matches(['[', ']']).to_owned();
        let name = (scheme == "https").then(|| ServerName::try_from(bare));
        Ok(Self {
            proxy: format!("{scheme}://{host}:{port}")
                .parse()
                .map_err(|_| wrong())?,
            authorization,
            tls: name
                .transpose()
                .map_err(|_| wrong())?
                .map(|name| (name, None)),
        })
    }

    /// Checks the proxy's certificate by these authorities.
    pub(super) fn trusting(mut self, config: &Arc<ClientConfig>) -> Self {
        if let Some((_, checked)) = &mut self.tls {
            *checked = Some(Arc::clone(config));
        }
        self
    }

    /// Opens a tunnel, within [`CONNECT_TIMEOUT`]: the connection is made for whoever needs one
    /// next, and would else wait for as long as the proxy is silent.
    async fn tunnel(&self, socket: TcpStream, target: &Uri) -> Result<Stream, Error> {
        let open = async {
            let stream = self.shake(socket).await?;
            self.ask(stream, target).await
        };
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, open).await;
        let silent = || std::io::Error::new(ErrorKind::TimedOut, "the proxy's reply to CONNECT");
        opened.map_err(|_| silent())?
    }

    async fn shake(&self, socket: TcpStream) -> Result<Stream, Error> {
        let Some((name, config)) = &self.tls else {
            return Ok(Stream::Plain(socket));
        };
        let config = config
            .clone()
            .ok_or("nothing checks the proxy's certificate")?;
        let shaken = TlsConnector::from(config).connect(name.clone(), socket);
        Ok(Stream::Tls(Box::new(shaken.await?)))
    }

    async fn ask(&self, mut socket: Stream, target: &Uri) -> Result<Stream, Error> {
        let host = target.host().ok_or("the target has no host")?;
        let port = target.port_u16().unwrap_or(443);
        let mut head =
            format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
        if let Some(value) = &self.authorization {
            head.extend_from_slice(b"Proxy-Authorization: ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        socket.write_all(&head).await?;
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n\r\n") {
            if reply.len() >= MAX_HEAD || reply.windows(4).any(|four| four == b"\r\n\r\n") {
                return Err("the proxy's reply to CONNECT is not understood".into());
            }
            if socket.read_buf(&mut reply).await? == 0 {
                return Err("the proxy hung up upon CONNECT".into());
            }
        }
        let line = String::from_utf8_lossy(&reply);
        let status = line.split_whitespace().nth(1).unwrap_or_default();
        match status.starts_with('2') {
            true => Ok(socket),
            false => Err(format!("the proxy answers CONNECT with {status:.3}").into()),
        }
    }
}

/// Connects.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) straight: HttpConnector<Resolver>,
    /// The proxy, and how it is reached.
    pub(super) via: Option<(Arc<Via>, HttpConnector<Resolver>)>,
    pub(super) public_only: bool,
}

/// Whether this host knows the name, and for inside addresses alone. A host behind a proxy may
/// know no name at all.
async fn is_inside(target: &Uri) -> bool {
    let Some(host) = target.host().map(|host| host.trim_matches(['[', ']'])) else {
        return true;
    };
    let looked_up = tokio::net::lookup_host((host, 443));
    match tokio::time::timeout(RESOLVE_TIMEOUT, looked_up).await {
        Ok(Ok(mut found)) => {
            let first = found.next();
            first.is_some_and(|first| {
                !is_public(first.ip()) && found.all(|next| !is_public(next.ip()))
            })
        }
        Ok(Err(_)) | Err(_) => false,
    }
}

impl Service<Uri> for Way {
    type Response = TokioIo<Stream>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.straight.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        match &mut self.via {
            Some((via, connector)) if target.scheme_str() == Some("https") => {
                let (via, connecting) = (Arc::clone(via), connector.call(via.proxy.clone()));
                let public_only = self.public_only;
                Box::pin(async move {
                    if public_only && is_inside(&target).await {
                        return Err("the name has no address that may be dialled".into());
                    }
                    let socket = connecting.await?.into_inner();
                    Ok(TokioIo::new(via.tunnel(socket, &target).await?))
                })
            }
            _ => {
                let connecting = self.straight.call(target);
                Box::pin(async move {
                    let socket = connecting.await?.into_inner();
                    Ok(TokioIo::new(Stream::Plain(socket)))
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_is_silent_upon_connect_is_left() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        let _silent = listener.accept().await.unwrap();
        let via = Via::parse(&format!("http://{address}")).unwrap();
        let target: Uri = "https://corp.test/".parse().unwrap();
        let tunnel = tokio::time::timeout(CONNECT_TIMEOUT * 2, via.tunnel(socket, &target));
        let error = tunnel.await.expect("it gives up").unwrap_err();
        let error = error.downcast::<std::io::Error>().unwrap();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_proxy_is_not_asked_for_what_is_inside() {
        let via = Arc::new(Via::parse("http://127.0.0.1:1").unwrap());
        for (public_only, wanted) in [(true, "may be dialled"), (false, "tcp connect error")] {
            let straight = super::super::http_client::connector(false);
            let via = Some((Arc::clone(&via), straight.clone()));
            let mut way = Way {
                straight,
                via,
                public_only,
            };
            let target: Uri = "https://localhost/".parse().unwrap();
            let error = way.call(target).await.unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn proxies_with_and_without_a_name() {
        let via = Via::parse("http://me:p%40ss@proxy.test:3128").unwrap();
        assert_eq!(via.proxy, "http://proxy.test:3128");
        let value = via.authorization.as_ref().unwrap();
        assert_eq!(value, &format!("Basic {}", STANDARD.encode("me:p@ss")));
        assert!(!format!("{via:?}").contains(&STANDARD.encode("me:p@ss")));
        assert!(
            Via::parse("http://proxy.test")
                .unwrap()
                .authorization
                .is_none()
        );
        for (text, proxy) in [
            ("https://proxy.test", "https://proxy.test:443"),
            ("https://[::1]:3128", "https://[::1]:3128"),
        ] {
            assert_eq!(Via::parse(text).unwrap().proxy, proxy);
        }
        for wrong in ["proxy.test:3128", "ftp://p", "http://p/x", "s3cret", ""] {
            let mistake = Via::parse(wrong).unwrap_err();
            assert!(!mistake.contains("s3cret"), "{mistake}");
        }
    }
}
