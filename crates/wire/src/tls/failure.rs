//! Why a handshake with a client failed, in few words: it is counted by them.

use std::io;

use rustls::{CertificateError, Error};

/// Why a handshake with a client failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The client left, or its connection broke.
    Left,
    /// It took too long.
    Slow,
    /// There is no certificate for the name that it asked for.
    Unnamed,
    /// It shows no certificate, and one is wanted.
    CertificateMissing,
    /// The certificate that it shows has expired, or does not count yet.
    CertificateExpired,
    /// It was revoked.
    CertificateRevoked,
    /// Its key is none of those that are pinned.
    CertificateUnpinned,
    /// It is not good for another reason; mostly no authority of ours vouches for it.
    CertificateUntrusted,
    /// What it says is not understood, or nothing in common is spoken.
    Protocol,
}

impl HandshakeFailure {
    /// All there are.
    pub const ALL: [HandshakeFailure; 9] = [
        HandshakeFailure::Left,
        HandshakeFailure::Slow,
        HandshakeFailure::Unnamed,
        HandshakeFailure::CertificateMissing,
        HandshakeFailure::CertificateExpired,
        HandshakeFailure::CertificateRevoked,
        HandshakeFailure::CertificateUnpinned,
        HandshakeFailure::CertificateUntrusted,
        HandshakeFailure::Protocol,
    ];

    /// As it is called in metrics and in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HandshakeFailure::Left => "left",
            HandshakeFailure::Slow => "slow",
            HandshakeFailure::Unnamed => "unnamed",
            HandshakeFailure::CertificateMissing => "certificate-missing",
            HandshakeFailure::CertificateExpired => "certificate-expired",
            HandshakeFailure::CertificateRevoked => "certificate-revoked",
            HandshakeFailure::CertificateUnpinned => "certificate-unpinned",
            HandshakeFailure::CertificateUntrusted => "certificate-untrusted",
            HandshakeFailure::Protocol => "protocol",
        }
    }

    /// Whether it is about what the client has shown, or has not.
    #[must_use]
    pub fn is_of_client(self) -> bool {
        matches!(
            self,
            HandshakeFailure::CertificateMissing
                | HandshakeFailure::CertificateExpired
                | HandshakeFailure::CertificateRevoked
                | HandshakeFailure::CertificateUnpinned
                | HandshakeFailure::CertificateUntrusted
        )
    }

    pub(crate) fn of(error: &io::Error) -> HandshakeFailure {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return match error.kind() {
                io::ErrorKind::NotFound => HandshakeFailure::Unnamed,
                io::ErrorKind::TimedOut => HandshakeFailure::Slow,
                io::ErrorKind::InvalidData => HandshakeFailure::Protocol,
                _ => HandshakeFailure::Left,
            };
        };
        match error {
            Error::NoCertificatesPresented => HandshakeFailure::CertificateMissing,
            Error::InvalidCertificate(why) => match why {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => HandshakeFailure::CertificateExpired,
                CertificateError::Revoked => HandshakeFailure::CertificateRevoked,
                CertificateError::ApplicationVerificationFailure => HandshakeFailure::CertificateUnpinned,
                _ => HandshakeFailure::CertificateUntrusted,
            },
            _ => HandshakeFailure::Protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: io::Error, expected: HandshakeFailure) {
        assert_eq!(HandshakeFailure::of(&error), expected, "{error}");
        assert!(HandshakeFailure::ALL.contains(&expected));
    }

    #[test]
    fn every_failure_has_a_name() {
        let tls = |error: Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let bad = |why| tls(Error::InvalidCertificate(why));
        check(io::ErrorKind::UnexpectedEof.into(), HandshakeFailure::Left);
        check(io::ErrorKind::TimedOut.into(), HandshakeFailure::Slow);
        check(io::ErrorKind::NotFound.into(), HandshakeFailure::Unnamed);
        check(tls(Error::NoCertificatesPresented), HandshakeFailure::CertificateMissing);
        check(bad(CertificateError::Expired), HandshakeFailure::CertificateExpired);
        check(bad(CertificateError::Revoked), HandshakeFailure::CertificateRevoked);
        check(bad(CertificateError::ApplicationVerificationFailure), HandshakeFailure::CertificateUnpinned);
        check(bad(CertificateError::UnknownIssuer), HandshakeFailure::CertificateUntrusted);
        check(tls(Error::DecryptError), HandshakeFailure::Protocol);
        for failure in HandshakeFailure::ALL {
            assert_eq!(failure.is_of_client(), failure.name().starts_with("certificate-"));
        }
    }
}
