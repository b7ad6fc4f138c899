//! One TLS connection: who is at the other end, what it is busy with, and when it has to go.
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::places::{Crowded, Place};
use crate::live::AgentKey;

/// A request's head takes this long at most; and the first one comes as soon after the handshake.
pub const HEAD: Duration = Duration::from_secs(10);
/// Nobody stays a stranger for longer.
pub const STRANGER: Duration = Duration::from_secs(30);
/// A kept connection without a request is ended after this long: clients forget theirs after 90 s, an NLB forgets one
/// after 350 s without a word to either side (F33).
pub const IDLE: Duration = Duration::from_secs(300);
/// A connection that is to end and has no request in flight is closed after this long, whatever its client does.
pub const LINGER: Duration = Duration::from_secs(10);
/// How late a slow head may be noticed.
const TICK: Duration = Duration::from_secs(5);

/// One TLS connection. Cloning shares it.
#[derive(Clone)]
pub struct Session {
    /// The peer's address, from the socket and nothing else (B128).
    pub peer: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    ending: CancellationToken,
    place: Place,
    entering: tokio::sync::Mutex<()>,
    since: Instant,
    pulse: Mutex<Pulse>,
}

/// What the connection is busy with.
struct Pulse {
    /// There was a request.
    asked: bool,
    in_flight: u32,
    idle_since: Instant,
    /// Since when an HTTP/1.1 head has been coming.
    head_since: Option<Instant>,
    /// Since when it is to end.
    ending_since: Option<Instant>,
    flooded: bool,
}

/// What is to be done with a connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing before that moment.
    Wait(Instant),
    /// Its requests may finish, then it ends.
    EndSoon,
    /// It is closed.
    End(Why),
}

/// Why the gate closes a connection by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No TLS that both sides speak.
    NoTls,
    /// The handshake took too long (F10).
    SlowHandshake,
    /// No request after the handshake (F10).
    NoRequest,
    /// A head that trickles (F10).
    SlowHead,
    /// Nobody showed who he is in time (F14).
    Stranger,
    /// Its place was needed: the longest stranger leaves first (F14).
    Crowded,
    /// More control frames than any client needs (F14).
    Flood,
    /// It was told to end, or had nothing to do for long.
    Idle,
}

impl Why {
    /// The label of the metric; none where that is no refusal.
    pub const fn label(self) -> Option<&'static str> {
        match self {
            Why::NoTls => Some("NoTLS"),
            Why::SlowHandshake => Some("SlowHandshake"),
            Why::NoRequest => Some("NoRequest"),
            Why::SlowHead => Some("SlowHead"),
            Why::Stranger => Some("Stranger"),
            Why::Crowded => Some("TooManyStrangers"),
            Why::Flood => Some("Flood"),
            Why::Idle => None,
        }
    }
}

impl Session {
    /// Of this peer, on its place.
    pub fn new(peer: SocketAddr, place: Place) -> Self {
        let now = Instant::now();
        let pulse = Pulse {
            asked: false,
            in_flight: 0,
            idle_since: now,
            head_since: None,
            ending_since: None,
            flooded: false,
        };
        let entering = tokio::sync::Mutex::new(());
        let ending = CancellationToken::new();
        let shared = Shared { ending, place, entering, since: now, pulse: Mutex::new(pulse) };
        Self { peer, shared: Arc::new(shared) }
    }

    /// Lets the requests in flight finish and takes no more on this connection: what a stranger gets (F14).
    pub fn end_soon(&self) {
        self.pulse().ending_since.get_or_insert_with(Instant::now);
        self.shared.ending.cancel();
    }

    /// The requests of a stranger are looked at one after the other, so that one connection cannot have a hundred tokens
    /// reviewed at once (F14); `None` on a connection of an agent's.
    pub async fn one_at_a_time(&self) -> Option<MutexGuard<'_, ()>> {
        if self.shared.place.is_known() {
            return None;
        }
        Some(self.shared.entering.lock().await)
    }

    /// Counts the connection as the agent's.
    ///
    /// # Errors
    /// If there is no place for one more of its.
    pub fn belongs_to(&self, agent: &AgentKey) -> Result<(), Crowded> {
        self.shared.place.belongs_to(agent)
    }

    /// Returns when the connection is to end.
    pub async fn ending(&self) {
        self.shared.ending.cancelled().await;
    }

    /// Returns when somebody else needs its place.
    pub async fn lost_place(&self) {
        self.shared.place.lost().await;
    }

    /// Notes that bytes came.
    pub fn heard(&self) {
        let mut pulse = self.pulse();
        if pulse.in_flight == 0 && pulse.head_since.is_none() {
            pulse.head_since = Some(Instant::now());
        }
    }

    /// Notes that its peer floods us.
    pub fn flooded(&self) {
        self.pulse().flooded = true;
    }

    /// Whether its peer flooded us.
    pub fn was_flooded(&self) -> bool {
        self.pulse().flooded
    }

    /// Whether there was a request.
    pub fn was_asked(&self) -> bool {
        self.pulse().asked
    }

    /// Notes a request, which is in flight until the guard is dropped.
    pub fn request(&self) -> InFlight {
        let mut pulse = self.pulse();
        pulse.asked = true;
        pulse.in_flight += 1;
        pulse.head_since = None;
        InFlight(self.clone())
    }

    /// What is to be done at `now`; `secured` is when the handshake was over. `is_h2`: heads come in frames, and who does not
    /// finish one does not answer a PING either.
    pub fn due(&self, now: Instant, secured: Instant, is_h2: bool) -> Due {
        let is_known = self.shared.place.is_known();
        let pulse = self.pulse();
        let (idle, head) = (pulse.in_flight == 0, pulse.head_since.filter(|_| !is_h2));
        let ends = [
            (!pulse.asked).then(|| (secured + HEAD, Due::End(Why::NoRequest))),
            (!is_known).then(|| (self.shared.since + STRANGER, Due::End(Why::Stranger))),
            head.filter(|_| idle).map(|since| (since + HEAD, Due::End(Why::SlowHead))),
            idle.then(|| match pulse.ending_since {
                Some(since) => (since.max(pulse.idle_since) + LINGER, Due::End(Why::Idle)),
                None => (pulse.idle_since + IDLE, Due::EndSoon),
            }),
        ];
        match ends.into_iter().flatten().min_by_key(|(at, _)| *at) {
            Some((at, due)) if at <= now => due,
            Some((at, _)) => Due::Wait(at.min(now + TICK)),
            None => Due::Wait(now + TICK),
        }
    }

    fn pulse(&self) -> std::sync::MutexGuard<'_, Pulse> {
        self.shared.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request in flight.
pub struct InFlight(Session);

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut pulse = self.0.pulse();
        pulse.in_flight = pulse.in_flight.saturating_sub(1);
        if pulse.in_flight == 0 {
            (pulse.idle_since, pulse.head_since) = (Instant::now(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::Places;
    use crate::telemetry::Telemetry;

    fn session() -> Session {
        let places = Places::new(100, 50, Telemetry::new().expect("metrics"));
        Session::new(SocketAddr::from(([127, 0, 0, 1], 40_000)), places.stranger())
    }

    #[tokio::test(start_paused = true)]
    async fn f14_a_strangers_requests_are_looked_at_one_after_the_other() {
        let session = session();
        let first = session.one_at_a_time().await.expect("a stranger");
        let second = tokio::time::timeout(Duration::from_secs(60), session.one_at_a_time());
        assert!(second.await.is_err(), "while the first one lasts");
        drop(first);
        session.belongs_to(&AgentKey::new("agents", "a")).expect("a place");
        assert!(session.one_at_a_time().await.is_none(), "an agent's are looked at as they come");
    }

    #[tokio::test(start_paused = true)]
    async fn f33_what_is_to_end_and_has_nothing_to_do_is_closed_soon() {
        let (session, now) = (session(), Instant::now());
        drop(session.request());
        session.belongs_to(&AgentKey::new("agents", "a")).expect("a place");
        let due = |seconds| session.due(now + Duration::from_secs(seconds), now, false);
        assert!(matches!((due(11), due(299)), (Due::Wait(_), Due::Wait(_))));
        assert_eq!(due(300), Due::EndSoon);
        session.end_soon();
        assert!(matches!(due(9), Due::Wait(_)));
        assert_eq!(due(10), Due::End(Why::Idle));
    }
}
