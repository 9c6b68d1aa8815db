//! What every server needs: accept, limits, drain, TLS, and who is calling.
