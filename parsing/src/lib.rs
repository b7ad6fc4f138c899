//! The reading: bytes of a request become an act, by one strict reading that upstream can only share.
