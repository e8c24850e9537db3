//! What a README promises: the commands and lines of its `console` blocks, and the excerpts of
//! source code in its `rust` blocks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Parser, Tag, TagEnd};

/// The terminal of a `console` block without a title.
pub const MAIN_TERMINAL: &str = "terminal";

/// The terminal of what a curious reader does.
const CURIOUS: &str = "curious";

/// One line of a `console` block, or a heading between two of them.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// The line in the file, from 1.
    pub line: usize,
    /// The title of the block.
    pub terminal: String,
    pub action: Action,
    /// Whether this is the last line of its block.
    pub ends_block: bool,
    /// The servers that its block is for; any, if there is none.
    pub condition: Option<Condition>,
    /// What a curious reader does, and the page does not show: `<!-- curious: command -->`.
    pub curious: bool,
}

/// `if="rabbitmq >= 4.3"` or `if="rabbitmq < 4.3"` behind `console`: a block for such servers only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    newer: bool,
    /// Major and minor.
    version: (u32, u32),
}

impl Condition {
    fn parse(text: &str) -> Option<Self> {
        let (newer, version) = match text.strip_prefix("rabbitmq >= ") {
            Some(version) => (true, version),
            None => (false, text.strip_prefix("rabbitmq < ")?),
        };
        let (major, minor) = version.split_once('.')?;
        Some(Self { newer, version: (major.parse().ok()?, minor.parse().ok()?) })
    }

    /// Whether a RabbitMQ of this major and minor version is one of those.
    pub fn holds(&self, version: (u32, u32)) -> bool {
        (version >= self.version) == self.newer
    }
}

#[derive(Debug, PartialEq)]
pub enum Action {
    Heading(String),
    /// `$ command`
    Run(String),
    /// `^C`
    Interrupt,
    /// `^\`: ends a program that has no answer to SIGQUIT as suddenly as `kill -9` does.
    Quit,
    /// A line that the terminal shows; `[..]` stands for any text.
    Expect(String),
    /// `...`: any number of lines.
    Skip,
}

/// A `rust` block.
#[derive(Debug, PartialEq)]
pub struct Excerpt {
    /// The line in the file of its first line of code, from 1.
    pub line: usize,
    pub code: Vec<String>,
}

pub struct Readme {
    pub path: PathBuf,
    pub steps: Vec<Step>,
    pub excerpts: Vec<Excerpt>,
}

impl Readme {
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(path, &text)
    }

    /// # Errors
    ///
    /// A block that begins with an output line although nothing can run in its terminal yet.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let mut readme = Self { path: path.to_owned(), steps: Vec::new(), excerpts: Vec::new() };
        let mut fence: Option<String> = None;
        let mut heading: Option<String> = None;
        for (event, range) in Parser::new(text).into_offset_iter() {
            let line = 1 + text[..range.start].matches('\n').count();
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    fence = Some(info.to_string())
                }
                Event::End(TagEnd::CodeBlock) => fence = None,
                Event::Start(Tag::Heading { level, .. }) if level <= HeadingLevel::H3 => {
                    heading = Some(String::new());
                }
                Event::End(TagEnd::Heading(_)) => {
                    if let Some(title) = heading.take() {
                        readme.step(line, MAIN_TERMINAL, Action::Heading(title));
                    }
                }
                Event::Text(code) if fence.is_some() => {
                    let info = fence.as_deref().unwrap_or_default();
                    readme.block(line, info, &code)?;
                }
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = heading.as_mut() {
                        heading.push_str(&text);
                    }
                }
                Event::Html(html) => {
                    let command = html.trim().strip_prefix("<!-- curious: ");
                    if let Some(command) = command.and_then(|html| html.strip_suffix(" -->")) {
                        readme.step(line, CURIOUS, Action::Run(command.to_owned()));
                        if let Some(step) = readme.steps.last_mut() {
                            (step.curious, step.ends_block) = (true, true);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(readme)
    }

    fn step(&mut self, line: usize, terminal: &str, action: Action) {
        let (terminal, ends_block) = (terminal.to_owned(), false);
        self.steps.push(Step {
            line,
            terminal,
            action,
            ends_block,
            condition: None,
            curious: false,
        });
    }

    fn block(&mut self, first: usize, info: &str, code: &str) -> Result<()> {
        let (language, rest) = info.split_once(' ').unwrap_or((info, ""));
        match language {
            "console" => {
                let (mut title, mut condition) = (MAIN_TERMINAL, None);
                let mut rest = rest.trim();
                while !rest.is_empty() {
                    let attribute = rest.split_once("=\"").and_then(|(name, behind)| {
                        let (value, behind) = behind.split_once('"')?;
                        rest = behind.trim_start();
                        Some((name, value))
                    });
                    match attribute {
                        Some(("title", value)) => title = value,
                        Some(("if", value)) => condition = Some(Condition::parse(value)),
                        _ => bail!("{}: not title=\"...\", not if=\"...\"", self.at(first - 1)),
                    }
                }
                if condition == Some(None) {
                    bail!("{}: not `rabbitmq >= 4.3` or the like", self.at(first - 1));
                }
                for (index, text) in code.lines().enumerate() {
                    let line = first + index;
                    let action = match text.strip_prefix("$ ") {
                        Some(command) => Action::Run(command.to_owned()),
                        None if text == "^C" => Action::Interrupt,
                        None if text == "^\\" => Action::Quit,
                        None if text == "..." => Action::Skip,
                        None => Action::Expect(text.to_owned()),
                    };
                    let mut earlier = self.steps.iter().filter(|step| step.terminal == title);
                    let idle = !earlier.any(|step| matches!(step.action, Action::Run(_)));
                    if idle && !matches!(action, Action::Run(_)) {
                        bail!("{}: nothing runs in the terminal `{title}` yet", self.at(line));
                    }
                    self.step(line, title, action);
                    if let Some(step) = self.steps.last_mut() {
                        step.condition = condition.flatten();
                    }
                }
                if let Some(step) = self.steps.last_mut() {
                    step.ends_block = true;
                }
            }
            "rust" => self
                .excerpts
                .push(Excerpt { line: first, code: code.lines().map(str::to_owned).collect() }),
            _ => {}
        }
        Ok(())
    }

    /// Whether the page is played with a cluster: it has the command that starts one.
    pub fn wants_nodes(&self) -> bool {
        let starts = |step: &Step| step.action == Action::Run("cargo lab up --nodes 3".to_owned());
        self.steps.iter().any(starts)
    }

    /// How this place is called in an error.
    pub fn at(&self, line: usize) -> String {
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let root = crate::root().canonicalize().unwrap_or_default();
        format!("{}:{line}", path.strip_prefix(root).unwrap_or(&path).display())
    }

    /// Whether every excerpt stands, up to indentation, in a source file below `folder` or in
    /// `common`.
    pub fn check_excerpts(&self, folder: &Path) -> Result<()> {
        let mut sources = Vec::new();
        collect_sources(folder, &mut sources)?;
        collect_sources(&crate::root().join("common"), &mut sources)?;
        for excerpt in &self.excerpts {
            let code: Vec<&str> = excerpt.code.iter().map(|line| line.trim()).collect();
            let stands = |source: &String| {
                let lines: Vec<&str> = source.lines().map(str::trim).collect();
                lines.windows(code.len()).any(|window| window == code)
            };
            if sources.iter().any(stands) {
                continue;
            }
            // Name the first line that stands nowhere, if it is one line's fault.
            let missing = code.iter().position(|line| {
                !sources.iter().any(|source| source.lines().any(|text| text.trim() == *line))
            });
            let line = excerpt.line + missing.unwrap_or(0);
            let text = code.get(missing.unwrap_or(0)).copied().unwrap_or_default();
            bail!("{}: this excerpt is not in the source: {text}", self.at(line));
        }
        Ok(())
    }
}

fn collect_sources(folder: &Path, sources: &mut Vec<String>) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.') || name == "target");
        if path.is_dir() && !hidden {
            collect_sources(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// Whether a line is what the README says; `[..]` in it stands for any text.
pub fn matches(expected: &str, line: &str) -> bool {
    let mut parts = expected.split("[..]");
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{Condition, matches};

    #[test]
    fn conditions() {
        let holds = |text, version| Condition::parse(text).unwrap().holds(version);
        assert!(holds("rabbitmq >= 4.3", (4, 3)));
        assert!(holds("rabbitmq >= 4.3", (4, 10)));
        assert!(!holds("rabbitmq >= 4.3", (3, 13)));
        assert!(holds("rabbitmq < 4.3", (3, 10)));
        assert!(!holds("rabbitmq < 4.3", (4, 3)));
        assert_eq!(Condition::parse("rabbitmq > 4.3"), None);
        assert_eq!(Condition::parse("mysql >= 4.3"), None);
    }

    #[test]
    fn wildcards() {
        assert!(matches("a [..] c", "a b c"));
        assert!(matches("[..]", ""));
        assert!(matches("a[..]", "a and more"));
        assert!(matches("[..]x[..]y", "12x34y"));
        assert!(matches("plain", "plain"));
        assert!(!matches("plain", "plainer"));
        assert!(!matches("a [..] c", "a b d"));
        assert!(!matches("a[..]a", "a"));
    }
}
