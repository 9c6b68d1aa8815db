//! Hot answers on their way: many small ones by one write, files by the system's own copying.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncWrite, ReadBuf};

use super::super::witness::Watch;
use super::hot::{Hot, HotAnswer, HotBody, HotFile, HotSent};
use super::wire::Wire;
use crate::http1::{Block, HeadEnd};

/// How many answers wait to be sent by one write, and how many bytes of them.
const WAITING_MAX: usize = 16;
const WAITING_BYTES_MAX: u64 = 256 * 1024;

/// Two of lines that are the same each time, their end, and the body, for each answer.
const SLICES: usize = 4 * WAITING_MAX;

/// Answers of up to this size together are copied, to be sent by the cheaper call that takes one slice alone.
const COPIED_BYTES_MAX: u64 = 4 * 1024;

/// How much of a file is read at a time where the system cannot send it.
const READ_BYTES: usize = 64 * 1024;

/// The hot answers of one connection, in their order.
pub(super) struct Hits<H: Hot> {
    hot: Arc<H>,
    waiting: VecDeque<Waiting<H::Receipt>>,
    waiting_bytes: u64,
    /// What was read of the file of the first answer and not sent, if that goes through TLS.
    read: Vec<u8>,
    read_sent: usize,
    /// Whether the file of the first answer could not be read.
    unreadable: bool,
}

struct Waiting<R> {
    block: Block,
    end: HeadEnd,
    body: HotBody,
    receipt: R,
    watch: Option<Watch>,
    /// Of head and body together.
    sent: u64,
}

impl<R> Waiting<R> {
    fn head_length(&self) -> u64 {
        let [first, second] = self.block.lines();
        (first.len() + second.len() + self.end.bytes().len()) as u64
    }

    fn length(&self) -> u64 {
        self.head_length() + self.body.length()
    }

    fn how_it_ended(&self, unreadable: bool) -> HotSent {
        let body_bytes = self.sent.saturating_sub(self.head_length());
        HotSent { body_bytes, complete: self.sent == self.length(), unreadable }
    }
}

/// What is to be sent next.
enum Next {
    /// So many slices, which the begin of a file follows or does not.
    Slices(usize, bool),
    /// The rest of a file.
    File(Arc<File>, u64, u64),
}

impl<H: Hot> Hits<H> {
    pub(super) fn new(hot: Arc<H>) -> Self {
        let (waiting, read) = (VecDeque::new(), Vec::new());
        Self { hot, waiting, waiting_bytes: 0, read, read_sent: 0, unreadable: false }
    }

    pub(super) fn hot(&self) -> &H {
        &self.hot
    }

    /// Whether another answer may be added.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX && self.waiting_bytes < WAITING_BYTES_MAX
    }

    /// Adds an answer, with the end of its head.
    pub(super) fn push(&mut self, answer: HotAnswer<H::Receipt>, end: HeadEnd, watch: Option<Watch>) {
        let HotAnswer { block, extra: _, body, receipt } = answer;
        let waiting = Waiting { block, end, body, receipt, watch, sent: 0 };
        self.waiting_bytes += waiting.length();
        self.waiting.push_back(waiting);
    }

    /// Sends all of them.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let mut slices = [io::IoSlice::new(&[]); SLICES];
            let sent = match gather(&self.waiting, &mut slices) {
                Next::Slices(count, false) if self.waiting_bytes <= COPIED_BYTES_MAX => {
                    poll_send_copied(cx, wire, &slices[..count])
                }
                Next::Slices(count, true) if wire.stream.plain().is_some() => {
                    wire.poll_plain(cx, |tcp, cx| tcp.poll_send_more(cx, &slices[..count]))
                }
                Next::Slices(count, _) => {
                    let written = Pin::new(&mut wire.stream).poll_write_vectored(cx, &slices[..count]);
                    wire.progressing(cx, written)
                }
                Next::File(file, offset, left) if wire.stream.plain().is_some() => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX);
                    let sent = wire.poll_plain(cx, |tcp, cx| tcp.poll_send_file(cx, &file, offset, count));
                    // The other ends of connections fail otherwise.
                    let is_of_file =
                        |error: &io::Error| error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
                    self.unreadable |= matches!(&sent, Poll::Ready(Err(error)) if is_of_file(error));
                    sent
                }
                Next::File(file, offset, left) => self.poll_send_read(cx, wire, &file, offset, left),
            };
            let sent = ready!(sent)?;
            if sent == 0 {
                // The file has less than it should, and the head was sent.
                self.unreadable = true;
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            wire.wrote();
            self.advance(sent as u64);
        }
        wire.poll_flush(cx)
    }

    /// The bytes of a file, by way of memory.
    fn poll_send_read(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut Wire,
        file: &File,
        offset: u64,
        left: u64,
    ) -> Poll<io::Result<usize>> {
        if self.read_sent == self.read.len() {
            self.read.resize(READ_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX)), 0);
            let length = file.read_at(&mut self.read, offset).inspect_err(|_| self.unreadable = true)?;
            self.read.truncate(length);
            self.read_sent = 0;
            if length == 0 {
                return Poll::Ready(Ok(0));
            }
        }
        let written = Pin::new(&mut wire.stream).poll_write(cx, &self.read[self.read_sent..]);
        let written = ready!(wire.progressing(cx, written))?;
        self.read_sent += written;
        Poll::Ready(Ok(written))
    }

    fn advance(&mut self, mut sent: u64) {
        while let Some(first) = self.waiting.front_mut() {
            let left = first.length() - first.sent;
            if sent < left {
                if first.sent == 0
                    && sent > 0
                    && let Some(watch) = &mut first.watch
                {
                    watch.begins();
                }
                first.sent += sent;
                return;
            }
            first.sent += left;
            sent -= left;
            self.end_first();
            if sent == 0 {
                break;
            }
        }
        if self.waiting.is_empty() {
            // Between two requests a connection holds little.
            self.waiting.shrink_to(1);
            self.read = Vec::new();
            self.read_sent = 0;
        }
    }

    fn end_first(&mut self) {
        if let Some(first) = self.waiting.pop_front() {
            self.waiting_bytes -= first.length();
            let sent = first.how_it_ended(std::mem::take(&mut self.unreadable));
            let has_begun = first.sent > 0;
            let Waiting { block, receipt, watch, .. } = first;
            if let Some(watch) = watch {
                watch.end_hot(has_begun.then(|| block.status()), sent, &receipt);
            }
            self.hot.sent(receipt, sent);
        }
    }
}

impl<H: Hot> Drop for Hits<H> {
    fn drop(&mut self) {
        while !self.waiting.is_empty() {
            self.end_first();
        }
    }
}

fn poll_send_copied(cx: &mut Context<'_>, wire: &mut Wire, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
    let mut copied = [MaybeUninit::uninit(); COPIED_BYTES_MAX as usize];
    let mut copied = ReadBuf::uninit(&mut copied);
    slices.iter().for_each(|slice| copied.put_slice(slice));
    let written = Pin::new(&mut wire.stream).poll_write(cx, copied.filled());
    wire.progressing(cx, written)
}

/// What of `waiting` can be sent at once.
fn gather<'w, R>(waiting: &'w VecDeque<Waiting<R>>, slices: &mut [io::IoSlice<'w>; SLICES]) -> Next {
    let mut count = 0;
    let mut add = |bytes: &'w [u8], skip: &mut u64| {
        let skipped = bytes.len().min(usize::try_from(*skip).unwrap_or(usize::MAX));
        *skip -= skipped as u64;
        if skipped < bytes.len() {
            slices[count] = io::IoSlice::new(&bytes[skipped..]);
            count += 1;
        }
        count
    };
    let mut filled = 0;
    for answer in waiting.iter().take(WAITING_MAX) {
        let mut skip = answer.sent;
        for lines in answer.block.lines() {
            add(lines, &mut skip);
        }
        filled = add(answer.end.bytes(), &mut skip);
        match &answer.body {
            HotBody::None => {}
            HotBody::Memory(bytes) => filled = add(bytes, &mut skip),
            HotBody::Files(files) if filled == 0 => {
                if let Some(HotFile { file, offset, length }) = files.at(skip) {
                    return Next::File(file, offset, length);
                }
            }
            HotBody::Files(files) if files.length() == 0 => {}
            HotBody::Files(_) => return Next::Slices(filled, true),
        }
    }
    Next::Slices(filled, false)
}
