//! The memory: frames, hash chain, segments, verification and replay of what agents did.
