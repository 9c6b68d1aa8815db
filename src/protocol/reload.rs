//! What an edge answers to those who have it read its configuration anew.

use serde::{Deserialize, Serialize};

use crate::model::SiteName;

/// What has changed, and what has not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The fields that are as the file says since.
    pub changed: Vec<String>,
    /// The fields that are as they were, and as the file says after a restart.
    pub needs_restart: Vec<String>,
    /// What has become of sites.
    pub sites: ChangedSites,
}

/// What has become of sites.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedSites {
    /// Those that were not there before.
    pub added: Vec<SiteName>,
    /// Those that others have taken the place of under the same name.
    pub changed: Vec<SiteName>,
    /// Those that are not there any more.
    pub removed: Vec<SiteName>,
}
