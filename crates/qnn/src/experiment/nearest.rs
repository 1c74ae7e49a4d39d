/// `; did you mean NAME?`, if one of the known names is that near, and nothing otherwise.
pub(super) fn suggestion<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let near = known.map(|known| (distance(name, known), known)).min_by_key(|&(distance, _)| distance);
    // Farther than a third of the letters, it is rather another word than a slip.
    match near.filter(|&(distance, _)| 3 * distance <= name.chars().count()) {
        Some((_, known)) => format!("; did you mean {known}?"),
        None => String::new(),
    }
}

/// How many letters must be inserted, removed or replaced to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_insertions_removals_and_replacements() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("twn", "twm", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn slips_are_corrected_and_other_words_are_not() {
        let known = || ["bc", "bc-1.2", "dorefa-w"].into_iter();
        assert_eq!(suggestion("bc-12", known()), "; did you mean bc-1.2?");
        assert_eq!(suggestion("dorefaw", known()), "; did you mean dorefa-w?");
        assert_eq!(suggestion("nonsense", known()), "");
        assert_eq!(suggestion("x", std::iter::empty()), "");
    }
}
