//! What failures of etcd mean, and what to do about them, in words for an operator.

use tonic::{Code, Status};

use crate::cluster::store::StoreError;

/// What a failure means.
pub(super) fn of_status(status: &Status) -> StoreError {
    let text = status.message();
    if text.contains("lease not found") {
        return StoreError::LeaseGone;
    }
    if text.contains("required revision has been compacted") {
        return StoreError::Compacted;
    }
    let refused = matches!(
        status.code(),
        Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument
    );
    if refused && !text.contains("invalid auth token") {
        return StoreError::Refused(format!("etcd refuses: {text}"));
    }
    let behind = std::error::Error::source(status).map(causes);
    let text = behind.unwrap_or_else(|| text.to_owned());
    StoreError::Unavailable(format!("etcd: {text}{}", remedy(&text)))
}

/// An error of the transport, with what is behind it: the reason is the last of a chain.
pub(super) fn explain(at: &str, error: &tonic::transport::Error) -> String {
    let text = causes(error);
    format!("etcd at {at} cannot be reached: {text}{}", remedy(&text))
}

/// What to do about a failure of TLS, by the words of the library.
fn remedy(text: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["UnknownIssuer", "BadSignature"]) {
        "; its certificate is not signed by what etcd-ca holds"
    } else if says(&["certificate not valid for name"]) {
        "; its certificate is not for that name or address"
    } else if says(&["certificate expired", "certificate not valid yet"]) {
        "; look at the validity of its certificate, and at the clock"
    } else if says(&[
        "CertificateRequired",
        "BadCertificate",
        "UnknownCA",
        "HandshakeFailure",
    ]) {
        "; it wants a certificate of this host that it trusts: look at etcd-cert and etcd-key"
    } else if says(&["InvalidContentType", "InvalidMessage", "tls handshake eof"]) {
        "; it does not speak TLS: leave etcd-ca out, or switch TLS on there"
    } else {
        ""
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}
