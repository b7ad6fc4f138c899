//! The replica's end in order: what it still does between the signal and its last breath (F02).
//!
//! *Expected flow*: [`Drain::begin`] on the signal: readiness goes off and clients are told to go elsewhere, but whoever
//! still comes is served, because a Service and a load balancer learn late. [`Drain::close`] when that grace is over: nobody new
//! is let in, held requests are answered, streams end. [`Drain::cut`] when the last answers take too long: what is open
//! breaks off, and every request gets its outcome in the record.
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How far the replica's end has come. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    begun: CancellationToken,
    closed: CancellationToken,
    cut: CancellationToken,
    grace: OnceLock<(Instant, Duration)>,
}

/// Watches that are open when the drain begins end between these parts of the grace, so that not all of them come back
/// elsewhere at once (F15).
const FIRST_LEAVE: f64 = 0.2;
const LAST_LEAVE: f64 = 0.8;
/// Multiples of it fall evenly between 0 and 1.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

impl Drain {
    /// Not ready any more; whoever still comes is served for `grace`.
    pub fn begin(&self, grace: Duration) {
        self.inner.grace.get_or_init(|| (Instant::now(), grace));
        self.inner.begun.cancel();
    }

    /// Nobody new is let in.
    pub fn close(&self) {
        self.begin(Duration::ZERO);
        self.inner.closed.cancel();
    }

    /// Whatever is still open breaks off.
    pub fn cut(&self) {
        self.close();
        self.inner.cut.cancel();
    }

    /// Whether the drain has begun.
    pub fn is_begun(&self) -> bool {
        self.inner.begun.is_cancelled()
    }

    /// Whether nobody new is let in.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.is_cancelled()
    }

    /// Returns when the drain has begun.
    pub async fn begun(&self) {
        self.inner.begun.cancelled().await;
    }

    /// Returns when nobody new is let in.
    pub async fn closed(&self) {
        self.inner.closed.cancelled().await;
    }

    /// Returns when what is open breaks off.
    pub async fn over(&self) {
        self.inner.cut.cancelled().await;
    }

    /// When the `number`th watch of those that were open when the drain began is told to reconnect; `None` before the
    /// drain. The moments are spread over the grace.
    pub fn leave_at(&self, number: u64) -> Option<Instant> {
        let (begun, grace) = self.inner.grace.get()?;
        // The low bits alone: beyond 2^24 a product would lose its fraction.
        let place = (f64::from(u32::try_from(number & 0xff_ffff).unwrap_or_default()) * GOLDEN).fract();
        Some(*begun + grace.mul_f64(FIRST_LEAVE + (LAST_LEAVE - FIRST_LEAVE) * place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn f15_watches_leave_spread_over_the_grace() {
        let (drain, grace) = (Drain::default(), Duration::from_secs(100));
        assert_eq!(drain.leave_at(0), None, "nobody leaves before the drain");
        drain.begin(grace);
        let begun = Instant::now();
        let mut after: Vec<u64> =
            (0..60).filter_map(|number| drain.leave_at(number)).map(|at| (at - begun).as_secs()).collect();
        after.sort_unstable();
        assert!(after[0] >= 20 && after[59] <= 80, "{after:?}");
        assert!(after.windows(2).all(|pair| pair[1] - pair[0] <= 3), "no crowd and no gap: {after:?}");
    }

    #[test]
    fn each_stage_holds_the_ones_before() {
        let drain = Drain::default();
        drain.cut();
        assert!(drain.is_begun() && drain.is_closed() && drain.inner.cut.is_cancelled());
    }
}
