//! What a certificate file says of itself: names, lifetime, and whether its chain is one. For whoever looks, not for whoever
//! connects: a connection takes the chain as it is ([`crate::tls`]).

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use crate::tls::pem_reason;

/// What is looked at of a chain, at most.
const CHAIN_MAX: usize = 16;

/// A chain of certificates as it stands in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The names that the first one is for, in lower case.
    pub names: Vec<String>,
    /// Seconds of the Unix epoch from which all of them hold, and until which.
    pub holds: (i64, i64),
    /// How many there are.
    pub length: usize,
    /// The place of the first one that was not issued by the one behind it.
    pub broken: Option<usize>,
    /// Whether the last one was issued by itself.
    pub ends_in_root: bool,
    /// Who issued the last one.
    pub issuer: String,
}

/// Reads the chain in a PEM file.
///
/// # Errors
/// Why there is none, in words.
pub fn read(path: &Path) -> Result<Chain, String> {
    let found = CertificateDer::pem_file_iter(path).map_err(|error| pem_reason(&error))?;
    let found = found.take(CHAIN_MAX).collect::<Result<Vec<_>, _>>().map_err(|error| pem_reason(&error))?;
    of(&found)
}

fn of(found: &[CertificateDer<'_>]) -> Result<Chain, String> {
    let parsed = found.iter().map(|one| X509Certificate::from_der(one.as_ref()).map(|(_, one)| one));
    let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(|error| format!("no certificate: {error}"))?;
    let (Some(leaf), Some(last)) = (parsed.first(), parsed.last()) else {
        return Err("there is no certificate in it".to_owned());
    };
    let from = parsed.iter().map(|one| one.validity().not_before.timestamp()).max();
    let until = parsed.iter().map(|one| one.validity().not_after.timestamp()).min();
    let issued = |pair: &[X509Certificate<'_>]| pair[0].issuer().as_raw() == pair[1].subject().as_raw();
    Ok(Chain {
        names: names(leaf),
        holds: (from.unwrap_or(i64::MIN), until.unwrap_or(i64::MAX)),
        length: parsed.len(),
        broken: parsed.windows(2).position(|pair| !issued(pair)),
        ends_in_root: last.issuer().as_raw() == last.subject().as_raw(),
        issuer: last.issuer().to_string(),
    })
}

fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let alternative = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(found) => Some(&found.general_names),
        _ => None,
    });
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    alternative.into_iter().flatten().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

    use super::*;

    fn chain() -> Vec<CertificateDer<'static>> {
        let (root_key, leaf_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut root = CertificateParams::new(Vec::new()).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.distinguished_name.push(DnType::CommonName, "A Root");
        root.not_before = date_time_ymd(2020, 1, 1);
        root.not_after = date_time_ymd(2040, 1, 1);
        let root_der = root.self_signed(&root_key).unwrap().der().clone();
        let mut leaf =
            CertificateParams::new(vec!["A.example".to_owned(), "*.b.example".to_owned()]).unwrap();
        leaf.distinguished_name.push(DnType::CommonName, "leaf");
        leaf.not_before = date_time_ymd(2026, 1, 1);
        leaf.not_after = date_time_ymd(2026, 4, 1);
        let leaf = leaf.signed_by(&leaf_key, &Issuer::new(root, root_key)).unwrap();
        vec![leaf.der().clone(), root_der]
    }

    #[test]
    fn a_chain_tells_its_names_its_lifetime_and_whether_it_is_one() {
        let mut found = chain();
        let told = of(&found).unwrap();
        assert_eq!(told.names, ["a.example", "*.b.example"]);
        assert_eq!(told.holds, (1_767_225_600, 1_775_001_600));
        assert_eq!((told.length, told.broken, told.ends_in_root), (2, None, true));
        let alone = of(&found[..1]).unwrap();
        assert!(!alone.ends_in_root && alone.issuer.contains("A Root"), "{alone:?}");
        found.swap(0, 1);
        assert_eq!(of(&found).unwrap().broken, Some(0));
        assert!(of(&[]).is_err());
        assert!(of(&[CertificateDer::from(vec![0x30, 0x80, 1, 2])]).is_err());
    }
}
