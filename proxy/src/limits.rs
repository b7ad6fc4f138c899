//! An agent in a loop is the normal failure: how often it may ask and how many streams it may hold.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::live::AgentKey;

/// The counters of every agent. Cloning shares them.
#[derive(Clone)]
pub struct Limits {
    agents: Arc<Mutex<HashMap<AgentKey, Counters>>>,
    most_in_flight: u32,
}

struct Counters {
    tokens: f64,
    filled: Instant,
    streams: u32,
    in_flight: u32,
}

impl Limits {
    /// One agent may have so many requests in flight that are no streams.
    pub fn new(most_in_flight: u32) -> Self {
        Self { agents: Arc::default(), most_in_flight }
    }

    /// Takes one of the agent's places for requests in flight until the guard is dropped. What they hold (a body on its way in,
    /// an answer that waits for a slow reader) is memory of everybody's (F28).
    ///
    /// # Errors
    /// How many it may have, when all are taken.
    pub fn request(&self, agent: &AgentKey) -> Result<RequestPlace, u32> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = entry(&mut agents, agent, Instant::now());
        if counters.in_flight >= self.most_in_flight {
            return Err(self.most_in_flight);
        }
        counters.in_flight += 1;
        Ok(RequestPlace { limits: self.clone(), agent: agent.clone() })
    }

    /// Takes one request from the agent's bucket, which holds one second's worth; `false` when it is empty.
    pub fn admit(&self, agent: &AgentKey, per_second: u32, now: Instant) -> bool {
        let full = f64::from(per_second.max(1));
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = entry(&mut agents, agent, now);
        let gained = now.saturating_duration_since(counters.filled).as_secs_f64() * full;
        counters.tokens = (counters.tokens + gained).min(full);
        counters.filled = now;
        if counters.tokens < 1.0 {
            return false;
        }
        counters.tokens -= 1.0;
        true
    }

    /// Takes one of the agent's stream places until the guard is dropped; `None` when all are taken.
    pub fn stream(&self, agent: &AgentKey, most: u32) -> Option<StreamPlace> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = entry(&mut agents, agent, Instant::now());
        if counters.streams >= most {
            return None;
        }
        counters.streams += 1;
        Some(StreamPlace { limits: self.clone(), agent: agent.clone() })
    }
}

fn entry<'a>(
    agents: &'a mut HashMap<AgentKey, Counters>,
    agent: &AgentKey,
    now: Instant,
) -> &'a mut Counters {
    agents.entry(agent.clone()).or_insert(Counters {
        tokens: f64::INFINITY,
        filled: now,
        streams: 0,
        in_flight: 0,
    })
}

/// One request of an agent in flight.
pub struct RequestPlace {
    limits: Limits,
    agent: AgentKey,
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        let mut agents = self.limits.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = agents.get_mut(&self.agent) {
            counters.in_flight = counters.in_flight.saturating_sub(1);
        }
    }
}

/// One stream of an agent.
pub struct StreamPlace {
    limits: Limits,
    agent: AgentKey,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut agents = self.limits.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = agents.get_mut(&self.agent) {
            counters.streams = counters.streams.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bucket_holds_one_second_and_refills() {
        let (limits, agent, start) = (Limits::new(2), AgentKey::new("agents", "a"), Instant::now());
        let admitted = (0..10).filter(|_| limits.admit(&agent, 5, start)).count();
        assert_eq!(admitted, 5);
        assert!(limits.admit(&agent, 5, start + Duration::from_millis(200)));
        assert!(!limits.admit(&agent, 5, start + Duration::from_millis(200)));
        assert!(limits.admit(&AgentKey::new("agents", "b"), 5, start), "agents do not share a bucket");
    }

    #[test]
    fn a_stream_place_is_given_back() {
        let (limits, agent) = (Limits::new(2), AgentKey::new("agents", "a"));
        let first = limits.stream(&agent, 2);
        let second = limits.stream(&agent, 2);
        assert!(first.is_some() && second.is_some() && limits.stream(&agent, 2).is_none());
        drop(first);
        assert!(limits.stream(&agent, 2).is_some());
    }

    #[test]
    fn f28_requests_in_flight_are_counted_for_each_agent_and_given_back() {
        let (limits, agent) = (Limits::new(2), AgentKey::new("agents", "a"));
        let first = limits.request(&agent);
        let second = limits.request(&agent);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(limits.request(&agent).err(), Some(2));
        assert!(limits.request(&AgentKey::new("agents", "b")).is_ok(), "agents do not share places");
        drop(first);
        assert!(limits.request(&agent).is_ok());
    }
}
