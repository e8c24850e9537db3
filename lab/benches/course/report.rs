//! What was measured: tables, for the terminal and for BENCHMARKS.md, and charts.

use std::fmt::{self, Display, Write};
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{IntoSegmentedCoord, SegmentValue};
use plotters::prelude::*;

/// One benchmark's part of the report.
pub struct Section {
    pub title: &'static str,
    /// What was done, for a reader of the tables.
    pub text: String,
    pub tables: Vec<Table>,
    pub chart: Option<Chart>,
}

pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<S: ToString>(head: &[S]) -> Self {
        Self { head: head.iter().map(S::to_string).collect(), rows: Vec::new() }
    }

    /// A table for [`Table::rates`] or [`Table::times`].
    pub fn comparing(unit: &str) -> Self {
        Self::new(&["lesson", unit, "compared with", unit, "speedup"])
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Ours beside theirs, both so many a second: the medians, and the median of the ratios of each
    /// round.
    pub fn rates(&mut self, what: &str, ours: &[f64], other: &str, theirs: &[f64]) {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
        self.compare(what, ours, other, theirs, &ratios);
    }

    /// As [`Table::rates`], but less is better.
    pub fn times(&mut self, what: &str, ours: &[f64], other: &str, theirs: &[f64]) {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| b / a).collect();
        self.compare(what, ours, other, theirs, &ratios);
    }

    fn compare(&mut self, what: &str, ours: &[f64], other: &str, theirs: &[f64], ratios: &[f64]) {
        self.row(vec![
            what.to_owned(),
            number(median(ours)),
            other.to_owned(),
            number(median(theirs)),
            format!("{:.2}", median(ratios)),
        ]);
    }
}

/// A table of Markdown whose columns stand below each other.
impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let rows = || [&self.head].into_iter().chain(&self.rows);
        let width = |column: usize| rows().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = (0..self.head.len()).filter_map(width).collect();
        for (index, row) in rows().enumerate() {
            for (cell, &width) in row.iter().zip(&widths) {
                let is_number = cell.starts_with(|c: char| c.is_ascii_digit());
                match is_number {
                    true => write!(f, "| {cell:>width$} ")?,
                    false => write!(f, "| {cell:width$} ")?,
                }
            }
            writeln!(f, "|")?;
            if index == 0 {
                for width in &widths {
                    write!(f, "|{}", "-".repeat(width + 2))?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// Bars in groups, or lines, if the groups are numbers.
pub struct Chart {
    /// The name of the file, without `.svg`.
    pub name: &'static str,
    pub title: &'static str,
    /// What stands below the groups; none for bars.
    pub x: Option<&'static str>,
    pub groups: Vec<String>,
    /// A name and a figure for each group.
    pub series: Vec<(String, Vec<f64>)>,
}

impl Chart {
    fn draw(&self, folder: &Path) -> Result<()> {
        let file = folder.join(format!("{}.svg", self.name));
        self.svg(&file).map_err(|error| anyhow!("{error}"))
    }

    fn svg(&self, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::new(file, (760, 400)).into_drawing_area();
        area.fill(&WHITE)?;
        let all = self.series.iter().flat_map(|(_, figures)| figures);
        let highest = all.fold(0.0, |highest: f64, figure| highest.max(*figure));
        let groups = self.groups.len() as i32;
        let legend = 1.25_f64.max(1.0 + 0.1 * self.series.len() as f64); // its room, above the lines
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d((0..groups - 1).into_segmented(), 0.0..highest * legend)?;
        let label = |value: &SegmentValue<i32>| match value {
            SegmentValue::CenterOf(index) => self.groups.get(*index as usize).cloned(),
            _ => None,
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .x_labels(self.groups.len() + 1)
            .x_label_formatter(&|value| label(value).unwrap_or_default())
            .x_desc(self.x.unwrap_or_default())
            .y_label_formatter(&|value| number(*value))
            .draw()?;
        // colours that the colour-blind tell apart: https://jfly.uni-koeln.de/color/
        let colours = [
            (0, 114, 178),
            (230, 159, 0),
            (0, 158, 115),
            (204, 121, 167),
            (213, 94, 0),
            (153, 153, 153),
        ];
        let count = self.series.len() as f64;
        for (index, (name, figures)) in self.series.iter().enumerate() {
            let (red, green, blue) = colours[index % colours.len()];
            let colour = RGBColor(red, green, blue);
            let points = figures.iter().enumerate();
            let legend = match self.x {
                Some(_) => chart.draw_series(LineSeries::new(
                    points.map(|(group, y)| (SegmentValue::CenterOf(group as i32), *y)),
                    colour.stroke_width(3),
                ))?,
                None => chart.draw_series(points.map(|(group, y)| {
                    // a group is one segment; leave a tenth of it free at either side
                    let group = group as i32;
                    let corners =
                        [(SegmentValue::Exact(group), *y), (SegmentValue::Exact(group + 1), 0.0)];
                    let mut bar = Rectangle::new(corners, colour.filled());
                    let segment = 656.0 / f64::from(groups);
                    let side = |share: f64| (segment * share) as u32;
                    let width = 0.8 / count;
                    let left = 0.1 + width * index as f64;
                    bar.set_margin(0, 0, side(left), side(1.0 - left - width));
                    bar
                }))?,
            };
            legend.label(name).legend(move |(x, y)| {
                Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled())
            });
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .position(SeriesLabelPosition::UpperRight)
            .draw()?;
        area.present()?;
        Ok(())
    }
}

pub fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}

/// The figure below which this share of them lies.
pub fn quantile(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Three digits and more; thousands apart.
pub fn number(figure: f64) -> String {
    if figure < 10.0 && figure.fract() != 0.0 {
        return format!("{figure:.2}");
    }
    if figure < 100.0 && figure.fract() != 0.0 {
        return format!("{figure:.1}");
    }
    crate::shared::thousands(figure.round() as u64)
}

/// BENCHMARKS.md with these sections instead of the old ones of the same title; charts are files in
/// that folder.
pub fn written(old: &str, new: &[Section], measured: &str, charts: &Path) -> Result<String> {
    let mut parts: Vec<String> = old.split("\n## ").map(str::to_owned).collect();
    for section in new {
        let text = markdown(std::slice::from_ref(section), Some(charts))?;
        let title = format!("\n## {}\n\n", section.title);
        let text = text.replacen(&title, &format!("{title}{measured}\n"), 1);
        let text = text.trim_start_matches("\n## ").to_owned();
        let same = |part: &&mut String| part.lines().next() == Some(section.title);
        match parts.iter_mut().skip(1).find(same) {
            Some(part) => *part = text,
            None => parts.push(text),
        }
    }
    Ok(parts.join("\n## "))
}

/// The report in Markdown; its charts are files in `folder`, if there is one.
pub fn markdown(sections: &[Section], folder: Option<&Path>) -> Result<String> {
    let mut text = String::new();
    for section in sections {
        write!(text, "\n## {}\n\n{}\n", section.title, section.text)?;
        if let (Some(chart), Some(folder)) = (&section.chart, folder) {
            chart.draw(folder)?;
            let relative = folder.strip_prefix(lab::root()).unwrap_or(folder);
            let file = relative.join(format!("{}.svg", chart.name));
            write!(text, "\n![{}]({})\n", chart.title, file.display())?;
        }
        for table in &section.tables {
            write!(text, "\n{table}")?;
        }
    }
    Ok(text)
}
