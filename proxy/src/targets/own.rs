//! The gate's own cluster, entered with the gate's own credential.
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::HeaderValue;

use super::{Fault, NoAccess, Way};
use crate::upstream::{Road, SetupError, bearer};

const TOKEN_LIFE: Duration = Duration::from_secs(30);

/// Address and credential as the pod, or `KUBECONFIG`, has them.
pub struct Own {
    road: Arc<Road>,
    credential: Credential,
}

/// Read again as its file is rotated (F22).
enum Credential {
    Certificate,
    File { path: PathBuf, cached: Mutex<Option<(Instant, HeaderValue)>> },
}

impl Own {
    /// With CA, client certificate and token of the Kubernetes configuration.
    ///
    /// # Errors
    /// If the configuration names no usable host, CA or token.
    pub fn new(config: &kube::Config) -> Result<Self, SetupError> {
        Ok(Self { road: Arc::new(Road::new(config)?), credential: Credential::new(config)? })
    }

    /// The URL of the API server.
    pub fn server(&self) -> String {
        self.road.server()
    }

    pub(super) fn way(&self) -> Result<Way, NoAccess> {
        let authorization = self.credential.header().map_err(|error| NoAccess {
            fault: Fault::Unauthorized,
            message: format!("the proxy's token cannot be read: {error}"),
        })?;
        Ok(Way { road: Arc::clone(&self.road), authorization })
    }
}

impl Credential {
    fn new(config: &kube::Config) -> Result<Self, SetupError> {
        if let Some(path) = &config.auth_info.token_file {
            return Ok(Credential::File { path: PathBuf::from(path), cached: Mutex::new(None) });
        }
        match &config.auth_info.token {
            Some(_) => Err(SetupError::Token),
            None => Ok(Credential::Certificate),
        }
    }

    fn header(&self) -> std::io::Result<Option<HeaderValue>> {
        match self {
            Credential::Certificate => Ok(None),
            Credential::File { path, cached } => {
                let mut cached = cached.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((read, value)) = cached.as_ref()
                    && read.elapsed() < TOKEN_LIFE
                {
                    return Ok(Some(value.clone()));
                }
                let text = std::fs::read_to_string(path)?;
                let value = bearer(text.trim()).ok_or(std::io::ErrorKind::InvalidData)?;
                *cached = Some((Instant::now(), value.clone()));
                Ok(Some(value))
            }
        }
    }
}
