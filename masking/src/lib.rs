//! The mask: a resumable single pass over JSON bytes that replaces declared fields.
