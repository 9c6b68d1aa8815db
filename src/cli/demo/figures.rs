//! Figures as people read them: grouped counts, sizes, times.

use std::time::Duration;

/// `12,345`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 file`, `2 files`.
pub(super) fn files(number: usize) -> String {
    if number == 1 { "1 file".to_owned() } else { format!("{} files", count(number as u64)) }
}

/// `812 B`, `4.2 kB`, `118 MB`: three digits are enough to read.
pub(super) fn bytes(number: u64) -> String {
    let mut value = number as f64;
    let mut unit = "B";
    for larger in ["kB", "MB", "GB", "TB"] {
        if value < 999.5 {
            break;
        }
        value /= 1_000.0;
        unit = larger;
    }
    if unit == "B" || value >= 99.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// `81 MB/s`.
pub(super) fn rate(number: u64, time: Duration) -> String {
    format!("{}/s", bytes((number as f64 / time.as_secs_f64().max(1e-6)) as u64))
}

/// `4.2 ms`, `85 ms`, `3.1 s`, `2:05 min`.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds >= 99.95 {
        let whole = time.as_secs();
        format!("{}:{:02} min", whole / 60, whole % 60)
    } else if seconds >= 0.9995 {
        format!("{seconds:.1} s")
    } else if seconds >= 0.00995 {
        format!("{:.0} ms", seconds * 1_000.0)
    } else {
        format!("{:.1} ms", seconds * 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1, 2].map(files), ["1 file", "2 files"]);
        assert_eq!([0, 999, 1_000, 99_960, 118_400_000].map(bytes), ["0 B", "999 B", "1.0 kB", "100 kB", "118 MB"]);
        let times = [0.0042, 0.0851, 0.9996, 12.34, 125.0].map(|seconds| time(Duration::from_secs_f64(seconds)));
        assert_eq!(times, ["4.2 ms", "85 ms", "1.0 s", "12.3 s", "2:05 min"]);
        assert_eq!(rate(10_000_000, Duration::from_millis(500)), "20.0 MB/s");
    }
}
