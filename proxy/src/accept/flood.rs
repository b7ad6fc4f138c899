//! HTTP/2 frames that cost us work and their sender nothing: more of them than any client needs end the connection (F14).

use thiserror::Error;
use tokio::time::Instant;

/// So many at once, and so many a second after that. Go's client sends a PING with each RST_STREAM, so a client may cancel two
/// hundred requests in one moment; a connection carries a hundred.
const BURST: u32 = 400;
const PER_SECOND: u32 = 40;

const PREFACE: usize = 24;
const HEADER: usize = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;

/// The peer floods us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("more control frames than any client needs")]
pub struct Flood;

/// Reads what comes in on an HTTP/2 connection, frame header by frame header.
#[derive(Debug)]
pub struct Meter {
    /// Bytes that are no frame header: the preface, then payloads.
    skip: usize,
    header: [u8; HEADER],
    have: usize,
    left: u32,
    filled: Instant,
}

impl Meter {
    /// At the first byte of a connection.
    pub fn new() -> Self {
        Self { skip: PREFACE, header: [0; HEADER], have: 0, left: BURST, filled: Instant::now() }
    }

    /// Reads on, to the end of `bytes` in any case.
    ///
    /// # Errors
    /// When the budget is used up.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        let mut within = Ok(());
        while !bytes.is_empty() {
            if self.skip > 0 {
                let length = self.skip.min(bytes.len());
                (self.skip, bytes) = (self.skip - length, &bytes[length..]);
                continue;
            }
            let length = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + length].copy_from_slice(&bytes[..length]);
            (self.have, bytes) = (self.have + length, &bytes[length..]);
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                if is_costly(kind, flags, self.skip) {
                    within = within.and(self.spend());
                }
            }
        }
        within
    }

    fn spend(&mut self) -> Result<(), Flood> {
        if self.left == 0 {
            let gained = self.filled.elapsed().as_millis() * u128::from(PER_SECOND) / 1000;
            self.left = u32::try_from(gained).unwrap_or(BURST).min(BURST);
            self.filled = Instant::now();
        }
        self.left = self.left.checked_sub(1).ok_or(Flood)?;
        Ok(())
    }
}

/// Whether a frame makes us answer, forget or begin anew, and carries nothing of a request: PRIORITY, RST_STREAM, SETTINGS and
/// PING that are no answers, CONTINUATION, DATA without data, and kinds that do not exist. WINDOW_UPDATE goes with what we send.
fn is_costly(kind: u8, flags: u8, length: usize) -> bool {
    match kind {
        0 => length == 0 && flags & END_STREAM == 0,
        1 | 7 | 8 => false,
        4 | 6 => flags & ACK == 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn opened() -> Meter {
        let mut meter = Meter::new();
        meter.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("the preface is free");
        meter
    }

    #[tokio::test(start_paused = true)]
    async fn f14_control_frames_have_a_budget_that_refills() {
        for (kind, flags) in [(6, 0), (4, 0), (3, 0), (2, 0), (9, 4), (0, 0), (77, 0)] {
            let mut meter = opened();
            let one = frame(kind, flags, if kind == 0 { b"" } else { b"12345678" });
            for _ in 0..BURST {
                assert_eq!(meter.read(&one), Ok(()), "kind {kind}");
            }
            assert_eq!(meter.read(&one), Err(Flood), "kind {kind}");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!((0..100).filter(|_| meter.read(&one).is_ok()).count(), 40, "kind {kind}");
            tokio::time::advance(Duration::from_secs(3600)).await;
            assert_eq!((0..1000).filter(|_| meter.read(&one).is_ok()).count(), 400, "kind {kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_carries_a_request_or_an_answer_is_free_however_it_is_cut() {
        let mut meter = opened();
        let some = [
            frame(1, 4, b"head"),
            frame(0, 0, b"body"),
            frame(0, 1, b""),
            frame(8, 0, &[0, 0, 0, 1]),
            frame(6, 1, b"12345678"),
            frame(4, 1, b""),
        ];
        for byte in some.concat().repeat(1000) {
            meter.read(&[byte]).expect("free");
        }
    }
}
