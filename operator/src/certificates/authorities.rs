//! Authorities: the one that signs, the one that will, and those that signed before; how one follows the other.
//!
//! *Expected flow* of a change, for an authority of lifetime T: at 2/3 T the next one is made, and trusted everywhere beside
//! it; T/6 after it was seen to be published everywhere, it signs; the old one stays trusted until its own end, and nothing
//! that it signed outlives that. *Guarantees*: nothing is signed by an authority that was not published first; no leaf in
//! force is signed by one that is not published any more. A reader of the published trust may be T/6 behind.

use jiff::{SignedDuration, Timestamp};

use super::mint::{Authority, Facts, MintError, later};

/// The authorities of one installation.
#[derive(Clone)]
pub struct Authorities {
    /// Signs new serving certificates.
    pub signing: Authority,
    /// Will sign, once everybody trusts it.
    pub next: Option<Next>,
    /// Certificates of those that signed before and have not ended, PEM.
    pub previous: Vec<String>,
}

/// An authority that was announced.
#[derive(Clone)]
pub struct Next {
    /// The authority.
    pub authority: Authority,
    /// Since when it was published everywhere; none while it is not.
    pub published: Option<Timestamp>,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is due.
    None,
    /// Authorities that have ended are no longer trusted.
    Retired,
    /// A next authority was made.
    Announced,
    /// The next authority is trusted everywhere.
    Published,
    /// The next authority signs from now on.
    Switched,
}

impl Authorities {
    /// The first authority of an installation.
    ///
    /// # Errors
    /// [`MintError::Sign`].
    pub fn first(now: Timestamp, lifetime: SignedDuration) -> Result<Self, MintError> {
        Ok(Self { signing: Authority::create(now, lifetime)?, next: None, previous: Vec::new() })
    }

    /// Every certificate to trust, PEM, the oldest first: a switch does not change the text.
    pub fn bundle(&self) -> String {
        let previous = self.previous.iter().map(String::as_str);
        let next = self.next.iter().map(|next| next.authority.certificate());
        previous.chain([self.signing.certificate()]).chain(next).collect()
    }

    /// Takes the one step that is due. `is_published`: this bundle is where clients and the API server read it.
    ///
    /// # Errors
    /// [`MintError`]; nothing was changed then.
    pub fn step(
        &mut self,
        now: Timestamp,
        lifetime: SignedDuration,
        is_published: bool,
    ) -> Result<Step, MintError> {
        let count = self.previous.len();
        self.previous.retain(|pem| Facts::read(pem).is_ok_and(|facts| facts.not_after > now));
        if self.previous.len() < count {
            return Ok(Step::Retired);
        }
        let signing = self.signing.facts();
        let Some(next) = &mut self.next else {
            if !signing.is_due(now) {
                return Ok(Step::None);
            }
            self.next = Some(Next { authority: Authority::create(now, lifetime)?, published: None });
            return Ok(Step::Announced);
        };
        let Some(published) = next.published else {
            if is_published {
                next.published = Some(now);
                return Ok(Step::Published);
            }
            // Nothing that the old one signed is accepted any more, so there is nothing left to spare.
            return Ok(if now < signing.not_after { Step::None } else { self.switch() });
        };
        // An operator that was away may be late; then the readers have half the time.
        let spread = signing.lifetime() / 6;
        let at = later(published, spread).min(later(signing.not_after, -(spread / 2)));
        Ok(if now < at { Step::None } else { self.switch() })
    }

    fn switch(&mut self) -> Step {
        let Some(next) = self.next.take() else { return Step::None };
        let old = std::mem::replace(&mut self.signing, next.authority);
        self.previous.push(old.certificate().to_owned());
        Step::Switched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: SignedDuration = SignedDuration::from_secs(600);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_795_000_000 + seconds).unwrap()
    }

    fn accepts(bundle: &str, leaf: &str, now: Timestamp) -> bool {
        let moment = std::time::Duration::from_secs(u64::try_from(now.as_second()).unwrap());
        super::super::check::verify(bundle, leaf, "127.0.0.1", moment).is_ok()
    }

    fn leaf(authorities: &Authorities, now: Timestamp) -> String {
        let names = ["127.0.0.1".to_owned()];
        let lifetime = SignedDuration::from_secs(200);
        authorities.signing.issue(&names, now, lifetime).unwrap().certificate
    }

    fn step(authorities: &mut Authorities, now: i64, published: bool) -> Step {
        authorities.step(at(now), LIFETIME, published).unwrap()
    }

    #[test]
    fn f24_an_authority_follows_another_and_is_published_before_it_signs() {
        let mut all = Authorities::first(at(0), LIFETIME).unwrap();
        let first = all.bundle();
        assert_eq!(step(&mut all, 399, true), Step::None);
        assert_eq!(step(&mut all, 400, true), Step::Announced);
        let both = all.bundle();
        assert!(both.starts_with(&first) && both.len() > first.len(), "the old one stays in the bundle");
        assert_eq!(step(&mut all, 410, false), Step::None, "nobody signs before it is published");
        let old_leaf = leaf(&all, at(499));
        assert!(accepts(&first, &old_leaf, at(500)), "a kubeconfig read before the change still works");
        assert_eq!(step(&mut all, 420, true), Step::Published);
        assert_eq!(step(&mut all, 519, true), Step::None, "readers may be a sixth of the lifetime behind");
        assert_eq!(step(&mut all, 520, true), Step::Switched);
        assert_eq!(all.bundle(), both, "the switch changes nothing that clients read");
        let new_leaf = leaf(&all, at(520));
        for leaf in [&old_leaf, &new_leaf] {
            assert!(accepts(&both, leaf, at(521)));
        }
        assert!(!accepts(&first, &new_leaf, at(521)), "it is a new key");
        assert_eq!(step(&mut all, 599, true), Step::None, "what the old one signed may still be in force");
        assert_eq!(step(&mut all, 600, true), Step::Retired);
        assert!(!all.bundle().contains(first.trim()), "the old one is gone");
        assert!(accepts(&all.bundle(), &new_leaf, at(601)));
        assert!(Facts::read(&old_leaf).unwrap().not_after <= at(600));
    }

    #[test]
    fn an_operator_that_was_away_until_the_end_switches_at_once() {
        let mut all = Authorities::first(at(0), LIFETIME).unwrap();
        assert_eq!(step(&mut all, 700, true), Step::Announced);
        assert_eq!(step(&mut all, 700, false), Step::Switched);
        assert_eq!(step(&mut all, 700, true), Step::Retired);
    }

    #[test]
    fn one_that_is_late_gives_the_readers_less_time() {
        let mut all = Authorities::first(at(0), LIFETIME).unwrap();
        step(&mut all, 520, true);
        step(&mut all, 530, true);
        assert_eq!(step(&mut all, 549, true), Step::None);
        assert_eq!(step(&mut all, 550, true), Step::Switched);
    }
}
