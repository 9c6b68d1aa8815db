//! How entries of another node are taken in: a state machine without I/O.
