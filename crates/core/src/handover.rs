//! The right to write moves from one service to another, and at no moment have both.
//!
//! A connection keeps what it was given for as long as it is open, and an instance that has not
//! heard of the new policy goes on giving it. So what one service wrote by the old policy, nobody
//! else is given by the new one until it is known that no connection has it any more. Until then
//! it is *in transit*: nobody new is given it.
//!
//! [`claims`] says what may still be written by whom, and what is in transit for that; [`transit`]
//! says when it is not any more. Both are pure: the service and the model in `tests/offline/handover.rs` run
//! the same code. `docs/handover.md` has the protocol and what it rests on.

pub mod claims;
pub mod transit;
