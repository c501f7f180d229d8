//! docs/recovery.md shows what docs/recovery.sh prints: the script is played, and every line of the page has to be in
//! its output, at that place. Only a line that begins with `…` stands for lines that were left out.

use std::process::{Command, Stdio};

use daymend::snapshot::Name;

use crate::support::server;

const PAGE: &str = include_str!("../../docs/recovery.md");

/// Returns the console lines of the page.
fn shown() -> String {
    let blocks = PAGE.split("```console\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.collect::<Vec<_>>().join("\n")
}

/// Returns the lines without what differs each time: the names of snapshots are numbered, sizes and times are left out,
/// and so are the widths of columns.
fn lines(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with(['┌', '╞', '└'])) {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        for name in words.filter(|word| word.parse::<Name>().is_ok()) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        let mut line = line.to_owned();
        for (number, name) in names.iter().enumerate() {
            line = line.replace(name, &format!("SNAPSHOT-{number}"));
        }
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if words.contains(&"KiB") {
            // A row of `snapshot list`: its name, tables, rows and database.
            words = [1, 4, 5, 10].map(|place| words[place]).to_vec();
        }
        lines.push(words.join(" "));
    }
    lines
}

#[test]
fn the_page_shows_what_the_script_prints() {
    let mut script = Command::new("setpriv");
    script
        .args(["--pdeathsig", "TERM", "docs/recovery.sh", env!("CARGO_BIN_EXE_daymend")])
        .env("PORT", server::free_port().to_string())
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DAYMEND_") {
            script.env_remove(name);
        }
    }
    let output = script.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    let printed = lines(&String::from_utf8(output.stdout).unwrap());
    let shown = lines(&shown());
    assert!(shown.iter().filter(|line| line.starts_with("$ ")).count() >= 8, "{shown:#?}");
    let (mut at, mut is_gap) = (0, false);
    for line in &shown {
        if line.starts_with('…') {
            is_gap = true;
            continue;
        }
        if is_gap {
            at += printed[at..].iter().take_while(|printed| *printed != line).count();
        }
        assert_eq!(printed.get(at), Some(line), "line {at} of the output");
        (at, is_gap) = (at + 1, false);
    }
    assert_eq!(printed.len(), at, "the page ends before the output does");
}
