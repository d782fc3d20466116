//! Why the proxy does not do what it was asked for, and how it says so.

use axum::body::Body;
use darter_runtime::attempts::WINDOW;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Interception is switched off.
    Off,
    /// The proxy has users, and the client shows to be none.
    Stranger,
    /// Too many wrong passwords came from the client's address.
    Spent,
    /// The target is no `host:port`.
    Malformed,
    /// A host that is no upstream: in plain text, or where such are not tunnelled to.
    Unlisted,
    /// A blind tunnel for a client on another host.
    Remote,
    /// A blind tunnel to another port than 443.
    Port,
    /// A blind tunnel to where only insiders may go.
    Private,
    /// The target's name has no address.
    Unresolved,
    /// The target does not answer.
    Unreachable,
    /// As many tunnels as there may be.
    TooMany,
    /// No certificate could be made for the host.
    Certificate,
    /// The upstream switches to a protocol that the client did not ask for.
    Switched,
    /// The client broke off the TLS handshake: most often it does not trust the CA.
    Handshake,
}

impl Refusal {
    /// The label of metrics and the JSON error's detail.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Stranger => "stranger",
            Self::Spent => "spent",
            Self::Malformed => "malformed",
            Self::Unlisted => "unlisted",
            Self::Remote => "remote",
            Self::Port => "port",
            Self::Private => "private",
            Self::Unresolved => "unresolved",
            Self::Unreachable => "unreachable",
            Self::TooMany => "too_many",
            Self::Certificate => "certificate",
            Self::Switched => "switched",
            Self::Handshake => "handshake",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::Stranger => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Self::Spent => StatusCode::TOO_MANY_REQUESTS,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Off | Self::Unlisted | Self::Remote | Self::Port | Self::Private => {
                StatusCode::FORBIDDEN
            }
            Self::Unresolved | Self::Unreachable | Self::Switched => StatusCode::BAD_GATEWAY,
            Self::TooMany => StatusCode::SERVICE_UNAVAILABLE,
            Self::Certificate | Self::Handshake => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Off => "this mirror is not an HTTP proxy",
            Self::Stranger => "this proxy asks for a user and a password",
            Self::Spent => "too many wrong passwords came from this address",
            Self::Malformed => "the target of the request is no host:port",
            Self::Unlisted => "the host is not a registry of this proxy's list",
            Self::Remote => "only clients on this host are tunnelled to unlisted hosts",
            Self::Port => "unlisted hosts are tunnelled to on port 443 only",
            Self::Private => "unlisted private addresses are not tunnelled to",
            Self::Unresolved => "the host has no address",
            Self::Unreachable => "the host can't be reached",
            Self::TooMany => "this proxy has as many tunnels as it may",
            Self::Certificate => "no certificate could be made for the host",
            Self::Switched => "the registry speaks a protocol that was not asked for",
            Self::Handshake => "the TLS handshake failed",
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::Stranger => "UNAUTHORIZED",
            Self::Malformed => "UNSUPPORTED",
            Self::Spent | Self::TooMany => "TOOMANYREQUESTS",
            Self::Off | Self::Unlisted | Self::Remote | Self::Port | Self::Private => "DENIED",
            _ => "UNKNOWN",
        }
    }

    pub(super) fn response(self) -> Response<Body> {
        let error = json!({
            "code": self.code(), "message": self.message(), "detail": {"reason": self.reason()},
        });
        let mut response = Response::new(Body::from(json!({ "errors": [error] }).to_string()));
        *response.status_mut() = self.status();
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if self == Self::Stranger {
            let challenge = HeaderValue::from_static("Basic realm=\"darter\", charset=\"UTF-8\"");
            let name = header::PROXY_AUTHENTICATE;
            response.headers_mut().insert(name, challenge);
        }
        if self == Self::Spent {
            let minute = HeaderValue::from(WINDOW.as_secs());
            response.headers_mut().insert(header::RETRY_AFTER, minute);
        }
        response
    }
}
