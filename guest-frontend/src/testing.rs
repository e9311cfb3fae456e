//! What stands for the other domains in tests on a host: a grant table with a back end's view of it, and a store.

mod grants;
mod store;

pub(crate) use grants::{FakeGrant, FakeGrants};
pub(crate) use store::FakeStore;
