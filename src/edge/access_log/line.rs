//! One answer as a line.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Instant, SystemTime};

use http::Version;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::admin::protocol_name;
use super::super::facts::Facts;
use super::escape::{combined, json, number};
use crate::serve::{AskedFor, Ended};

/// What is written where the client left before an answer began, as nginx does: it is the status of no answer.
pub(super) const CLIENT_LEFT: u16 = 499;

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object, with all that is known.
    #[default]
    Json,
    /// The combined format of the NCSA, as nginx writes it.
    Combined,
}

/// What is written of the addresses of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Addresses {
    /// All of them.
    #[default]
    Full,
    /// Their networks: the first 24 bits of an IPv4 address, the first 48 of an IPv6 address.
    Network,
    /// Nothing.
    None,
}

/// Writes lines.
#[derive(Debug)]
pub(super) struct Pen {
    format: Format,
    addresses: Addresses,
    query: bool,
    clock: Clock,
}

impl Pen {
    pub(super) fn new(format: Format, addresses: Addresses, query: bool) -> Self {
        Self { format, addresses, query, clock: Clock::new() }
    }

    /// Looks at the clocks again; to be called now and then.
    pub(super) fn set_clock(&mut self) {
        self.clock.set();
    }

    /// Appends the line of an answer.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, ended: &Ended<'_>, facts: Option<&Facts>) {
        let AskedFor { target, referer, .. } = ended.asked;
        let asked = AskedFor { target: self.shown(target), referer: self.shown(referer), ..ended.asked };
        let ended = &Ended { asked, ..*ended };
        match self.format {
            Format::Json => self.json(out, ended, facts),
            Format::Combined => self.combined(out, ended),
        }
        out.push(b'\n');
    }

    /// What of a target is written.
    fn shown<'a>(&self, target: &'a [u8]) -> &'a [u8] {
        match memchr::memchr(b'?', target).filter(|_| !self.query) {
            Some(end) => &target[..end],
            None => target,
        }
    }

    fn json(&mut self, out: &mut Vec<u8>, ended: &Ended<'_>, facts: Option<&Facts>) {
        out.extend_from_slice(b"{\"time\":\"");
        let micros = self.clock.write(out, ended.begun, "%Y-%m-%dT%H:%M:%S");
        out.push(b'.');
        let places = [100_000, 10_000, 1_000, 100, 10, 1];
        out.extend(places.map(|place| b'0' + (micros / place % 10) as u8));
        out.extend_from_slice(b"Z\"");
        if self.addresses != Addresses::None {
            out.extend_from_slice(b",\"client\":\"");
            self.address(out, ended.client);
            out.push(b'"');
        }
        out.extend_from_slice(b",\"protocol\":\"");
        out.extend_from_slice(protocol_name(ended.version).as_bytes());
        out.extend_from_slice(if ended.secured { b"\",\"tls\":true" } else { b"\",\"tls\":false" });
        let AskedFor { method, host, target, range, referer, user_agent } = ended.asked;
        string(out, b",\"method\":\"", method);
        string(out, b",\"host\":\"", host);
        string(out, b",\"target\":\"", target);
        string(out, b",\"range\":\"", range);
        string(out, b",\"referer\":\"", referer);
        string(out, b",\"user_agent\":\"", user_agent);
        figure(out, b",\"status\":", u64::from(status_of(ended)));
        figure(out, b",\"bytes\":", ended.body_bytes);
        out.extend_from_slice(if ended.complete { b",\"complete\":true" } else { b",\"complete\":false" });
        if let Some(first_byte) = ended.first_byte {
            figure(out, b",\"first_byte_us\":", first_byte.as_micros() as u64);
        }
        figure(out, b",\"total_us\":", ended.whole.as_micros() as u64);
        if let Some(facts) = facts {
            of_edge(out, facts);
        }
        out.push(b'}');
    }

    fn combined(&mut self, out: &mut Vec<u8>, ended: &Ended<'_>) {
        if self.addresses == Addresses::None {
            out.push(b'-');
        } else {
            self.address(out, ended.client);
        }
        out.extend_from_slice(b" - - [");
        self.clock.write(out, ended.begun, "%d/%b/%Y:%H:%M:%S");
        out.extend_from_slice(b" +0000] \"");
        let AskedFor { method, target, referer, user_agent, .. } = ended.asked;
        if method.is_empty() {
            out.push(b'-');
        } else {
            combined(out, method);
            out.push(b' ');
            combined(out, target);
            out.extend_from_slice(match ended.version {
                Version::HTTP_10 => b" HTTP/1.0",
                Version::HTTP_2 => b" HTTP/2.0",
                Version::HTTP_3 => b" HTTP/3.0",
                _ => b" HTTP/1.1",
            });
        }
        figure(out, b"\" ", u64::from(status_of(ended)));
        figure(out, b" ", ended.body_bytes);
        for (text, before) in [(referer, &b" \""[..]), (user_agent, b"\" \"")] {
            out.extend_from_slice(before);
            combined(out, if text.is_empty() { b"-" } else { text });
        }
        out.push(b'"');
    }

    fn address(&self, out: &mut Vec<u8>, client: SocketAddr) {
        let address = match (client.ip().to_canonical(), self.addresses) {
            (IpAddr::V4(ip), Addresses::Network) => {
                let [a, b, c, _] = ip.octets();
                IpAddr::from([a, b, c, 0])
            }
            (IpAddr::V6(ip), Addresses::Network) => {
                let [a, b, c, ..] = ip.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
            }
            (address, _) => address,
        };
        match address {
            IpAddr::V4(ip) => {
                for (place, octet) in ip.octets().into_iter().enumerate() {
                    if place > 0 {
                        out.push(b'.');
                    }
                    number(out, u64::from(octet));
                }
            }
            IpAddr::V6(ip) => {
                use std::io::Write as _;
                // A vector takes all that is written.
                let _ = write!(out, "{ip}");
            }
        }
    }
}

/// What the edge knows of an answer.
fn of_edge(out: &mut Vec<u8>, facts: &Facts) {
    if let Some(site) = &facts.site {
        string(out, b",\"site\":\"", site.as_bytes());
    }
    if let Some(outcome) = facts.outcome {
        string(out, b",\"cache\":\"", outcome.as_str().as_bytes());
    }
    if let Some(way) = &facts.way {
        string(out, b",\"node\":\"", way.route.node.id.as_str().as_bytes());
        string(out, b",\"reason\":\"", way.route.reason.to_string().as_bytes());
        string(out, b",\"policy\":\"", way.policy.to_string().as_bytes());
        figure(out, b",\"tries\":", way.passed.len() as u64 + 1);
    }
    if let Some(fetched) = facts.fetched() {
        if fetched.resumed() > 0 {
            figure(out, b",\"resumed\":", fetched.resumed());
        }
        figure(out, b",\"fetched_bytes\":", fetched.bytes());
    }
    if let Some(size) = facts.size_bytes {
        figure(out, b",\"size_bytes\":", size);
    }
    if let Some(coding) = &facts.coding {
        string(out, b",\"coding\":\"", coding.as_bytes());
    }
    if let Some(seconds) = facts.ttl_seconds {
        out.extend_from_slice(b",\"ttl_s\":");
        if seconds < 0 {
            out.push(b'-');
        }
        number(out, seconds.unsigned_abs());
    }
}

fn status_of(ended: &Ended<'_>) -> u16 {
    ended.status.map_or(CLIENT_LEFT, |status| status.as_u16())
}

/// A name, and a string if there is one.
fn string(out: &mut Vec<u8>, name: &[u8], text: &[u8]) {
    if !text.is_empty() {
        out.extend_from_slice(name);
        json(out, text);
        out.push(b'"');
    }
}

fn figure(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    number(out, value);
}

/// The time of the day at a moment, whose text is made once a second.
#[derive(Debug)]
struct Clock {
    moment: Instant,
    unix_micros: u64,
    second: u64,
    text: String,
}

impl Clock {
    fn new() -> Self {
        let mut clock = Self { moment: Instant::now(), unix_micros: 0, second: u64::MAX, text: String::new() };
        clock.set();
        clock
    }

    fn set(&mut self) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        (self.moment, self.unix_micros) = (Instant::now(), since.as_micros() as u64);
    }

    /// Appends the time at `moment` in this form, but for the microseconds, which are the answer.
    fn write(&mut self, out: &mut Vec<u8>, moment: Instant, form: &str) -> u32 {
        let later = moment.saturating_duration_since(self.moment).as_micros() as u64;
        let earlier = self.moment.saturating_duration_since(moment).as_micros() as u64;
        let micros = (self.unix_micros + later).saturating_sub(earlier);
        let second = micros / 1_000_000;
        if second != self.second {
            self.second = second;
            let time = Timestamp::from_second(second as i64).unwrap_or_default();
            self.text = time.strftime(form).to_string();
        }
        out.extend_from_slice(self.text.as_bytes());
        (micros % 1_000_000) as u32
    }
}

#[cfg(test)]
mod tests;
