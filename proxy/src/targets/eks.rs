//! An EKS cluster, entered as an IAM role that the gate assumes under the agent's own name.
mod base;
mod cluster;
mod entries;
mod role;
mod token;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_credential_types::Credentials;
use crds::agent_identity::EksTarget;
use http::header::HeaderValue;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{NoAccess, Way};
use crate::upstream::Road;

pub use base::Base;
pub use entries::NotListed;

use cluster::Cluster;
use role::Role;

/// A cluster takes a token for fifteen minutes; the next is made after ten (F22).
const TOKEN_LIFE: Duration = Duration::from_secs(600);
/// What ends sooner than this is replaced before it is asked for.
const AHEAD: Duration = Duration::from_secs(180);
/// A role's credentials are replaced so long before their end.
const SPARE: Duration = Duration::from_secs(300);
/// A token that is refused says nothing against credentials that are younger.
const NEWLY_ASSUMED: Duration = Duration::from_secs(60);
/// AWS is not asked again sooner than this after a failure, or about a cluster that was just described.
const NOT_SOONER: Duration = Duration::from_secs(5);

/// Which EKS cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Its account, 12 digits; none: the gate's own cluster, whose account need not be known.
    pub account: Option<String>,
    /// Its region.
    pub region: String,
    /// Its name.
    pub name: String,
}

impl Place {
    /// The ARN of each principal that has an access entry in the gate's own cluster, asked as the gate itself.
    ///
    /// # Errors
    /// [`NotListed`].
    pub async fn access_entries(&self, base: &Base) -> Result<Vec<String>, NotListed> {
        entries::principals(base, &self.region, &self.name, None).await
    }
}

/// Address, authority and token of one cluster for one agent.
pub struct Eks {
    role: Role,
    ready: ArcSwapOption<Ready>,
    /// The address, once it was known.
    road: ArcSwapOption<Road>,
    state: Mutex<State>,
}

struct Ready {
    road: Arc<Road>,
    token: HeaderValue,
    until: Instant,
}

#[derive(Default)]
struct State {
    credentials: Option<Credentials>,
    assumed: Option<Instant>,
    cluster: Option<Cluster>,
    /// Nobody answered at the address, or not with its certificate (F24, F31).
    is_doubtful: bool,
    failed: Option<(Instant, NoAccess)>,
}

impl Eks {
    /// Knows nothing yet; AWS is asked with the first request.
    pub fn new(base: Arc<Base>, hub: &str, namespace: &str, name: &str, spec: &EksTarget) -> Self {
        Self {
            role: Role::new(base, hub, namespace, name, spec),
            ready: ArcSwapOption::empty(),
            road: ArcSwapOption::empty(),
            state: Mutex::default(),
        }
    }

    /// The cluster's ARN, for records: the account is the role's.
    pub fn arn(&self) -> String {
        self.role.cluster_arn()
    }

    /// The cluster, for approvals. A cluster that was made anew under the same name has another endpoint.
    pub fn cluster(&self) -> String {
        let endpoint = self.road.load().as_ref().map(|road| road.server()).unwrap_or_default();
        format!("{} {endpoint}", self.role.cluster_arn())
    }

    /// What an administrator does about a cluster that does not know the role.
    pub fn advice(&self) -> String {
        self.role.advice()
    }

    /// Account, region and name of the cluster.
    pub fn place(&self) -> Place {
        self.role.place()
    }

    /// The role that the gate assumes.
    pub fn role_arn(&self) -> &str {
        self.role.arn()
    }

    /// The ARN of each principal that has an access entry in the cluster: read as the role, whose account the cluster is of, with the
    /// credentials that the agent's requests go with too.
    ///
    /// # Errors
    /// [`NotListed`].
    pub async fn access_entries(&self) -> Result<Vec<String>, NotListed> {
        let credentials = {
            let mut state = self.state.lock().await;
            self.credentials(&mut state).await.map_err(|error| NotListed::Failed(error.message))?
        };
        self.role.access_entries(credentials).await
    }

    pub(super) async fn way(&self) -> Result<Way, NoAccess> {
        if let Some(ready) = self.ready.load().as_ref().filter(|ready| ready.until > Instant::now()) {
            return Ok(Way { road: Arc::clone(&ready.road), authorization: Some(ready.token.clone()) });
        }
        let mut state = self.state.lock().await;
        // Whoever waited for the lock finds it done.
        if self.ready.load().as_ref().is_none_or(|ready| ready.until <= Instant::now()) {
            self.renew(&mut state).await?;
        }
        let ready = self.ready.load_full().ok_or_else(|| self.role.unready())?;
        Ok(Way { road: Arc::clone(&ready.road), authorization: Some(ready.token.clone()) })
    }

    /// Renews what ends soon, so that no request has to wait for AWS.
    pub(super) async fn refresh_ahead(&self) {
        let soon = Instant::now() + AHEAD;
        if self.ready.load().as_ref().is_none_or(|ready| ready.until > soon) {
            return;
        }
        let mut state = self.state.lock().await;
        if let Err(error) = self.renew(&mut state).await {
            tracing::warn!(%error, cluster = self.role.cluster_arn(), "a target's token was not renewed ahead");
        }
    }

    /// Nobody answered, or not with the right certificate: the cluster is described again. Whether that gave another address
    /// or authority; nothing was sent then, so the request may be tried once more.
    pub(super) async fn look_again(&self) -> bool {
        let before = self.ready.load_full();
        let mut state = self.state.lock().await;
        state.is_doubtful = true;
        if self.renew(&mut state).await.is_err() {
            return false;
        }
        match (before, self.ready.load_full()) {
            (Some(before), Some(now)) => !Arc::ptr_eq(&before.road, &now.road),
            (_, now) => now.is_some(),
        }
    }

    /// The cluster did not take the token: the next request has a new one, of new credentials.
    pub(super) async fn forget_credential(&self) {
        let mut state = self.state.lock().await;
        // A cluster that knows no access entry refuses every token: AWS is not asked for each of them.
        if state.assumed.is_some_and(|at| at.elapsed() > NEWLY_ASSUMED) {
            state.credentials = None;
        }
        self.ready.store(None);
    }

    async fn renew(&self, state: &mut State) -> Result<(), NoAccess> {
        if let Some((at, error)) = &state.failed
            && at.elapsed() < NOT_SOONER
        {
            return Err(error.clone());
        }
        match self.fetch(state).await {
            Ok(ready) => {
                self.road.store(Some(Arc::clone(&ready.road)));
                self.ready.store(Some(Arc::new(ready)));
                state.failed = None;
                Ok(())
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn fetch(&self, state: &mut State) -> Result<Ready, NoAccess> {
        let credentials = self.credentials(state).await?;
        let road = self.road(state, &credentials).await?;
        let token = token::presigned(&credentials, self.role.region(), self.role.cluster())?;
        let left = credentials.expiry().and_then(|end| end.duration_since(SystemTime::now()).ok());
        let life = left.map_or(TOKEN_LIFE, |left| left.min(TOKEN_LIFE));
        Ok(Ready { road, token, until: Instant::now() + life })
    }

    /// Credentials that are good for a while; the old ones stay while AWS does not give new ones and they last.
    async fn credentials(&self, state: &mut State) -> Result<Credentials, NoAccess> {
        let lasts = |credentials: &Credentials, spare: Duration| {
            credentials.expiry().is_none_or(|end| end > SystemTime::now() + spare)
        };
        if let Some(held) = state.credentials.as_ref().filter(|held| lasts(held, SPARE)) {
            return Ok(held.clone());
        }
        match self.role.assume().await {
            Ok(fresh) => {
                state.credentials = Some(fresh.clone());
                state.assumed = Some(Instant::now());
                Ok(fresh)
            }
            Err(error) => {
                match state.credentials.as_ref().filter(|held| lasts(held, Duration::from_secs(30))) {
                    Some(held) => {
                        tracing::warn!(%error, cluster = self.role.cluster_arn(), "a role was not assumed again; its last credentials go on");
                        Ok(held.clone())
                    }
                    None => Err(error),
                }
            }
        }
    }

    /// Connections to the cluster as AWS describes it; the same ones while it describes it the same way.
    async fn road(&self, state: &mut State, credentials: &Credentials) -> Result<Arc<Road>, NoAccess> {
        let is_fresh = |known: &Cluster| !state.is_doubtful || known.described.elapsed() < NOT_SOONER;
        if let Some(known) = state.cluster.as_ref().filter(|known| is_fresh(known)) {
            return Ok(Arc::clone(&known.road));
        }
        let described = self.role.describe(credentials, state.cluster.as_ref()).await;
        match described {
            Ok(cluster) => {
                let road = Arc::clone(&cluster.road);
                state.cluster = Some(cluster);
                state.is_doubtful = false;
                Ok(road)
            }
            // What nobody can describe may still be there.
            Err(error) => match &state.cluster {
                Some(known) => {
                    tracing::warn!(%error, cluster = self.role.cluster_arn(), "a cluster was not described again");
                    Ok(Arc::clone(&known.road))
                }
                None => Err(error),
            },
        }
    }
}
