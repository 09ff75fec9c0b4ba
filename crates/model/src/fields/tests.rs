//! Fields beside a map of the same, and what is written of them.

use proptest::prelude::*;

use super::*;

/// The fields of these lines, each `name: value`, as they would be read with the white space and the line ends given.
fn read(lines: &[(&str, &str, &str)]) -> Fields {
    let mut head = b"GET / HTTP/1.1\r\n".to_vec();
    let mut places = Vec::new();
    for (name, value, shape) in lines {
        let (colon, end) = shape.split_once('|').expect("a shape");
        let name_at = head.len();
        head.extend_from_slice(name.as_bytes());
        let name_end = head.len();
        head.extend_from_slice(colon.as_bytes());
        let value_at = head.len();
        head.extend_from_slice(value.as_bytes());
        places.push((name_at..name_end, value_at..head.len()));
        head.extend_from_slice(end.as_bytes());
    }
    let mut found = Lines::default();
    assert!(places.into_iter().all(|(name, value)| found.keep(&head, name, value)));
    Fields::of_lines(&head, found)
}

/// What is written of these fields, without those of this name.
fn check(fields: &Fields, left_out: &str, expected: &str) {
    let mut out = Vec::new();
    fields.write(&mut out, |name, _| name != *left_out);
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn lines_are_written_as_one_would_write_them_whatever_they_came_as() {
    let fields = read(&[
        ("Host", "a", ": |\r\n"),
        ("X-Odd", "b", ":\t | \r\n"),
        ("x", "", ":|\r\n"),
        ("Y", "c", ": |\n"),
    ]);
    check(&fields, "", "host: a\r\nx-odd: b\r\nx: \r\ny: c\r\n");
    check(&fields, "x-odd", "host: a\r\nx: \r\ny: c\r\n");
    assert_eq!(fields.get("x-odd"), Some(Value(b"b")));
}

#[test]
fn what_is_said_anew_stands_where_the_first_stood() {
    let mut fields =
        read(&[("a", "1", ": |\r\n"), ("b", "2", ": |\r\n"), ("a", "3", ": |\r\n"), ("c", "4", ": |\r\n")]);
    fields.insert("a", HeaderValue::from_static("5"));
    fields.append("b", RequestId(10));
    check(&fields, "", "a: 5\r\nb: 2\r\nc: 4\r\nb: 0000000000000000000000000000000a\r\n");
    fields.remove("b");
    fields.insert("d", 7);
    check(&fields, "c", "a: 5\r\nd: 7\r\n");
}

#[test]
fn eight_bytes_at_once_become_what_each_becomes() {
    for byte in 0..=u8::MAX {
        for place in 0..8 {
            let mut word = *b"A-[@z`Z{";
            word[place] = byte;
            for count in 1..=8 {
                let mut expected = word;
                expected[..count].make_ascii_lowercase();
                assert_eq!(lowered(word, count), expected, "{count} of {word:?}");
            }
        }
    }
}

#[test]
fn a_name_becomes_lower_case_and_nothing_behind_it_does() {
    for length in 0..=20 {
        for behind in 0..=10 {
            let mut text = b"ABCdEFGHIJ-LMNOPQRSTUVWXYZABCDEF"[..length + behind].to_vec();
            let mut expected = text.clone();
            expected[..length].make_ascii_lowercase();
            lower(&mut text, length);
            assert_eq!(text, expected, "{length} of {}", length + behind);
        }
    }
}

#[test]
#[should_panic(expected = "is no name")]
fn a_name_that_could_end_its_line_is_not_said() {
    Fields::default().append("a: b\r\nc", 1);
}

#[test]
fn a_name_that_is_found_at_once_is_the_one_that_it_would_be_by_its_letters() {
    let names =
        "server date content-type content-length last-modified etag cache-control vary x-other cookie";
    for name in names.split_whitespace() {
        assert_eq!(Name(name.as_bytes()).header(), HeaderName::from_bytes(name.as_bytes()).unwrap());
    }
}

#[test]
fn order_counts_between_fields_of_one_name_alone() {
    let of = |lines: &[(&str, &str)]| {
        let mut fields = Fields::default();
        lines.iter().for_each(|(name, value)| fields.append(*name, HeaderValue::from_str(value).unwrap()));
        fields
    };
    assert_eq!(of(&[("a", "1"), ("b", "2")]), of(&[("b", "2"), ("a", "1")]));
    assert_ne!(of(&[("a", "1"), ("a", "2")]), of(&[("a", "2"), ("a", "1")]));
    assert_ne!(of(&[("a", "1")]), of(&[("a", "1"), ("a", "1")]));
}

#[derive(Clone, Debug)]
enum Change {
    Append(String, String),
    Insert(String, String),
    Remove(String),
}

fn change() -> impl Strategy<Value = Change> {
    let (name, value) = ("[abc]|x-[ab]|host", "[a-z\u{e9}]{0,3}");
    prop_oneof![
        (name, value).prop_map(|(name, value)| Change::Append(name, value)),
        (name, value).prop_map(|(name, value)| Change::Insert(name, value)),
        name.prop_map(Change::Remove),
    ]
}

proptest! {
    #[test]
    fn fields_hold_what_a_map_would(changes in prop::collection::vec(change(), 0..20)) {
        let (mut fields, mut map) = (Fields::default(), HeaderMap::new());
        let of = |name: &str, value: &str| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        };
        for change in &changes {
            match change {
                Change::Append(name, value) => {
                    let (name, value) = of(name, value);
                    fields.append(&name, &value);
                    map.append(name, value);
                }
                Change::Insert(name, value) => {
                    let (name, value) = of(name, value);
                    fields.insert(&name, &value);
                    map.insert(name, value);
                }
                Change::Remove(name) => {
                    fields.remove(name.as_str());
                    map.remove(name.as_str());
                }
            }
        }
        prop_assert_eq!(fields.len(), map.len());
        for name in ["a", "b", "c", "x-a", "x-b", "host"] {
            let values: Vec<_> = map.get_all(name).iter().map(Value::from).collect();
            prop_assert_eq!(fields.get(name), values.first().copied());
            prop_assert_eq!(fields.get_all(name).collect::<Vec<_>>(), values.clone());
            prop_assert!(fields.get_all(name).rev().eq(values.into_iter().rev()));
            prop_assert_eq!(fields.contains_key(name), map.contains_key(name));
        }
        prop_assert_eq!(&fields, &Fields::from(&map));
        prop_assert_eq!(&fields.compact(), &fields);
        prop_assert!(fields.compact().bytes() <= fields.bytes());
        prop_assert_eq!(fields.into_map(), map);
    }
}

#[test]
fn bytes_are_a_value_as_they_would_be_in_a_map() {
    for byte in 0..=u8::MAX {
        let bytes = [b'a', byte];
        let value = Value::of(&bytes).map(Value::as_bytes);
        assert_eq!(value.is_some(), HeaderValue::from_bytes(&bytes).is_ok(), "{byte}");
        assert!(value.is_none_or(|value| value == bytes));
    }
}
