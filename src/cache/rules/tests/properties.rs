//! What holds of every response and every request, readable or not.

use proptest::prelude::*;

use super::*;

/// A number of seconds in the forms in which it comes, most of them invalid.
fn argument() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (0..5000_u32).prop_map(|number| number.to_string()),
        1 => (0..5000_u32).prop_map(|number| format!("\"{number}\"")),
        1 => invalid(),
    ]
}

fn invalid() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..5000_u32).prop_map(|number| format!("'{number}'")),
        (0..5000_u32).prop_map(|number| format!("{number}.5")),
        (1..5000_i32).prop_map(|number| format!("-{number}")),
        (0..5000_u32).prop_map(|number| format!("{number}s")),
        (0..5000_u32).prop_map(|number| format!(" {number}")),
        (0..5000_u32).prop_map(|number| format!("\"{number}")),
        Just(String::new()),
    ]
}

fn directive() -> impl Strategy<Value = String> {
    let timed =
        proptest::sample::select(vec!["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error", "Max-Age"]);
    let flag = proptest::sample::select(vec![
        "public",
        "private",
        "no-store",
        "no-cache",
        "must-revalidate",
        "proxy-revalidate",
        "must-understand",
        "no-cache=\"x\"",
        "foo",
    ]);
    prop_oneof![
        4 => (timed, argument()).prop_map(|(name, value)| format!("{name}={value}")),
        1 => flag.prop_map(str::to_owned),
    ]
}

fn field() -> impl Strategy<Value = (&'static str, String)> {
    let cache_control = || proptest::collection::vec(directive(), 0..4).prop_map(|all| all.join(", "));
    let near = || (-5000..5000_i64).prop_map(date);
    prop_oneof![
        4 => cache_control().prop_map(|value| ("cache-control", value)),
        1 => cache_control().prop_map(|value| ("cdn-cache-control", value)),
        1 => argument().prop_map(|value| ("age", value)),
        1 => near().prop_map(|value| ("expires", value)),
        1 => argument().prop_map(|value| ("expires", value)),
        2 => near().prop_map(|value| ("date", value)),
        1 => near().prop_map(|value| ("last-modified", value)),
        1 => Just(("etag", "\"a\"".to_owned())),
        1 => Just(("vary", "foo".to_owned())),
    ]
}

fn fields() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    proptest::collection::vec(field(), 0..6)
}

fn case(fields: &[(&'static str, String)]) -> Case {
    Case::new(&fields.iter().map(|(name, value)| (*name, &**value)).collect::<Vec<_>>())
}

fn request() -> impl Strategy<Value = RequestDirectives> {
    let timed = proptest::sample::select(vec!["max-age", "min-fresh", "max-stale", "stale-if-error"]);
    let flag = proptest::sample::select(vec!["no-cache", "only-if-cached", "max-stale", "no-store"]);
    let directive = prop_oneof![
        2 => (timed, argument()).prop_map(|(name, value)| format!("{name}={value}")),
        1 => flag.prop_map(str::to_owned),
    ];
    proptest::collection::vec(directive, 0..3)
        .prop_map(|all| RequestDirectives::of(&headers(&[("cache-control", &all.join(", "))])))
}

proptest! {
    #[test]
    fn an_invalid_lifetime_is_never_fresh(
        others in fields(),
        name in "max-age|s-maxage",
        value in invalid(),
        status in 200..599_u16,
    ) {
        let mut fields: Vec<_> = others.into_iter().filter(|(name, _)| *name != "cdn-cache-control").collect();
        fields.push(("cache-control", format!("{name}={value}")));
        if name == "max-age" && fields.iter().any(|(_, value)| value.contains("s-maxage=")) {
            return Ok(());
        }
        let used = case(&fields).status(status).used_after(0);
        prop_assert_ne!(used, Some(Use::Fresh));
    }

    #[test]
    fn an_invalid_age_is_never_fresh(others in fields(), value in invalid()) {
        let mut fields = others;
        // White space around a value does not belong to it.
        fields.push(("age", value.replace(' ', "x")));
        prop_assert_ne!(case(&fields).used_after(0), Some(Use::Fresh));
    }

    #[test]
    fn an_invalid_expires_is_never_fresh(others in fields(), value in "[0-9a-zA-Z ,:-]{0,30}") {
        if httpdate::parse_http_date(&value).is_ok() {
            return Ok(());
        }
        let mut fields = others;
        fields.retain(|(_, value)| !value.to_ascii_lowercase().contains("age="));
        fields.retain(|(name, _)| *name != "cdn-cache-control");
        fields.push(("expires", value));
        prop_assert_ne!(case(&fields).used_after(0), Some(Use::Fresh));
    }

    #[test]
    fn age_never_decreases_and_ttl_never_increases(
        fields in fields(),
        delay in 0..10_000_u64,
        times in (0..20_000_u64, 0..20_000_u64),
    ) {
        let Ok(freshness) = case(&fields).took(Duration::from_millis(delay)).judge() else { return Ok(()) };
        let at = |ms| arrival() - Duration::from_secs(5) + Duration::from_millis(ms);
        let (one, other) = (at(times.0.min(times.1)), at(times.0.max(times.1)));
        prop_assert!(freshness.age_seconds(one) <= freshness.age_seconds(other));
        prop_assert!(freshness.ttl_seconds(one) >= freshness.ttl_seconds(other));
        prop_assert!(freshness.is_fresh(one) || !freshness.is_fresh(other));
        prop_assert!(u64::from(freshness.age_seconds(one)) >= delay / 1000);
    }

    #[test]
    fn what_is_stale_is_used_only_with_leave(fields in fields(), request in request(), after in 0..10_000_u64) {
        let Ok(freshness) = case(&fields).judge() else { return Ok(()) };
        let text = fields.iter().map(|(_, value)| value.to_ascii_lowercase()).collect::<Vec<_>>().join(", ");
        let (used, on_error) = (freshness.use_for(&request, later(after)), freshness.on_error(&request, later(after)));
        match used {
            Use::Fresh => prop_assert!(freshness.is_fresh(later(after)) && !request.no_cache),
            Use::Stale => prop_assert!(request.max_stale.is_some() && !freshness.is_fresh(later(after))),
            Use::StaleWhileRevalidate => prop_assert!(text.contains("stale-while-revalidate=") && !request.no_cache),
            Use::GatewayTimeout => prop_assert!(request.only_if_cached),
            Use::Validate(_) => prop_assert!(!request.only_if_cached),
        }
        if !matches!(used, Use::Validate(_) | Use::GatewayTimeout) {
            prop_assert_ne!(on_error, OnError::Forbidden, "what may be used may be used on an error, too");
        }
        let only_cache_control = fields.iter().all(|(name, _)| *name != "cdn-cache-control");
        if only_cache_control && !freshness.is_fresh(later(after)) {
            let forbids = ["must-revalidate", "proxy-revalidate", "s-maxage"].iter().any(|name| text.contains(name));
            prop_assert!(!forbids || on_error == OnError::Forbidden);
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        lines in proptest::collection::vec((0..12_usize, proptest::collection::vec(any::<u8>(), 0..60)), 0..8),
        status in 100..1000_u16,
        request_ms in any::<u64>(),
        response_ms in any::<u64>(),
        now_ms in any::<u64>(),
    ) {
        const NAMES: [&str; 12] = [
            "age",
            "cache-control",
            "cdn-cache-control",
            "connection",
            "content-range",
            "date",
            "etag",
            "expires",
            "last-modified",
            "location",
            "pragma",
            "vary",
        ];
        let mut header = HeaderMap::new();
        for (name, value) in lines {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                header.append(NAMES[name], value);
            }
        }
        let time = |ms: u64| UNIX_EPOCH + Duration::from_millis(ms);
        let target = Uri::from_static("http://example.com/a/b");
        for method in [Method::GET, Method::POST] {
            let exchange = Exchange {
                method: &method,
                target: &target,
                request: &header,
                status: StatusCode::from_u16(status).expect("a status code"),
                response: &header,
                request_time: time(request_ms),
                response_time: time(response_ms),
            };
            if let Ok(freshness) = judge(&Terms::default(), &exchange) {
                let directives = RequestDirectives::of(&header);
                freshness.use_for(&directives, time(now_ms));
                freshness.on_error(&directives, time(now_ms));
                prop_assert!(freshness.age_seconds(time(now_ms)) <= 1 << 31);
            }
            freshen(&Terms::default(), &header, StatusCode::OK, &exchange);
            invalidated(&method, &target, exchange.status, &header);
        }
        if let Some(selector) = Selector::of(&header, &header) {
            prop_assert!(selector.matches(&header));
        }
        let stored = [Validators::of(&header)];
        let sent = make_conditional(&mut header.clone(), &stored);
        read_answer(&header, sent, &stored, StatusCode::NOT_MODIFIED, &header);
        header_of_whole(&header);
    }

    #[test]
    fn a_part_of_the_fields_is_stored_and_nothing_else(fields in fields()) {
        let response = case(&fields).response;
        let stored = stored_header(&Terms::default(), &response, arrival());
        for (name, value) in &stored {
            prop_assert!(name == "date" || response.get_all(name).iter().any(|known| known == value));
        }
        let again = stored_header(&Terms::default(), &stored, later(9));
        prop_assert_eq!(shown(&again), shown(&stored));
    }
}
