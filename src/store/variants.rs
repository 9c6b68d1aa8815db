//! Variants of images that this node has made: which blob stands for which variant of which original.
//!
//! They are this node's own affair: no feed, list or count has them, and they can be made again at any time.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Catalog, StoreError, Transaction, rows};
use crate::model::{ContentHash, FieldValue, Variant};

/// What has become of one variant of an original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VariantState {
    /// A blob has it.
    Made(VariantBlob),
    /// It cannot be made, or would be no smaller: the original is served.
    AsIs,
}

/// The blob of a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariantBlob {
    /// The hash of its bytes.
    pub hash: ContentHash,
    /// How many bytes.
    pub size: u64,
    /// The `Content-Type`.
    pub media_type: FieldValue,
}

impl Catalog {
    /// What has become of `variant` of the `original`; `None` if nobody has tried yet.
    ///
    /// # Errors
    /// When the catalogue cannot be read. Blocks on the disk.
    pub fn variant(&self, original: &ContentHash, variant: Variant) -> Result<Option<VariantState>, StoreError> {
        self.read(|connection| find(connection, original, variant))
    }

    /// The variants of the originals, all of them: for who frees blobs, and for who counts.
    ///
    /// # Errors
    /// When the catalogue cannot be read. Blocks on the disk.
    pub fn variants(&self) -> Result<Vec<(ContentHash, Variant, VariantState)>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT hash, size, media_type, original, variant FROM variants ORDER BY original, variant";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement
                .query_map([], |row| Ok((ContentHash::new(row.get(3)?), rows::parsed(row, 4)?, read(row)?)))?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }
}

impl Transaction<'_> {
    /// Notes what has become of `variant` of the `original`. The bytes of a blob must be durable.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn keep_variant(
        &mut self,
        original: &ContentHash,
        variant: Variant,
        state: &VariantState,
    ) -> Result<(), StoreError> {
        let blob = match state {
            VariantState::Made(blob) => Some(blob),
            VariantState::AsIs => None,
        };
        let sql = "INSERT OR REPLACE INTO variants (original, variant, hash, size, media_type)
            VALUES (?1, ?2, ?3, ?4, ?5)";
        self.connection.prepare_cached(sql)?.execute(params![
            original.as_bytes(),
            variant.as_str(),
            blob.map(|blob| blob.hash.as_bytes().as_slice()),
            blob.map(|blob| blob.size.cast_signed()),
            blob.map(|blob| blob.media_type.as_str()),
        ])?;
        Ok(())
    }

    /// Forgets the variants that another `maker` made, or could not make: this one's may differ.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub fn forget_variants_unless_by(&mut self, maker: &str) -> Result<(), StoreError> {
        let sql = "SELECT value FROM marks WHERE name = 'variants_maker'";
        let before: Option<String> = self.connection.query_row(sql, [], |row| row.get(0)).optional()?;
        if before.as_deref() != Some(maker) {
            self.connection.execute("DELETE FROM variants", [])?;
            self.connection.execute("INSERT OR REPLACE INTO marks VALUES ('variants_maker', ?1)", [maker])?;
        }
        Ok(())
    }
}

fn find(connection: &Connection, original: &ContentHash, variant: Variant) -> Result<Option<VariantState>, StoreError> {
    let sql = "SELECT hash, size, media_type FROM variants WHERE original = ?1 AND variant = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row(params![original.as_bytes(), variant.as_str()], read).optional()?)
}

/// The state in the first three columns.
fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<VariantState> {
    Ok(match row.get::<_, Option<[u8; 32]>>(0)? {
        None => VariantState::AsIs,
        Some(hash) => VariantState::Made(VariantBlob {
            hash: ContentHash::new(hash),
            size: rows::unsigned(row, 1)?,
            media_type: rows::parsed(row, 2)?,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;
    use crate::store::Select;

    fn open(folder: &std::path::Path) -> Catalog {
        Catalog::open(folder, &"A".parse().expect("a name"), Epoch::from_bits(1)).expect("a catalogue")
    }

    fn made(text: &str) -> VariantState {
        VariantState::Made(VariantBlob {
            hash: ContentHash::of(text.as_bytes()),
            size: text.len() as u64,
            media_type: "image/png".parse().expect("a value"),
        })
    }

    #[tokio::test]
    async fn variants_are_kept_apart_from_the_feed_and_over_restarts() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = open(folder.path());
        let original = ContentHash::of(b"original");
        let before = *catalog.progress().borrow();
        let keep = move |t: &mut Transaction<'_>| {
            t.forget_variants_unless_by("one")?;
            t.keep_variant(&original, Variant::Low, &made("low"))?;
            t.keep_variant(&original, Variant::Medium, &VariantState::AsIs)
        };
        catalog.transact(keep).await.expect("a commit");
        assert_eq!(*catalog.progress().borrow(), before);
        assert!(catalog.feed(0, 10, Select::All).expect("a page").entries.is_empty());
        drop(catalog);
        let catalog = open(folder.path());
        catalog.transact(|t| t.forget_variants_unless_by("one")).await.expect("a commit");
        assert_eq!(catalog.variant(&original, Variant::Low).expect("readable"), Some(made("low")));
        assert_eq!(catalog.variant(&original, Variant::Medium).expect("readable"), Some(VariantState::AsIs));
        assert_eq!(catalog.variant(&ContentHash::of(b"other"), Variant::Low).expect("readable"), None);
        assert_eq!(catalog.variants().expect("readable").len(), 2);
        catalog.transact(|t| t.forget_variants_unless_by("another")).await.expect("a commit");
        assert!(catalog.variants().expect("readable").is_empty());
    }
}
