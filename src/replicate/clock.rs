//! The guard against wrong clocks.

/// How far an entry, or a node, may be ahead: a minute. A clock that is kept by NTP is right to some milliseconds, and a
/// minute of wrong order is bearable where a year is not.
pub const AHEAD_MAX_MS: u64 = 60_000;

/// By how many milliseconds the clock here, which stands at `own_unix_ms`, is ahead of the median of what the `peers`
/// show; negative if it is behind, 0 without peers. Of two in the middle the later counts, so that half of the peers
/// cannot stop a node.
pub fn ahead_of_peers_ms(own_unix_ms: u64, peers_unix_ms: &[u64]) -> i64 {
    let mut sorted = peers_unix_ms.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).map_or(0, |median| own_unix_ms.cast_signed().saturating_sub(median.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_clock_of_many_is_not_the_median() {
        assert_eq!(ahead_of_peers_ms(100, &[]), 0);
        assert_eq!(ahead_of_peers_ms(100, &[40]), 60);
        assert_eq!(ahead_of_peers_ms(100, &[0, 100]), 0);
        assert_eq!(ahead_of_peers_ms(100, &[99, 0, 101]), 1);
        assert_eq!(ahead_of_peers_ms(100, &[160, 130]), -60);
    }
}
