//! What travels between processes: packets, feed, records, certificates, and every path and header name.
