//! What a node needs to know.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::variants::Config as ResizeConfig;
use crate::membership;
use crate::model::{Address, FieldValue, ImageMode, NodeId, Provider, WaitFor};
use crate::serve;

/// Who may send packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packets {
    /// Those with a client certificate of the cluster.
    #[default]
    Closed,
    /// Everyone who reaches the port, also over TLS 1.2: the reference's own client shows no certificate.
    Open,
}

/// What a node needs to know. Addresses that it listens on are given as open sockets, in [`super::Listeners`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's name, the one in its certificate.
    pub id: NodeId,
    /// The cloud it runs on; its own name if there is none.
    pub provider: Option<Provider>,
    /// The folder of its objects and catalogue.
    pub data: PathBuf,
    /// Where packets and the node API are served.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Where others reach that, if it is not where it listens.
    pub advertise: Option<Address>,
    /// Where the server list and the download API are served.
    #[serde(default = "default_download_listen")]
    pub download_listen: SocketAddr,
    /// Where others reach that, if it is not where it listens.
    pub download_advertise: Option<Address>,
    /// Where the price API is served.
    #[serde(default = "default_price_listen")]
    pub price_listen: SocketAddr,
    /// Addresses of nodes of the cluster that it joins; one is enough.
    #[serde(default)]
    pub seeds: Vec<Address>,
    /// Who may send packets.
    #[serde(default)]
    pub packets: Packets,
    /// What is done with images.
    #[serde(default)]
    pub images: ImageMode,
    /// Whether the download API answers callers without a certificate.
    #[serde(default)]
    pub public_downloads: bool,
    /// Further host names under which the reference's APIs may be asked.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The largest object, in bytes.
    #[serde(default = "default_object_bytes_max")]
    pub object_bytes_max: u64,
    /// The `Cache-Control` of objects that come without one.
    #[serde(default = "default_cache_control")]
    pub cache_control: FieldValue,
    /// How many objects are fetched from peers at a time.
    #[serde(default = "default_fetch_parallel")]
    pub fetch_parallel: NonZeroUsize,
    /// How many bytes a second all fetches from peers take together; as many as they can if it is not set.
    #[serde(default)]
    pub fetch_bytes_per_second: Option<NonZeroU64>,
    /// For how long the bytes that nothing names any more are kept, in seconds.
    #[serde(default = "default_blob_grace_s")]
    pub blob_grace_s: u64,
    /// How many bytes a second the scrub reads, which looks whether blobs are still what they were; 0 for no scrub.
    #[serde(default = "default_scrub_bytes_per_second")]
    pub scrub_bytes_per_second: u64,
    /// How long it rests when it has looked through all blobs, in seconds.
    #[serde(default = "default_scrub_rest_s")]
    pub scrub_rest_s: u64,
    /// How many copies a write waits for before it is answered, and fails without; two in two providers, if they can be
    /// had in `copies_wait_ms`, if it is not set.
    #[serde(default)]
    pub wait_for: Option<WaitFor>,
    /// How long a write that did not ask for copies waits for the second one, in milliseconds.
    #[serde(default = "default_copies_wait_ms")]
    pub copies_wait_ms: u64,
    /// For how long a deletion is remembered at least, in seconds; and for as long as any member has not passed it.
    #[serde(default = "default_tombstone_grace_s")]
    pub tombstone_grace_s: u64,
    /// How often this node compares what it lists with each other one, in seconds; 0 for never.
    #[serde(default = "default_compare_period_s")]
    pub compare_period_s: u64,
    /// When a silent node is suspect or down.
    #[serde(default)]
    pub membership: membership::Config,
    /// How images are resized.
    #[serde(default)]
    pub resize: ResizeConfig,
    /// The limits of each listener.
    #[serde(default)]
    pub serve: serve::Config,
}

impl Config {
    /// The configuration of the node `id` that keeps its data in `data`, with the defaults for all else.
    pub fn new(id: NodeId, data: PathBuf) -> Self {
        Self {
            id,
            provider: None,
            data,
            listen: default_listen(),
            advertise: None,
            download_listen: default_download_listen(),
            download_advertise: None,
            price_listen: default_price_listen(),
            seeds: Vec::new(),
            packets: Packets::default(),
            images: ImageMode::default(),
            public_downloads: false,
            hosts: Vec::new(),
            object_bytes_max: default_object_bytes_max(),
            cache_control: default_cache_control(),
            fetch_parallel: default_fetch_parallel(),
            fetch_bytes_per_second: None,
            blob_grace_s: default_blob_grace_s(),
            scrub_bytes_per_second: default_scrub_bytes_per_second(),
            scrub_rest_s: default_scrub_rest_s(),
            wait_for: None,
            copies_wait_ms: default_copies_wait_ms(),
            tombstone_grace_s: default_tombstone_grace_s(),
            compare_period_s: default_compare_period_s(),
            membership: membership::Config::default(),
            resize: ResizeConfig::default(),
            serve: serve::Config::default(),
        }
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

// The ports are the reference's.
const fn default_listen() -> SocketAddr {
    loopback(22222)
}

const fn default_download_listen() -> SocketAddr {
    loopback(8871)
}

const fn default_price_listen() -> SocketAddr {
    loopback(8700)
}

const fn default_object_bytes_max() -> u64 {
    1 << 40
}

fn default_cache_control() -> FieldValue {
    "max-age=60".parse().expect("it is visible ASCII")
}

// A round trip between clouds and the transfer of a small object take a tenth of it.
const fn default_copies_wait_ms() -> u64 {
    2_000
}

// Longer than a provider was ever away.
const fn default_tombstone_grace_s() -> u64 {
    10 * 24 * 60 * 60
}

const fn default_compare_period_s() -> u64 {
    600
}

const fn default_blob_grace_s() -> u64 {
    60 * 60
}

const fn default_scrub_bytes_per_second() -> u64 {
    8 << 20
}

const fn default_scrub_rest_s() -> u64 {
    7 * 24 * 60 * 60
}

const fn default_fetch_parallel() -> NonZeroUsize {
    NonZeroUsize::new(16).expect("16 is not 0")
}
