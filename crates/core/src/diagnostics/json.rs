//! Problems as JSON, for machines: the form is documented and stable.
//!
//! ```json
//! {
//!   "errors": 1, "warnings": 0, "notes": 0, "unreported": 0,
//!   "problems": [{
//!     "severity": "error", "code": "two-owners", "message": "...",
//!     "place": { "file": "b.toml", "line": 3, "column": 9, "end_line": 3, "end_column": 17, "label": "..." },
//!     "related": [],
//!     "help": "..."
//!   }]
//! }
//! ```
//!
//! Lines and columns count from 1, columns in characters; the end is the place after the last
//! character. `place` and `help` are null when there is none.

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::{Label, Problem, Problems, Severity};

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (line, column) = self.span.line_column();
        let (end_line, end_column) = self.span.file().line_column(self.span.range().end);
        let mut fields = serializer.serialize_struct("Place", 6)?;
        fields.serialize_field("file", self.span.file().name().as_ref())?;
        fields.serialize_field("line", &line)?;
        fields.serialize_field("column", &column)?;
        fields.serialize_field("end_line", &end_line)?;
        fields.serialize_field("end_column", &end_column)?;
        fields.serialize_field("label", &self.text)?;
        fields.end()
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { severity, code, message, primary, related, help } = self;
        let mut fields = serializer.serialize_struct("Problem", 6)?;
        fields.serialize_field("severity", severity)?;
        fields.serialize_field("code", code)?;
        fields.serialize_field("message", message)?;
        fields.serialize_field("place", primary)?;
        fields.serialize_field("related", related)?;
        fields.serialize_field("help", help)?;
        fields.end()
    }
}

impl Serialize for Problems {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Problems", 5)?;
        fields.serialize_field("errors", &self.count(Severity::Error))?;
        fields.serialize_field("warnings", &self.count(Severity::Warning))?;
        fields.serialize_field("notes", &self.count(Severity::Note))?;
        fields.serialize_field("unreported", &self.unreported())?;
        fields.serialize_field("problems", &self.list)?;
        fields.end()
    }
}
