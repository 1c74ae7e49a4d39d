/// The first line of a note: what kind of file it is, in which version, with which digest of the rest.
///
/// ```text
/// KIND VERSION DIGEST        the digest as sixteen digits of base 16, in lower case
/// TEXT
/// ```
///
/// There is one spelling of each, so that no damage to the line itself is harmless.
///
/// ```
/// use qnn_files::Signature;
/// let signature = Signature { version: 2, digest: 0xab };
/// let note = signature.sign("qnn-thing", "{}");
/// assert_eq!(note, "qnn-thing 2 00000000000000ab\n{}");
/// assert_eq!(Signature::open("qnn-thing", &note), Some((signature, "{}")));
/// assert_eq!(Signature::open("qnn-thing", &note.replace('a', "A")), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The version of the format.
    pub version: u64,
    /// The digest of all that the file says beside this line.
    pub digest: u64,
}

impl Signature {
    /// The note that says a text under this signature.
    pub fn sign(self, kind: &str, text: &str) -> String {
        format!("{}\n{text}", self.line(kind))
    }

    /// The signature of a note and its text; nothing if it is no note of this kind.
    pub fn open<'n>(kind: &str, note: &'n str) -> Option<(Self, &'n str)> {
        let (line, text) = note.split_once('\n')?;
        let mut words = line.split(' ').skip(1);
        let version = words.next()?.parse().ok()?;
        let digest = u64::from_str_radix(words.next()?, 16).ok()?;
        let found = Self { version, digest };
        (found.line(kind) == line).then_some((found, text))
    }

    fn line(self, kind: &str) -> String {
        format!("{kind} {} {:016x}", self.version, self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_spellings_are_no_signature() {
        let others = [
            "",
            "k 1 00000000000000ab",
            "k 1 00000000000000AB\n",
            "k 1 ab\n",
            "k +1 00000000000000ab\n",
            "k 01 00000000000000ab\n",
            "k 1 +0000000000000ab\n",
            "k  1 00000000000000ab\n",
            "k 1 00000000000000ab \n",
            "l 1 00000000000000ab\n",
            "k 18446744073709551616 00000000000000ab\n",
        ];
        for note in others {
            assert_eq!(Signature::open("k", note), None, "{note:?}");
        }
        let found = Signature { version: 1, digest: 0xab };
        assert_eq!(Signature::open("k", "k 1 00000000000000ab\n\nx"), Some((found, "\nx")));
    }
}
