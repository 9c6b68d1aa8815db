//! What caches are told about an answer (RFC 9111 section 5.2.2).

/// `told`, a `Cache-Control`, for the caches of one client (section 5.2.2.7): what is meant for shared ones goes.
pub fn for_one_client(told: &str) -> String {
    let shared = |directive: &str| {
        let name = directive.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        matches!(&*name, "" | "public" | "private" | "s-maxage" | "proxy-revalidate")
    };
    let own = told.split(',').map(str::trim).filter(|directive| !shared(directive));
    std::iter::once("private").chain(own).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_shared_caches_goes() {
        for (told, expected) in [
            ("max-age=60", "private, max-age=60"),
            ("public, max-age=60, s-maxage=600", "private, max-age=60"),
            ("Private, no-cache", "private, no-cache"),
            ("no-store", "private, no-store"),
            ("", "private"),
        ] {
            assert_eq!(for_one_client(told), expected);
        }
    }
}
