//! Every README is played, and every excerpt found in the source. And the player itself: it must
//! notice when a README is wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

use lab::play::{self, INSTANCE, Shown, play};
use lab::progress::Tasks;
use lab::readme::Readme;
use lab::servers::{Instance, Service};
use lab::{lessons, root};
use pulldown_cmark::{Event, Parser, Tag};

use crate::support::{Servers, lab, program};

/// Plays pages in the order in which a reader meets them, one after the other with the same
/// servers, of which these are started first. Then again, as a curious reader who begins each of
/// them anew.
fn pages_are_true(folders: &[&Path], services: &[Service]) {
    let servers = Servers::start(services);
    let mut instance = servers.instance.clone();
    program("send"); // compiled now, not while a line is waited for
    let mut played = 0;
    for (time, folder) in (0..2).flat_map(|time| folders.iter().map(move |folder| (time, folder))) {
        let readme = Readme::read(&folder.join("README.md")).unwrap();
        readme.check_excerpts(folder).unwrap();
        let mut show = |shown: Shown| {
            if let Shown::Line { terminal, text } = shown {
                println!("{terminal} | {text}");
                played += 1;
            }
        };
        instance = play::servers(&readme, &instance, &Tasks::quiet()).unwrap();
        if time > 0 {
            let mut reset = Command::new(lab());
            assert!(reset.arg("reset").env(INSTANCE, &instance.folder).status().unwrap().success());
        }
        let result = play(&readme, &instance, servers.guard(), time > 0, &mut show);
        if result.is_err() {
            show_queues(&instance);
        }
        result.unwrap();
    }
    assert!(played > 50, "only {played} lines");
}

/// What each node of a cluster has to say of its queues, for whoever looks for the cause.
fn show_queues(instance: &Instance) {
    for node in instance.nodes() {
        println!("The queues, as {} has them:", node.name(Service::Rabbitmq));
        let mut list = node.rabbitmqctl().unwrap();
        list.args(["--quiet", "--timeout", "20", "list_queues", "name", "leader", "online"]);
        list.args(["messages_ready", "messages_unacknowledged", "consumers"]);
        let list = list.output().unwrap();
        print!("{}", String::from_utf8_lossy(&[list.stdout, list.stderr].concat()));
    }
}

/// Side by side: pages wait most of the time.
const HALF: usize = 4;

#[test]
fn the_first_pages_are_true() {
    let lessons = lessons().unwrap();
    let lessons = lessons[..HALF].iter().map(|lesson| lesson.as_path());
    pages_are_true(&[root()].into_iter().chain(lessons).collect::<Vec<_>>(), &Service::ALL);
}

#[test]
fn the_later_pages_are_true() {
    later_pages(false);
}

/// Those with a cluster. A step of the test of lesson 10: two clusters at once are too much for a
/// small machine.
pub fn the_pages_with_nodes_are_true() {
    later_pages(true);
}

fn later_pages(nodes: bool) {
    let services = if nodes { &[Service::Mysql][..] } else { &Service::ALL };
    let lessons = lessons().unwrap();
    let wanted =
        |lesson: &&PathBuf| Readme::read(&lesson.join("README.md")).unwrap().wants_nodes() == nodes;
    let lessons = lessons[HALF..].iter().filter(wanted).map(PathBuf::as_path);
    pages_are_true(&lessons.collect::<Vec<_>>(), services);
}

/// GitHub does not show the title of a block: the line above must name the terminal.
#[test]
fn every_terminal_is_named() {
    for folder in lessons().unwrap() {
        let file = folder.join("README.md");
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        for pair in lines.windows(2) {
            let title = pair[1].strip_prefix("```console title=\"");
            if let Some((title, _)) = title.and_then(|title| title.split_once('"')) {
                assert_eq!(pair[0], format!("**{title}**"), "{}", file.display());
            }
        }
    }
}

/// Cargo takes the name of a package, not of its folder.
#[test]
fn every_page_names_its_package() {
    for folder in lessons().unwrap() {
        let text = std::fs::read_to_string(folder.join("README.md")).unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap().split_once('-').unwrap().1;
        let (intro, _) = text.split_once("You will learn").unwrap();
        let words = intro.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!("package in this folder is `{name}`.")), "{folder:?}");
    }
}

/// An excerpt that stops in the middle of a call looks like an error. (The head of a loop does
/// not.)
#[test]
fn excerpts_are_whole() {
    for folder in lessons().unwrap() {
        let readme = Readme::read(&folder.join("README.md")).unwrap();
        for excerpt in &readme.excerpts {
            let code = excerpt.code.join("\n");
            for (open, close) in [('(', ')'), ('[', ']')] {
                let [open, close] = [open, close].map(|bracket| code.matches(bracket).count());
                assert_eq!(open, close, "{}: {code}", readme.at(excerpt.line));
            }
        }
    }
}

/// The minutes of each lesson on the front page: 150 words, or two commands, a minute; and what the
/// programs take, which is a few minutes at most.
#[test]
fn the_front_page_knows_how_long_a_lesson_takes() {
    let front = std::fs::read_to_string(root().join("README.md")).unwrap();
    for folder in lessons().unwrap() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let row = front.lines().find(|line| line.starts_with(&format!("| [{name}]"))).unwrap();
        let mut cells =
            row.split('|').rev().skip(1).map(|cell| cell.trim().parse::<f64>().unwrap());
        let (wanted_do, wanted_read) = (cells.next().unwrap(), cells.next().unwrap());

        let text = std::fs::read_to_string(folder.join("README.md")).unwrap();
        let (mut transcript, mut words, mut commands) = (false, 0, 0);
        for line in text.lines() {
            match line.strip_prefix("```") {
                Some(info) => transcript = info.starts_with("console"),
                None if transcript => {
                    commands += usize::from(line.starts_with("$ ") || line.starts_with('^'));
                }
                None => words += line.split_whitespace().count(),
            }
        }
        let read = words as f64 / 150.0;
        assert!((wanted_read - read).abs() <= 3.0, "{name}: {words} words, {read:.0} minutes");
        let done = commands as f64 / 2.0;
        let programs = wanted_do - done;
        assert!((-2.5..=5.0).contains(&programs), "{name}: {commands} commands, {done} minutes");
    }
}

/// The anchors that GitHub gives to the headings of a page.
fn anchors(text: &str) -> Vec<String> {
    let mut fenced = false;
    let headings = text.lines().filter(|line| {
        fenced ^= line.starts_with("```");
        !fenced && line.starts_with('#')
    });
    let slug = |heading: &str| -> String {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|it| it.is_alphanumeric() || " -_".contains(*it));
        kept.map(|it| if it == ' ' { '-' } else { it }).collect()
    };
    headings.map(slug).collect()
}

#[test]
fn links_lead_to_what_is_there() {
    let pages = ["README", "CONTRIBUTING", "GLOSSARY", "BENCHMARKS", "CHANGELOG"];
    let mut pages: Vec<_> = pages.iter().map(|name| root().join(format!("{name}.md"))).collect();
    pages.extend(lessons().unwrap().iter().map(|folder| folder.join("README.md")));
    let mut links = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for event in Parser::new(&text) {
            let Event::Start(Tag::Link { dest_url: link, .. }) = event else { continue };
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&*link, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            let there = anchor.is_empty()
                || anchors(&std::fs::read_to_string(target).unwrap()).contains(&anchor.to_owned());
            assert!(there, "{}: {link}", page.display());
            links += 1;
        }
    }
    assert!(links > 50, "only {links} links");
}

/// What the player says of this README, whose first line is line 1.
fn played(text: &str) -> String {
    let servers = crate::support::shared();
    let folder = Instance::temporary_folder();
    let guard = lab::guard::Guard::over(crate::support::lab(), &folder).unwrap();
    let readme = match Readme::parse(Path::new("TEST.md"), text) {
        Ok(readme) => readme,
        Err(error) => return format!("{error:#}"),
    };
    match play(&readme, servers, &guard, false, &mut |_| {}) {
        Ok(()) => "true".to_owned(),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn the_player_notices_what_is_wrong() {
    let good = "# T\n\n```console\n$ printf 'one\\ntwo words\\n'\none\ntwo [..]\n```\n";
    assert_eq!(played(good), "true");
    assert_eq!(
        played(&good.replace("two [..]", "two worlds")),
        "TEST.md:6: another line came\n  expected: two worlds\n  came:     two words"
    );
    let more = played(&good.replace("two [..]\n", ""));
    assert_eq!(more, "TEST.md:5: after this line another one came\n  came:     two words");
    let less = played(&good.replace("two [..]\n", "two words\nthree\n"));
    assert_eq!(less, "TEST.md:7: the program ended before this line\n  expected: three");
    let code = played("```console\n$ false\n```\n");
    assert!(code.starts_with("TEST.md:2: the command ended with exit status: 1"), "{code}");
    let error = "```console\n$ echo 'Error: no'; exit 1\nError: no\n```\n";
    assert_eq!(played(error), "true");
    assert!(played(&error.replace("exit 1", "exit 0")).contains("TEST.md:2: the command ended"));
    let some = "```console\n$ seq 9\n1\n...\n7\n...\n```\n";
    assert_eq!(played(some), "true");
    let less = played(&some.replace("7", "10"));
    assert_eq!(less, "TEST.md:5: the program ended before this line\n  expected: 10");
    let nothing = played("text\n\n```console title=\"a\"\nno command\n```\n");
    assert_eq!(nothing, "TEST.md:4: nothing runs in the terminal `a` yet");
}

#[test]
fn terminals_go_on_and_are_interrupted() {
    let readme = "```console title=\"cat\"\n$ sh -c 'trap \"echo bye; exit 0\" INT; echo ready; while :; do sleep 0.1; done'\nready\n```\n\
                  ```console\n$ echo main\nmain\n```\n\
                  ```console title=\"cat\"\n^C\nbye\n```\n";
    assert_eq!(played(readme), "true");
    let wrong = played(&readme.replace("\nbye\n", "\ngoodbye\n"));
    assert_eq!(wrong, "TEST.md:11: another line came\n  expected: goodbye\n  came:     bye");
}

#[test]
fn excerpts_stand_in_the_source() {
    let folder = lessons().unwrap().remove(0);
    let text = "```rust\nlet channel = connection.create_channel().await?;\n```\n";
    let check = |text: &str| {
        let readme = Readme::parse(Path::new("TEST.md"), text).unwrap();
        readme.check_excerpts(&folder).map_err(|error| error.to_string())
    };
    assert_eq!(check(text), Ok(()));
    let error = check(&text.replace("let channel", "let canal")).unwrap_err();
    assert_eq!(
        error,
        "TEST.md:2: this excerpt is not in the source: let canal = connection.create_channel().await?;"
    );
}
