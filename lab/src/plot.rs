//! Plots as small SVG files: lines over two axes, readable on light and dark pages.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 50.0;
/// Told apart also without colours: each line has its own dashes.
const COLOURS: [(&str, &str); 5] = [
    ("#1f77b4", ""),
    ("#d62728", "7 3"),
    ("#2ca02c", "2 3"),
    ("#9467bd", "10 3 2 3"),
    ("#8c564b", "4 4"),
];

/// How an axis runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Evenly, from zero.
    Linear,
    /// In powers of ten.
    Logarithmic,
}

/// One line of a plot.
pub struct Series {
    /// What it is, for the legend.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// A plot.
pub struct Plot<'a> {
    /// What it shows.
    pub title: &'a str,
    /// What runs to the right, with its unit.
    pub x: (&'a str, Axis),
    /// What runs upwards, with its unit.
    pub y: (&'a str, Axis),
    /// The lines.
    pub series: Vec<Series>,
}

/// From values to places between 0 and 1.
struct Scale {
    axis: Axis,
    low: f64,
    high: f64,
}

impl Scale {
    fn over(axis: Axis, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|v| v.is_finite() && (axis == Axis::Linear || *v > 0.0)) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (0.1, 1.0);
        }
        match axis {
            Axis::Linear => {
                let step = nice(high.max(1e-9) / 5.0);
                Self { axis, low: 0.0, high: (high.max(1e-9) / step).ceil() * step }
            }
            Axis::Logarithmic => {
                let (low, high) = (low.log10().floor(), high.log10().ceil());
                Self { axis, low, high: if high > low { high } else { low + 1.0 } }
            }
        }
    }

    fn place(&self, value: f64) -> f64 {
        let value = match self.axis {
            Axis::Linear => value,
            Axis::Logarithmic => value.max(1e-12).log10(),
        };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        let step = match self.axis {
            Axis::Linear => nice(self.high / 5.0),
            Axis::Logarithmic => 1.0,
        };
        let mut ticks = Vec::new();
        let mut at = self.low;
        while at <= self.high + step / 1000.0 && ticks.len() < 20 {
            ticks.push(if self.axis == Axis::Linear { at } else { 10f64.powf(at) });
            at += step;
        }
        ticks
    }
}

/// The next larger of 1, 2, 5 times a power of ten.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let choices = [1.0, 2.0, 5.0, 10.0];
    choices.iter().map(|c| c * power).find(|c| *c >= step * 0.999).unwrap_or(power * 10.0)
}

fn number(value: f64) -> String {
    if value >= 1e6 {
        format!("{}M", value / 1e6)
    } else if value >= 1e4 {
        format!("{}k", value / 1e3)
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Plot<'_> {
    /// The SVG text.
    #[must_use]
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let x = Scale::over(self.x.1, points().map(|p| p.0));
        let y = Scale::over(self.y.1, points().map(|p| p.1));
        let across = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
        let down = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n<title>{0}</title>\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
             <text x=\"{LEFT}\" y=\"18\" font-size=\"14\" font-weight=\"bold\">{0}</text>\n",
            escaped(self.title)
        );
        // Writing to a String does not fail.
        for tick in x.ticks() {
            let at = across(tick);
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{0}\" stroke=\"#dddddd\"/>\
                 <text x=\"{at:.1}\" y=\"{1}\" text-anchor=\"middle\">{2}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 16.0,
                number(tick)
            );
        }
        for tick in y.ticks() {
            let at = down(tick);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{0}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                number(tick)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, WIDTH - RIGHT),
            HEIGHT - 12.0,
            escaped(self.x.0),
            f64::midpoint(TOP, HEIGHT - BOTTOM),
            escaped(self.y.0)
        );
        let mut legend = LEFT;
        for (series, (colour, dashes)) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let line: Vec<String> = series
                .points
                .iter()
                .map(|p| format!("{:.1},{:.1}", across(p.0), down(p.1)))
                .collect();
            let style =
                format!("stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"");
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" {style} points=\"{}\"/>\n\
                 <line x1=\"{legend:.0}\" y1=\"32\" x2=\"{:.0}\" y2=\"32\" {style}/>\
                 <text x=\"{:.0}\" y=\"36\">{}</text>",
                line.join(" "),
                legend + 24.0,
                legend + 29.0,
                escaped(&series.name)
            );
            legend += 50.0 + 6.6 * f64::from(u32::try_from(series.name.len()).unwrap_or_default());
        }
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_where_they_belong() {
        let plot = Plot {
            title: "a < b",
            x: ("load", Axis::Linear),
            y: ("ms", Axis::Logarithmic),
            series: vec![Series { name: "one".into(), points: vec![(0.0, 1.0), (10.0, 100.0)] }],
        };
        let svg = plot.svg();
        assert!(svg.contains("a &lt; b") && svg.ends_with("</svg>\n"), "{svg}");
        // From the lower left corner to the upper right one.
        assert!(svg.contains("points=\"70.0,310.0 700.0,46.0\""), "{svg}");
    }

    #[test]
    fn nothing_to_show_is_shown_as_that() {
        for axis in [Axis::Linear, Axis::Logarithmic] {
            let plot = Plot { title: "empty", x: ("x", axis), y: ("y", axis), series: Vec::new() };
            assert!(!plot.svg().contains("NaN"));
        }
    }
}
