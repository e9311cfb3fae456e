//! What a command answers: for people as text, for programs as JSON, both from the same facts.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hypercall_abi::Errno;
use serde_json::{Map, Value, json};

use super::output::table;
use crate::bench::BenchError;
use crate::store;
use crate::toolstack::{AdjustError, CreateError, FileError, PinError, PlugError};

/// Status of a command that did what it should.
pub const SUCCEEDED: u32 = 0;
/// Status of a command that failed.
pub const FAILED: u32 = 1;
/// Status of a line that is no command.
pub const MISUSED: u32 = 2;

/// What a command answers.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    /// For people; ends with a line break unless it is empty.
    pub text: String,
    /// For programs.
    pub json: Value,
    /// What was passed over.
    pub warnings: Vec<String>,
    /// Not zero if a guest's command failed.
    pub status: u32,
}

impl Answer {
    /// Both forms.
    pub fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: text.into(), json, ..Self::default() }
    }

    /// Lines of text, which are a list for programs.
    pub fn lines(lines: Vec<String>) -> Self {
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        Self::new(text, json!({ "lines": lines }))
    }

    /// The one line for programs.
    pub fn line(&self, command: &str) -> String {
        let mut object = json!({ "command": command, "status": self.status, "result": self.json });
        if !self.warnings.is_empty() {
            object["warnings"] = json!(self.warnings);
        }
        object.to_string()
    }
}

/// Why a command failed.
#[derive(Debug, PartialEq)]
pub struct Failure {
    /// The status.
    pub status: u32,
    /// Of what kind the reason is: a word that does not change.
    pub kind: &'static str,
    /// The reason in words.
    pub message: String,
    /// The numbers in it.
    pub details: Value,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { status: FAILED, kind, message: message.into(), details: Value::Null }
    }

    /// A line that is no command.
    pub fn misused(message: &str) -> Self {
        Self { status: MISUSED, ..Self::new("usage", message) }
    }

    /// There is no guest of this name or number.
    pub fn no_guest(name: &str) -> Self {
        Self::new("no-guest", format!("there is no guest {name:?}"))
    }

    /// The one line for programs.
    pub fn line(&self, command: &str) -> String {
        let mut error = json!({ "kind": self.kind, "message": self.message });
        if !self.details.is_null() {
            error["details"] = self.details.clone();
        }
        json!({ "command": command, "status": self.status, "error": error }).to_string()
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::new("hypervisor", errno.to_string())
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::new("store", error.to_string())
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        Self::new("bench", error.to_string())
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        let details = json!({ "file": error.file, "line": error.line });
        Self { details, ..Self::new("configuration", error.to_string()) }
    }
}

impl From<AdjustError> for Failure {
    fn from(error: AdjustError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<PlugError> for Failure {
    fn from(error: PlugError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<PinError> for Failure {
    fn from(error: PinError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        let details = match &error {
            CreateError::Memory(shortage) => json!({
                "needed_mib": shortage.needed,
                "free_mib": shortage.free,
                "claimed_mib": shortage.claimed,
                "held_by": shortage.held.iter().map(|(domain, mib)| json!({ "domain": domain.0, "mib": mib })).collect::<Vec<_>>(),
            }),
            _ => Value::Null,
        };
        Self { details, ..Self::new(error.kind(), error.to_string()) }
    }
}

/// Rows of facts: a table for people, a list of objects for programs.
#[derive(Debug, Default, PartialEq)]
pub struct Listing {
    /// The head of each column, and the key of its fact. One without a head is for programs only.
    columns: Vec<(&'static str, &'static str)>,
    rows: Vec<Vec<Value>>,
    /// Where people see a second table begin, and how many of the first columns it repeats.
    second: Option<(usize, usize)>,
}

impl Listing {
    /// A table of these columns: the head and the key of each.
    pub fn new(columns: &[(&'static str, &'static str)]) -> Self {
        Self { columns: columns.to_vec(), ..Self::default() }
    }

    /// Adds a row. What is missing at its end stays empty.
    pub fn push(&mut self, row: Vec<Value>) {
        self.rows.push(row);
    }

    /// Shows people the columns from `first` on in a table of their own, behind the first `repeated` ones.
    pub fn split(&mut self, first: usize, repeated: usize) {
        self.second = Some((first, repeated));
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows as they are shown, the head first.
    pub fn cells(&self) -> Vec<Vec<String>> {
        self.cells_of(|_| true)
    }

    /// The cells of those columns that have a head and are wanted.
    fn cells_of(&self, wanted: impl Fn(usize) -> bool) -> Vec<Vec<String>> {
        let has_head = |place: usize| self.columns.get(place).is_some_and(|(head, _)| !head.is_empty());
        let is_shown = |place: usize| wanted(place) && has_head(place);
        let head = self.columns.iter().enumerate().filter(|(place, _)| is_shown(*place));
        let head = head.map(|(_, (head, _))| (*head).to_owned()).collect();
        let cells = |row: &Vec<Value>| {
            let cells = row.iter().enumerate().filter(|(place, _)| is_shown(*place));
            cells.map(|(_, cell)| shown(cell)).collect()
        };
        core::iter::once(head).chain(self.rows.iter().map(cells)).collect()
    }

    /// For people.
    fn text(&self) -> String {
        let Some((first, repeated)) = self.second else { return table(&self.cells()) };
        let (above, mut below) =
            (self.cells_of(|place| place < first), self.cells_of(|place| place < repeated || place >= first));
        below.retain(|row| row.len() > repeated);
        match below.len() {
            0 | 1 => table(&above),
            _ => format!("{}\n{}", table(&above), table(&below)),
        }
    }

    /// Both forms.
    pub fn answer(&self) -> Answer {
        let object = |row: &Vec<Value>| {
            let facts =
                self.columns.iter().zip(row).map(|((_, key), fact)| ((*key).to_owned(), fact.clone()));
            Value::Object(facts.collect::<Map<_, _>>())
        };
        Answer::new(self.text(), Value::Array(self.rows.iter().map(object).collect()))
    }
}

/// A fact without quotes; none is a dash.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_line_of_json() {
        let answer =
            Answer { warnings: ["careful".into()].into(), ..Answer::new("x\n", json!({ "a": "b\n" })) };
        assert_eq!(
            answer.line("list"),
            r#"{"command":"list","result":{"a":"b\n"},"status":0,"warnings":["careful"]}"#
        );
        assert_eq!(
            Failure::no_guest("web").line("pause"),
            r#"{"command":"pause","error":{"kind":"no-guest","message":"there is no guest \"web\""},"status":1}"#
        );
        assert_eq!(Failure::misused("usage: x").status, MISUSED);
    }

    #[test]
    fn a_listing_is_a_table_and_a_list_of_objects() {
        let mut listing = Listing::new(&[("Name", "name"), ("ID", "id"), ("More", "more")]);
        listing.push([json!("web"), json!(3)].into());
        listing.push([json!("b"), Value::Null, json!("x")].into());
        let answer = listing.answer();
        assert_eq!(answer.text, "Name  ID  More\nweb   3\nb     -   x\n");
        assert_eq!(
            answer.json,
            json!([{ "name": "web", "id": 3 }, { "name": "b", "id": null, "more": "x" }])
        );
    }

    #[test]
    fn a_listing_in_two_tables_is_one_list_for_programs() {
        let mut listing = Listing::new(&[("Name", "name"), ("A", "a"), ("B", "b"), ("", "c"), ("D", "d")]);
        listing.split(2, 1);
        listing.push([json!("web"), json!(1), json!(2), json!(3), json!(4)].into());
        listing.push([json!("b"), json!(5)].into());
        let answer = listing.answer();
        assert_eq!(answer.text, "Name  A\nweb   1\nb     5\n\nName  B  D\nweb   2  4\n");
        assert_eq!(answer.json[0], json!({ "name": "web", "a": 1, "b": 2, "c": 3, "d": 4 }));
    }

    #[test]
    fn shortages_carry_their_numbers() {
        use crate::toolstack::Shortage;
        let held = [(hypercall_abi::DomainId(7), 64)].into();
        let failure =
            Failure::from(CreateError::Memory(Shortage { needed: 422, free: 398, claimed: 0, held }));
        assert_eq!(failure.kind, "memory");
        assert_eq!(
            failure.details,
            json!({ "needed_mib": 422, "free_mib": 398, "claimed_mib": 0, "held_by": [{ "domain": 7, "mib": 64 }] })
        );
    }
}
