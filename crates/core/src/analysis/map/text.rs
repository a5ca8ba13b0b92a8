//! The map as Mermaid and as DOT.
//!
//! Ids are made here; names from the policy stand in quoted labels only, escaped.

use std::fmt::Write as _;

use crate::analysis::map::graph::{Line, Node, Picture, Shape, Verb};
use crate::diagnostics::Severity;
use solewriter_types::clean::is_unclean;

/// A Mermaid flowchart.
pub fn mermaid(picture: &Picture) -> String {
    let mut out = String::from("flowchart LR\n");
    for (index, node) in picture.nodes.iter().enumerate() {
        let label = mermaid_label(&caption(node));
        let _ = match node.shape {
            Shape::Service => writeln!(out, "  n{index}[\"{label}\"]"),
            Shape::Bucket | Shape::Store => writeln!(out, "  n{index}[(\"{label}\")]"),
            Shape::Stream => writeln!(out, "  n{index}[[\"{label}\"]]"),
            Shape::Consumer => writeln!(out, "  n{index}(\"{label}\")"),
            Shape::Found => writeln!(out, "  n{index}>\"{label}\"]"),
            Shape::Subject => writeln!(out, "  n{index}([\"{label}\"])"),
        };
    }
    for Line { from, to, verb, label, .. } in &picture.lines {
        let (plain, before, after) = match verb {
            Verb::Owns | Verb::FoundAs => ("==>", "==", "==>"),
            Verb::Reads | Verb::Replays => ("-->", "--", "-->"),
            Verb::Messages | Verb::Requests => ("-.->", "-.", ".->"),
        };
        let label = mermaid_label(&line_caption(*verb, label));
        let _ = if label.is_empty() {
            writeln!(out, "  n{from} {plain} n{to}")
        } else {
            writeln!(out, "  n{from} {before} \"{label}\" {after} n{to}")
        };
    }
    out.push_str("  classDef bucket fill:#e8f1ff,stroke:#3568b8,color:#10213d\n");
    out.push_str("  classDef stream fill:#e9f7ef,stroke:#1f8a5b,color:#0d2b1c\n");
    out.push_str("  classDef error fill:#ffe1e1,stroke:#c81e1e,stroke-width:3px,color:#600\n");
    out.push_str("  classDef warning stroke:#b36b00,stroke-width:2px\n");
    for (index, node) in picture.nodes.iter().enumerate() {
        let class = match (node.severity, node.shape) {
            (Some(Severity::Error), _) => "error",
            (Some(Severity::Warning), _) => "warning",
            (_, Shape::Bucket | Shape::Store) => "bucket",
            (_, Shape::Stream | Shape::Consumer) => "stream",
            _ => continue,
        };
        let _ = writeln!(out, "  class n{index} {class}");
    }
    for (index, line) in picture.lines.iter().enumerate() {
        let colour = match line.severity {
            Some(Severity::Error) => "#c81e1e,stroke-width:4px",
            Some(Severity::Warning) => "#b36b00",
            _ => continue,
        };
        let _ = writeln!(out, "  linkStyle {index} stroke:{colour}");
    }
    out
}

/// A DOT digraph.
pub fn dot(picture: &Picture) -> String {
    let mut out = String::from(
        "digraph ownership {\n  rankdir=LR\n  graph [fontname=\"sans-serif\"]\n  node \
         [fontname=\"sans-serif\" shape=box style=\"rounded,filled\" fillcolor=white]\n  edge \
         [fontname=\"sans-serif\" fontsize=10]\n",
    );
    for (index, node) in picture.nodes.iter().enumerate() {
        let mut more = match node.shape {
            Shape::Service => String::new(),
            Shape::Bucket | Shape::Store => {
                " shape=cylinder style=filled fillcolor=\"#e8f1ff\"".to_owned()
            }
            Shape::Stream => " shape=box3d style=filled fillcolor=\"#e9f7ef\"".to_owned(),
            Shape::Consumer => " shape=cds style=filled fillcolor=\"#e9f7ef\"".to_owned(),
            Shape::Found => " shape=note style=filled".to_owned(),
            Shape::Subject => " shape=plain style=\"\"".to_owned(),
        };
        more += dot_colour(node.severity);
        let label = dot_string(&caption(node));
        let _ = writeln!(out, "  n{index} [label={label}{more}]");
    }
    for line in &picture.lines {
        let style = match line.verb {
            Verb::Owns | Verb::FoundAs => "penwidth=2.5",
            Verb::Reads | Verb::Replays => "style=solid",
            Verb::Messages => "style=dashed",
            Verb::Requests => "style=dotted",
        };
        let label = dot_string(&line_caption(line.verb, &line.label));
        let colour = dot_colour(line.severity);
        let _ = writeln!(out, "  n{} -> n{} [label={label} {style}{colour}]", line.from, line.to);
    }
    out.push_str("}\n");
    out
}

fn caption(node: &Node) -> String {
    if node.disabled { format!("{} (disabled)", node.name) } else { node.name.clone() }
}

fn line_caption(verb: Verb, label: &str) -> String {
    match verb {
        Verb::Owns if label.is_empty() => "owns".to_owned(),
        Verb::Owns => format!("owns {label}"),
        Verb::FoundAs => "found as".to_owned(),
        Verb::Replays if label.is_empty() => "replays".to_owned(),
        Verb::Replays => format!("replays {label}"),
        Verb::Messages if label.is_empty() => "message".to_owned(),
        Verb::Reads | Verb::Messages => label.to_owned(),
        Verb::Requests if label.is_empty() => "request".to_owned(),
        Verb::Requests => format!("request {label}"),
    }
}

fn dot_colour(severity: Option<Severity>) -> &'static str {
    match severity {
        Some(Severity::Error) => " color=\"#c81e1e\" fontcolor=\"#c81e1e\"",
        Some(Severity::Warning) => " color=\"#b36b00\"",
        _ => "",
    }
}

/// Everything but plain characters becomes an entity of Mermaid's (`#62;`), so that a name can
/// neither end the label nor be taken for markup or Markdown.
fn mermaid_label(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, ' ' | '.' | ',' | '-' | '(' | ')') {
            out.push(c);
        } else if is_unclean(c) {
            out.push(' ');
        } else {
            let _ = write!(out, "#{};", u32::from(c));
        }
    }
    out
}

/// A quoted string of DOT. A backslash is doubled: `\N` and others would be replaced in a label.
fn dot_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            // Graphviz reads HTML entities in labels.
            '&' => out.push_str("&amp;"),
            c if is_unclean(c) => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
