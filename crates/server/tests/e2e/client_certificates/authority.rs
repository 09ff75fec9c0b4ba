//! An authority of clients' certificates.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData as _, RevokedCertParams, SerialNumber,
    date_time_ymd,
};

/// An authority, which keeps its certificate in a file.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The root's.
    pub ca: PathBuf,
    /// What clients show above their own certificate.
    above: String,
    folder: PathBuf,
}

/// What a client has, in files.
pub struct Client {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The SHA-256 of its public key.
    pub pin: String,
    /// That of its certificate.
    pub fingerprint: String,
}

impl Authority {
    pub fn new(folder: &Path, name: &str) -> Authority {
        let (params, key) = (params(name), KeyPair::generate().unwrap());
        let ca = folder.join(format!("{name}.pem"));
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), ca, above: String::new(), folder: folder.to_owned() }
    }

    /// One that this one vouches for.
    pub fn between(&self) -> Authority {
        let (params, key) = (params("between"), KeyPair::generate().unwrap());
        let above = params.signed_by(&key, &self.issuer).unwrap().pem();
        let (ca, folder) = (self.ca.clone(), self.folder.clone());
        Authority { issuer: Issuer::new(params, key), ca, above, folder }
    }

    /// A client with this common name, and what else is said of it.
    pub fn client(&self, name: &str, say: impl FnOnce(&mut CertificateParams)) -> Client {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        say(&mut params);
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        let file = self.folder.join(format!("client-{}", MADE.fetch_add(1, Relaxed)));
        let (cert_file, key_file) = (file.with_extension("pem"), file.with_extension("key"));
        std::fs::write(&cert_file, made.pem() + &self.above).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Client {
            cert: cert_file,
            key: key_file,
            pin: sha256(&key.subject_public_key_info()),
            fingerprint: sha256(made.der()),
        }
    }

    /// A list of this one revoked certificate, by its serial number.
    pub fn revoke(&self, serial: u64) -> PathBuf {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2021, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let file = self.folder.join("revoked.pem");
        std::fs::write(&file, params.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        file
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of the public key that belongs to this file's private one.
pub fn pin_of(key: &Path) -> String {
    let key = KeyPair::from_pem(&std::fs::read_to_string(key).unwrap()).unwrap();
    sha256(&key.subject_public_key_info())
}
