//! What a node keeps on disk: blobs by hash, and the catalogue of entries.
