//! The map as one HTML page that needs nothing else: no network, no other file.
//!
//! The policy's texts are in it once, as JSON in a script element that is not executed, with
//! every character that HTML could take for markup escaped. The page's own script puts them into
//! the document as text only. A content security policy with the hashes of script and style is
//! the second wall: nothing else runs, and nothing is fetched.

use aws_lc_rs::digest;
use data_encoding::BASE64;

use super::Map;
use solewriter_types::clean::is_unclean;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(include_str!("page-layout.js"), include_str!("page.js"));

pub fn html(map: &Map<'_>) -> serde_json::Result<String> {
    let data = inert(&serde_json::to_string(map)?);
    let csp = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; base-uri 'none'; form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    let mut out = String::with_capacity(PAGE.len() + STYLE.len() + SCRIPT.len() + data.len());
    // One pass, so that nothing in the data is taken for a placeholder.
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else { break };
        out.push_str(before);
        out.push_str(match name {
            "csp" => &csp,
            "style" => STYLE,
            "data" => &data,
            "script" => SCRIPT,
            _ => "",
        });
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// JSON without a character that ends or changes the script element it stands in.
fn inert(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            // What cannot be seen is shown as its escape. (Line breaks have theirs from JSON.)
            c if is_unclean(c) => {
                out.push('\\');
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

/// As a content security policy names it.
fn hash(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    format!("sha256-{}", BASE64.encode(digest.as_ref()))
}
