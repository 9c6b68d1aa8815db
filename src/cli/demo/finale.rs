//! What is left when the show is over: where everything is, and what to try next.

use std::path::Path;

use super::figures;
use super::report::Report;
use super::screen::{Screen, Tone};
use crate::protocol::encode_path;

/// Shows where everything is.
pub(super) fn show_addresses(screen: &Screen, report: &Report) {
    screen.heading("Addresses");
    let Some(proxy) = &report.proxy else { return };
    // A folder that was published need not have a front page.
    let key = report.routes.first().map_or("index.html", |decision| decision.key.as_str());
    let (page, key) = (if key == "index.html" { "" } else { key }, encode_path(key));
    screen.line(&format!("    proxy    {}/{}   open it in a browser", proxy.url, encode_path(page)));
    screen.line(&format!("             {}/routes?key={key}   and /ready, /metrics", proxy.admin_url));
    // The page with the photograph, if the site is ours.
    let page = if report.published.source.is_none() { "how-it-fits.html" } else { "" };
    for line in &report.lines {
        let rate = figures::bytes(line.bytes_per_second);
        screen.line(&format!("    {:<9}{}/{page}   the proxy at {rate}/s", line.name, line.url));
    }
    let head = format!("    {:<9}{:<18}{:<23}{}", "", "packets, API", "downloads, list", "prices");
    screen.line(&screen.toned(Tone::Faint, &head));
    for node in &report.nodes {
        let (download, price) = (&node.download_url, &node.price_url);
        screen.line(&format!("    {:<9}{:<18}{download:<23}{price}", node.id, node.address));
    }
    screen.line(&format!("    files    {}", report.folder.display()));
    screen.line(&format!("    log      {}", report.log.display()));
}

/// Shows commands to try, for as long as the cluster runs.
pub(super) fn show_commands(screen: &Screen, report: &Report) {
    screen.heading("Try in another terminal");
    for command in &report.commands {
        let tone = if command.starts_with('#') { Tone::Faint } else { Tone::Plain };
        screen.line(&screen.toned(tone, &format!("    {}", command.replace('\n', "\n    "))));
    }
}

/// Commands to try, in this order, and comments between them; all of it works as it stands in a POSIX shell.
pub(super) fn commands(report: &Report, program: Option<&Path>) -> Vec<String> {
    let (Some(proxy), Some(credentials)) = (&report.proxy, &report.credentials) else { return Vec::new() };
    let [first, .., last] = report.nodes.as_slice() else { return Vec::new() };
    let mut commands = vec![format!("export METACDN_CONFIG={}", quote(&credentials.config.display().to_string()))];
    // The program need not be installed.
    if let Some(folder) = program.and_then(Path::parent) {
        commands.push(format!("export PATH={}:\"$PATH\"", quote(&folder.display().to_string())));
    }
    let mut say = |text: String| commands.push(text);
    say("# Publish a file in each of the formats; see it on every node.".to_owned());
    say("echo 'Hello, clouds' > hello.txt".to_owned());
    for (node, format) in report.nodes.iter().zip(["json", "protobuf3", "raw"]) {
        say(format!("metacdn upload hello.txt {} {format}", node.id));
    }
    say("metacdn list".to_owned());
    say("metacdn servers".to_owned());
    let (url, price) = (&proxy.url, &first.price_url);
    say("# Fetch it. The header metacdn-route says which node gave it, and why.".to_owned());
    say(format!("curl -i {url}/hello.txt"));
    say(format!("curl -i -H 'metacdn-policy: p' {url}/hello.txt"));
    say("# The whole table, and what would change the choice.".to_owned());
    say("metacdn explain hello.txt --policy 'c 0.5'".to_owned());
    if let (Some(photograph), Some(slowest)) = (&report.photograph, report.lines.last()) {
        let path = encode_path(photograph.key.as_str());
        say("# The photograph as it is, as the slow link gets it, and low by name.".to_owned());
        for (base, query) in [(url, ""), (&slowest.url, ""), (url, "?variant=low")] {
            say(format!("curl -so photograph.jpg -w '%{{size_download}} bytes\\n' \\\n  '{base}/{path}{query}'"));
        }
    }
    say("# Make AWS the cheapest, and see the choice follow within a second.".to_owned());
    let form = "provider=AWS&server_hourly_cost=.01&network_hourly_cost=.10";
    say(format!("curl -d '{form}' \\\n  {price}/cost/post"));
    say(format!("sleep 1; curl -i -H 'metacdn-policy: p' {url}/hello.txt"));
    say("# By an HTTP proxy, as the reference does; and from one node alone.".to_owned());
    say(format!("curl -x {url} http://www.metacdn.internal/hello.txt"));
    say(format!("curl {}/get/download/hello.txt", last.download_url));
    commands
}

/// `text` as one word of a POSIX shell.
fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for text in ["/root/.metacdn/demo", "a b", "it's", "", "$HOME", "ä"] {
            let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quote(text))]).output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), text);
        }
    }
}
