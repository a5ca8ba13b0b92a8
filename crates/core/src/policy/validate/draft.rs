//! A service before the policy as a whole is judged.

use super::settings::Place;
use crate::policy::document::BeforeEntry;
use crate::policy::model::{Rule, Service};

/// A service as far as it could be read, with the places of its rules.
pub struct Draft {
    pub service: Service,
    /// The place of each of `service.rules`.
    pub places: Vec<Place>,
    /// What it could do before, if it is observed.
    pub before: Option<Box<BeforeEntry>>,
}

impl Draft {
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, &Place)> {
        self.service.rules.iter().zip(&self.places)
    }
}
