//! OCSP answers (RFC 6960): a certificate authority's word, out of a file, that a certificate is not revoked. It is shown
//! with the certificate ("stapled"), so that no client has to ask the authority.
//!
//! Only one about this certificate is shown, that calls it good, as long as it holds. Who has signed it is looked at by the
//! client: it believes the authority, not us.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::{Any, Class, Tag};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;

/// The longest answer.
const BYTES_MAX: usize = 16 << 10;
/// `id-pkix-ocsp-basic`.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
/// Digests by which certificates are named, and their object identifiers.
const DIGESTS: [(&[u8], &Algorithm); 2] =
    [(&[0x2b, 14, 3, 2, 26], &SHA1_FOR_LEGACY_USE_ONLY), (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1], &SHA256)];

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Staple {
    /// It, as it is shown.
    pub(super) der: Vec<u8>,
    /// From when on it holds, in seconds since the Unix epoch.
    pub(super) from: u64,
    /// Until when.
    pub(super) until: u64,
    /// Whether it says that the certificate is not revoked.
    pub(super) is_good: bool,
}

impl Staple {
    /// The answer in these bytes about the first certificate of a chain.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) fn read(der: Vec<u8>, chain: &[CertificateDer<'_>]) -> Result<Staple, String> {
        if der.len() > BYTES_MAX {
            return Err(format!("it is longer than {BYTES_MAX} bytes"));
        }
        let mut singles = singles(&der)?;
        let wanted = Wanted::of(chain).ok_or("the certificate cannot be read")?;
        while let Some(single) = singles.inner(Tag::Sequence) {
            let single = Single::read(single).ok_or("it is no OCSP answer: it breaks off")?;
            if wanted.is(&single) {
                let until = single.until.ok_or("it does not say until when it holds")?;
                let (from, is_good) = (single.from, single.is_good);
                return Ok(Staple { der, from, until, is_good });
            }
        }
        Err("it is about another certificate".to_owned())
    }

    /// Why it is not shown now. `None`: it is.
    pub(super) fn lacks(&self, now: u64) -> Option<&'static str> {
        match () {
            () if !self.is_good => Some("it does not call the certificate good"),
            () if now < self.from => Some("it does not hold yet"),
            () if now >= self.until => Some("it has ended"),
            () => None,
        }
    }
}

/// What of an answer is about one certificate.
struct Single<'a> {
    digest: &'a [u8],
    issuer_name: &'a [u8],
    issuer_key: &'a [u8],
    serial: &'a [u8],
    is_good: bool,
    from: u64,
    until: Option<u64>,
}

/// What is said about certificates.
fn singles(der: &[u8]) -> Result<Der<'_>, String> {
    let broken = || "it is no OCSP answer (DER)".to_owned();
    let mut whole = Der(der);
    let mut response = whole.inner(Tag::Sequence).filter(|_| whole.0.is_empty()).ok_or_else(broken)?;
    let status = response.content(Tag::Enumerated).ok_or_else(broken)?;
    if status != [0] {
        return Err("the authority has answered that it cannot tell".to_owned());
    }
    response.tagged(0).and_then(basic).ok_or_else(broken)
}

/// What a basic answer says about certificates (RFC 6960 section 4.2.1).
fn basic(mut tagged: Der<'_>) -> Option<Der<'_>> {
    let mut bytes = tagged.inner(Tag::Sequence)?;
    let kind = bytes.content(Tag::Oid)?;
    let mut basic = Der(bytes.content(Tag::OctetString)?).inner(Tag::Sequence).filter(|_| kind == BASIC)?;
    let mut data = basic.inner(Tag::Sequence)?;
    // The version, which need not be there; who answers; when.
    data.tagged(0);
    data.any()?;
    data.content(Tag::GeneralizedTime)?;
    data.inner(Tag::Sequence)
}

impl<'a> Single<'a> {
    fn read(mut der: Der<'a>) -> Option<Single<'a>> {
        let mut named = der.inner(Tag::Sequence)?;
        let digest = named.inner(Tag::Sequence)?.content(Tag::Oid)?;
        let [issuer_name, issuer_key] = [named.content(Tag::OctetString)?, named.content(Tag::OctetString)?];
        let serial = named.content(Tag::Integer)?;
        let status = der.any()?;
        let is_good = status.class() == Class::ContextSpecific && status.tag() == Tag(0);
        let from = der.time()?;
        let until = match der.tagged(0) {
            Some(mut next) => Some(next.time()?),
            None => None,
        };
        Some(Single { digest, issuer_name, issuer_key, serial, is_good, from, until })
    }
}

/// By what a certificate is known to its authority.
struct Wanted {
    issuer: Vec<u8>,
    /// Where the chain has the issuer's certificate.
    issuer_key: Option<Vec<u8>>,
    serial: Vec<u8>,
}

impl Wanted {
    fn of(chain: &[CertificateDer<'_>]) -> Option<Wanted> {
        let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
        let issuer = leaf.issuer().as_raw().to_vec();
        let key = |one: &CertificateDer<'_>| {
            let (_, one) = X509Certificate::from_der(one).ok()?;
            let is_issuer = one.subject().as_raw() == issuer;
            is_issuer.then(|| one.public_key().subject_public_key.data.to_vec())
        };
        let issuer_key = chain.get(1).and_then(key);
        Some(Wanted { issuer_key, serial: leaf.raw_serial().to_vec(), issuer })
    }

    fn is(&self, single: &Single<'_>) -> bool {
        let Some((_, by)) = DIGESTS.iter().find(|(name, _)| *name == single.digest) else { return false };
        let is = |bytes: &[u8], told: &[u8]| digest(by, bytes).as_ref() == told;
        single.serial == self.serial
            && is(&self.issuer, single.issuer_name)
            && self.issuer_key.as_ref().is_none_or(|key| is(key, single.issuer_key))
    }
}

/// Values of DER, one after another.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn any(&mut self) -> Option<Any<'a>> {
        let (rest, found) = Any::from_der(self.0).ok()?;
        self.0 = rest;
        Some(found)
    }

    /// The content of the next value, if it is of this kind.
    fn content(&mut self, tag: Tag) -> Option<&'a [u8]> {
        let found = self.any()?;
        (found.class() == Class::Universal && found.tag() == tag).then_some(found.data)
    }

    fn inner(&mut self, tag: Tag) -> Option<Der<'a>> {
        self.content(tag).map(Der)
    }

    /// What stands within this tag of the context, if that is what is next.
    fn tagged(&mut self, number: u32) -> Option<Der<'a>> {
        let before = self.0;
        let found = self.any()?;
        if found.class() == Class::ContextSpecific && found.tag() == Tag(number) {
            return Some(Der(found.data));
        }
        self.0 = before;
        None
    }

    /// Seconds since the Unix epoch.
    fn time(&mut self) -> Option<u64> {
        let (rest, time) = ASN1Time::from_der(self.0).ok()?;
        self.0 = rest;
        u64::try_from(time.timestamp()).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use rustls::crypto::aws_lc_rs;
    use rustls::sign::CertifiedKey;
    use tidegate_model::tick::Tick;

    use super::super::{Served, Tickets};
    use super::*;
    use crate::clock;

    /// Issued by `ISSUER`. What follows was made by `openssl ocsp`.
    const LEAF: &str = "MIIBFjCBvQIUUxfpwd8Z7JlPOcuvFXvsZ2OpLj4wCgYIKoZIzj0EAwIwDTELMAkGA1UEAwwCQ0EwHhcNMjYxMTIyMDYxMzMxWhcN\
        MzYxMTE5MDYxMzMxWjAPMQ0wCwYDVQQDDARsZWFmMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEinVy1d9MSbwSK4lEq+RZOlD5\
        vnBXlsle7gyKK7lBQzq3j0RzCr5fOUaJ1CjVSAFHFkds+M6jZfod2oC8gdM9LjAKBggqhkjOPQQDAgNIADBFAiBO1pqn/BSZ9BJS\
        nkNlXj2916fycvSr7SvCk11sq6JVfgIhANNznYCQlVdGgfjMt0ZBIBSPmHt4F2KTfxQ9yMdEBKic";
    /// An authority.
    const ISSUER: &str = "MIIBcDCCARWgAwIBAgIUYMMhI6if34NOqdmY0Y8S55OZKOAwCgYIKoZIzj0EAwIwDTELMAkGA1UEAwwCQ0EwHhcNMjYxMTIyMDYx\
        MzMxWhcNMzYxMTE5MDYxMzMxWjANMQswCQYDVQQDDAJDQTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCeyXDfswkUsnmVMwqz3\
        P5CoFOxr26Cgv1SBzCkm4YfrKdtpuFhMRKdyqsIutmBihRdzJ+tzAq1UJu4qBbAZ1ECjUzBRMB0GA1UdDgQWBBTFaVajVFhgKpsK\
        2ZzCPNO2MKAt4jAfBgNVHSMEGDAWgBTFaVajVFhgKpsK2ZzCPNO2MKAt4jAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0kA\
        MEYCIQDj4bDE/XtFKniPGbi8A862jVV+zVh2EGDCEGA2vnwOHAIhAJ1ObXSiJMUD1994Kxs8fSnd/RpcLtTbBAwRx+xyW1Zi";
    /// It is good, for a week.
    const GOOD: &str = "MIIBEAoBAKCCAQkwggEFBgkrBgEFBQcwAQEEgfcwgfQwgZuhDzANMQswCQYDVQQDDAJDQRgPMjAyNjExMjIwNjEzMzJaMHcwdTBN\
        MAkGBSsOAwIaBQAEFHEdOXZxyfrPIkIJWSWXmgaY5GsRBBTFaVajVFhgKpsK2ZzCPNO2MKAt4gIUUxfpwd8Z7JlPOcuvFXvsZ2Op\
        Lj6AABgPMjAyNjExMjIwNjEzMzJaoBEYDzIwMjYxMTI5MDYxMzMyWjAKBggqhkjOPQQDAgNIADBFAiEAo0dAc2fFDfIPZMh7LFIr\
        rZsivd8+RxlhIaKATQjfAeYCIFHW+SDczNNwS3D7WN9+CuiUElHrhmqy5k0/FV87mCpW";
    /// The same, said by another digest.
    const GOOD_SHA256: &str = "MIIBLwoBAKCCASgwggEkBgkrBgEFBQcwAQEEggEVMIIBETCBuaEPMA0xCzAJBgNVBAMMAkNBGA8yMDI2MTEyMjA2MTMzMlowgZQw\
        gZEwaTANBglghkgBZQMEAgEFAAQg5+TKFx6oz8So9v9pXOo2TumA4asfutYpzac3s4bXtdoEIJcRl2kkYg4YLYuSymHy8ecwI8i+\
        3RAE1MwuhuruNBY9AhRTF+nB3xnsmU85y68Ve+xnY6kuPoAAGA8yMDI2MTEyMjA2MTMzMlqgERgPMjAyNjExMjkwNjEzMzJaMAoG\
        CCqGSM49BAMCA0cAMEQCIBXHSN2G9aiWkSxWgzyNqPk9WACeAhwl262AYsTAki04AiAbj2JjKaUbpygLBEpLqbL4HWWVtidMQLTr\
        Q3wIFjRzeg==";
    /// It is revoked.
    const REVOKED: &str = "MIIBKwoBAKCCASQwggEgBgkrBgEFBQcwAQEEggERMIIBDTCBs6EPMA0xCzAJBgNVBAMMAkNBGA8yMDI2MTEyMjA2MTMzMlowgY4w\
        gYswTTAJBgUrDgMCGgUABBRxHTl2ccn6zyJCCVkll5oGmORrEQQUxWlWo1RYYCqbCtmcwjzTtjCgLeICFFMX6cHfGeyZTznLrxV7\
        7GdjqS4+oRYYDzIwMjYxMTAxMDAwMDAwWqADCgEBGA8yMDI2MTEyMjA2MTMzMlqgERgPMjAyNjExMjkwNjEzMzJaMAoGCCqGSM49\
        BAMCA0kAMEYCIQCMYZMyQOPlfxNp17dxABgjYiF2UPa3C1fYMpvn91BlywIhAO5AfSV1Q7bTilKd63zhrmytD1Z4qNKphuNbCyoe\
        JY5q";
    /// Another certificate of that authority is good.
    const OTHERS: &str = "MIIBEAoBAKCCAQkwggEFBgkrBgEFBQcwAQEEgfcwgfQwgZuhDzANMQswCQYDVQQDDAJDQRgPMjAyNjExMjIwNjEzMzJaMHcwdTBN\
        MAkGBSsOAwIaBQAEFHEdOXZxyfrPIkIJWSWXmgaY5GsRBBTFaVajVFhgKpsK2ZzCPNO2MKAt4gIUUxfpwd8Z7JlPOcuvFXvsZ2Op\
        Lj+AABgPMjAyNjExMjIwNjEzMzJaoBEYDzIwMjYxMTI5MDYxMzMyWjAKBggqhkjOPQQDAgNIADBFAiAzByZUqCniUh/YtaRVG4l3\
        8nil6uT86VXH87z+SMyXXgIhAIdl29gr04b+FUF8XuoOPuFbSKuSxtCf+UuiRDdziK0D";
    /// It is good, and nobody knows for how long.
    const ENDLESS: &str = "MIH8CgEAoIH2MIHzBgkrBgEFBQcwAQEEgeUwgeIwgYihDzANMQswCQYDVQQDDAJDQRgPMjAyNjExMjIwNjEzMzJaMGQwYjBNMAkG\
        BSsOAwIaBQAEFHEdOXZxyfrPIkIJWSWXmgaY5GsRBBTFaVajVFhgKpsK2ZzCPNO2MKAt4gIUUxfpwd8Z7JlPOcuvFXvsZ2OpLj6A\
        ABgPMjAyNjExMjIwNjEzMzJaMAoGCCqGSM49BAMCA0kAMEYCIQCvhjUXK8PsLOdl2boGQ91/BNdnt/FSaBxpOChm7YplSQIhAIaD\
        4eUPiUDZfqt3+69WAe1U7vFLXRgG8SQUmcw7pvwe";

    /// When they were made.
    const MADE: u64 = 1_795_328_012;
    const WEEK: u64 = 7 * 24 * 3600;

    fn bytes(text: &str) -> Vec<u8> {
        BASE64_STANDARD.decode(text).unwrap()
    }

    fn chain() -> Vec<CertificateDer<'static>> {
        [LEAF, ISSUER].map(|one| bytes(one).into()).to_vec()
    }

    /// Whether an answer is shown at a time, or why not.
    fn check(answer: &str, now: u64, expected: Option<&str>) {
        for chain in [chain(), chain()[..1].to_vec()] {
            let read = Staple::read(bytes(answer), &chain);
            let lacks = read.map_or_else(Some, |staple| staple.lacks(now).map(str::to_owned));
            assert_eq!(lacks.as_deref(), expected);
        }
    }

    #[test]
    fn an_answer_is_shown_as_long_as_it_holds_and_calls_its_certificate_good() {
        for answer in [GOOD, GOOD_SHA256] {
            check(answer, MADE, None);
            check(answer, MADE + WEEK - 1, None);
            check(answer, MADE + WEEK, Some("it has ended"));
            check(answer, MADE - 1, Some("it does not hold yet"));
        }
        check(REVOKED, MADE, Some("it does not call the certificate good"));
        check(OTHERS, MADE, Some("it is about another certificate"));
        check(ENDLESS, MADE, Some("it does not say until when it holds"));
        // `unauthorized`, as responders say it.
        check("MAMKAQY=", MADE, Some("the authority has answered that it cannot tell"));
        check("", MADE, Some("it is no OCSP answer (DER)"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_shown_it_until_it_ends() {
        let (made, terms) =
            (rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap(), Tickets::default());
        let key = aws_lc_rs::sign::any_supported_type(&made.signing_key.serialize_der().try_into().unwrap());
        let key = Arc::new(CertifiedKey::new(vec![made.cert.der().clone()], key.unwrap()));
        let staple = Staple { der: vec![1], from: MADE, until: MADE + WEEK, is_good: true };
        let served = Served::of(Arc::clone(&key), None, &terms.terms).with(Some(staple), &key);
        for (at, expected) in [(MADE - 1, false), (MADE, true), (MADE + WEEK - 1, true), (MADE + WEEK, false)]
        {
            clock::simulated::begin(Tick(5), UNIX_EPOCH + Duration::from_secs(at));
            assert_eq!(!Arc::ptr_eq(served.config(), &served.config), expected, "{at}");
        }
        clock::simulated::end();
    }

    #[test]
    fn an_answer_of_another_authority_is_none_about_this_certificate() {
        let mut strange = chain();
        strange.reverse();
        assert_eq!(
            Staple::read(bytes(GOOD), &strange).unwrap_err(),
            "it is about another certificate",
            "about the authority's own"
        );
        assert!(Staple::read(bytes(GOOD), &[]).is_err());
    }

    #[test]
    fn what_breaks_off_or_was_changed_is_refused_or_about_the_same_certificate() {
        let (answer, chain) = (bytes(GOOD), chain());
        for at in 0..answer.len() {
            assert!(Staple::read(answer[..at].to_vec(), &chain).is_err(), "{at}");
            for bit in 0..8 {
                let mut other = answer.clone();
                other[at] ^= 1 << bit;
                // It does not panic. The signature, which is the client's to look at, may be another.
                let _ = Staple::read(other, &chain);
            }
        }
        assert!(Staple::read(vec![0x30; BYTES_MAX + 1], &chain).unwrap_err().contains("longer"));
    }
}
