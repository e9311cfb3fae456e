use std::collections::BTreeSet;
use std::string::ToString;
use std::vec;

use super::keys::{MISSING, Support, TAKEN, WITHOUT_EFFECT, support};
use super::*;
use alloc::format;
use proptest::prelude::*;

fn only(text: &str) -> Value {
    let mut all = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0).value
}

fn message(text: &[u8]) -> String {
    parse(text).expect_err("it is refused").to_string()
}

#[test]
fn a_file_of_xls_is_understood() {
    let text = b"# a guest\n\nname = \"web\"\nmemory=512 ; vcpus = 0x2\n\
        disk = [ 'phy:disk0,xvda,w',  # the first\n  \"disk1,raw,xvdb,r\", ]\nextra = 'a=\"b\"'\r\nvif += [ '' ]";
    let all = parse(text).unwrap();
    let lines: Vec<_> = all.iter().map(|one| (one.line, one.key.as_str(), one.adds)).collect();
    assert_eq!(
        lines,
        [
            (3, "name", false),
            (4, "memory", false),
            (4, "vcpus", false),
            (5, "disk", false),
            (7, "extra", false),
            (8, "vif", true)
        ]
    );
    assert_eq!((&all[0].value, &all[2].value), (&Value::Text("web".into()), &Value::Number(2)));
    let disks = [(5, "phy:disk0,xvda,w"), (6, "disk1,raw,xvdb,r")];
    assert_eq!(all[3].value, Value::List(disks.map(|(line, disk)| (line, Value::Text(disk.into()))).into()));
    assert_eq!(all[4].value, Value::Text("a=\"b\"".into()));
}

#[test]
fn values_are_texts_numbers_and_lists() {
    assert_eq!(only("a = 'it\\'s \\x41\\\\\\n'"), Value::Text("it's A\\\n".into()));
    assert_eq!(only("a = 010"), Value::Number(8));
    assert_eq!(only("a = 0"), Value::Number(0));
    assert_eq!(only("a=[]"), Value::List(vec![]));
    assert_eq!(
        only("a=[[1],\n2]"),
        Value::List(vec![(1, Value::List(vec![(1, Value::Number(1))])), (2, Value::Number(2))])
    );
    assert_eq!(parse(b""), Ok(vec![]));
    assert_eq!(parse(b" ;; # nothing\n"), Ok(vec![]));
}

#[test]
fn mistakes_are_told_with_their_line() {
    for (text, expected) in [
        (&b"memory = "[..], "line 1: a value is expected, not the end of the line"),
        (b"\nname = web", "line 2: a text stands in quotes, as in name = \"web\""),
        (b"name \"web\"", "line 1: behind a key, = or += is expected"),
        (b"name", "line 1: behind a key, = or += is expected"),
        (b"= 5", "line 1: a key is expected, not '='"),
        (b"a = 5 6", "line 1: behind a value, the end of the line is expected, not '6'"),
        (b"a = 12x", "line 1: that is no number"),
        (b"a = 99999999999999999999", "line 1: that is no number"),
        (b"a = 'b\nc'", "line 1: a text is not closed"),
        (b"a = 'b\\q'", "line 1: no character is written so, with a backslash"),
        (b"a = 'b\\x0'", "line 1: no character is written so, with a backslash"),
        (b"a = 'b\\x00'", "line 1: no character is written so, with a backslash"),
        (b"\na = [ 'x',\n\n", "line 2: the list that begins here is not closed"),
        (b"a = [ 1\n 2 ]", "line 2: in a list, a comma or ] is expected, not '2'"),
        (b"a = [ , ]", "line 1: a value is expected, not ','"),
        (b"a = [[[[[1]]]]]", "line 1: lists lie more than 4 deep in each other"),
        (b"a = 1\n\x7fELF\x02\x01\0", "line 2: byte 0x7f in column 1 is no text"),
        (b"a = '\xff'", "line 1: byte 0xff in column 6 is no text"),
    ] {
        assert_eq!(message(text), expected, "{}", text.escape_ascii());
    }
    let long = format!("a = 1\nb = '{}'", "x".repeat(5000));
    assert_eq!(message(long.as_bytes()), "line 2: the line has 5006 bytes; 4096 are the most");
    let large = vec![b'\n'; LARGEST_FILE + 1];
    assert_eq!(message(&large), "line 1: the file has 262145 bytes; 262144 are the most");
}

#[test]
fn every_key_is_in_one_table_only() {
    let all: Vec<_> = [TAKEN, WITHOUT_EFFECT, MISSING].concat();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    assert_eq!(support("memory"), Some(Support::Taken));
    assert_eq!(support("vncpasswd"), Some(Support::WithoutEffect));
    assert_eq!(support("pci"), Some(Support::Taken));
    assert_eq!(support("pci_seize"), Some(Support::Missing));
    assert_eq!(support("memroy"), None);
}

#[test]
fn every_key_is_in_the_documentation() {
    let text = include_str!("../../../docs/administration.md");
    let table = text.split("## `xl.cfg`'s keys").nth(1).expect("the section is there");
    for (keys, word) in [(TAKEN, ""), (WITHOUT_EFFECT, "a warning"), (MISSING, "not there yet")] {
        for key in keys {
            let row = table.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{key}`")));
            let row = row.unwrap_or_else(|| panic!("{key} is not in the table"));
            assert!(row.contains(word), "{key}: {row}");
        }
    }
}

/// A value as it is written, by the rules of the language.
fn written(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => {
            let inner = text.chars().map(|character| match character {
                '\n' => "\\n".to_string(),
                '"' => "\\\"".to_string(),
                '\\' => "\\\\".to_string(),
                control if control.is_ascii_control() => format!("\\x{:02x}", u32::from(control)),
                other => other.to_string(),
            });
            format!("\"{}\"", inner.collect::<String>())
        }
        Value::List(values) => {
            let inner: Vec<_> = values.iter().map(|(_, value)| written(value)).collect();
            format!("[{}]", inner.join(", "))
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let text = "[ -~\n\t\u{1}äπ]{0,20}".prop_map(Value::Text);
    let single = prop_oneof![text, any::<u64>().prop_map(Value::Number)];
    let list = |value: BoxedStrategy<Value>| {
        prop::collection::vec(value.prop_map(|value| (1, value)), 0..4).prop_map(Value::List)
    };
    let nested = list(single.clone().boxed());
    prop_oneof![single, list(nested.boxed())]
}

proptest! {
    #[test]
    fn what_is_written_reads_back(key in "[a-z_][a-z0-9_]{0,12}", value in any_value()) {
        let text = format!("{key} = {}", written(&value));
        prop_assert_eq!(only(&text), value);
    }

    #[test]
    fn any_bytes_end_with_a_result(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn almost_right_files_end_with_a_result_and_a_line_that_is_there(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "name", " ", "=", "+=", "\"", "'", "[", "]", ",", ";", "\n", "#", "\\", "\\x4", "5", "0x", "web",
        ]), 0..40)
    ) {
        let text = pieces.concat();
        if let Err(error) = parse(text.as_bytes()) {
            prop_assert!((1..=1 + text.matches('\n').count()).contains(&(error.line as usize)));
        }
    }
}
