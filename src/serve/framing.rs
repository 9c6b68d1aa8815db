//! Finds requests that state their length in two ways, which hyper hides.
//!
//! With both `Content-Length` and `Transfer-Encoding`, hyper follows the latter, drops the former, and closes after the
//! answer. RFC 9112 section 6.1 allows that; we refuse, since a proxy before us may have followed the other, and what it
//! took for a body is then a smuggled request. Where the two parsers could disagree, this one gives up and hyper's
//! safe rule stands.

/// No line that matters here needs more: the longer name has 17 letters, a length 20 digits.
const LINE_KEPT: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expecting {
    Head,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    Trailers,
    /// The rest of the connection is not understood, or does not matter any more.
    Nothing,
}

/// Follows the bytes of a connection from request head to request head.
#[derive(Debug)]
pub(super) struct Inspector {
    expecting: Expecting,
    line: Vec<u8>,
    /// The line is longer than what is kept of it.
    line_cut: bool,
    heads: u64,
    /// The request line of this head has come.
    request_line: bool,
    /// A `Content-Length` was seen in this head; the inner value is absent if it is not a number.
    length: Option<Option<u64>>,
    chunked: bool,
}

impl Inspector {
    pub(super) fn new() -> Self {
        Self {
            expecting: Expecting::Head,
            line: Vec::with_capacity(LINE_KEPT),
            line_cut: false,
            heads: 0,
            request_line: false,
            length: None,
            chunked: false,
        }
    }

    /// Takes the next bytes; gives the number (from 0) of the request that states its length in two ways, if one does.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Option<u64> {
        while !bytes.is_empty() {
            match self.expecting {
                Expecting::Nothing => return None,
                Expecting::Body(left) => bytes = self.skip(bytes, left, Expecting::Body, Expecting::Head),
                Expecting::Chunk(left) => bytes = self.skip(bytes, left, Expecting::Chunk, Expecting::ChunkSize),
                Expecting::Head | Expecting::ChunkSize | Expecting::Trailers => {
                    let end = bytes.iter().position(|&byte| byte == b'\n');
                    let kept = &bytes[..end.unwrap_or(bytes.len())];
                    let room = LINE_KEPT - self.line.len();
                    self.line.extend_from_slice(&kept[..kept.len().min(room)]);
                    self.line_cut |= kept.len() > room;
                    let end = end?;
                    bytes = &bytes[end + 1..];
                    let mut line = std::mem::take(&mut self.line);
                    let conflict = self.line_ended(line.strip_suffix(b"\r").unwrap_or(&line));
                    line.clear();
                    self.line = line;
                    self.line_cut = false;
                    if conflict.is_some() {
                        return conflict;
                    }
                }
            }
        }
        None
    }

    /// Whether bytes of a request head have come, but not its end.
    pub(super) fn in_head(&self) -> bool {
        self.expecting == Expecting::Head && (self.request_line || !self.line.is_empty())
    }

    /// Whether the last request ended where the bytes end.
    pub(super) fn between_requests(&self) -> bool {
        self.expecting == Expecting::Head && !self.in_head()
    }

    /// How many request heads have come whole.
    pub(super) const fn heads(&self) -> u64 {
        self.heads
    }

    fn skip<'a>(&mut self, bytes: &'a [u8], left: u64, now: fn(u64) -> Expecting, then: Expecting) -> &'a [u8] {
        let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - skipped as u64;
        self.expecting = if left == 0 { then } else { now(left) };
        &bytes[skipped..]
    }

    fn line_ended(&mut self, line: &[u8]) -> Option<u64> {
        match self.expecting {
            // Empty lines before the request line are skipped (RFC 9112 section 2.2).
            Expecting::Head if line.is_empty() && !self.request_line => {}
            Expecting::Head if line.is_empty() => return self.head_ended(),
            Expecting::Head if self.request_line => self.header(line),
            Expecting::Head => self.request_line = true,
            Expecting::ChunkSize => {
                let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                let size =
                    std::str::from_utf8(&line[..digits]).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
                self.expecting = match size {
                    // Leading zeros may hide the number in what was cut.
                    _ if self.line_cut => Expecting::Nothing,
                    Some(0) => Expecting::Trailers,
                    // The chunk's own line end belongs to it.
                    Some(size) => size.checked_add(2).map_or(Expecting::Nothing, Expecting::Chunk),
                    None => Expecting::Nothing,
                };
            }
            Expecting::Trailers if line.is_empty() => self.expecting = Expecting::Head,
            Expecting::Trailers | Expecting::Body(_) | Expecting::Chunk(_) | Expecting::Nothing => {}
        }
        None
    }

    fn header(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(value).ok().filter(|_| digits && !self.line_cut);
            self.length = Some(text.and_then(|text| text.parse().ok()));
        }
    }

    fn head_ended(&mut self) -> Option<u64> {
        let head = self.heads;
        let (length, chunked) = (self.length.take(), std::mem::take(&mut self.chunked));
        self.request_line = false;
        self.heads += 1;
        self.expecting = match (length, chunked) {
            (Some(_), true) => {
                self.expecting = Expecting::Nothing;
                return Some(head);
            }
            (None, true) => Expecting::ChunkSize,
            (None | Some(Some(0)), false) => Expecting::Head,
            (Some(Some(length)), false) => Expecting::Body(length),
            (Some(None), false) => Expecting::Nothing,
        };
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the conflicting request, fed whole and byte by byte.
    fn conflict(text: &str) -> Option<u64> {
        let whole = Inspector::new().feed(text.as_bytes());
        let mut inspector = Inspector::new();
        let bytewise = text.as_bytes().chunks(1).find_map(|byte| inspector.feed(byte));
        assert_eq!(whole, bytewise, "{text:?}");
        whole
    }

    const BOTH: &str = "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn both_lengths_are_found_in_either_order() {
        assert_eq!(conflict(BOTH), Some(0));
        assert_eq!(conflict("POST / HTTP/1.1\ntransfer-encoding:x\nCONTENT-LENGTH:what\n\n"), Some(0));
        assert_eq!(conflict("POST / HTTP/1.1\r\nContent-Length: 4\r\nX-Content-Length: 4\r\n\r\n"), None);
        assert_eq!(conflict("GET /Content-Length:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), None);
    }

    #[test]
    fn bodies_are_not_taken_for_heads() {
        let sized = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{BOTH}", BOTH.len());
        assert_eq!(conflict(&sized), None);
        assert_eq!(conflict(&format!("{sized}{BOTH}")), Some(1));
        let size = BOTH.len();
        let chunked = format!(
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{size:X};x=1\r\n{BOTH}\r\n1\r\n\n\r\n0\r\nTrailer: 1\r\n\r\n"
        );
        assert_eq!(conflict(&chunked), None);
        assert_eq!(conflict(&format!("{chunked}GET / HTTP/1.1\r\n\r\n\r\n{BOTH}")), Some(2));
    }

    #[test]
    fn what_is_not_understood_ends_the_inspection() {
        for bad in ["Content-Length: 4, 4", "Content-Length: +4", "Content-Length: 99999999999999999999999"] {
            assert_eq!(conflict(&format!("PUT / HTTP/1.1\r\n{bad}\r\n\r\n{BOTH}")), None, "{bad}");
        }
        let chunk = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for bad in ["FFFFFFFFFFFFFFFF", "zz", ""] {
            assert_eq!(conflict(&format!("{chunk}{bad}\r\n{BOTH}")), None, "{bad}");
        }
    }

    #[test]
    fn a_number_that_was_cut_is_none() {
        let both = BOTH.len();
        for padding in [" ", "0"] {
            let length = format!("Content-Length: {}{both}", padding.repeat(60));
            assert_eq!(conflict(&format!("POST / HTTP/1.1\r\n{length}\r\n\r\n{BOTH}")), None, "{length}");
            assert_eq!(conflict(&format!("POST / HTTP/1.1\r\n{length}\r\nTransfer-Encoding: x\r\n\r\n")), Some(0));
        }
        let chunk = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for size in [format!("{}{both:x}", "0".repeat(70)), format!("{both:x};{}", "x".repeat(70))] {
            assert_eq!(conflict(&format!("{chunk}{size}\r\n{BOTH}\r\n0\r\n\r\n")), None, "{size}");
        }
    }

    #[test]
    fn the_place_in_the_connection_is_known() {
        let mut inspector = Inspector::new();
        assert!(inspector.between_requests() && !inspector.in_head());
        inspector.feed(b"\r\n");
        assert!(inspector.between_requests(), "an empty line is no head yet");
        inspector.feed(b"PUT / HTTP/1.1\r\nContent-Le");
        assert!(inspector.in_head() && !inspector.between_requests());
        inspector.feed(b"ngth: 3\r\n\r\nab");
        assert!(!inspector.in_head() && !inspector.between_requests());
        assert_eq!(inspector.heads(), 1);
        inspector.feed(b"c");
        assert!(inspector.between_requests());
        let long = vec![b'x'; 1 << 20];
        inspector.feed(&long);
        assert!(inspector.line.capacity() <= LINE_KEPT, "memory does not grow with a line");
    }
}
