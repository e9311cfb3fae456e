//! Tests of the whole store through its public surface.
