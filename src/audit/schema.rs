//! The JSON Schema (draft 2020-12) of audit events, made from their types; the documentation's table
//! of their fields is made from it.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use solewriter_types::audit_event::{
    Authorisation, DATASCHEMA, EmergencyBegan, EmergencyEnded, EmergencyIgnored, HandedOver, Lost,
    PolicyAccepted, PolicyRefused, RequestRejected, SessionClosed, Started, Stopped, Trouble,
    Violation,
};

/// One kind of event.
pub struct Kind {
    /// The CloudEvents types that have this data.
    pub types: &'static [&'static str],
    /// The CloudEvents `subject`.
    pub subject: &'static str,
    /// The schema of `data`: its description says when the event is recorded.
    pub data: Value,
}

/// Every kind of event.
#[must_use]
pub fn kinds() -> Vec<Kind> {
    let key = "the service, or else the key";
    vec![
        kind::<Authorisation>(
            &["solewriter.authorisation.granted", "solewriter.authorisation.denied"],
            key,
        ),
        kind::<RequestRejected>(&["solewriter.request.rejected"], ""),
        kind::<PolicyAccepted>(&["solewriter.policy.accepted"], "the revision"),
        kind::<PolicyRefused>(&["solewriter.policy.refused"], "the revision that stays"),
        kind::<SessionClosed>(&["solewriter.session.closed"], "the service"),
        kind::<HandedOver>(&["solewriter.handed_over"], "who writes it now"),
        kind::<EmergencyBegan>(&["solewriter.emergency.began"], "who is to write"),
        kind::<EmergencyEnded>(&["solewriter.emergency.ended"], "who wrote"),
        kind::<EmergencyIgnored>(&["solewriter.emergency.ignored"], ""),
        kind::<Violation>(&["solewriter.violation"], "the service"),
        kind::<Started>(&["solewriter.started"], ""),
        kind::<Stopped>(&["solewriter.stopped"], ""),
        kind::<Trouble>(&["solewriter.trouble"], "the service, if any"),
        kind::<Lost>(&["solewriter.lost"], "the run"),
    ]
}

fn kind<T: JsonSchema>(types: &'static [&'static str], subject: &'static str) -> Kind {
    Kind { types, subject, data: schema_of::<T>() }
}

/// The schema of what is written, with everything in its place.
fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .for_serialize()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(Closed);
    let mut schema = SchemaGenerator::new(settings).into_root_schema_for::<T>();
    schema.remove("title");
    schema.to_value()
}

/// What the types do not say: what is absent is left out and never null, nothing is there that has no
/// field, and a number's size is nobody's business.
#[derive(Clone)]
struct Closed;

impl Transform for Closed {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(schema) = schema.as_object_mut() else { return };
        if let Some(Value::String(about)) = schema.get_mut("description") {
            *about = about.replace('\n', " ");
        }
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                schema.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(any)) = schema.get_mut("anyOf") {
            any.retain(|one| one != &json!({ "type": "null" }));
            if let [Value::Object(only)] = any.as_slice() {
                let mut only = only.clone();
                schema.remove("anyOf");
                only.append(schema);
                *schema = only;
            }
        }
        if schema.get("type").is_some_and(|name| name == "integer") {
            schema.remove("format");
        }
        if schema.contains_key("properties") {
            schema.insert("additionalProperties".to_owned(), json!(false));
        }
    }
}

/// The schema, as text.
#[must_use]
pub fn document() -> String {
    let mut kinds = kinds();
    let branches = kinds.iter_mut().map(|kind| {
        let about = kind.data.as_object_mut().and_then(|data| data.remove("description"));
        json!({
            "description": about,
            "properties": { "type": { "enum": kind.types }, "data": kind.data },
        })
    });
    let text = |about: &str| json!({ "type": "string", "description": about });
    let pattern = |pattern: &str, about: &str| json!({ "type": "string", "pattern": pattern, "description": about });
    let properties = json!({
        "specversion": { "const": "1.0" },
        "id": pattern("^[0-9a-f]{19}-[0-9]+$", "The run and the number; also the message id."),
        "source": pattern("^/[A-Za-z0-9_-]+/[0-9a-f]{19}$", "The producer and its run."),
        "type": text("What happened."),
        "subject": text("What it is about."),
        "time": { "type": "string", "format": "date-time", "description": "When." },
        "sequence": pattern("^[0-9]{12,}$", "The number in its run, from 1, without a gap."),
        "datacontenttype": { "const": "application/json" },
        "dataschema": { "const": DATASCHEMA, "description": "The form of the event. Absent in events of versions before it, and of programs that do not say." },
        "traceparent": pattern("^00-[0-9a-f]{32}-[0-9a-f]{16}-01$", "The trace that shows it, where one was made."),
        "data": { "type": "object" },
    });
    let always =
        |name: &&String| !["subject", "dataschema", "traceparent"].contains(&name.as_str());
    let required: Vec<&String> =
        properties.as_object().into_iter().flat_map(Map::keys).filter(always).collect();
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "solewriter audit event",
        "description": "A CloudEvents 1.0 event, in the JSON format.",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
        "oneOf": branches.collect::<Vec<_>>(),
    });
    format!("{schema:#}\n")
}
