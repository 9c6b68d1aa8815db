//! Behaviour, through real roles and real processes.
#![expect(clippy::unwrap_used, reason = "what fails in a test shall end it, in its helpers too")]

mod answers;
mod bad_input;
mod blobs;
mod choice;
mod cli;
mod clients;
mod cluster;
mod config;
mod demo;
mod distribution;
mod documentation;
mod edge;
mod edge_cache;
mod edge_coherence;
mod edge_lies;
mod edge_limits;
mod failover;
mod faults;
mod full_disk;
mod history;
mod images;
mod images_codec;
mod maintenance;
mod objects;
mod openapi;
mod packets;
mod pictures;
mod processes;
mod promises;
mod reference;
mod relay;
mod replication;
mod run;
mod serve;
mod tidy;
