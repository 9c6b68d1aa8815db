//! How one process speaks to another.
