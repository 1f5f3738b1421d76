//! TLS to a Redis server whose certificate is issued by a private authority.

use std::sync::Arc;

use fred::types::config::{TlsConfig, TlsConnector};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::config::BadSetting;

/// TLS configuration that trusts only these authorities.
///
/// # Errors
/// [`BadSetting`] if the PEM contains no valid certificate.
pub(super) fn trusting(pem: &[u8]) -> Result<TlsConfig, BadSetting> {
    let bad = || {
        BadSetting::new(
            "REDIS_CA_FILE",
            "contains no valid certificate",
            "name a PEM file with the authority's certificate",
        )
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| bad())?;
        roots.add(certificate).map_err(|_| bad())?;
    }
    if roots.is_empty() {
        return Err(bad());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| bad())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(config).into())
}
