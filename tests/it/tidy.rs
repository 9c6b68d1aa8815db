//! The shape of the source: which module may import which, where tasks start and clocks are read, how long files are.
//!
//! The rules are data; [`violations`] applies them to one file, so that they are tested on planted faults too. It reads
//! tokens, not syntax trees: what a macro builds out of pieces escapes it, what stands in comments and strings does not
//! count.

use std::fs;
use std::path::Path;

/// What a module may import from the rest of the crate.
enum Imports {
    Only(&'static [&'static str]),
    Anything,
}

use Imports::{Anything, Only};

struct Layer {
    module: &'static str,
    height: u8,
    imports: Imports,
}

const fn layer(height: u8, module: &'static str, imports: Imports) -> Layer {
    Layer { module, height, imports }
}

/// What lies below the roles. They know all of it, but never each other.
const BELOW_ROLES: &[&str] = &[
    "model",
    "protocol",
    "http1",
    "client",
    "serve",
    "store",
    "replicate",
    "membership",
    "cache",
    "compress",
    "price",
    "resize",
    "route",
    "telemetry",
];

/// The layers, lowest first; `ARCHITECTURE.md` draws them.
const LAYERS: &[Layer] = &[
    layer(0, "model", Only(&[])),
    layer(1, "protocol", Only(&["model"])),
    layer(1, "http1", Only(&[])),
    layer(1, "client", Only(&["model", "protocol", "http1"])),
    layer(1, "serve", Only(&["model", "protocol", "http1"])),
    layer(2, "store", Only(&["model", "replicate"])),
    layer(2, "replicate", Only(&["model"])),
    layer(2, "membership", Only(&["model"])),
    layer(2, "cache", Only(&["model", "http1", "compress"])),
    layer(2, "compress", Only(&[])),
    layer(2, "price", Only(&["model"])),
    layer(2, "resize", Only(&["model"])),
    layer(2, "route", Only(&["model", "price"])),
    layer(3, "telemetry", Only(&["model"])),
    layer(3, "node", Only(BELOW_ROLES)),
    layer(3, "edge", Only(BELOW_ROLES)),
    layer(4, "config", Anything),
    layer(4, "cli", Anything),
    layer(4, "main", Anything),
    layer(4, "lib", Anything),
];

/// The modules that are one file beside `lib.rs`; all others are folders.
const SINGLE_FILES: &[&str] = &["telemetry", "main", "lib"];

const ROLES_HEIGHT: u8 = 3;

/// Tokens that must not stand below the roles, why, and the modules that may use them all the same. `serve` accepts
/// connections, `store` and `cache` own the threads that touch the disk, and `client` ends connections that have rested for
/// long, and goes on with a request whose answer has begun.
const BANNED_BELOW_ROLES: &[(&[&str], &str, &[&str])] = &[
    (&["tokio", "::", "spawn"], SPAWN, &["client", "serve"]),
    (&["task", "::", "spawn"], SPAWN, &["serve"]),
    (&["spawn_local"], SPAWN, &["serve"]),
    (&["JoinSet"], SPAWN, &["serve"]),
    (&["spawn_blocking"], SPAWN, &["serve", "store", "cache"]),
    (&["thread", "::", "spawn"], SPAWN, &["serve", "store", "cache"]),
    (&["thread", "::", "Builder"], SPAWN, &["serve", "store", "cache"]),
    (&["Instant", "::", "now"], CLOCK, &["client", "serve"]),
    (&["SystemTime", "::", "now"], CLOCK, &["serve"]),
    (&["Timestamp", "::", "now"], CLOCK, &["serve"]),
    (&["Zoned", "::", "now"], CLOCK, &["serve"]),
    (&["now_utc"], CLOCK, &["serve"]),
    (&[".", "elapsed", "("], CLOCK, &["client", "serve"]),
];
const SPAWN: &str = "only roles, serve and cli start tasks: return a future instead";
const CLOCK: &str = "only roles, serve and cli read a clock: take `now` as an argument";

const FILE_LINES_MAX: usize = 500;

/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "types", "misc"];

/// Every fault of the file at `path` (relative to the repository) with this `text`, one line each.
fn violations(path: &str, text: &str) -> Vec<String> {
    let mut found = shape_violations(path, text);
    let Some(module) = module_of(path) else { return found };
    let Some(layer) = LAYERS.iter().find(|layer| layer.module == module) else {
        found.push(format!("{path}:1: `{module}` is in no layer: add it to the table in tests/it/tidy.rs"));
        return found;
    };
    let tokens = tokens(text);
    found.extend(import_violations(path, layer, &tokens));
    // The tests of a module may stand in a file of their own, which then bears this name.
    if !path.ends_with("/tests.rs") && !path.contains("/tests/") {
        found.extend(ban_violations(path, layer, &tokens));
        found.extend(glob_violations(path, &tokens));
    }
    found
}

fn shape_violations(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        found.push(format!("{path}:{lines}: longer than {FILE_LINES_MAX} lines: split it"));
    }
    if !text.starts_with("//! ") {
        found.push(format!("{path}:1: does not open with `//!` and what the file is"));
    }
    let names = path.trim_end_matches(".rs").split('/');
    found.extend(
        names
            .filter(|name| EMPTY_NAMES.contains(name))
            .map(|name| format!("{path}:1: `{name}` does not say what is inside: name what it holds")),
    );
    found
}

fn import_violations(path: &str, layer: &Layer, tokens: &[Token]) -> Vec<String> {
    let Only(allowed) = layer.imports else { return Vec::new() };
    let forbidden = |name: &str| {
        name != layer.module && !allowed.contains(&name) && LAYERS.iter().any(|layer| layer.module == name)
    };
    imports(path, tokens)
        .into_iter()
        .filter(|token| forbidden(token.text))
        .map(|Token { line, text, .. }| {
            let may = if allowed.is_empty() { "nothing of the crate".to_owned() } else { allowed.join(", ") };
            format!("{path}:{line}: imports `{text}`: {} may import {may}", layer.module)
        })
        .collect()
}

fn ban_violations(path: &str, layer: &Layer, tokens: &[Token]) -> Vec<String> {
    if layer.height >= ROLES_HEIGHT {
        return Vec::new();
    }
    let banned = BANNED_BELOW_ROLES.iter().filter(|(_, _, exempt)| !exempt.contains(&layer.module));
    banned
        .flat_map(|(pattern, why, _)| {
            let places = tokens.windows(pattern.len()).filter(|window| {
                !window[0].test && window.iter().zip(*pattern).all(|(token, wanted)| token.text == *wanted)
            });
            places.map(move |window| format!("{path}:{}: `{}`: {why}", window[0].line, pattern.concat()))
        })
        .collect()
}

fn glob_violations(path: &str, tokens: &[Token]) -> Vec<String> {
    let mut found = Vec::new();
    let mut importing = false;
    for (position, token) in tokens.iter().enumerate() {
        match token.text {
            // `use<…>` lists what a returned type captures.
            "use" => importing = tokens.get(position + 1).is_some_and(|next| next.text != "<"),
            ";" => importing = false,
            "*" if importing && !token.test => {
                found.push(format!("{path}:{}: imports everything: name what is used", token.line));
            }
            _ => {}
        }
    }
    found
}

/// The module of the crate root that `path` belongs to, if it is a source file.
fn module_of(path: &str) -> Option<&str> {
    path.strip_prefix("src/")?.split('/').next().map(|name| name.trim_end_matches(".rs"))
}

/// The names that the file takes from the crate root, by `crate::`, by the crate's own name, or by enough `super::`.
fn imports<'t, 's>(path: &str, tokens: &'t [Token<'s>]) -> Vec<&'t Token<'s>> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let depth = inside.split('/').filter(|name| !matches!(*name, "mod" | "lib" | "main")).count();
    let mut found = Vec::new();
    let mut ancestors = 0;
    for (position, token) in tokens.iter().enumerate() {
        let leads_on = tokens.get(position + 1).is_some_and(|next| next.text == "::");
        match token.text {
            "super" => ancestors += 1,
            "::" => continue,
            _ => ancestors = 0,
        }
        let at_root = matches!(token.text, "crate" | "metacdn") || ancestors >= (depth + token.inline_modules).max(1);
        if leads_on && at_root {
            found.extend(first_names(&tokens[position + 2..]));
        }
    }
    found
}

/// The first name of a path, or of each path in braces.
fn first_names<'t, 's>(path: &'t [Token<'s>]) -> Vec<&'t Token<'s>> {
    if path.first().is_none_or(|first| first.text != "{") {
        return path.first().into_iter().collect();
    }
    let mut braces = 0;
    let mut found = Vec::new();
    for pair in path.windows(2) {
        match pair[0].text {
            "{" => braces += 1,
            "}" => braces -= 1,
            _ => {}
        }
        if braces == 0 {
            break;
        }
        if braces == 1 && matches!(pair[0].text, "{" | ",") {
            found.push(&pair[1]);
        }
    }
    found
}

struct Token<'s> {
    text: &'s str,
    line: usize,
    /// How many `mod name { … }` stand around it.
    inline_modules: usize,
    /// Whether it stands in an item that only tests have.
    test: bool,
}

/// The words and signs of Rust `text`, without comments, strings and characters, each with its surroundings.
fn tokens(text: &str) -> Vec<Token<'_>> {
    struct Scope {
        inline_module: bool,
        test: bool,
    }
    let words = words(text);
    let mut scopes: Vec<Scope> = Vec::new();
    let mut next = Scope { inline_module: false, test: false };
    let mut found = Vec::with_capacity(words.len());
    for (position, &(line, word)) in words.iter().enumerate() {
        let ahead = |wanted: &[&str]| {
            words[position..].iter().map(|(_, word)| *word).take(wanted.len()).eq(wanted.iter().copied())
        };
        match word {
            "#" if ahead(&["#", "[", "cfg", "(", "test", ")", "]"]) => next.test = true,
            "mod" => next.inline_module = words.get(position + 2).is_some_and(|(_, word)| *word == "{"),
            ";" => next.test = false,
            "{" => {
                next.test |= scopes.last().is_some_and(|scope| scope.test);
                scopes.push(std::mem::replace(&mut next, Scope { inline_module: false, test: false }));
            }
            "}" => drop(scopes.pop()),
            _ => {}
        }
        let inline_modules = scopes.iter().filter(|scope| scope.inline_module).count();
        let test = next.test || scopes.last().is_some_and(|scope| scope.test);
        found.push(Token { text: word, line, inline_modules, test });
    }
    found
}

/// The words and signs of Rust `text` with their lines, without comments, strings and characters.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let skipped = skipped_length(rest);
        let length = if skipped > 0 {
            skipped
        } else if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (word, after) = rest.split_at(length);
        if skipped == 0 && !first.is_whitespace() {
            found.push((line, word));
        }
        line += word.matches('\n').count();
        rest = after;
    }
    found
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// How many bytes of comment, string or character `rest` begins with.
fn skipped_length(rest: &str) -> usize {
    let until = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |found| from + found + end.len());
    if rest.starts_with("//") {
        return until("\n", 0);
    }
    if rest.starts_with("/*") {
        let mut depth = 0;
        return rest
            .char_indices()
            .find_map(|(position, _)| {
                depth += i32::from(rest[position..].starts_with("/*")) - i32::from(rest[..position].ends_with("*/"));
                (position > 1 && depth == 0).then_some(position)
            })
            .unwrap_or(rest.len());
    }
    let raw = rest.trim_start_matches(['b', 'c']);
    if let Some(after_r) = raw.strip_prefix('r').filter(|_| rest.len() - raw.len() <= 1) {
        let quoted = after_r.trim_start_matches('#');
        if quoted.starts_with('"') {
            let end = format!("\"{}", "#".repeat(after_r.len() - quoted.len()));
            return until(&end, rest.len() - quoted.len() + 1);
        }
    }
    if rest.starts_with('"') {
        return escaped_length(rest, '"');
    }
    let mut characters = rest.chars().skip(1);
    match (rest.starts_with('\''), characters.next(), characters.next()) {
        (true, Some('\\'), _) | (true, Some(_), Some('\'')) => escaped_length(rest, '\''),
        _ => 0,
    }
}

/// The length of what `rest` begins with, from its opening `quote` to the one that closes it.
fn escaped_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (position, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return position + quote.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// The Rust files below `folder` as paths relative to `root` and their text.
fn rust_files(root: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.push((relative, fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn the_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"] {
        rust_files(root, &root.join(folder), &mut files);
    }
    assert!(files.len() >= 20, "only {} files found: is this the repository?", files.len());
    for Layer { module, .. } in LAYERS.iter().filter(|layer| !SINGLE_FILES.contains(&layer.module)) {
        let folder = format!("src/{module}/");
        assert!(files.iter().any(|(path, _)| path.starts_with(&folder)), "no file in {folder}: take it off the table");
    }
    let found: Vec<_> = files.iter().flat_map(|(path, text)| violations(path, text)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The faults found in a file that is otherwise in order.
fn planted(path: &str, body: &str) -> Vec<String> {
    violations(path, &format!("//! Planted.\n{body}"))
}

#[test]
fn imports_across_layers_are_found() {
    for (path, body, name) in [
        ("src/model/key.rs", "use crate::protocol::Packet;", "protocol"),
        ("src/store/blobs.rs", "use crate::{model::Hash, route};", "route"),
        ("src/store/blobs.rs", "use crate::{\n    model::{Hash, Key},\n    price::Bill,\n};", "price"),
        ("src/protocol/packet.rs", "fn f() -> crate::serve::Tls {}", "serve"),
        ("src/client/mod.rs", "use metacdn::serve::Tls;", "serve"),
        ("src/node/s3/put.rs", "use super::super::super::edge::Cache;", "edge"),
        ("src/edge/mod.rs", "use super::{model, node::Node};", "node"),
        ("src/edge/mod.rs", "mod tests { use super::super::node::Node; }", "node"),
        ("src/node/mod.rs", "use crate::cli;", "cli"),
        ("src/telemetry.rs", "use crate::node;", "node"),
        ("src/price/mod.rs", "#[cfg(test)]\nmod tests { use crate::route::Route; }", "route"),
        ("src/price/mod.rs", "fn f<'a>(c: char) { if c == '\"' || c == '\\'' { crate::route::f(\"\") } }", "route"),
    ] {
        let found = planted(path, body);
        assert_eq!(found.len(), 1, "{path}: {body}: {found:?}");
        assert!(found[0].contains(&format!("imports `{name}`")), "{found:?}");
    }
    let found = planted("src/route/mod.rs", "\n\nuse crate::store::Blobs;");
    assert_eq!(found, ["src/route/mod.rs:4: imports `store`: route may import model, price"]);
}

#[test]
fn imports_within_the_layers_are_allowed() {
    for (path, body) in [
        ("src/route/score.rs", "use crate::{model::Key, price::Bill, route::Table};\nuse super::rank;"),
        ("src/client/mod.rs", "use crate::protocol::Packet;"),
        ("src/node/s3/put.rs", "use super::super::edge;\nuse crate::store::Blobs;\npub(crate) fn f() {}"),
        ("src/model/mod.rs", "mod tests { use super::node::Node; }"),
        ("src/cli/demo/mod.rs", "use crate::{edge, node};"),
        ("src/model/key.rs", "// crate::store\n/* crate::edge /* nested */ crate::node */ fn f() {}"),
        (
            "src/model/key.rs",
            "const A: &str = \"crate::store\\\" crate::edge\";\nconst B: &str = r#\"crate::\"node\"#;",
        ),
    ] {
        assert_eq!(planted(path, body), [""; 0], "{path}");
    }
}

#[test]
fn tasks_and_clocks_below_the_roles_are_found() {
    for body in [
        "tokio::spawn(f)",
        "tokio::task::spawn(f)",
        "spawn_blocking(f)",
        "let tasks = JoinSet::new();",
        "std::thread::spawn(f)",
        "Instant::now()",
        "std::time::SystemTime::now()",
        "UNIX_EPOCH.elapsed()",
        "OffsetDateTime::now_utc()",
    ] {
        let body = format!("fn f() {{ {body} }}");
        assert_eq!(planted("src/route/mod.rs", &body).len(), 1, "{body}");
        assert_eq!(planted("src/node/mod.rs", &body), [""; 0]);
        assert_eq!(planted("src/serve/mod.rs", &body), [""; 0]);
        assert_eq!(planted("src/client/retry/tests.rs", &body), [""; 0]);
        let inline = format!("#[cfg(test)]\nmod tests {{ mod deep {{ {body} }} }}");
        assert_eq!(planted("src/route/mod.rs", &inline), [""; 0]);
        let after = format!("#[cfg(test)]\nmod tests {{ fn f() {{}} }}\n{body}");
        assert_eq!(planted("src/route/mod.rs", &after).len(), 1, "{after}");
    }
    assert_eq!(planted("src/store/mod.rs", "fn f() { spawn_blocking(g); Instant::now() }").len(), 1);
}

#[test]
fn globs_outside_tests_are_found() {
    assert_eq!(planted("src/cli/mod.rs", "use crate::model::*;").len(), 1);
    assert_eq!(planted("src/cli/mod.rs", "use crate::{model::{Key, *}, node};").len(), 1);
    assert_eq!(planted("src/cli/mod.rs", "use a::b;\nfn f(x: *const u8) { 2 * 3 }"), [""; 0]);
    assert_eq!(planted("src/cli/mod.rs", "#[cfg(test)]\nmod tests { use super::*; }"), [""; 0]);
    assert_eq!(planted("src/cli/mod.rs", "#[cfg(test)]\nmod tests;\nuse super::*;").len(), 1);
    assert_eq!(planted("tests/it/cluster.rs", "use metacdn::model::*;"), [""; 0]);
}

#[test]
fn shapeless_files_are_found() {
    assert_eq!(violations("src/cli/mod.rs", "use std::fs;\n").len(), 1);
    assert_eq!(violations("tests/it/main.rs", "").len(), 1);
    assert_eq!(planted("src/node/utils.rs", "").len(), 1);
    assert_eq!(planted("tests/it/common/cluster.rs", "").len(), 1);
    assert_eq!(planted("src/cli/mod.rs", &"\n".repeat(FILE_LINES_MAX)).len(), 1);
    assert_eq!(planted("src/cli/mod.rs", &"\n".repeat(FILE_LINES_MAX - 1)), [""; 0]);
    assert_eq!(planted("src/hoard/mod.rs", "").len(), 1);
}
