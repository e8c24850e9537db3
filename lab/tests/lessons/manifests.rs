//! The files that are not programs: manifests, line lengths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use lab::process::cargo;
use lab::{lessons, package, root};
use serde_json::Value;

use crate::shared::speeds;

fn output(arguments: &[&str]) -> String {
    let output = cargo().current_dir(root()).args(arguments).arg("--offline").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A copy of a lesson builds as the course does, and nothing is compiled twice.
#[test]
fn all_manifests_name_the_same_versions() {
    let metadata = output(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let mut named: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            named.entry(name).or_default().insert(dependency["req"].to_string());
        }
    }
    let different: Vec<_> = named.iter().filter(|(_, versions)| versions.len() > 1).collect();
    assert!(different.is_empty(), "{different:#?}");
}

/// From lesson to lesson a dependency keeps its features: cargo compiles it once.
///
/// But for lesson 9: its client gives rustls a second provider, and tokio all features. Cargo
/// compiles these again, and what is built on them, lapin too.
#[test]
fn no_dependency_is_compiled_twice_on_the_way_through_the_course() {
    let mut built: BTreeMap<String, BTreeMap<BTreeSet<String>, Vec<String>>> = BTreeMap::new();
    for lesson in lessons().unwrap() {
        let lesson = package(&lesson);
        if lesson == "streams" {
            continue;
        }
        let features = features(lesson, "normal,build");
        for (package, enabled) in features {
            let builds = built.entry(package).or_default();
            builds.entry(enabled).or_default().push(lesson.to_owned());
        }
    }
    assert!(built.len() > 100, "only {} packages", built.len());
    let twice: Vec<_> = built.iter().filter(|(_, builds)| builds.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:#?}");
}

/// lapin and what is below it: the tests take a minute of one core more if they compile it anew.
#[test]
fn the_tests_compile_what_lesson_1_does() {
    let (lesson, tests) = (features("hello", "normal,build"), features("lab", "normal,build,dev"));
    assert!(lesson.len() > 50, "only {} packages", lesson.len());
    for (package, enabled) in lesson.iter().filter(|(package, _)| tests.contains_key(*package)) {
        assert_eq!(enabled, &tests[package], "features of {package}");
    }
}

/// The packages that one needs, and the features of each.
fn features(package: &str, edges: &str) -> BTreeMap<String, BTreeSet<String>> {
    let tree = ["tree", "--package", package, "--edges", edges, "--prefix", "none"];
    let tree = output(&[&tree[..], &["--no-dedupe", "--format", "{p}|{f}"]].concat());
    let mut features: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (package, enabled) in tree.lines().filter_map(|line| line.split_once('|')) {
        features.entry(package.to_owned()).or_default().insert(enabled.to_owned());
    }
    features
}

/// The speeds on the front page are those that were measured.
#[test]
fn the_front_page_says_what_the_benchmarks_say() {
    let [readme, benchmarks] =
        ["README.md", "BENCHMARKS.md"].map(|page| fs::read_to_string(root().join(page)).unwrap());
    assert_eq!(speeds::put(&readme, &benchmarks).unwrap(), readme);
    let other = "| `send` | 12.4 | the same with pika (Python) | 150 | 11.98 |";
    let row = "\n| `send`, from its start to its end | 11.98 |  |  |  |  |\n";
    assert!(speeds::put(&readme, other).unwrap().contains(row));
}

/// 100 characters, as in the code: Markdown but for transcripts, tables and links, and comments.
#[test]
fn lines_are_short() {
    let mut long = Vec::new();
    look(root(), &mut long);
    assert!(long.is_empty(), "{} lines:\n{}", long.len(), long.join("\n"));
}

fn look(folder: &Path, long: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            look(&path, long);
        }
        let rust = name.ends_with(".rs");
        if !rust && !name.ends_with(".md") {
            continue;
        }
        let mut fence = None;
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if let Some(info) = line.trim_start().strip_prefix("```") {
                fence = if fence.is_some() { None } else { Some(info.to_owned()) };
            }
            let transcript = fence.as_ref().is_some_and(|info| info.starts_with("console"));
            let exempt = if rust {
                !line.trim_start().starts_with("//")
            } else {
                transcript
                    || line.starts_with('|')
                    || line.starts_with("<!--")
                    || !line.trim().contains(' ')
            };
            if line.chars().count() > 100 && !exempt {
                long.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
}
