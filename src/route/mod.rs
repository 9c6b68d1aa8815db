//! Which node answers a request, and why.
