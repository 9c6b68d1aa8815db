//! The packet entrance: the reference's uploads, one packet a connection.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, info};

use super::access::{Right, require};
use super::belonging::require_welcomed_tersely;
use super::bytes::{GATHER_BYTES, off_runtime};
use super::copies::{self, CopiesQuery};
use super::error::ApiError;
use super::states::require_active;
use super::{Core, Packets, unix_ms};
use crate::model::{Content, Entry, EntryState, ObjectKey, Principal};
use crate::protocol::packet::{Decoder, Limits, Packet, PacketError};
use crate::replicate;
use crate::serve::{PacketConnection, Received};
use crate::store::{BlobWriter, Blobs, FreshBlob, StoreError};

/// What all JSON packets on their way may hold in memory together, in KiB: 64 MiB.
pub(super) const JSON_BUDGET_KIB: usize = 64 << 10;

/// What a JSON packet may have beside its content, as in protobuf.
const JSON_ENVELOPE_MAX: usize = 64 << 10;

/// Takes one packet and answers one line.
pub(super) async fn take(core: Arc<Core>, mut connection: PacketConnection) {
    let line = match receive(&core, &mut connection).await {
        Ok(answer) => answer,
        Err(error) => {
            info!(peer = %connection.peer(), reason = error.detail(), "a packet was refused");
            json!({ "error": error.detail() })
        }
    };
    if let Err(error) = connection.answer(&line.to_string()).await {
        debug!(%error, "the sender of a packet did not wait for the answer");
    }
}

async fn receive(core: &Arc<Core>, connection: &mut PacketConnection) -> Result<serde_json::Value, ApiError> {
    // The certificate of a node is good for heartbeats alone, which the packet will show.
    if !matches!(connection.principal(), Principal::Node(_)) {
        require_entrance(core, connection.principal())?;
    }
    let mut intake = PacketIntake::new(core.blobs.clone(), limits(core), core.json_budget.clone());
    // Copied together: a piece of one byte would keep the whole buffer alive that it was read into.
    let mut gathered = Vec::new();
    // A bare end counts if the packet then is complete: the decoder says so.
    while let Received::Bytes(bytes) = connection.receive().await.map_err(ApiError::bad_request)? {
        gathered.extend_from_slice(&bytes);
        if gathered.len() >= GATHER_BYTES {
            let pushed = off_runtime(move || intake.push(&gathered).map(|intake| (intake, gathered)));
            (intake, gathered) = pushed.await?;
            gathered.clear();
        }
    }
    match off_runtime(move || intake.push(&gathered)?.finish()).await? {
        (Packet::File { file_name, distributed }, blob) => {
            require_entrance(core, connection.principal())?;
            require_welcomed_tersely(core)?;
            require_active(core)?;
            keep(core, file_name, distributed, blob).await
        }
        (Packet::Heartbeat { name, .. }, _) => match connection.principal() {
            Principal::Node(id) if *id.as_str() == *name => {
                core.members.heard(id);
                Ok(json!({ "file_name": "heartbeat" }))
            }
            _ => Err(ApiError::new(StatusCode::FORBIDDEN, "a heartbeat counts only with the certificate of its node")),
        },
    }
}

fn require_entrance(core: &Core, principal: &Principal) -> Result<(), ApiError> {
    match core.config.packets {
        Packets::Open => Ok(()),
        Packets::Closed => require(principal, Right::Write),
    }
}

/// What a packet may cost. JSON is held in memory, so no more of it is taken than the largest object needs.
fn limits(core: &Core) -> Limits {
    let content_size_max = core.config.object_bytes_max;
    let defaults = Limits::default();
    let base64_size = usize::try_from(content_size_max.div_ceil(3).saturating_mul(4)).unwrap_or(usize::MAX);
    let json_size_max = base64_size.saturating_add(JSON_ENVELOPE_MAX).min(defaults.json_size_max);
    Limits { content_size_max, json_size_max }
}

/// Stores what a packet brought: for the cluster, or, if it says that it was distributed already, for this node alone.
async fn keep(
    core: &Arc<Core>,
    file_name: String,
    distributed: bool,
    blob: FreshBlob,
) -> Result<serde_json::Value, ApiError> {
    let key: ObjectKey = file_name.parse().map_err(|error| ApiError::bad_request(format!("file_name: {error}")))?;
    let media_type = key.guessed_media_type().parse()?;
    let (hash, size) = (blob.hash(), blob.size());
    let content = Content { hash, size, media_type, cache_control: core.config.cache_control.clone() };
    core.members.require_clock(&core.catalog)?;
    let shared = core.clone();
    let work = core.catalog.transact(move |transaction| {
        transaction.keep_blob(&blob)?;
        let (key, state) = (key.into(), EntryState::Live(content));
        if distributed {
            let version = transaction.stamp_stray(unix_ms());
            transaction.keep_stray(&Entry { key, version, state })?;
            return Ok(None);
        }
        let entry = replicate::write(transaction, key, state, unix_ms())?;
        Ok(Some(shared.copies.expect(&entry.version)))
    });
    let awaited = work.await?;
    core.metrics.stored_bytes.inc_by(size);
    if let Some(awaited) = awaited {
        copies::wait(core, awaited, CopiesQuery::default()).await?;
    }
    Ok(json!({ "file_name": file_name, "size": size, "hash": hash }))
}

/// A packet on its way into a blob. It moves between the runtime and the threads that may wait for the disk.
struct PacketIntake {
    decoder: Decoder,
    writer: Option<BlobWriter>,
    blobs: Blobs,
    budget: Arc<Semaphore>,
    charged: Option<OwnedSemaphorePermit>,
}

impl PacketIntake {
    const fn new(blobs: Blobs, limits: Limits, budget: Arc<Semaphore>) -> Self {
        Self { decoder: Decoder::new(limits), writer: None, blobs, budget, charged: None }
    }

    fn push(mut self, bytes: &[u8]) -> Result<Self, ApiError> {
        let mut stored = Ok(());
        let Self { decoder, writer, blobs, .. } = &mut self;
        decoder.push(bytes, &mut |bytes| write(writer, blobs, bytes, &mut stored)).map_err(refused)?;
        stored?;
        self.charge()?;
        Ok(self)
    }

    /// Counts what the decoder holds in memory against what all packets may hold together.
    fn charge(&mut self) -> Result<(), ApiError> {
        let held_kib = self.decoder.buffered_bytes().div_ceil(1024);
        let charged_kib = self.charged.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(held_kib.saturating_sub(charged_kib)).unwrap_or(u32::MAX);
        if more == 0 {
            return Ok(());
        }
        let permit = self.budget.clone().try_acquire_many_owned(more).map_err(|_| {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too many JSON packets at once: use raw, which streams")
        })?;
        match &mut self.charged {
            Some(charged) => charged.merge(permit),
            charged => *charged = Some(permit),
        }
        Ok(())
    }

    /// The packet, and its content; that of a heartbeat is empty.
    fn finish(self) -> Result<(Packet, FreshBlob), ApiError> {
        let Self { decoder, mut writer, blobs, charged, .. } = self;
        let mut stored = Ok(());
        let packet = decoder.finish(&mut |bytes| write(&mut writer, &blobs, bytes, &mut stored)).map_err(refused)?;
        stored?;
        drop(charged);
        let writer = writer.unwrap_or_else(|| blobs.create());
        Ok((packet, writer.finish(None)?))
    }
}

/// Writes decoded content; the first failure stays.
fn write(writer: &mut Option<BlobWriter>, blobs: &Blobs, bytes: &[u8], stored: &mut Result<(), StoreError>) {
    if stored.is_err() {
        return;
    }
    *stored = writer.get_or_insert_with(|| blobs.create()).write(bytes);
}

fn refused(error: PacketError) -> ApiError {
    ApiError::bad_request(error)
}
