//! TLS with a relay: one rustls configuration for STARTTLS and for TLS from the first byte.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The certificates of a PEM file.
///
/// # Errors
/// What is wrong with the file, in words for who wrote it.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("the file is not PEM: {error}"))?;
    if found.is_empty() {
        return Err("the file holds no certificate; one starts with `-----BEGIN CERTIFICATE-----`".to_owned());
    }
    let mut store = RootCertStore::empty();
    for (at, certificate) in found.iter().enumerate() {
        store.add(certificate.clone()).map_err(|error| format!("certificate {} of the file cannot be used: {error}", at + 1))?;
    }
    Ok(found)
}

/// Checks certificates against the web's roots and `authorities`, or takes any.
pub(super) fn client(check: bool, authorities: &[CertificateDer<'static>]) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let config = if check {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        roots.add_parsable_certificates(authorities.iter().cloned());
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    };
    Ok(Arc::new(config.with_no_client_auth()))
}

/// # Errors
/// What went wrong, and what to do.
pub(super) async fn handshake(config: Arc<ClientConfig>, host: &str, socket: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("`{host}` is no name a certificate can have: {error}"))?;
    TlsConnector::from(config).connect(name, socket).await.map_err(|error| explain(host, &error))
}

fn explain(host: &str, error: &io::Error) -> String {
    let Some(cause) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return format!("{host} broke off while TLS was set up ({error}); does this port talk TLS?");
    };
    let date = |time: &UnixTime| jiff::Timestamp::from_second(time.as_secs() as i64).map(|time| time.to_string()).unwrap_or_default();
    match cause {
        Error::InvalidMessage(_) => format!(
            "{host} does not answer in TLS on this port: if it talks plain SMTP there, write `smtp://` with `?tls=required`, or use port 587"
        ),
        Error::AlertReceived(alert) => format!("{host} refused TLS: {alert:?}"),
        Error::InvalidCertificate(problem) => match problem {
            CertificateError::NotValidForNameContext { presented, .. } => {
                // rustls writes them as `DnsName("mail.example")`.
                let names: Vec<&str> = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name)).collect();
                format!("the certificate of {host} is for {}; use a name it has in the relay's URL", names.join(", "))
            }
            CertificateError::UnknownIssuer => format!(
                "the certificate of {host} was signed by an authority that is not known; if it is your own, name its PEM file as the relay's `ca_file`"
            ),
            CertificateError::ExpiredContext { not_after, .. } => format!("the certificate of {host} expired at {}", date(not_after)),
            CertificateError::NotValidYetContext { not_before, .. } => {
                format!("the certificate of {host} is valid only from {}; is the clock right?", date(not_before))
            }
            CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => format!(
                "the certificate of {host} is an authority's own; give the server one with `basicConstraints=CA:FALSE`, signed by it"
            ),
            other => format!("the certificate of {host} cannot be trusted: {other}"),
        },
        other => format!("TLS with {host} failed: {other}"),
    }
}

/// Takes any certificate: against listeners, not against impostors (RFC 7435).
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
