//! Who may hold how many connections: strangers a part of all, one agent a part of the rest, so that nobody takes everybody's.
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::live::AgentKey;
use crate::refuse::{Reason, Refusal};
use crate::telemetry::{GaugeGuard, Telemetry};

/// Strangers may hold one connection in so many: those on which no agent has shown itself yet.
const STRANGERS_PART: usize = 4;

/// The places of one replica. Cloning shares them.
///
/// *Guarantees*: never more than `--max-connections` are held (one that is being cut may linger for a moment); whoever comes is
/// taken: while strangers hold all their places, the one that has been a stranger longest leaves. Addresses play no part,
/// because behind a load balancer all of them may be one.
#[derive(Clone)]
pub struct Places {
    held: Arc<Mutex<Held>>,
    most: Most,
    telemetry: Telemetry,
}

#[derive(Clone, Copy, Debug)]
struct Most {
    strangers: usize,
    agents: usize,
    per_agent: u32,
}

#[derive(Default)]
struct Held {
    strangers: BTreeMap<u64, CancellationToken>,
    next: u64,
    by_agents: usize,
    of_agent: HashMap<AgentKey, u32>,
}

/// Why a connection cannot stay, although its bearer is an agent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Crowded {
    /// The agent holds as many as one may.
    #[error("agent {0} already holds {1} connections to this replica of the gate")]
    Agent(AgentKey, u32),
    /// All agents together hold as many as they may.
    #[error("agents already hold all {0} connections of this replica of the gate")]
    Replica(usize),
}

impl Crowded {
    /// What the client reads: nothing was decided and nothing was sent, so it may come again by itself.
    pub fn refusal(&self) -> Refusal {
        let next = match self {
            Crowded::Agent(..) => {
                "close some of them; one HTTP/2 connection carries a hundred requests at once"
            }
            Crowded::Replica(_) => "the client tries again by itself; tell the administrator if it goes on",
        };
        Refusal::new(Reason::TooManyRequests, format!("sallyport/TooManyRequests: {self}.")).next(next)
    }

    const fn label(&self) -> &'static str {
        match self {
            Crowded::Agent(..) => "TooManyOfAgent",
            Crowded::Replica(_) => "TooManyOfAgents",
        }
    }
}

impl Places {
    /// For `most` connections, of which one agent may hold `per_agent`.
    pub fn new(most: u32, per_agent: u32, telemetry: Telemetry) -> Self {
        let all = usize::try_from(most).unwrap_or(usize::MAX);
        let strangers = (all / STRANGERS_PART).max(1);
        let most = Most { strangers, agents: (all - strangers).max(1), per_agent };
        Self { held: Arc::default(), most, telemetry }
    }

    /// A place for whoever has just connected.
    pub fn stranger(&self) -> Place {
        let token = CancellationToken::new();
        let mut held = self.lock();
        if held.strangers.len() >= self.most.strangers
            && let Some((_, oldest)) = held.strangers.pop_first()
        {
            oldest.cancel();
        }
        held.next += 1;
        let number = held.next;
        held.strangers.insert(number, token.clone());
        drop(held);
        let counted = Mutex::new(Counted { agents: Vec::new(), _gauge: self.telemetry.stranger() });
        Place { places: self.clone(), number, token, counted }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection, given back when it is dropped.
pub struct Place {
    places: Places,
    number: u64,
    token: CancellationToken,
    counted: Mutex<Counted>,
}

struct Counted {
    /// Whose tokens were shown on it: nearly always one.
    agents: Vec<AgentKey>,
    _gauge: GaugeGuard,
}

impl Place {
    /// Returns when the place is needed for somebody else.
    pub async fn lost(&self) {
        self.token.cancelled().await;
    }

    /// Whether an agent has shown itself.
    pub fn is_known(&self) -> bool {
        !self.lock().agents.is_empty()
    }

    /// Counts the connection as the agent's from now on.
    ///
    /// # Errors
    /// If that would be one too many; the connection stays what it was.
    pub fn belongs_to(&self, agent: &AgentKey) -> Result<(), Crowded> {
        let mut counted = self.lock();
        if counted.agents.contains(agent) {
            return Ok(());
        }
        let taken = self.take(agent, counted.agents.is_empty());
        if let Err(crowded) = &taken {
            self.places.telemetry.connection_refused(crowded.label());
            return taken;
        }
        if counted.agents.is_empty() {
            counted._gauge = self.places.telemetry.known_connection();
        }
        counted.agents.push(agent.clone());
        Ok(())
    }

    fn take(&self, agent: &AgentKey, is_first: bool) -> Result<(), Crowded> {
        let (most, mut held) = (self.places.most, self.places.lock());
        if held.of_agent.get(agent).is_some_and(|count| *count >= most.per_agent) {
            return Err(Crowded::Agent(agent.clone(), most.per_agent));
        }
        if is_first && held.by_agents >= most.agents {
            return Err(Crowded::Replica(most.agents));
        }
        *held.of_agent.entry(agent.clone()).or_default() += 1;
        if is_first {
            held.by_agents += 1;
            held.strangers.remove(&self.number);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let agents = std::mem::take(&mut self.lock().agents);
        let mut held = self.places.lock();
        held.strangers.remove(&self.number);
        held.by_agents -= usize::from(!agents.is_empty());
        for agent in agents {
            if let Some(count) = held.of_agent.get_mut(&agent) {
                *count -= 1;
                if *count == 0 {
                    held.of_agent.remove(&agent);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(most: u32, per_agent: u32) -> Places {
        Places::new(most, per_agent, Telemetry::new().expect("metrics"))
    }

    fn agent(name: &str) -> AgentKey {
        AgentKey::new("agents", name)
    }

    #[test]
    fn f14_the_oldest_stranger_leaves_and_an_agent_never_does() {
        let places = places(8, 8);
        let known = places.stranger();
        known.belongs_to(&agent("a")).expect("a place");
        let strangers: Vec<Place> = (0..5).map(|_| places.stranger()).collect();
        let lost: Vec<bool> = strangers.iter().map(|place| place.token.is_cancelled()).collect();
        assert_eq!(lost, [true, true, true, false, false], "a quarter of eight");
        assert!(!known.token.is_cancelled() && known.is_known());
        strangers[4].belongs_to(&agent("b")).expect("a place of the agents'");
        let _newer: Vec<Place> = (0..2).map(|_| places.stranger()).collect();
        assert!(strangers[3].token.is_cancelled() && !strangers[4].token.is_cancelled());
    }

    #[test]
    fn f14_one_agent_leaves_places_to_the_others() {
        let places = places(8, 2);
        let held: Vec<Place> = (0..6).map(|_| places.stranger()).collect();
        let of = |index: usize, name: &str| held[index].belongs_to(&agent(name));
        assert_eq!(
            (of(0, "a"), of(1, "a"), of(1, "a")),
            (Ok(()), Ok(()), Ok(())),
            "one connection counts once"
        );
        assert_eq!(of(2, "a"), Err(Crowded::Agent(agent("a"), 2)));
        assert!(!held[2].is_known());
        assert_eq!(of(2, "b"), Ok(()), "somebody else's are untouched");
        assert_eq!(of(0, "c"), Ok(()), "two agents on one connection hold one each");
        assert_eq!(of(3, "c"), Ok(()));
        assert_eq!(of(4, "c"), Err(Crowded::Agent(agent("c"), 2)));
    }

    #[test]
    fn f14_agents_leave_the_strangers_their_part_and_give_places_back() {
        let places = places(8, 100);
        let mut held: Vec<Place> = (0..7).map(|_| places.stranger()).collect();
        assert!(held[..6].iter().all(|place| place.belongs_to(&agent("a")) == Ok(())));
        assert_eq!(held[6].belongs_to(&agent("b")), Err(Crowded::Replica(6)));
        held.remove(0);
        assert_eq!(held[5].belongs_to(&agent("b")), Ok(()));
        drop(held);
        let inner = places.lock();
        assert!(inner.strangers.is_empty() && inner.of_agent.is_empty() && inner.by_agents == 0);
    }
}
