//! What was sent, what arrived, and the difference.

use std::collections::{BTreeMap, BTreeSet};

use lab::progress::Task;

use super::programs::READERS;
use crate::shared::thousands;

/// Lesson 2. A task has a number, and each attempt to send one another number.
#[derive(Default)]
pub struct Tasks {
    /// `new-task` has ended well: the broker has them.
    pub sent: BTreeSet<u64>,
    pub received: BTreeMap<u64, Received>,
}

#[derive(Default)]
pub struct Received {
    /// How often, without `(redelivered)` and with it.
    pub new: u64,
    pub again: u64,
    /// The worker has said so, or it was killed or cut off after it had begun: then the task comes
    /// again, unless the acknowledgement was on its way already.
    pub done: bool,
}

/// Lessons 3 and 4, one exchange.
#[derive(Default)]
pub struct Logs {
    pub sent: BTreeSet<u64>,
    /// What the receiver has received, anew with each new queue.
    pub epochs: Vec<Vec<u64>>,
}

/// Lesson 5. Each time users 1 to n place an order each.
#[derive(Default)]
pub struct Orders {
    pub sent: u64,
    /// How often each of them has done so.
    pub rounds: u64,
    pub known: u64,
}

/// Lesson 6.
#[derive(Default)]
pub struct Likes {
    pub answered: u64,
    /// Perhaps recorded: no answer came, or the database had none for the service.
    pub unsure: u64,
}

/// Lesson 7. A job has a number, and each attempt to submit one another number.
#[derive(Default)]
pub struct Jobs {
    pub sent: BTreeSet<u64>,
    /// How often a worker says that it has done a job.
    pub done: BTreeMap<u64, u64>,
    /// Those that nobody can read.
    pub bad: BTreeSet<u64>,
}

/// Lesson 8.
#[derive(Default)]
pub struct Calls {
    pub sent: u64,
    pub answered: u64,
    pub wrong: Vec<String>,
}

/// Lesson 9. An event has a number, and each attempt to append one another number.
#[derive(Default)]
pub struct Events {
    pub sent: BTreeSet<u64>,
    /// For each of the readers, and each number: how often it has read it at which offset.
    pub read: [BTreeMap<u64, BTreeMap<u64, u64>>; READERS.len()],
}

/// Lesson 11. A mail has a number, and each attempt to submit one another number.
#[derive(Default)]
pub struct Mails {
    pub submitted: BTreeSet<u64>,
    /// How often one came again, and was there already.
    pub known: u64,
}

/// Lesson 10. Neither of its programs is killed: what they know is in their memory.
#[derive(Default)]
pub struct Steady {
    pub confirmed: u64,
    /// Without those that came again.
    pub received: u64,
    pub twice: u64,
    pub missing: u64,
}

#[derive(Default)]
pub struct Tally {
    pub tasks: Tasks,
    pub logs: [Logs; 4],
    pub orders: Orders,
    /// The orders that nobody can store, and that the broker has confirmed.
    pub bad: BTreeSet<u64>,
    /// Those for the consumer in Python.
    pub python: Orders,
    pub likes: Likes,
    pub jobs: Jobs,
    pub calls: Calls,
    pub events: Events,
    pub mails: Mails,
    pub steady: Steady,
    /// What no program of ours should do, whatever is broken.
    pub wrong: Vec<String>,
}

/// A line of the result.
#[derive(Default)]
pub struct Row {
    pub what: &'static str,
    pub sent: u64,
    pub lost: u64,
    pub doubled: u64,
    pub again: Option<u64>,
    /// Which ones were lost or doubled.
    pub which: Vec<String>,
}

impl Row {
    fn new(what: &'static str, sent: u64) -> Self {
        Self { what, sent, ..Self::default() }
    }

    /// So many of this there should be, so many there are.
    fn compare(&mut self, which: &str, expected: u64, found: u64) {
        self.lost += expected.saturating_sub(found);
        self.doubled += found.saturating_sub(expected);
        if expected != found {
            self.which.push(format!("{which}: {found} instead of {expected}"));
        }
    }
}

impl Tally {
    /// For whoever watches.
    pub fn show(&self, task: &Task) {
        let logs: usize = self.logs.iter().map(|logs| logs.sent.len()).sum();
        task.say(&format!(
            "sent {} tasks, {logs} log lines, {} orders, {} likes, {} jobs, {} calls, {} events",
            self.tasks.sent.len(),
            self.orders.sent,
            self.likes.answered,
            self.jobs.sent.len(),
            self.calls.sent,
            self.events.sent.len()
        ));
    }
}

impl Tasks {
    pub fn row(&self) -> Row {
        let mut row = Row::new("02 tasks", self.sent.len() as u64);
        for number in &self.sent {
            if !self.received.get(number).is_some_and(|task| task.done) {
                row.compare(&format!("task {number}"), 1, 0);
            }
        }
        for (number, task) in &self.received {
            if task.new > 1 {
                row.compare(&format!("task {number}, as new"), 1, task.new);
            }
        }
        row.again = Some(self.received.values().map(|task| task.again).sum());
        row
    }
}

impl Logs {
    pub fn row(&self, what: &'static str) -> Row {
        let mut row = Row::new(what, self.sent.len() as u64);
        for epoch in &self.epochs {
            let mut times = BTreeMap::new();
            for number in epoch {
                *times.entry(*number).or_default() += 1;
            }
            let confirmed = || epoch.iter().filter(|number| self.sent.contains(number));
            if let (Some(first), Some(last)) = (confirmed().min(), confirmed().max()) {
                for number in self.sent.range(first..=last) {
                    times.entry(*number).or_default();
                }
            }
            for (number, times) in times {
                row.compare(&format!("{what}, line {number}"), 1, times);
            }
        }
        row
    }
}

impl Orders {
    /// With how many rows the table has for each of the users.
    pub fn row(&self, what: &'static str, users: u64, rows: &[(String, u64)]) -> Row {
        let mut row = Row::new(what, self.sent);
        for (user, count) in rows {
            row.compare(&format!("orders of {user}"), self.rounds, *count);
        }
        let missing = users.saturating_sub(rows.len() as u64);
        row.compare(&format!("orders of {missing} other users"), missing * self.rounds, 0);
        row
    }
}

/// What nobody can store or read, with what was put aside: each of them at least once, and nothing
/// else.
pub fn bad(what: &'static str, sent: &BTreeSet<u64>, dead: &[String]) -> Row {
    let mut row = Row::new(what, sent.len() as u64);
    let mut times = BTreeMap::<u64, u64>::new();
    for body in dead {
        match body.strip_prefix("bad ").and_then(|number| number.parse().ok()) {
            Some(number) => *times.entry(number).or_default() += 1,
            None => row.compare(&format!("put aside: {body}"), 1, 0),
        }
    }
    for number in sent.iter().filter(|number| !times.contains_key(number)) {
        row.compare(&format!("{what}: {number}"), 1, 0);
    }
    row.again = Some(times.into_values().map(|times| times - 1).sum());
    row
}

impl Jobs {
    pub fn row(&self) -> Row {
        let mut row = Row::new("07 jobs", self.sent.len() as u64);
        for number in self.sent.iter().filter(|number| !self.done.contains_key(number)) {
            row.compare(&format!("job {number}"), 1, 0);
        }
        row.again = Some(self.done.values().map(|times| times - 1).sum());
        row
    }
}

impl Calls {
    /// A wrong answer is one that is lost, with one that nobody has asked for.
    pub fn row(&self) -> Row {
        let mut row = Row::new("08 calls", self.sent);
        for wrong in &self.wrong {
            row.compare(wrong, 1, 0);
        }
        row
    }
}

impl Events {
    /// An event has one offset. A reader that was killed may read it there again.
    pub fn row(&self, reader: usize) -> Row {
        let mut row = Row::new(READERS[reader].1, self.sent.len() as u64);
        for number in self.unread(reader) {
            row.compare(&format!("{}: {number}", row.what), 1, 0);
        }
        let read = &self.read[reader];
        for (number, offsets) in read.iter().filter(|(_, offsets)| offsets.len() > 1) {
            row.compare(
                &format!("{}: {number}, at {offsets:?}", row.what),
                1,
                offsets.len() as u64,
            );
        }
        let again = read.values().flat_map(|offsets| offsets.values()).map(|times| times - 1);
        row.again = Some(again.sum());
        row
    }

    pub fn unread(&self, reader: usize) -> impl Iterator<Item = &u64> {
        self.sent.iter().filter(move |number| !self.read[reader].contains_key(number))
    }
}

impl Mails {
    /// With the numbers to which mails were sent.
    pub fn row(&self, sent: Vec<u64>) -> Row {
        let mut row = Row::new("11 mails", self.submitted.len() as u64);
        let mut times: BTreeMap<_, _> = self.submitted.iter().map(|number| (*number, 0)).collect();
        for number in sent {
            *times.entry(number).or_default() += 1;
        }
        for (number, times) in times {
            row.compare(&format!("mails to {number}"), 1, times);
        }
        row.again = Some(self.known);
        row
    }
}

impl Steady {
    pub fn row(&self) -> Row {
        let mut row = Row::new("10 messages", self.confirmed);
        row.compare("messages received", self.confirmed, self.received);
        row.compare("messages missing between others", self.missing, 0);
        row.again = Some(self.twice);
        row
    }
}

impl Likes {
    /// With the likes that are recorded for each product, those that main counts, and those that
    /// admin does.
    pub fn row(&self, counts: &[(u64, u64, u64)]) -> Row {
        let mut row = Row::new("06 likes", self.answered);
        let recorded: u64 = counts.iter().map(|count| count.0).sum();
        let expected = recorded.clamp(self.answered, self.answered + self.unsure);
        row.compare("likes recorded", expected, recorded);
        for (recorded, main, admin) in counts {
            row.compare("likes of a product, in main", *recorded, *main);
            row.compare("likes of a product, in admin", *recorded, *admin);
        }
        row
    }
}

/// The result, as Markdown.
pub fn table(faults: &BTreeMap<&str, u64>, ours: &[Row], others: &[Row]) -> String {
    let mut text = "| fault | times |\n| --- | --: |\n".to_owned();
    for (fault, times) in faults {
        text += &format!("| {fault} | {times} |\n");
    }
    text += &format!("| all | {} |\n\n", faults.values().sum::<u64>());
    text += "| messages | sent | lost | doubled | came again, and known as such |\n";
    text += "| --- | --: | --: | --: | --: |\n";
    let total = |part: fn(&Row) -> u64| ours.iter().map(part).sum();
    let all = Row {
        lost: total(|row| row.lost),
        doubled: total(|row| row.doubled),
        ..Row::new("all", total(|row| row.sent))
    };
    for row in ours.iter().chain([&all]).chain(others) {
        let again = row.again.map_or("-".to_owned(), thousands);
        let [sent, lost, doubled] = [row.sent, row.lost, row.doubled].map(thousands);
        text += &format!("| {} | {sent} | {lost} | {doubled} | {again} |\n", row.what);
    }
    text
}
