//! `cargo lab new`: a lesson as a project of the reader's own, which knows nothing of this course.
//!
//! The programs, `common` and `telemetry` are taken as they are, but for the names in them. A patch
//! lets the programs use `telemetry`, which lessons 1 to 10 do without. What a project needs
//! besides is in `lab/new`: a README, tests, an image, continuous integration.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, process};

use anyhow::{Context, Result, bail, ensure};

use diffy::patch_set::{FileOperation, ParseOptions, PatchSet};

use crate::process::cargo;
use crate::starter::{STARTERS, Starter, compose};
use crate::{find_lessons, package, root, say};

/// Words that no package may have as its name, or that stand for something else in a program.
const TAKEN: &str = "abstract as async await become box break const continue core crate do dyn else \
    enum extern false final fn for gen if impl in let loop macro match mod move mut override priv \
    proc_macro pub ref return self static std struct super support alloc test trait true try type \
    typeof unsafe unsized use virtual where while yield";

/// Makes a project out of a lesson, in a folder that is not there yet, or is empty.
///
/// # Errors
///
/// Nothing has changed then: there is something in the folder, the name is none for a package, or
/// something cannot be written.
pub fn new(folder: &Path, from: &str, name: Option<&str>) -> Result<()> {
    let lesson = find_lessons(&[from.to_owned()])?.remove(0);
    let starter = STARTERS.iter().find(|starter| lesson_is(&lesson, starter.number));
    let starter = starter.context("there is nothing to make of this lesson yet")?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => {
            let full = std::path::absolute(folder)?;
            let last = full.components().next_back().map(|part| part.as_os_str().to_owned());
            last.unwrap_or_default().to_string_lossy().into_owned()
        }
    };
    check_name(&name)?;
    let is_ours = match fs::read_dir(folder) {
        Ok(mut entries) => {
            let taken = entries.next().is_some();
            ensure!(!taken, "{} is there already, and is not an empty folder", folder.display());
            false
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let made = fs::create_dir(folder);
            made.with_context(|| format!("cannot make the folder {}", folder.display()))?;
            true
        }
        Err(error) => bail!("{} is no empty folder: {error}", folder.display()),
    };
    // Whole, and then moved to its place: all of it is there, or nothing.
    let draft = folder.join(format!(".{name}.{}", process::id()));
    let made = make(&draft, &lesson, starter, &name).and_then(|()| move_up(&draft, folder));
    if let Err(error) = made {
        let _ = fs::remove_dir_all(if is_ours { folder } else { &draft });
        return Err(error.context(format!("cannot make {}", folder.display())));
    }
    let from = lesson.file_name().unwrap_or_default().to_string_lossy();
    say!("Created the package {name} in {}, from {from}.", folder.display());
    say!("Go there, and read README.md: it says how to run, test and deploy it.");
    Ok(())
}

/// Moves what is in the draft to the folder around it; nothing, if that fails.
fn move_up(draft: &Path, folder: &Path) -> Result<()> {
    let mut moved = Vec::new();
    let result = (|| {
        for entry in fs::read_dir(draft)? {
            let entry = entry?;
            fs::rename(entry.path(), folder.join(entry.file_name()))?;
            moved.push(folder.join(entry.file_name()));
        }
        fs::remove_dir(draft)
    })();
    if result.is_err() {
        for path in moved {
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
    result.context("cannot move it to its place")
}

fn lesson_is(lesson: &Path, number: &str) -> bool {
    lesson.file_name().is_some_and(|name| name.to_string_lossy().starts_with(number))
}

/// What Cargo takes as the name of a package, and what is not a name in the programs already.
fn check_name(name: &str) -> Result<()> {
    let small = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    ensure!(
        !name.starts_with(|c: char| c.is_ascii_digit())
            && name.split(['-', '_']).all(small)
            && name.len() <= 64,
        "`{name}` cannot be the name of the package: a name begins with a small letter, and has at \
         most 64 small letters and digits, with - or _ between them. --name gives it another one"
    );
    let lock = read(&root().join("Cargo.lock"))?;
    let same = |known: &str| known.replace('-', "_") == name.replace('-', "_");
    let mut known =
        lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    // The lessons' own names are free: nothing of theirs is left.
    let dependency = known.any(|known| same(known) && !is_lesson(known));
    ensure!(
        !dependency && !TAKEN.split_whitespace().any(same),
        "`{name}` is the name of something else in Rust or among the dependencies. --name gives \
         the package another one"
    );
    Ok(())
}

fn is_lesson(name: &str) -> bool {
    crate::lessons().is_ok_and(|lessons| lessons.iter().any(|lesson| package(lesson) == name))
}

fn make(draft: &Path, lesson: &Path, starter: &Starter, name: &str) -> Result<()> {
    let names = Names { old: package(lesson), new: name };
    for part in ["src", "static"] {
        copy(&lesson.join(part), &draft.join(part), &names)?;
    }
    patch(draft, lesson, starter, &names)?;
    for member in ["common", "telemetry"] {
        let (from, to) = (root().join(member), draft.join(member));
        copy(&from.join("src"), &to.join("src"), &names)?;
        copy(&from.join("clippy.toml"), &to.join("clippy.toml"), &names)?;
        write(&to.join("Cargo.toml"), &without_course(&read(&from.join("Cargo.toml"))?)?)?;
    }
    let new = root().join("lab/new");
    copy(&new.join("support.rs"), &draft.join("tests/support/mod.rs"), &names)?;
    let test = format!("tests/{}.rs", starter.number);
    copy(&new.join(test), &draft.join("tests/delivery.rs"), &names)?;

    write(&draft.join("Cargo.toml"), &manifest(&read(&lesson.join("Cargo.toml"))?, &names)?)?;
    write(&draft.join("README.md"), &readme(draft, starter, name)?)?;
    write(&draft.join("compose.yaml"), &compose(starter, name)?)?;
    let dockerfile = read(&new.join("Dockerfile"))?;
    // Each project has a cache of its own, though another one may have the same name.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let cache = format!("{name}-{:x}", since.as_millis());
    let dockerfile = dockerfile.replace("{cache}", &cache);
    write(&draft.join("Dockerfile"), &dockerfile.replace("{main}", starter.services[0].program))?;
    for (file, text) in [
        (".gitignore", "/target\n".to_owned()),
        (".dockerignore", "target\n.git\n".to_owned()),
        ("rustfmt.toml", read(&root().join("rustfmt.toml"))?),
        ("LICENSE", read(&root().join("LICENSE"))?),
        (".github/workflows/test.yml", read(&new.join("test.yml"))?),
    ] {
        write(&draft.join(file), &text)?;
    }
    // Another name may belong to another place among the imports.
    let output = cargo().current_dir(draft).args(["fmt", "--all"]).output();
    let output = output.context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "cargo cannot format it; is rustfmt there? (rustup component add rustfmt) {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    // The same versions, without what this package does not need.
    write(&draft.join("Cargo.lock"), &read(&root().join("Cargo.lock"))?)?;
    let mut update = cargo();
    update.current_dir(draft).args(["update", "--workspace", "--offline", "--quiet"]);
    let output = update.output().context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo does not take it: {}", said.trim());
    Ok(())
}

/// Makes services of the programs of a lesson.
fn patch(draft: &Path, lesson: &Path, starter: &Starter, names: &Names) -> Result<()> {
    let file = root().join(format!("lab/new/telemetry/{}.patch", starter.number));
    let text = if file.exists() { read(&file)? } else { return Ok(()) };
    for patch in PatchSet::parse(&text, ParseOptions::unidiff()) {
        let patch = patch.with_context(|| format!("cannot read {}", file.display()))?;
        let (FileOperation::Modify { modified, .. }, Some(hunks)) =
            (patch.operation(), patch.patch().as_text())
        else {
            bail!("{} does more than to change files", file.display());
        };
        let path = modified.trim_start_matches("b/");
        let lesson = lesson.join(path);
        let patched = diffy::apply(&read(&lesson)?, hunks).with_context(|| {
            let lesson = lesson.display();
            format!("{lesson} is not as the course has it; `git checkout {lesson}` brings it back")
        })?;
        write(&draft.join(path), &names.replace(&patched))?;
    }
    Ok(())
}

struct Names<'a> {
    old: &'a str,
    new: &'a str,
}

impl Names<'_> {
    /// A file of the course as a file of the project.
    fn replace(&self, text: &str) -> String {
        let [old, new] = [self.old, self.new].map(|name| name.replace('-', "_"));
        text.replace(&format!("use {old}::"), &format!("use {new}::"))
            .replace(&format!("cargo run -p {} ", self.old), "cargo run ")
            .replace(
                "Is it running there? `cargo lab up`",
                "Is it running there? `docker compose up -d --wait mysql`",
            )
            .replace("`cargo lab up`", "`docker compose up -d --wait rabbitmq`")
    }
}

/// Copies a file, or a folder with all that is in it, if it is there.
fn copy(from: &Path, to: &Path, names: &Names) -> Result<()> {
    if from.is_dir() {
        for entry in
            fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?
        {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), names)?;
        }
    } else if from.exists() {
        write(to, &names.replace(&read(from)?))?;
    }
    Ok(())
}

pub(crate) fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(file, text))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn manifest(text: &str, names: &Names) -> Result<String> {
    let name = |name| format!("name = \"{name}\"\n");
    let text =
        text.replace(&name(names.old), &name(names.new)).replace("{ path = \"../", "{ path = \"");
    // A lesson that does without has it now.
    let text = match text.contains("\ntelemetry = ") {
        true => text,
        false => text.replacen("\ntokio = ", "\ntelemetry = { path = \"telemetry\" }\ntokio = ", 1),
    };
    let (before, rest) = text.split_once("\"Lesson ").context("no description")?;
    let (_, description) = rest.split_once(": ").context("no description")?;
    let text = format!("{before}\"{description}");
    let root = read(&root().join("Cargo.toml"))?;
    let (_, profiles) = root.split_once("\n\n").context("no profiles")?;
    Ok(format!("{text}\n[workspace]\nmembers = [\"common\", \"telemetry\"]\n\n{profiles}"))
}

/// The manifest of a member without the features that only the way through the course needs.
fn without_course(text: &str) -> Result<String> {
    let (before, rest) = text.split_once("# Features that ").context("no features")?;
    let (_, lints) = rest.split_once("[lints.rust]").context("no lints")?;
    Ok(format!("{before}[lints.rust]{lints}"))
}

fn readme(draft: &Path, starter: &Starter, name: &str) -> Result<String> {
    let new = root().join("lab/new");
    let mut programs = Vec::new();
    for entry in fs::read_dir(draft.join("src/bin"))? {
        let path = entry?.path();
        programs.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path));
    }
    programs.sort();
    let row = |(program, path): &(String, PathBuf)| -> Result<String> {
        Ok(format!("| [{program}](src/bin/{program}.rs) | {} |", purpose(&read(path)?)))
    };
    let rows = programs.iter().map(row).collect::<Result<Vec<_>>>()?;
    let manifest = read(&draft.join("Cargo.toml"))?;
    let description =
        manifest.split_once("description = \"").and_then(|(_, rest)| rest.split_once('"'));
    let description = description.map_or("", |(description, _)| description);
    let mysql = starter.mysql;
    let streams = starter.number == "09";
    let variables = match mysql {
        true => "| `MYSQL_URL` | `mysql://guest:guest@localhost:3306/test` | MySQL or MariaDB |\n",
        false if streams => {
            "| `STREAM_URL` | `rabbitmq-stream://guest:guest@localhost:5552/%2f` | the same RabbitMQ, \
             for the programs that speak the stream protocol |\n"
        }
        false => "",
    };
    // Each reader of a stream would read all of it, and share one file for the offset.
    let scale = match streams {
        true => String::new(),
        false => format!(" --scale {}=2", starter.services[0].program),
    };
    let mut text = read(&new.join("README.md"))?;
    for (mark, value) in [
        ("{name}", name),
        ("{description}", &sentence(description)),
        ("{programs}", &rows.join("\n")),
        ("{servers}", if mysql { "RabbitMQ and MySQL" } else { "RabbitMQ" }),
        ("{services}", if mysql { "rabbitmq mysql" } else { "rabbitmq" }),
        ("{run}", &read(&new.join(format!("run/{}.md", starter.number)))?),
        ("{variables}", variables),
        ("{mysql_url}", if mysql { " and `MYSQL_URL`" } else { "" }),
        ("{scale}", &scale),
        ("{main}", starter.services[0].program),
    ] {
        text = text.replace(mark, value);
    }
    Ok(text)
}

/// The first sentence of a program's header.
fn purpose(program: &str) -> String {
    let lines = program.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let text: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let text = text.join(" ");
    text.split_once(". ").map_or(&*text, |(first, _)| first).trim_end_matches('.').to_owned()
}

/// With a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    format!("{}.", first.chain(letters).collect::<String>())
}
