//! Tests of what can be configured.

use super::*;

#[test]
fn the_defaults_work_and_are_written_as_they_are_read() {
    let config = Config::default();
    assert_eq!(config.check(), Ok(()));
    assert_eq!(config.made(), Codings::ALL);
    let text = toml::to_string(&config).expect("it can be written");
    assert_eq!(toml::from_str::<Config>(&text).expect("it can be read"), config);
    assert_eq!(toml::from_str::<Config>("").expect("nothing is needed"), config);
}

#[test]
fn what_is_unknown_is_refused() {
    let error = |text: &str| toml::from_str::<Config>(text).expect_err(text).to_string();
    assert!(error("zstd = 3").contains("zstd"));
    assert!(error("codings = [\"deflate\"]").contains("deflate"));
    assert!(error("media_types = [\"text\"]").contains("no media type"));
    assert!(error("quick = { lz4 = 3 }").contains("lz4"));
    let config: Config =
        toml::from_str("codings = [\"br\", \"gzip\"]\nmedia_types = [\"Text/*\"]").expect("a right one");
    assert_eq!(config.codings, [Coding::Brotli, Coding::Gzip]);
}

#[test]
fn levels_that_do_not_exist_are_refused() {
    let right = Config::default().quick;
    for (levels, field) in [
        (Levels { zstd: 0, ..right }, "zstd"),
        (Levels { zstd: 20, ..right }, "zstd"),
        (Levels { br: 12, ..right }, "br"),
        (Levels { gzip: 0, ..right }, "gzip"),
        (Levels { gzip: 10, ..right }, "gzip"),
        (Levels { window_bits: 16, ..right }, "window_bits"),
        (Levels { window_bits: 24, ..right }, "window_bits"),
    ] {
        let config = Config { thorough: levels, ..Config::default() };
        let error = config.check().expect_err("it does not exist");
        assert_eq!(error.field, field);
        assert!(error.to_string().starts_with(&format!("thorough.{field} is ")), "{error}");
    }
}

#[test]
fn a_level_that_is_not_said_is_the_default_of_its_effort() {
    let config: Config = toml::from_str("quick = { zstd = 1 }\nthorough = { br = 11 }").expect("a right one");
    let default = Config::default();
    assert_eq!(config.quick, Levels { zstd: 1, ..default.quick });
    assert_eq!(config.thorough, Levels { br: 11, ..default.thorough });
}
