//! What is left of a line to read. What does not fit takes nothing, or ends the reading.

use memchr::memmem::find;

use crate::go_quote;

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub struct Rest<'a>(pub &'a [u8]);

impl<'a> Rest<'a> {
    /// Takes exactly this.
    pub fn skip(&mut self, text: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// Takes so many bytes.
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// Up to a separator, which is skipped.
    pub fn until(&mut self, separator: &[u8]) -> Option<&'a [u8]> {
        let taken = self.take(find(self.0, separator)?)?;
        self.skip(separator)?;
        Some(taken)
    }

    /// All digits that come next.
    pub fn digits(&mut self) -> &'a [u8] {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.take(digits).unwrap_or_default()
    }

    /// A number, which has one digit at least.
    pub fn number(&mut self) -> Option<u64> {
        let digits = self.digits();
        if digits.is_empty() {
            return None;
        }
        digits
            .iter()
            .try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
    }

    /// A text in quotes, as Go's `%q` writes it.
    pub fn quoted(&mut self) -> Option<String> {
        let (text, rest) = go_quote::read(self.0)?;
        self.0 = rest;
        Some(text)
    }
}
