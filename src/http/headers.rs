//! The fields of a message.

use std::fmt;
use std::ops::Range;

/// Fields in order, with their spelling. Names are compared case-insensitively (RFC 9110 5.1).
///
/// All fields are in one buffer, as they will be written, so that a head costs two allocations however many fields it
/// has, and writing is one copy.
#[derive(Clone, Default)]
pub struct Headers {
    bytes: Vec<u8>,
    fields: Vec<Field>,
    /// The buffer contains bytes of removed fields, or the fields are in another order than their bytes.
    mixed: bool,
}

/// The position of a field's line, `Name: value` and CRLF, in the buffer.
#[derive(Clone, Copy)]
struct Field {
    start: u32,
    /// The end of the name.
    colon: u32,
    end: u32,
}

impl Headers {
    /// No fields.
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            fields: Vec::new(),
            mixed: false,
        }
    }

    /// No fields, with room for this many fields and bytes.
    pub fn with_capacity(fields: usize, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            fields: Vec::with_capacity(fields),
            mixed: false,
        }
    }

    /// Adds a field at the end. The name must be a token and the value free of control bytes.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        let field = self.store(name, value);
        self.fields.push(field);
    }

    /// Adds a complete line, `Name: value` and CRLF, at the end. `name` is the length of the name; the conditions of
    /// [`Headers::push`] hold.
    pub(super) fn push_line(&mut self, line: &[u8], name: usize) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(line);
        self.fields.push(Field::new(start, name, self.bytes.len()));
    }

    /// The value of the first field with this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// The values of all fields with this name, in order.
    pub fn get_all(&self, name: &str) -> impl DoubleEndedIterator<Item = &[u8]> {
        let named = self.fields.iter().filter(move |field| self.is(field, name));
        named.map(|field| &self.bytes[field.value()])
    }

    /// Whether there is a field with this name.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Removes all fields with this name; returns whether there were any.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.fields.len();
        let Self { bytes, fields, .. } = self;
        fields.retain(|field| !bytes[field.name()].eq_ignore_ascii_case(name.as_bytes()));
        let any = fields.len() < before;
        self.mixed |= any;
        any
    }

    /// Makes this the only field with its name, in the position of the first one, or at the end.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        let first = self.fields.iter().position(|field| self.is(field, name));
        self.remove(name);
        let field = self.store(name, value);
        self.fields
            .insert(first.unwrap_or(self.fields.len()), field);
        self.mixed |= first.is_some();
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|field| {
            // Names were `str` when they were added.
            let name = str::from_utf8(&self.bytes[field.name()]).unwrap_or_default();
            (name, &self.bytes[field.value()])
        })
    }

    /// Names as bytes, in order.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().map(|field| &self.bytes[field.name()])
    }

    /// How many fields there are.
    pub const fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Removes all fields.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        self.mixed = false;
    }

    /// Writes `Name: value` and CRLF for each field (RFC 9112 5).
    pub fn write(&self, out: &mut Vec<u8>) {
        if !self.mixed {
            return out.extend_from_slice(&self.bytes);
        }
        self.write_some(|_| true, out);
    }

    /// Writes the fields whose names `wanted` accepts.
    pub fn write_some(&self, wanted: impl Fn(&[u8]) -> bool, out: &mut Vec<u8>) {
        for field in &self.fields {
            if wanted(&self.bytes[field.name()]) {
                out.extend_from_slice(&self.bytes[field.line()]);
            }
        }
    }

    fn is(&self, field: &Field, name: &str) -> bool {
        self.bytes[field.name()].eq_ignore_ascii_case(name.as_bytes())
    }

    fn store(&mut self, name: &str, value: &[u8]) -> Field {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
        Field::new(start, name.len(), self.bytes.len())
    }
}

impl Field {
    fn new(start: usize, name: usize, end: usize) -> Self {
        // Heads are limited to far less than 4 GiB.
        let position = |at: usize| u32::try_from(at).expect("a head of less than 4 GiB");
        Self {
            start: position(start),
            colon: position(start + name),
            end: position(end),
        }
    }

    const fn name(&self) -> Range<usize> {
        self.start as usize..self.colon as usize
    }

    /// Between `: ` and CRLF.
    const fn value(&self) -> Range<usize> {
        self.colon as usize + 2..self.end as usize - 2
    }

    const fn line(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self
            .iter()
            .map(|(name, value)| (name, value.escape_ascii().to_string()));
        out.debug_map().entries(pairs).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(headers: &Headers) -> String {
        let mut out = Vec::new();
        headers.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn order_and_spelling_are_kept() {
        let mut headers = Headers::new();
        headers.push("Set-Cookie", b"a=1");
        headers.push("X-thing", b"");
        headers.push("set-cookie", b"b=2");
        assert_eq!(
            written(&headers),
            "Set-Cookie: a=1\r\nX-thing: \r\nset-cookie: b=2\r\n"
        );
        assert_eq!(headers.get("SET-COOKIE"), Some(&b"a=1"[..]));
        assert_eq!(headers.get_all("set-cookie").count(), 2);
        assert!(headers.contains("x-Thing") && !headers.contains("X-thin"));
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn replacing_and_removing() {
        let mut headers = Headers::new();
        headers.push("A", b"1");
        headers.push("B", b"2");
        headers.push("a", b"3");
        headers.set("a", b"4");
        headers.set("C", b"5");
        assert_eq!(written(&headers), "a: 4\r\nB: 2\r\nC: 5\r\n");
        assert!(headers.remove("b") && !headers.remove("b"));
        assert_eq!(written(&headers), "a: 4\r\nC: 5\r\n");
        headers.clear();
        assert!(headers.is_empty());
    }
}
