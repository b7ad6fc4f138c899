//! The events of a session as lines for a person, all replicas in one row of time.

use std::collections::HashMap;
use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::event::{Disposition, Event, Outcome, Permitted, Refusal};
use crate::plain::Plain;
use crate::segment::Stamp;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, in microseconds since 1970.
    pub wall_us: i64,
    decision: String,
    summary: String,
    end: End,
    notes: Vec<String>,
}

/// How much a line says about the end of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// It is not about a request.
    None,
    /// Forwarded, no outcome.
    Unknown,
    /// Refused, the outcome was lost.
    Refused,
    /// As recorded.
    Recorded(Outcome),
}

/// Collects events and puts them in order.
#[derive(Debug, Default)]
pub struct Timeline {
    entries: Vec<Entry>,
    waiting: HashMap<(String, String), usize>,
    latest: HashMap<String, i64>,
}

#[derive(Debug)]
struct Entry {
    /// The wall clock, but never back within one chain.
    key: i64,
    replica: String,
    line: Line,
}

impl Timeline {
    /// Takes the next event of a replica's chain; events of one replica come in the order of the chain.
    pub fn add(&mut self, replica: &str, at: Stamp, event: Event) {
        if let Event::Outcome(outcome) = event {
            let waiting = self.waiting.remove(&(replica.to_owned(), outcome.request_id.clone()));
            if let Some(entry) = waiting.and_then(|index| self.entries.get_mut(index)) {
                entry.line.close(outcome);
            }
            return;
        }
        let latest = self.latest.entry(replica.to_owned()).or_insert(i64::MIN);
        *latest = at.wall_us.max(*latest);
        let key = *latest;
        if let Some(id) = request_id(&event) {
            self.waiting.insert((replica.to_owned(), id.to_owned()), self.entries.len());
        }
        self.entries.push(Entry { key, replica: replica.to_owned(), line: Line::of(at, replica, event) });
    }

    /// The lines in order of time; lines of one replica keep their order whatever its clock did.
    pub fn lines(mut self) -> Vec<Line> {
        self.entries.sort_by(|a, b| (a.key, &a.replica).cmp(&(b.key, &b.replica)));
        self.entries.into_iter().map(|entry| entry.line).collect()
    }
}

fn request_id(event: &Event) -> Option<&str> {
    match event {
        Event::Intent(intent) => Some(&intent.request_id),
        Event::Refusal(refusal) => Some(&refusal.request_id),
        Event::SessionStart(_)
        | Event::Outcome(_)
        | Event::Review(_)
        | Event::Grant(_)
        | Event::SessionEnd(_)
        | Event::Gap(_) => None,
    }
}

impl Line {
    fn of(at: Stamp, replica: &str, event: Event) -> Line {
        let line = |decision: &str, summary: String, end: End, notes: Vec<String>| Line {
            wall_us: at.wall_us,
            decision: decision.to_owned(),
            summary,
            end,
            notes,
        };
        match event {
            Event::SessionStart(start) => line(
                "session start",
                format!("{} ({})", start.subject, start.subject_id),
                End::None,
                vec![start.user_agent],
            ),
            Event::Intent(intent) => {
                let decision = match intent.decision {
                    Permitted::Allowed => "Allowed",
                    Permitted::Approved => "Approved",
                };
                let mut notes: Vec<String> = intent.grant.into_iter().collect();
                notes.extend(intent.role_session.map(|session| format!("role-session={session}")));
                notes.extend(intent.would_have.into_iter().map(|rule| format!("would-have={rule}")));
                line(decision, intent.act.summary(), End::Unknown, notes)
            }
            Event::Refusal(refusal) => Line::of_refusal(at, *refusal),
            Event::Review(review) => {
                let note = if review.note.is_empty() { vec![] } else { vec![format!("\"{}\"", review.note)] };
                line("Review", format!("{} by {}", review.decision, review.reviewer), End::None, note)
            }
            Event::Grant(grant) => {
                line("Grant", format!("{} {}", grant.grant, grant.change.as_str()), End::None, vec![])
            }
            Event::SessionEnd(end) => {
                line("session end", end.reason.as_str().to_owned(), End::None, vec![replica.to_owned()])
            }
            Event::Gap(gap) => line(
                "gap",
                format!(
                    "{} refusals are only counted: too many requests, or no room in the spool",
                    gap.refusals
                ),
                End::None,
                vec![],
            ),
            Event::Outcome(outcome) => {
                line("outcome", outcome.request_id.clone(), End::Recorded(outcome), vec![])
            }
        }
    }

    fn of_refusal(at: Stamp, refusal: Refusal) -> Line {
        let summary = match &refusal.act {
            Some(act) => act.summary(),
            None => format!("{} {}", refusal.method, refusal.raw_target),
        };
        let decision = match refusal.reason.as_str() {
            "ApprovalPending" => "Pending".to_owned(),
            _ => refusal.reason,
        };
        let notes = match refusal.grant {
            Some(grant) => vec![grant],
            None => refusal.rules.into_iter().take(1).collect(),
        };
        Line { wall_us: at.wall_us, decision, summary, end: End::Refused, notes }
    }

    fn close(&mut self, outcome: Outcome) {
        self.end = End::Recorded(outcome);
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = Timestamp::from_microsecond(self.wall_us)
            .map(|at| at.to_zoned(TimeZone::UTC).strftime("%H:%M:%SZ").to_string())
            .unwrap_or_else(|_| "--:--:--Z".to_owned());
        let mut out = format!("{when}  {:<13}  ", Plain(&self.decision).to_string());
        let summary = Plain(&self.summary).to_string();
        let mut notes = self.notes.clone();
        match &self.end {
            End::None => out.push_str(&summary),
            End::Unknown => {
                out.push_str(&format!("{summary:<47}  {:>3}  {:<6}", "-", "   -"));
                notes.insert(0, "unknown".to_owned());
            }
            End::Refused => out.push_str(&format!("{summary:<47}  {:>3}  {:<6}", "-", "   -")),
            End::Recorded(outcome) => {
                let took = format!("{:>4}", Duration(outcome.duration_us).to_string());
                out.push_str(&format!("{summary:<47}  {:>3}  {took:<6}", outcome.code));
                if outcome.masked > 0 {
                    notes.insert(0, format!("masked={}", outcome.masked));
                }
                match outcome.disposition {
                    Disposition::Executed | Disposition::Refused => {}
                    Disposition::Failed | Disposition::Unknown | Disposition::Cut => {
                        notes.insert(0, outcome.disposition.as_str().to_owned());
                    }
                }
            }
        }
        for (index, note) in notes.iter().enumerate() {
            // The column of durations is padded already.
            let gap = if index == 0 && self.end != End::None { "" } else { "  " };
            out.push_str(gap);
            out.push_str(&Plain(note).to_string());
        }
        f.write_str(out.trim_end())
    }
}

/// Microseconds as `12ms`, `45.0s`, `12m03s`.
struct Duration(u64);

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..1_000 => f.write_str("<1ms"),
            1_000..1_000_000 => write!(f, "{}ms", self.0 / 1_000),
            1_000_000..100_000_000 => write!(f, "{}.{}s", self.0 / 1_000_000, self.0 / 100_000 % 10),
            _ => write!(f, "{}m{:02}s", self.0 / 60_000_000, self.0 / 1_000_000 % 60),
        }
    }
}
