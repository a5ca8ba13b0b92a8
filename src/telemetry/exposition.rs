//! The metrics of a process and of its tenants as one text: each family once, with the samples of all.

use std::fmt::Write as _;
use std::sync::Arc;

use super::{Metrics, Progress};

/// What the process counts, and what each tenant does.
#[derive(Clone)]
pub struct Exposition {
    process: Arc<Metrics>,
    tenants: Vec<Arc<Metrics>>,
}

/// The end of an OpenMetrics text.
const END: &str = "# EOF";

impl Exposition {
    /// Those of a process, and of its tenants where there are some.
    #[must_use]
    pub fn new(process: Arc<Metrics>, tenants: Vec<Arc<Metrics>>) -> Self {
        Self { process, tenants }
    }

    /// How the answering goes.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.process.progress()
    }

    /// How many policies were read, accepted or refused.
    #[must_use]
    pub fn policies_read(&self) -> u64 {
        let read: u64 = self.tenants.iter().map(|tenant| tenant.policies_read()).sum();
        read + self.process.policies_read()
    }

    /// The OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        if self.tenants.is_empty() {
            return self.process.encode();
        }
        let texts = std::iter::once(&self.process).chain(&self.tenants).map(|part| part.encode());
        together(&texts.collect::<Vec<_>>())
    }

    /// The text in the older format of Prometheus, for who does not read OpenMetrics.
    #[must_use]
    pub fn encode_plain(&self) -> String {
        plain(&self.encode())
    }
}

/// Several OpenMetrics texts as one: what describes a family stands before its first sample, once, and
/// the samples of a family stand together.
fn together(texts: &[String]) -> String {
    let mut families: Vec<(String, String, String)> = Vec::new();
    for text in texts {
        let mut current = None;
        for line in text.lines().filter(|line| *line != END) {
            let described = line.strip_prefix("# ").and_then(|line| {
                let mut words = line.splitn(3, ' ');
                words.next()?;
                words.next()
            });
            if let Some(name) = described {
                let at = families.iter().position(|(known, ..)| known == name);
                let at = at.unwrap_or_else(|| {
                    families.push((name.to_owned(), String::new(), String::new()));
                    families.len() - 1
                });
                if let Some((_, about, _)) = families.get_mut(at)
                    && !about.lines().any(|known| known == line)
                {
                    let _ = writeln!(about, "{line}");
                }
                current = Some(at);
            } else if let Some((.., samples)) = current.and_then(|at| families.get_mut(at)) {
                let _ = writeln!(samples, "{line}");
            }
        }
    }
    let all = families.iter().flat_map(|(_, about, samples)| [about.as_str(), samples]);
    all.chain([END, "\n"]).collect()
}

/// An OpenMetrics text in the older format: counters and infos have their whole names, and exemplars
/// are left out.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut help = None;
    for line in text.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = text.split_once(' ');
        } else if let Some(text) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = text.split_once(' ') else { continue };
            let (end, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            let about = help.take().map_or("", |(_, about)| about);
            out += &format!("# HELP {name}{end} {about}\n# TYPE {name}{end} {kind}\n");
        } else if !line.starts_with('#') {
            out += line.split(" # {").next().unwrap_or(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Scope;

    #[test]
    fn each_family_stands_once_with_the_samples_of_all() {
        let tenants = ["shop", "bank"].map(|name| Metrics::of(Scope::Tenant(name)));
        let [shop, bank] = &tenants;
        shop.policy_source(true);
        bank.emergencies(3);
        let all = Exposition::new(Metrics::of(Scope::Process), tenants.to_vec());
        let text = all.encode();
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            assert!(seen.insert(line), "{line} stands twice");
        }
        for line in [
            "solewriter_policy_source_up{tenant=\"shop\"} 1",
            "solewriter_policy_source_up{tenant=\"bank\"} 0",
            "solewriter_emergency_grants{tenant=\"bank\"} 3",
            "solewriter_authorisations_total{tenant=\"shop\",outcome=\"granted\",reason=\"granted\"} 0",
            "solewriter_authorisations_total{outcome=\"denied\",reason=\"unknown_key\"} 0",
            "solewriter_nats_connected 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        // What no policy of the process says is not told of it.
        assert!(!text.lines().any(|line| line.starts_with("solewriter_policy_source_up ")));
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
        let position = |what: &str| text.find(what).unwrap();
        let (first, second) = (
            position("solewriter_policy_source_up{tenant=\"shop\"}"),
            position("solewriter_policy_source_up{tenant=\"bank\"}"),
        );
        assert!(!text[first..second].contains('#'), "they stand together");
        assert_eq!(all.policies_read(), 0);
    }
}
