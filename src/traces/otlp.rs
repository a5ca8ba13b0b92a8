//! The messages of OTLP 1.x that a trace needs, as its `.proto` files have them (opentelemetry-proto,
//! `trace/v1`, `common/v1`, `resource/v1`, `collector/trace/v1`). What is not sent is not here.

use std::time::{Duration, Instant, SystemTime};

use prost::{Message, Oneof};

use super::{Data, Value};

/// Where the names of attributes come from.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// What is sent.
#[derive(Clone, PartialEq, Message)]
struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

/// What is answered.
#[derive(Clone, PartialEq, Message)]
struct ExportTraceServiceResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<ExportTracePartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct ExportTracePartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<InstrumentationScope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct InstrumentationScope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 3")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// `SPAN_KIND_INTERNAL` and `SPAN_KIND_CONSUMER`.
const INTERNAL: i32 = 1;
const CONSUMER: i32 = 5;
/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;
/// The W3C flag of a trace that is sampled.
const SAMPLED: u32 = 1;

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => Any::Text(text),
        Value::Number(number) => Any::Number(number),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn attributes(of: impl IntoIterator<Item = (&'static str, Value)>) -> Vec<KeyValue> {
    of.into_iter().map(|(key, value)| attribute(key, value)).collect()
}

/// The bytes of a request, and how many spans are in it. `resource` says who sends.
pub(super) fn request(
    resource: &[(&'static str, Value)],
    traces: impl IntoIterator<Item = Data>,
) -> (Vec<u8>, u64) {
    let spans: Vec<Span> = traces.into_iter().flat_map(spans).collect();
    let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
    let scope = InstrumentationScope {
        name: "solewriter".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: attributes(resource.iter().cloned()) }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
            schema_url: SCHEMA.to_owned(),
        }],
    };
    (request.encode_to_vec(), count)
}

/// How many spans the receiver did not take, and why. An answer that cannot be read says none.
pub(super) fn rejected(answer: &[u8]) -> (u64, String) {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    let ExportTracePartialSuccess { rejected_spans, error_message } =
        answer.partial_success.unwrap_or_default();
    (u64::try_from(rejected_spans).unwrap_or(0), error_message)
}

/// The root, and a child for each stage, one after the other.
fn spans(data: Data) -> Vec<Span> {
    let Data { trace, root, taken, stages, about, failed, ended, at } = data;
    let time = |when: Instant| nanoseconds(at, ended.saturating_duration_since(when));
    let mut spans = Vec::with_capacity(stages.len() + 1);
    let mut from = taken;
    for (name, until) in stages {
        spans.push(Span {
            trace_id: trace.to_vec(),
            span_id: rand::random::<[u8; 8]>().to_vec(),
            parent_span_id: root.to_vec(),
            name: name.to_owned(),
            kind: INTERNAL,
            start_time_unix_nano: time(from),
            end_time_unix_nano: time(until),
            attributes: Vec::new(),
            status: None,
            flags: SAMPLED,
        });
        from = until;
    }
    let status = failed.map(|message| Status { message, code: ERROR });
    spans.push(Span {
        trace_id: trace.to_vec(),
        span_id: root.to_vec(),
        parent_span_id: Vec::new(),
        name: "authorise".to_owned(),
        kind: CONSUMER,
        start_time_unix_nano: time(taken),
        end_time_unix_nano: time(ended),
        attributes: attributes(about),
        status,
        flags: SAMPLED,
    });
    spans
}

/// Unix time of so long before that.
fn nanoseconds(at: SystemTime, before: Duration) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.saturating_sub(before).as_nanos()).unwrap_or(u64::MAX)
}
