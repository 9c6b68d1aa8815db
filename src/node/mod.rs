//! The node role: keeps objects, distributes them, and serves the control APIs.
