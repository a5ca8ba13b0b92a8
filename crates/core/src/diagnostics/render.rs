//! Prints problems the way that rustc does: what is wrong, where, the text underlined, what to do.

use std::fmt::{self, Write as _};

use annotate_snippets::{
    AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str,
};

use super::redact::redact;
use super::{Label, Problem, Problems, Severity, SourceFile};
use solewriter_types::clean;

/// Labels in one file that are more lines apart than this get a snippet each.
const LINES_TOGETHER: usize = 40;

/// Longer stretches of source are not shown, only named.
const MAX_EXCERPT_BYTES: usize = 16 * 1024;

/// Whether to colour with ANSI escape codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// No escape codes: files, tests, pipes.
    Plain,
    /// For a terminal.
    Coloured,
}

impl Style {
    fn renderer(self) -> Renderer {
        match self {
            Self::Plain => Renderer::plain(),
            Self::Coloured => Renderer::styled(),
        }
    }
}

impl Severity {
    fn level(self) -> Level<'static> {
        match self {
            Self::Error => Level::ERROR,
            Self::Warning => Level::WARNING,
            Self::Note => Level::NOTE,
        }
    }
}

impl Problem {
    /// The problem as text, ending in a newline.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let mut group =
            Group::with_title(self.severity.level().primary_title(&self.message).id(self.code));
        let mut clusters = Vec::new();
        let mut labels: Vec<(bool, &Label)> = self.primary.iter().map(|l| (true, l)).collect();
        labels.extend(self.related.iter().map(|l| (false, l)));
        for label in labels {
            join(&mut clusters, label);
        }
        for cluster in &clusters {
            group = group.element(cluster.element());
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
        }
        // Messages may quote what was written, so the whole text is gone over.
        let mut text = redact(&style.renderer().render(&[group])).into_owned();
        text.push('\n');
        text
    }
}

impl fmt::Display for Problem {
    /// The problem, rendered without colour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

impl Problems {
    /// Every problem as text, a blank line after each. Nothing when there is no problem.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let mut text = String::new();
        for problem in &self.list {
            text.push_str(&problem.render(style));
            text.push('\n');
        }
        if self.unreported > 0 {
            let _ = writeln!(text, "... and {} more problems\n", self.unreported);
        }
        text
    }

    /// How many there are of each severity: `2 errors, 1 warning`; `no problems` when there are
    /// none.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        for (severity, one) in
            [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Note, "note")]
        {
            match self.count(severity) {
                0 => {}
                1 => parts.push(format!("1 {one}")),
                n => parts.push(format!("{n} {one}s")),
            }
        }
        if self.unreported > 0 {
            parts.push(format!("{} more", self.unreported));
        }
        if parts.is_empty() { "no problems".to_owned() } else { parts.join(", ") }
    }
}

/// Source text without seeds, and with nothing that deceives who looks; places stay.
fn excerpted(text: &str) -> String {
    clean::excerpt(&redact(text)).into_owned()
}

/// Labels of one file that are shown together.
struct Cluster<'a> {
    file: &'a SourceFile,
    first_line: usize,
    last_line: usize,
    labels: Vec<(bool, &'a Label)>,
}

fn join<'a>(clusters: &mut Vec<Cluster<'a>>, (primary, label): (bool, &'a Label)) {
    let file = label.span.file();
    let range = label.span.range();
    let first_line = file.line_index(range.start);
    let last_line = file.line_index(range.end);
    let near = clusters.iter_mut().find(|c| {
        c.file == file
            && first_line <= c.last_line + LINES_TOGETHER
            && c.first_line <= last_line + LINES_TOGETHER
    });
    match near {
        Some(cluster) => {
            cluster.first_line = cluster.first_line.min(first_line);
            cluster.last_line = cluster.last_line.max(last_line);
            cluster.labels.push((primary, label));
        }
        None => {
            clusters.push(Cluster { file, first_line, last_line, labels: vec![(primary, label)] });
        }
    }
}

impl<'a> Cluster<'a> {
    /// The lines of the cluster only: the renderer reads all the text that it is given.
    fn element(&self) -> Element<'a> {
        let name = self.file.name().as_ref();
        let start = self.file.line_start(self.first_line);
        let end = self.file.line_start(self.last_line + 1);
        let excerpt = self.file.text().get(start..end).unwrap_or_default();
        if excerpt.is_empty() || excerpt.len() > MAX_EXCERPT_BYTES {
            let at = self.labels.first().map(|(_, l)| l.span.line_column());
            let (line, column) = at.unwrap_or((1, 1));
            return Origin::path(name).line(line as usize).char_column(column as usize).into();
        }
        let annotations = self.labels.iter().map(|(primary, label)| {
            let range = label.span.range();
            let kind = if *primary { AnnotationKind::Primary } else { AnnotationKind::Context };
            let text = (!label.text.is_empty()).then_some(label.text.as_str());
            kind.span(range.start - start..range.end - start).label(text)
        });
        Snippet::source(excerpted(excerpt))
            .path(name)
            .line_start(self.first_line + 1)
            .annotations(annotations)
            .into()
    }
}
