//! Amounts as people read them: decimal units, one digit after the point.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];

/// An amount of bytes: `999 B`, `1.0 kB`, `104.2 MB`.
pub(super) fn size(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1000.0;
    let mut unit = 0;
    // What would round up to 1000.0 is written in the next unit.
    while amount >= 999.95 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// How fast `bytes` went in `time`: `8.5 MB/s`.
pub(super) fn rate(bytes: u64, time: Duration) -> String {
    // A shorter time than that says nothing of the rate.
    let seconds = time.as_secs_f64().max(0.001);
    format!("{}/s", size((bytes as f64 / seconds) as u64))
}

/// A count: `999`, `1,204`, `3,000,000`.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many things: `1 entry`, `1,204 entries`.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// How far somebody is behind, as far as it is known: `0`, `12`, `1,204 · 3.1 MB · 12 s`, `?`.
pub(super) fn behind(entries: Option<u64>, bytes: Option<u64>, seconds: Option<u64>) -> String {
    let Some(entries) = entries else { return "?".to_owned() };
    let mut text = count(entries);
    if entries == 0 {
        return text;
    }
    if let Some(bytes @ 1..) = bytes {
        text.push_str(&format!(" · {}", size(bytes)));
    }
    if let Some(seconds @ 1..) = seconds {
        text.push_str(&format!(" · {}", whole_seconds(Duration::from_secs(seconds))));
    }
    text
}

/// A time without tenths of seconds: `12 s`, `2 min 5 s`.
pub(super) fn whole_seconds(length: Duration) -> String {
    let seconds = length.as_secs();
    if seconds < 60 { format!("{seconds} s") } else { time(length) }
}

/// A time: `0.4 s`, `12.3 s`, `2 min 5 s`, `3 h 10 min`, `4 d 2 h`.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_millis() as f64 / 1000.0),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How long an answer takes, in seconds: `40 µs`, `4.2 ms`, `85 ms`, `3.1 s`, `2 min 5 s`.
pub(super) fn latency(seconds: f64) -> String {
    // Each unit begins where the one before would show a digit too many.
    if seconds >= 59.95 {
        time(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    } else if seconds >= 0.9995 {
        format!("{seconds:.1} s")
    } else if seconds >= 0.00995 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds >= 0.000_099_5 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{:.0} µs", seconds * 1e6)
    }
}

/// A moment in this machine's time zone, as ISO 8601 writes it: `2026-11-22T09:24:11+01:00`.
pub(super) fn local_time(unix_ms: u64) -> String {
    match moment(unix_ms) {
        Some(moment) => moment.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        None => "?".to_owned(),
    }
}

/// A moment in UTC, for programs: `2026-11-22T08:24:11.345Z`.
pub(super) fn utc_time(unix_ms: u64) -> String {
    moment(unix_ms).map_or_else(|| "?".to_owned(), |moment| moment.to_string())
}

/// A text that cannot steer a terminal: what is invisible or changes the direction of the rest is written as its code.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control()
            || matches!(letter, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            shown.extend(letter.escape_unicode());
        } else {
            shown.push(letter);
        }
    }
    shown
}

fn moment(unix_ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_and_never_show_1000() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (104_200_000, "104.2 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        assert_eq!(rate(17_000_000, Duration::from_secs(2)), "8.5 MB/s");
        assert_eq!(rate(0, Duration::ZERO), "0 B/s");
    }

    #[test]
    fn counts_are_in_groups_of_three_and_only_what_is_behind_is_told() {
        for (number, text) in [(0, "0"), (999, "999"), (1204, "1,204"), (3_000_000, "3,000,000")] {
            assert_eq!(count(number), text);
        }
        assert_eq!(
            (counted(1, "entry", "entries").as_str(), counted(0, "entry", "entries").as_str()),
            ("1 entry", "0 entries")
        );
        for (entries, bytes, seconds, text) in [
            (None, Some(5), Some(5), "?"),
            (Some(0), Some(0), Some(9), "0"),
            (Some(12), Some(0), None, "12"),
            (Some(1204), Some(3_100_000), Some(12), "1,204 · 3.1 MB · 12 s"),
            (Some(3), None, Some(125), "3 · 2 min 5 s"),
        ] {
            assert_eq!(behind(entries, bytes, seconds), text);
        }
    }

    #[test]
    fn times_have_two_units_at_most() {
        for (ms, text) in [
            (420, "0.4 s"),
            (59_940, "59.9 s"),
            (125_000, "2 min 5 s"),
            (11_400_000, "3 h 10 min"),
            (352_800_000, "4 d 2 h"),
        ] {
            assert_eq!(time(Duration::from_millis(ms)), text, "{ms}");
        }
        for (seconds, text) in [
            (0.0, "0 µs"),
            (4e-5, "40 µs"),
            (0.0042, "4.2 ms"),
            (0.085, "85 ms"),
            (3.07, "3.1 s"),
            (125.0, "2 min 5 s"),
        ] {
            assert_eq!(latency(seconds), text);
        }
        assert_eq!(utc_time(1_000), "1970-01-01T00:00:01Z");
        assert_eq!(utc_time(u64::MAX), "?");
        assert!(local_time(1_800_000_000_000).starts_with("2027-01-1"));
    }

    #[test]
    fn a_text_cannot_steer_the_terminal() {
        assert_eq!(shown("ünï/日本 %20.txt"), "ünï/日本 %20.txt");
        assert_eq!(shown("gpj.\u{202e}exe"), "gpj.\\u{202e}exe");
        assert_eq!(shown("\u{200f}\u{2066}\u{1b}[2J"), "\\u{200f}\\u{2066}\\u{1b}[2J");
    }
}
