//! Behaviour, through real roles and real processes.
