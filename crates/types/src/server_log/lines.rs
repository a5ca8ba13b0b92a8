//! Bytes as they are read become lines, each once and whole.

/// The longest line that is looked at, in bytes. Whatever a client can make a server log in one
/// line is shorter: its control line has 4 KiB, and quoting makes at most four of one byte.
pub const MAX_LINE: usize = 64 * 1024;

/// Cuts what is read into lines.
#[derive(Default)]
pub struct Lines {
    partial: Vec<u8>,
    /// In a line that is too long.
    skipping: bool,
    /// Bytes of the line that is being skipped.
    skipped: u64,
    /// How many lines were too long to be looked at.
    pub too_long: u64,
}

impl Lines {
    /// Takes bytes in, and gives every line that ends in them. For one that is too long it gives an
    /// empty one, which no server writes.
    pub fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (head, rest) = bytes.split_at_checked(end).unwrap_or_default();
            bytes = rest.get(1..).unwrap_or_default();
            if self.skipping {
                self.skipping = false;
                self.skipped = 0;
                line(b"");
            } else if self.partial.is_empty() && head.len() <= MAX_LINE {
                line(head);
            } else {
                self.keep(head);
                if self.skipping {
                    self.skipping = false;
                    self.skipped = 0;
                    line(b"");
                } else {
                    line(&self.partial);
                    self.partial.clear();
                }
            }
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if !self.skipping && self.partial.len() + bytes.len() > MAX_LINE {
            self.skipping = true;
            self.too_long += 1;
            self.skipped = self.partial.len() as u64;
            self.partial = Vec::new();
        }
        if self.skipping {
            self.skipped += bytes.len() as u64;
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// Nothing more comes: gives what stands without a line break.
    pub fn end(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&self.partial);
        }
        self.forget();
    }

    /// Begins anew, with the first byte of a line.
    pub fn forget(&mut self) {
        self.partial.clear();
        self.skipping = false;
        self.skipped = 0;
    }

    /// The bytes that were taken in and do not end in a line break.
    #[must_use]
    pub fn pending(&self) -> u64 {
        if self.skipping { self.skipped } else { self.partial.len() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_end_costs_no_memory() {
        let mut lines = Lines::default();
        for _ in 0..40 {
            lines.feed(&vec![b'z'; MAX_LINE], |_| panic!("it has no end"));
            assert!(lines.partial.capacity() <= MAX_LINE);
        }
        assert_eq!((lines.too_long, lines.pending()), (1, 40 * MAX_LINE as u64));
    }

    proptest::proptest! {
        /// However the bytes arrive, the lines are the same.
        #[test]
        fn lines_do_not_depend_on_how_they_arrive(
            text in "[ab\n]{0,80}",
            cuts in proptest::collection::vec(0usize..80, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for pair in cuts.windows(2) {
                lines.feed(&text.as_bytes()[pair[0]..pair[1]], |l| found.push(l.to_vec()));
            }
            lines.end(|l| found.push(l.to_vec()));
            let expected: Vec<Vec<u8>> = text.lines().map(|l| l.as_bytes().to_vec()).collect();
            proptest::prop_assert_eq!(found, expected);
        }
    }
}
