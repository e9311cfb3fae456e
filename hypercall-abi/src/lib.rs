#![no_std]
#![forbid(unsafe_code)]
//! Xen's public ABI for x86-64 paravirtual guests, as numbers and layouts.
//!
//! One module per public header; names follow the headers (`EVTCHNOP_send` is
//! [`event_channel::EVTCHNOP_SEND`], `struct evtchn_send` is `event_channel::EvtchnSend`), so a reader who
//! knows Xen needs no dictionary. There is no logic here: a type says what lies where, nothing says what to
//! do with it. Offsets and sizes are asserted while compiling.
