//! What a provider charges for a request.
