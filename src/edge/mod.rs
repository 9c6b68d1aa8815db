//! The edge role: answers users from the right node.
