//! TLS for the load generator: what a server is trusted by. The certificates are the system's, Mozilla's where the system
//! has none, and those of `target.ca_file`.

use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Whom to trust.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
}

impl Tls {
    /// Reads the certificates. The error is prose with its remedy.
    pub fn new(ca_file: Option<&Path>) -> Result<Tls, String> {
        let mut roots = RootCertStore::empty();
        // A certificate of the system's that cannot be used is no reason not to use the others.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        if let Some(path) = ca_file {
            let odd = |why: String| format!("target.ca_file {}: {why}", path.display());
            let read = CertificateDer::pem_file_iter(path).map_err(|error| odd(error.to_string()))?;
            let mut found = 0;
            for certificate in read {
                let certificate = certificate.map_err(|error| odd(format!("it is no PEM: {error}")))?;
                roots.add(certificate).map_err(|error| odd(error.to_string()))?;
                found += 1;
            }
            if found == 0 {
                return Err(odd("there is no certificate in it; it must hold -----BEGIN CERTIFICATE-----".to_owned()));
            }
        }
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be set up: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Agrees on keys with `host` over `stream`.
    pub async fn wrap(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no name of a server"))?;
        self.connector.connect(name, stream).await.map_err(|error| {
            format!(
                "TLS: {error} (for a certificate of your own, give target.ca_file; for a server without TLS, http://)"
            )
        })
    }
}
